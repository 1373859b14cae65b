//! Counters of all that could not be counted, or needs explaining: each reaches the report.

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
    /// from before attach are unknown by nature. glibc also frees what a thread has in its cache, once more, as the thread
    /// ends: that part is in `Process::frees_at_thread_end`.
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
    MappingEventsFull = 15,
    /// Stacks that free a site's blocks lost because their table was full: shares of those that are told are too great.
    FreeSitesFull = 16,
    /// Times in which a target ran without its probes for up to a second, because the kernel had bound them to a thread that has
    /// ended: calls went unseen.
    ProbesGone = 17,
    /// Calls whose return was not seen, though no exception and no longjmp left them: blocks that they handed out are
    /// missing.
    ReturnsUnseen = 18,
    /// Times that a target's probes were taken out for good, because it was about to copy its code: what came after is not
    /// seen.
    ProbesTakenOut = 19,
    /// Mappings of code that were not looked at one by one, because the target makes them too often: an allocator that came and
    /// went may have gone unseen.
    LooksPutOff = 20,
    /// Stacks cut in code that has put the stack pointer on another stack: the callers' frames lie on the one before.
    UnwindStackSwitch = 21,
    /// System V segments that were attached and whose size the kernel did not tell: they are in no figure.
    SegmentsUnknown = 22,
    /// Times that a target lost its slot to a process that grows more steadily: its stacks are not told any more.
    SlotsTakenBack = 23,
    /// Ranges of code that were forgotten because the target had given up too many: stacks there that were not read yet have no
    /// names.
    CodeForgotten = 24,
}

impl Counter {
    /// Every counter, in the order of [`Process::counters`].
    pub const ALL: [Self; 25] = [
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
        Self::MappingEventsFull,
        Self::FreeSitesFull,
        Self::ProbesGone,
        Self::ReturnsUnseen,
        Self::ProbesTakenOut,
        Self::LooksPutOff,
        Self::UnwindStackSwitch,
        Self::SegmentsUnknown,
        Self::SlotsTakenBack,
        Self::CodeForgotten,
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
            Self::MappingEventsFull => "vm_events_full",
            Self::FreeSitesFull => "free_sides_full",
            Self::ProbesGone => "probes_gone",
            Self::ReturnsUnseen => "returns_unseen",
            Self::ProbesTakenOut => "probes_taken_out",
            Self::LooksPutOff => "looks_put_off",
            Self::UnwindStackSwitch => "unwind_stack_switch",
            Self::SegmentsUnknown => "segments_unknown",
            Self::SlotsTakenBack => "slots_taken_back",
            Self::CodeForgotten => "code_forgotten",
        }
    }

    /// Whether it is counted for each target, not for the run as a whole.
    #[must_use]
    pub const fn is_of_process(self) -> bool {
        !matches!(self, Self::EventsFull | Self::ProcessesFull | Self::SlotsTakenBack)
    }

    /// The meaning of the counter, to a reader of reports.
    #[must_use]
    pub const fn kind(self) -> CounterKind {
        match self {
            Self::UnmatchedFrees => CounterKind::Unmatched,
            Self::UnwindNoCode
            | Self::UnwindNoRule
            | Self::UnwindUnreadable
            | Self::UnwindNotOutwards
            | Self::UnwindStackSwitch => CounterKind::CutStack,
            _ => CounterKind::Loss,
        }
    }
}

/// The meaning of a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CounterKind {
    /// Something is missing from the figures.
    Loss,
    /// A free of a block that is unknown by nature.
    Unmatched,
    /// A block whose stack lacks its outer frames; its figures are whole.
    CutStack,
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
}
