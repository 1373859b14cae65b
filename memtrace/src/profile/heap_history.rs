//! The looks at a target's heap, and what was known of its blocks when each was made.

use std::{sync::Arc, time::Duration};

use memtrace_common::ids::SiteIndex;
use serde::{Deserialize, Serialize};

use crate::model::{heap::Heap, heap_look::NotLooked, survival::Amount};

/// A look at a heap, with what readings have told of the middle of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct HeapLook {
    /// The middle of the look, after the start of the run.
    pub(crate) at: Duration,
    /// The heap.
    pub(crate) heap: Heap,
    /// The resident memory of the process.
    pub(crate) rss_bytes: u64,
    /// Live blocks of those that were allocated since attach, with the bytes that were asked for.
    pub(crate) since_attach: Amount,
    /// How many blocks from before attach were freed by then.
    pub(crate) older_freed_objects: u64,
    /// The sites whose blocks were marked, by the number of the mark.
    pub(crate) marked: Vec<SiteIndex>,
}

/// The looks at one heap: the first and the latest.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct HeapHistory {
    pub(crate) first: Option<Arc<HeapLook>>,
    /// Nothing unless there was another one.
    pub(crate) latest: Option<Arc<HeapLook>>,
    pub(crate) effort: Effort,
    /// Why the last look was not made; nothing where it was.
    pub(crate) not_looked: Option<NotLooked>,
}

/// The effort of all looks.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Effort {
    pub(crate) looks: u32,
    pub(crate) duration: Duration,
    pub(crate) retries: u64,
}

impl HeapHistory {
    /// No look yet, for this reason.
    pub(crate) fn without(why: NotLooked) -> Self {
        Self { not_looked: Some(why), ..Self::default() }
    }

    /// Whether a look is under way, or is to come.
    pub(crate) fn waits(&self) -> bool {
        self.not_looked == Some(NotLooked::UnderWay)
    }

    /// Takes in a look.
    pub(crate) fn note(&mut self, look: HeapLook) {
        let Effort { looks, duration, retries } = &mut self.effort;
        *looks = looks.saturating_add(look.heap.looks.max(1));
        *duration = duration.saturating_add(look.heap.duration);
        *retries = retries.saturating_add(look.heap.consistency.retries);
        self.not_looked = None;
        let place = if self.first.is_none() { &mut self.first } else { &mut self.latest };
        *place = Some(Arc::new(look));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_look_and_the_latest_are_kept_with_the_effort_of_all() {
        let look = |seconds| HeapLook {
            at: Duration::from_secs(seconds),
            heap: Heap { looks: 3, duration: Duration::from_millis(20), ..Heap::default() },
            ..HeapLook::default()
        };
        let mut history = HeapHistory::without(NotLooked::UnderWay);
        assert!(history.waits());
        (1..=3).for_each(|seconds| history.note(look(seconds)));
        let at = |look: &Option<Arc<HeapLook>>| look.as_ref().map(|look| look.at.as_secs());
        assert_eq!((at(&history.first), at(&history.latest)), (Some(1), Some(3)));
        assert_eq!((history.effort.looks, history.effort.duration), (9, Duration::from_millis(60)));
        assert!(!history.waits() && history.not_looked.is_none());
    }
}
