//! Pure data and arithmetic: what a profile is and what follows from it.
//!
//! Imports nothing of the rest. In: counters, frames, times. Out: reports ready to be rendered.

pub mod at_exit;
pub mod budget;
pub mod clock;
pub mod estimate;
pub mod frame;
pub mod gate;
pub mod growth;
pub mod headroom;
pub mod ledger;
pub mod memory;
pub mod overhead;
pub mod passing;
pub mod ranges;
pub mod rank;
pub mod reach;
pub mod report;
pub mod resident_change;
pub mod sizes;
pub mod suppressions;
pub mod survival;
pub mod teardown;
pub mod threshold;
pub mod trend;
pub mod unexplained;
pub mod units;
pub mod unseen;
pub mod verdict;
pub mod windows;
