//! The memory of a process over time, and its cgroup's limit: the same for targets that are traced and for those that are
//! only counted.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::memory::{Limit, Memory, MemoryHistory, Usage};

/// How often a group's limit and what is used of it is read, which is half a dozen files: where there is a limit, and where there
/// is none, which seldom changes.
const LIMIT_EVERY: Duration = Duration::from_secs(5);
const NO_LIMIT_EVERY: Duration = Duration::from_secs(30);

/// The memory of a process over time.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct RssHistory {
    pub(crate) history: MemoryHistory,
    /// Its cgroup's limit and use, as last read, and the resident memory of the process then.
    limit: Option<(Limit, u64)>,
    limit_due: Duration,
}

impl RssHistory {
    /// Takes in what the process has, `elapsed` after the start; `limit` reads what its cgroup may have.
    pub(crate) fn note(&mut self, usage: Usage, elapsed: Duration, limit: impl Fn() -> Option<Limit>) {
        if elapsed >= self.limit_due {
            self.limit = limit().map(|limit| (limit, usage.rss_bytes()));
            self.limit_due = elapsed + if self.limit.is_some() { LIMIT_EVERY } else { NO_LIMIT_EVERY };
        }
        self.history.push(elapsed, usage);
    }

    /// Its cgroup's limit, and its use by now: the last reading, and the growth of the process since.
    pub(crate) fn limit(&self) -> Option<Limit> {
        let (Limit { max_bytes, used_bytes }, then) = self.limit?;
        let rss_bytes = self.history.latest()?.rss_bytes();
        Some(Limit { max_bytes, used_bytes: used_bytes.saturating_add(rss_bytes).saturating_sub(then) })
    }

    /// The memory in a report, where it was ever read.
    pub(crate) fn report(&self) -> Option<Memory> {
        self.history.report(self.limit())
    }
}
