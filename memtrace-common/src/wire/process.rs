//! Targets, as the kernel side knows them.

use crate::{
    ids::{BudgetGroup, ProcessSlot},
    steps::call::CallRoles,
    thread::Requested,
    wire::counters::Counter,
};

/// The two sides of one allocator, as a process has called its hooked functions: enough to tell that one side is never seen.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(serde::Serialize, serde::Deserialize))]
pub struct Sides {
    /// Above 0 once an allocation was seen, or a free of a block that is known. No number of anything.
    pub allocations: u64,
    /// Frees until there were allocations; above 0 once there was any.
    pub frees: u64,
    /// Blocks that it handed out again before a free of them was seen.
    pub handed_out_again: u64,
}

/// One target, as the kernel side knows it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// The process, by thread group id.
    pub tgid: u32,
    /// With whom it shares the recording in force.
    pub group: BudgetGroup,
    /// By [`Counter`].
    pub counters: [u64; Counter::ALL.len()],
    /// The requests of its threads that have ended, wherever not all is recorded for good.
    pub requested: Requested,
    /// For how long its threads that have ended had run on a CPU while it ran this program, in nanoseconds: of use once all
    /// have ended, and only where it began under our eyes. Off by less than half a tick of the kernel's clock each.
    pub cpu_ns: u64,
    /// When its program began, by the clock of `CLOCK_MONOTONIC`, in nanoseconds; 0 where it ran before it became a target.
    pub began_ns: u64,
    /// When a thread of it ended last, or it became another program, by the same clock; 0 where neither has happened.
    pub ended_ns: u64,
    /// The part of [`Counter::UnmatchedFrees`] that the C library made as threads ended.
    pub frees_at_thread_end: u64,
    /// By [`crate::steps::call::CallRoles::allocator`].
    pub sides: [Sides; CallRoles::ALLOCATORS],
    /// How often its linker has told of changes, or it was seen to map code: the moment by which [`Site::opened`] goes.
    ///
    /// [`Site::opened`]: crate::wire::site::Site::opened
    pub code_changes: u64,
}

const _: () = assert!(size_of::<Process>() == 688);

impl Process {
    /// The counters, without the frees that the C library has made as threads ended: of what was free already.
    #[must_use]
    pub const fn told_counters(&self) -> [u64; Counter::ALL.len()] {
        let mut counters = self.counters;
        let unmatched = &mut counters[Counter::UnmatchedFrees as usize];
        *unmatched = unmatched.saturating_sub(self.frees_at_thread_end);
        counters
    }
}

/// A process and where it stands, in one word that is read and changed as one.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotOfProcess(pub u64);

impl SlotOfProcess {
    /// The process `tgid` stands at `slot`.
    #[inline(always)]
    #[must_use]
    pub const fn new(tgid: u32, slot: ProcessSlot) -> Self {
        Self((tgid as u64) << 32 | slot.0 as u64)
    }

    /// Where `tgid` stands, if this is about it.
    #[inline(always)]
    #[must_use]
    pub const fn of(self, tgid: u32) -> Option<ProcessSlot> {
        if (self.0 >> 32) as u32 == tgid { Some(ProcessSlot((self.0 & 0xffff_ffff) as u32)) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frees_at_the_end_of_threads_are_no_unmatched_frees() {
        let mut process = Process { frees_at_thread_end: 7, ..Process::default() };
        process.counters[Counter::UnmatchedFrees as usize] = 9;
        process.counters[Counter::BlocksFull as usize] = 3;
        let told = process.told_counters();
        assert_eq!((told[Counter::UnmatchedFrees as usize], told[Counter::BlocksFull as usize]), (2, 3));
    }

    #[test]
    fn a_process_is_found_by_its_own_id_only() {
        let known = SlotOfProcess::new(77, ProcessSlot(3));
        assert_eq!(known.of(77), Some(ProcessSlot(3)));
        assert_eq!(known.of(78), None);
    }
}
