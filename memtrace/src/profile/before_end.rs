//! The knowledge from before a target's program freed on its way out: of a site, for its verdict, and of the process, so that
//! resident memory and live bytes are told of the same moment.

use std::time::Duration;

use memtrace_common::wire::control::VERDICTS_FROM_MS;
use serde::{Deserialize, Serialize};

use crate::model::{
    memory::Usage,
    stats::{
        estimate::Uncertainty,
        history::History,
        teardown::{self, BeforeEnd, Descent},
    },
    survival::Survival,
    totals::Totals,
    verdict::LONG_ENOUGH,
};

// The kernel side tells of ends as soon as anything is said of growth.
const _: () = assert!(LONG_ENOUGH.as_millis() == VERDICTS_FROM_MS as u128);

/// The time of which the frees of blocks from before attach are told: blocks that take the place of those go on accumulating
/// for as long as those are freed, and no longer. A program that evicts in rounds does so within it.
const LATELY: Duration = Duration::from_secs(30);

/// A site at a reading.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Known {
    pub(crate) totals: Totals,
    pub(crate) uncertainty: Option<Uncertainty>,
    pub(crate) survival: Option<Survival>,
}

/// The past of a target, as far as it is wanted as of an earlier moment.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Past {
    /// When the program said that it ends, if it has.
    said: Option<Duration>,
    last_read: Duration,
    unmatched_frees: History<u64>,
    together: Option<Together>,
    /// The reading before the process's live bytes fell last.
    descent: Descent<Together>,
}

/// Resident memory and live bytes, read at the same moment.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Together {
    at: Duration,
    pub(crate) rss_bytes: u64,
    /// From allocators' functions.
    pub(crate) heap: Totals,
    /// Mapped by the program itself.
    pub(crate) mapped: Totals,
}

impl Past {
    /// The program says that it begins to end.
    pub(crate) fn note_way_out(&mut self, at: Duration) {
        // Finalising an interpreter comes before `exit`; one that was finalised minutes ago is not this end's.
        self.said = teardown::way_out(self.said, None, at).or(Some(at));
    }

    /// Whether the program has said that it ends.
    pub(crate) fn leaves(&self, now: Duration) -> bool {
        teardown::way_out(self.said, None, now).is_some()
    }

    /// Since when it is on its way out.
    pub(crate) fn way_out(&self, now: Duration, ended: bool) -> Option<Duration> {
        teardown::way_out(self.said, ended.then_some(self.last_read), now)
    }

    /// When it was read last.
    pub(crate) fn last_read(&self) -> Duration {
        self.last_read
    }

    /// Takes in a reading; `usage` is nothing once the process has no memory any more.
    pub(crate) fn read(
        &mut self,
        at: Duration,
        unmatched_frees: u64,
        usage: Option<&Usage>,
        heap: Totals,
        mapped: Totals,
    ) {
        self.last_read = at;
        self.unmatched_frees.push(at, unmatched_frees);
        let Some(usage) = usage else { return };
        let together = Together { at, rss_bytes: usage.rss_bytes(), heap, mapped };
        self.together = Some(together);
        let leaves = self.leaves(at);
        self.descent.push(at, together.live_bytes(), leaves, || together);
    }

    /// The last reading of resident memory and live bytes at one moment; as of before the program freed most on its way out, if
    /// it has. Nothing where it was never read.
    pub(crate) fn together(&self, now: Duration, ended: bool) -> Option<Together> {
        let latest = self.together?;
        let before =
            self.way_out(now, ended).and_then(|since| self.descent.before_end(since)).map(|height| height.known);
        let freed = before.filter(|before| teardown::has_freed_most(before.live_bytes(), latest.live_bytes()));
        Some(freed.unwrap_or(latest))
    }

    /// How many blocks from before attach were freed a second lately: in the half minute up to `end`.
    pub(crate) fn unmatched_frees_per_s(&self, end: Duration) -> f64 {
        let counts = self.unmatched_frees.until(end);
        let Some((at, count)) = counts.last() else { return 0.0 };
        let (since, before) = counts.iter().rfind(|(since, _)| *since + LATELY <= *at).copied().unwrap_or_default();
        count.saturating_sub(before) as f64 / at.saturating_sub(since).as_secs_f64().max(1.0)
    }
}

impl Together {
    /// All live bytes.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.heap.plus(&self.mapped).live_bytes()
    }

    /// The figures in the report of a process that has ended.
    pub(crate) fn report(&self) -> BeforeEnd {
        let live = self.heap.plus(&self.mapped);
        BeforeEnd {
            at: self.at,
            live_bytes: live.live_bytes(),
            live_objects: live.live_objects(),
            rss_bytes: Some(self.rss_bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u64) -> Duration {
        Duration::from_secs(second)
    }

    #[test]
    fn resident_memory_and_live_bytes_are_of_one_moment() {
        let mut past = Past::default();
        let read = |past: &mut Past, second: u64, live: u64, rss: Option<u64>| {
            let heap = Totals::new(live, 1, 0, 0);
            let usage = rss.map(|bytes| Usage { anon_bytes: bytes, ..Usage::default() });
            past.read(at(second), 7 * second, usage.as_ref(), heap, Totals::default());
        };
        let told = |past: &Past, ended| past.together(at(50), ended).map(|of| (of.rss_bytes, of.live_bytes()));
        assert_eq!(told(&past, true), None);
        read(&mut past, 1, 1 << 20, Some(2 << 20));
        read(&mut past, 2, 3 << 20, Some(4 << 20));
        // It has freed, which resident memory need not show.
        read(&mut past, 3, 1000, Some(4 << 20));
        assert_eq!(told(&past, false), Some((4 << 20, 1000)));
        read(&mut past, 4, 0, None);
        assert_eq!(told(&past, true), Some((4 << 20, 3 << 20)));
        assert!((past.unmatched_frees_per_s(at(2)) - 7.0).abs() < 1e-9);
    }

    #[test]
    fn frees_of_older_blocks_are_told_of_the_last_half_minute() {
        let mut past = Past::default();
        // A backlog from before is worked off within ten seconds.
        (0..=60).for_each(|second| {
            past.read(at(second), 100 * second.min(10), None, Totals::default(), Totals::default());
        });
        let told = |end| past.unmatched_frees_per_s(at(end));
        assert!((told(10) - 100.0).abs() < 1e-9 && (told(20) - 50.0).abs() < 1e-9);
        assert!(told(35) > 10.0 && told(60) == 0.0, "{} {}", told(35), told(60));
    }
}
