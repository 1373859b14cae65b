//! Names of targets.

pub use memtrace_common::ids::BudgetGroup;
use memtrace_common::ids::ProcessSlot;

/// Names a target for the whole run: slots are used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetId {
    /// The slot of its process.
    pub slot: ProcessSlot,
    /// Another number for each target of the run.
    pub serial: u64,
}
