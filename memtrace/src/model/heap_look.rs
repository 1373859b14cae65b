//! The heap of a traced process, as looks from outside have seen it, or the reason why none has.

use serde::{Deserialize, Serialize};

use super::{heap::Heap, heap_report::NotRead, memory::Limit};

/// The heap of a process of a report, and why there is no (later) look at it. At least one of the two is there.
#[derive(Clone, Debug, PartialEq)]
pub struct LookedAtHeap {
    /// As of the last look that was made, with its growth since the first; nothing where none was.
    pub heap: Option<Heap>,
    /// Why the last look was not made; nothing where it was.
    pub not_looked: Option<NotLooked>,
}

impl Default for LookedAtHeap {
    fn default() -> Self {
        Self { heap: None, not_looked: Some(NotLooked::default()) }
    }
}

/// Why a run has not looked at the heap of a process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum NotLooked {
    /// None of its blocks is traced: the run is of pages, or of the kernel's memory.
    #[default]
    NoBlocks,
    /// Nobody wanted it (`--no-seed`).
    NotWanted,
    /// Its program has begun while it was traced, so that no block is from before.
    BegunTraced,
    /// It is the copy of a process that was traced when it forked.
    Forked,
    /// More processes are traced than are looked at.
    TooMany {
        /// How many are.
        most: usize,
    },
    /// Its cgroup is short of memory.
    Pressure(Pressure),
    /// It has more resident memory than memtrace reads unasked.
    TooLarge {
        /// Its resident memory.
        rss_bytes: u64,
        /// The most that is read.
        most_bytes: u64,
    },
    /// A look is under way, or waits for one at another process.
    UnderWay,
    /// Looks at other processes have taken what all of a run may.
    UsedUp,
    /// The last report would have waited for the look for too long.
    TooSlow,
    /// The look has failed.
    Failed(NotRead),
}

impl NotLooked {
    /// The cause in one word, for scripts.
    #[must_use]
    pub fn cause(&self) -> &'static str {
        match self {
            Self::NoBlocks => "no-blocks",
            Self::NotWanted => "not-wanted",
            Self::BegunTraced => "begun-traced",
            Self::Forked => "forked",
            Self::TooMany { .. } => "too-many",
            Self::Pressure(_) => "pressure",
            Self::TooLarge { .. } => "too-large",
            Self::UnderWay => "under-way",
            Self::UsedUp => "used-up",
            Self::TooSlow => "too-slow",
            Self::Failed(why) => why.cause(),
        }
    }

    /// Whether the user has to be told: not where there is nothing from before, or where that was not asked for.
    #[must_use]
    pub fn is_worth_a_word(&self) -> bool {
        !matches!(self, Self::NoBlocks | Self::NotWanted | Self::BegunTraced | Self::Forked)
    }
}

/// A sign of memory pressure on the cgroup of a process.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Pressure {
    /// Tasks of the group wait for memory.
    Waits {
        /// For this part of the last ten seconds, in percent.
        percent: f64,
    },
    /// The group is close to its limit.
    NearLimit(Limit),
}
