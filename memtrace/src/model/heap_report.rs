//! A report on the heaps of processes, as looks from outside have seen them.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::{heap::Heap, subject::Program};

/// Heaps of processes, looked at one after the other.
#[derive(Clone, Debug, PartialEq)]
pub struct HeapReport {
    /// The host's name.
    pub host: String,
    /// When the first look began.
    pub started_at: SystemTime,
    /// From then to the end of the last look.
    pub duration: Duration,
    /// The processes, those that hold most first.
    pub processes: Vec<HeapProcess>,
}

/// A process that was to be looked at.
#[derive(Clone, Debug, PartialEq)]
pub struct HeapProcess {
    /// Its program.
    pub program: Program,
    /// Whether it has ended since.
    pub ended: bool,
    /// Resident memory in bytes, as of the last look; nothing where it was not read.
    pub rss_bytes: Option<u64>,
    /// Its heap, as of the last look that was made; nothing where none was.
    pub heap: Option<Heap>,
    /// Why the last look was not made; nothing where it was.
    pub not_read: Option<NotRead>,
}

/// Why a heap was not read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NotRead {
    /// The process has ended.
    Gone,
    /// It has no memory of its own: a thread of the kernel, or a process that has ended and was not waited for.
    NoMemory,
    /// The kernel does not let memtrace read its memory.
    Refused {
        /// The system's error.
        error: String,
    },
    /// The look took longer than it may.
    Late {
        /// How long it may take.
        limit: Duration,
    },
    /// There is more to read than a look may.
    TooMuch {
        /// The limit, in words.
        error: String,
    },
    /// The process that was to look has ended over it.
    Died {
        /// By which signal.
        signal: Option<i32>,
        /// The memory that it might take, in bytes.
        memory_bytes: u64,
    },
    /// memtrace was asked to stop first.
    Stopped,
    /// Something else was in the way.
    Failed {
        /// The error.
        error: String,
    },
}

impl NotRead {
    /// The cause in one word, for scripts.
    #[must_use]
    pub fn cause(&self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::NoMemory => "no-memory",
            Self::Refused { .. } => "refused",
            Self::Late { .. } => "late",
            Self::TooMuch { .. } => "too-much",
            Self::Died { .. } => "died",
            Self::Stopped => "stopped",
            Self::Failed { .. } => "failed",
        }
    }

    /// Whether the command has failed by it: it has not where the process ended by itself, or the user wanted no more.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        !matches!(self, Self::Gone | Self::Stopped)
    }
}
