//! What memory a process has had, and what its cgroup may have: the same for targets that are traced and for those that are
//! only counted.

use std::time::Duration;

use crate::{
    model::memory::{Limit, Memory, MemoryHistory, Usage},
    process::cgroup,
};

/// How often a group's limit and what is used of it is read: half a dozen files, for what changes slowly or never.
const LIMIT_EVERY: Duration = Duration::from_secs(30);

/// What memory a process has had.
#[derive(Clone, Debug, Default)]
pub(super) struct MemoryBook {
    pub(super) history: MemoryHistory,
    pub(super) limit: Option<Limit>,
    limit_due: Duration,
}

impl MemoryBook {
    /// Takes in what the process `pid` has, `elapsed` after the start.
    pub(super) fn note(&mut self, pid: u32, usage: Usage, elapsed: Duration) {
        if elapsed >= self.limit_due {
            self.limit = cgroup::memory_limit(pid);
            self.limit_due = elapsed + LIMIT_EVERY;
        }
        self.history.push(elapsed, usage);
    }

    /// Resident memory when it was first read and now, in bytes.
    pub(super) fn rss_bytes(&self) -> Option<(u64, u64)> {
        Some((self.history.first()?.rss_bytes(), self.history.latest()?.rss_bytes()))
    }

    /// What a report tells, where it was ever read.
    pub(super) fn report(&self) -> Option<Memory> {
        self.history.report(self.limit)
    }
}
