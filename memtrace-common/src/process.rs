//! Targets, and the counters of what could not be counted.

use crate::thread::Requested;

/// Why an event is missing from a target's figures, or needs explaining.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Counter {
    /// Allocations lost because the table of live blocks was full.
    BlocksFull = 0,
    /// Allocations lost because the table of sites was full.
    SitesFull = 1,
    /// Allocations lost because the table of stacks was full.
    StacksFull = 2,
    /// Calls lost because the table of threads was full.
    ThreadsFull = 3,
    /// Allocations lost because the program's memory that holds the new address could not be read.
    OutputUnreadable = 4,
    /// Notices lost because user space read them too slowly: an allocator may have gone unseen.
    EventsFull = 5,
    /// Blocks handed out again while still thought live: their free was missed (an allocator's
    /// function that is not hooked). They were taken out of the live figures. Likewise what was left of mapped ranges:
    /// each part counts.
    MissedFrees = 6,
    /// Two stacks that share one site id; the later one was counted as the earlier.
    SiteCollisions = 7,
    /// Blocks that a failing resize left as they were, but whose room in the table of live blocks had gone
    /// to another block meanwhile: they live on unseen, counted as freed.
    PutBackFull = 8,
    /// Frees and resizes of blocks that were not allocated under memtrace's eyes. Not a loss: blocks
    /// from before attach are unknown by nature.
    UnmatchedFrees = 9,
    /// Stacks cut at an address that lies in no code that is known: the code was too new, or the walk went
    /// astray.
    UnwindNoCode = 10,
    /// Stacks cut in code whose call frame information says nothing, or nothing that a row can hold.
    UnwindNoRule = 11,
    /// Stacks cut where the stack could not be read.
    UnwindUnreadable = 12,
    /// Stacks cut where the caller's frame would not lie further out.
    UnwindNotOutwards = 13,
    /// Processes that should have become targets while the table of targets was full.
    ProcessesFull = 14,
    /// Changes of address spaces lost because user space read them too slowly: figures of mapped ranges may be
    /// wrong.
    VmEventsFull = 15,
    /// Stacks that free a site's blocks lost because their table was full: shares of those that are told are too great.
    FreeSidesFull = 16,
    /// Times in which a target ran without its probes for up to a second, because the kernel had bound them to a thread that has
    /// ended: calls went unseen.
    ProbesGone = 17,
}

impl Counter {
    /// Every counter, in the order of [`Process::counters`].
    pub const ALL: [Self; 18] = [
        Self::BlocksFull,
        Self::SitesFull,
        Self::StacksFull,
        Self::ThreadsFull,
        Self::OutputUnreadable,
        Self::EventsFull,
        Self::MissedFrees,
        Self::SiteCollisions,
        Self::PutBackFull,
        Self::UnmatchedFrees,
        Self::UnwindNoCode,
        Self::UnwindNoRule,
        Self::UnwindUnreadable,
        Self::UnwindNotOutwards,
        Self::ProcessesFull,
        Self::VmEventsFull,
        Self::FreeSidesFull,
        Self::ProbesGone,
    ];

    /// The counter's name in the `health` object of reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::BlocksFull => "blocks_full",
            Self::SitesFull => "sites_full",
            Self::StacksFull => "stacks_full",
            Self::ThreadsFull => "threads_full",
            Self::OutputUnreadable => "output_unreadable",
            Self::EventsFull => "events_full",
            Self::MissedFrees => "missed_frees",
            Self::SiteCollisions => "site_collisions",
            Self::PutBackFull => "put_back_full",
            Self::UnmatchedFrees => "unmatched_frees",
            Self::UnwindNoCode => "unwind_no_code",
            Self::UnwindNoRule => "unwind_no_rule",
            Self::UnwindUnreadable => "unwind_unreadable",
            Self::UnwindNotOutwards => "unwind_not_outwards",
            Self::ProcessesFull => "processes_full",
            Self::VmEventsFull => "vm_events_full",
            Self::FreeSidesFull => "free_sides_full",
            Self::ProbesGone => "probes_gone",
        }
    }

    /// Whether it is counted for each target, not for the run as a whole.
    #[must_use]
    pub const fn is_of_process(self) -> bool {
        !matches!(self, Self::EventsFull | Self::ProcessesFull)
    }

    /// What the counter stands for, to a reader of reports.
    #[must_use]
    pub const fn kind(self) -> CounterKind {
        match self {
            Self::UnmatchedFrees => CounterKind::Unmatched,
            Self::UnwindNoCode | Self::UnwindNoRule | Self::UnwindUnreadable | Self::UnwindNotOutwards => {
                CounterKind::CutStack
            }
            _ => CounterKind::Loss,
        }
    }
}

/// What a counter stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CounterKind {
    /// Something is missing from the figures.
    Loss,
    /// A free of a block that is unknown by nature.
    Unmatched,
    /// A block whose stack lacks its outer frames; its figures are whole.
    CutStack,
}

/// Where a target stands in the table of targets. A target is one program in one process: an exec takes a
/// new place, so that whatever the program before it left cannot be reached any more.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessSlot(pub u32);

impl ProcessSlot {
    /// No target. Its counters are those of the run as a whole.
    pub const NONE: Self = Self(0);
    /// The highest that there can be: a block's key has 17 bits for it.
    pub const MAX: Self = Self((1 << 17) - 1);
}

/// One target, as the kernel side knows it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// The process, by thread group id.
    pub tgid: u32,
    /// Makes the counters aligned.
    pub unused: u32,
    /// By [`Counter`].
    pub counters: [u64; Counter::ALL.len()],
    /// What its threads that have ended had asked for, wherever not all is recorded for good.
    pub requested: Requested,
}

const _: () = assert!(size_of::<Process>() == 200);

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
    fn counters_stand_at_their_own_index() {
        for (index, counter) in Counter::ALL.iter().enumerate() {
            assert_eq!(*counter as usize, index);
        }
    }

    #[test]
    fn a_process_is_found_by_its_own_id_only() {
        let known = SlotOfProcess::new(77, ProcessSlot(3));
        assert_eq!(known.of(77), Some(ProcessSlot(3)));
        assert_eq!(known.of(78), None);
    }
}
