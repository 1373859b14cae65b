//! Reasons why no thread's registers could be read, as data.

use serde::{Deserialize, Serialize};

/// Why the registers of a process's threads were not read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NoRegisters {
    /// The process has ended.
    Gone,
    /// This memtrace was built without its BPF objects.
    NotBuilt,
    /// The kernel is older than Linux 5.17, which has loops for BPF programs.
    TooOld,
    /// The kernel refuses the program, or has other structures than memtrace knows.
    Refused {
        /// The operation that failed, and why.
        error: String,
    },
    /// The kernel's records of the process were not found, or cannot be read.
    Unreadable,
    /// The process has more threads than are read.
    TooManyThreads {
        /// The most threads that are.
        limit: u32,
    },
}
