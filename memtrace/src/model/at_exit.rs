//! A look at a program that was about to end, as reports have it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{survival::Amount, unchecked::Unchecked};

/// The look at a program that was about to end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AtExit {
    /// Its memory.
    Checked(Checked),
    /// Nothing.
    Unchecked(Unchecked),
}

/// The outcome of a look at a program's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// Live blocks.
    pub live: Amount,
    /// The part of them that nothing points to.
    pub unreachable: Amount,
    /// How much memory was read, in bytes.
    pub read_bytes: u64,
    /// For how long the program was held.
    pub held: Duration,
}
