//! Processes that the targets of a run have started, and that are no targets because nobody asked for them.

use std::collections::BTreeSet;

use super::session::Session;
use crate::{
    model::not_seen::NotSeen,
    process::{children, memory},
};

/// How many threads are asked for their children at most: each second, and for a report.
pub(super) const EACH_SECOND: usize = 64;
pub(super) const FOR_A_REPORT: usize = 4096;

impl Session {
    /// Looks for processes that the targets have started and that are not followed, and keeps what it found where there were most.
    /// At most so many threads are asked.
    pub(super) fn note_unfollowed(&mut self, threads: usize) {
        if self.follows_children || self.selection.begins_by_itself() {
            return;
        }
        let targets: BTreeSet<u32> = self.targets.live().map(|followed| followed.target.pid.get()).collect();
        let found = children::descendants(&targets, threads);
        let (before, _) = self.unfollowed;
        if !found.is_empty() && found.len() as u64 >= before {
            let rss = |pid: &u32| memory::usage(*pid).map_or(0, |usage| usage.rss_bytes());
            self.unfollowed = (found.len() as u64, found.iter().map(rss).sum());
        }
    }

    /// The words for them in a report; nothing where there were none.
    pub(super) fn unfollowed(&self) -> Option<NotSeen> {
        let (processes, rss_bytes) = self.unfollowed;
        (processes > 0).then_some(NotSeen::Children { processes, rss_bytes })
    }
}
