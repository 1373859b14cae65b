//! What memory a process has had, and what its cgroup may have: the same for targets that are traced and for those that are
//! only counted.

use std::time::Duration;

use crate::{
    model::memory::{Limit, Memory, MemoryHistory, Usage},
    process::cgroup,
};

/// How often a group's limit and what is used of it is read, which is half a dozen files: where there is a limit, and where there
/// is none, which seldom changes.
const LIMIT_EVERY: Duration = Duration::from_secs(5);
const NO_LIMIT_EVERY: Duration = Duration::from_secs(30);

/// What memory a process has had.
#[derive(Clone, Debug, Default)]
pub(super) struct MemoryBook {
    pub(super) history: MemoryHistory,
    /// What its cgroup may have and has, when that was read last, and what resident memory the process had then.
    limit: Option<(Limit, u64)>,
    limit_due: Duration,
}

impl MemoryBook {
    /// Takes in what the process `pid` has, `elapsed` after the start; memtrace has tables of so many bytes in the kernel.
    pub(super) fn note(&mut self, pid: u32, usage: Usage, elapsed: Duration, tables_bytes: u64) {
        if elapsed >= self.limit_due {
            self.limit = cgroup::memory_limit(pid, tables_bytes).map(|limit| (limit, usage.rss_bytes()));
            self.limit_due = elapsed + if self.limit.is_some() { LIMIT_EVERY } else { NO_LIMIT_EVERY };
        }
        self.history.push(elapsed, usage);
    }

    /// What its cgroup may have, and has by now: what was read, and what the process has come to have since.
    pub(super) fn limit(&self) -> Option<Limit> {
        let (Limit { max_bytes, used_bytes }, then) = self.limit?;
        let rss_bytes = self.history.latest()?.rss_bytes();
        Some(Limit { max_bytes, used_bytes: used_bytes.saturating_add(rss_bytes).saturating_sub(then) })
    }

    /// What a report tells, where it was ever read.
    pub(super) fn report(&self) -> Option<Memory> {
        self.history.report(self.limit())
    }
}
