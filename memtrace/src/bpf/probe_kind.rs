//! Kinds of probes: which programs serve each, when they run, and how they are attached.

use std::fmt;

/// The task of a probe when it is hit; in the order in which probes must be attached.
///
/// Frees first, and returns before entries: a block that is allocated under our eyes must not be freed behind our
/// back, and an entry whose return is not seen would be remembered for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProbeKind {
    /// A free begins.
    Free,
    /// One of the returns of a function that resizes blocks and whose return address must be left alone.
    ResizeRet,
    /// A call that resizes a block begins; its returns are seen by [`ProbeKind::ResizeRet`].
    ResizeEntry,
    /// A call that resizes a block begins, and returns.
    ResizeCall,
    /// A call that hands out a block begins, and returns.
    AllocCall,
    /// One of the returns of a function that hands out blocks and whose return address must be left alone.
    AllocRet,
    /// A call that hands out a block begins; its returns are seen by [`ProbeKind::AllocRet`].
    AllocEntry,
    /// An exception is thrown, or a longjmp begins.
    CallLeft,
    /// An exception is caught.
    CallCaught,
    /// The dynamic linker has loaded or unloaded images.
    LinkerNotice,
    /// The process begins to end: it is about to free its blocks.
    WayOut,
    /// The process is about to end.
    ProcessEnd,
    /// The process is about to become another program.
    ProcessReplace,
    /// Nothing is done at the entry and at the return: the cost of the probes themselves.
    EmptyCall,
    /// Nothing is done: the cost of the probe itself.
    EmptyEntry,
}

/// Which probes are in place: those not needed are taken out, since each hit costs the target a trap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProbeSet {
    /// Neither on allocations nor on frees.
    Neither,
    /// On frees, and on what resizes blocks.
    Frees,
    /// On allocations as well.
    #[default]
    Everything,
}

/// How probes are attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AttachMethod {
    /// A perf event for each probe; any kernel.
    #[default]
    PerfEvent,
    /// One link for many probes of an image (uprobe_multi); Linux 6.6.
    Multi,
    /// The same, and one probe for a call's entry and return (uprobe session); Linux 6.13.
    Session,
}

impl fmt::Display for AttachMethod {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::PerfEvent => "a perf event for each probe",
            Self::Multi => "uprobe_multi links",
            Self::Session => "uprobe sessions",
        })
    }
}

/// When a probe's program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum When {
    /// At the entry, or wherever the probe is.
    Entry,
    /// At the function's return.
    Return,
    /// At both: a session.
    Both,
}

/// A program and when it runs.
pub(super) type Served = (&'static str, When);

impl ProbeKind {
    /// The kinds that nearly every target needs.
    pub(super) const USUAL: [Self; 5] =
        [Self::Free, Self::ResizeCall, Self::AllocCall, Self::LinkerNotice, Self::WayOut];

    /// The kinds that only targets need whose allocator's return addresses are left alone, or whose end is waited for.
    pub(super) const RARE: [Self; 8] = [
        Self::ResizeRet,
        Self::ResizeEntry,
        Self::AllocRet,
        Self::AllocEntry,
        Self::CallLeft,
        Self::CallCaught,
        Self::ProcessEnd,
        Self::ProcessReplace,
    ];

    /// With what its probes are in place.
    pub(super) fn armed_with(self) -> ProbeSet {
        match self {
            Self::Free | Self::ResizeRet | Self::ResizeEntry | Self::ResizeCall => ProbeSet::Frees,
            Self::AllocCall | Self::AllocRet | Self::AllocEntry => ProbeSet::Everything,
            // Hit too rarely to matter.
            Self::CallLeft
            | Self::CallCaught
            | Self::LinkerNotice
            | Self::WayOut
            | Self::ProcessEnd
            | Self::ProcessReplace
            | Self::EmptyCall
            | Self::EmptyEntry => ProbeSet::Neither,
        }
    }

    /// The kind that takes the same probes and does nothing.
    #[must_use]
    pub fn emptied(self) -> Self {
        match self {
            Self::AllocCall | Self::ResizeCall => Self::EmptyCall,
            _ => Self::EmptyEntry,
        }
    }

    /// The programs that do it, in the order in which they must be attached, for the same reason.
    pub(super) fn programs(self, links: AttachMethod) -> &'static [Served] {
        use When::{Both, Entry, Return};
        let is_session = links == AttachMethod::Session;
        match self {
            Self::AllocCall if is_session => &[("alloc_call", Both)],
            Self::AllocCall => &[("alloc_return", Return), ("alloc_entry", Entry)],
            Self::ResizeCall if is_session => &[("resize_call", Both)],
            Self::ResizeCall => &[("alloc_return", Return), ("resize_entry", Entry)],
            Self::AllocRet | Self::ResizeRet => &[("alloc_ret", Entry)],
            Self::ResizeEntry => &[("resize_entry", Entry)],
            Self::AllocEntry => &[("alloc_entry", Entry)],
            Self::Free => &[("free_entry", Entry)],
            Self::CallLeft => &[("call_left", Entry)],
            Self::CallCaught => &[("call_caught", Entry)],
            Self::LinkerNotice => &[("linker_notice", Entry)],
            Self::WayOut => &[("process_leaves", Entry)],
            Self::ProcessEnd => &[("process_end", Entry)],
            Self::ProcessReplace => &[("process_replace", Entry)],
            Self::EmptyCall if is_session => &[("empty_call", Both)],
            Self::EmptyCall => &[("empty_return", Return), ("empty_entry", Entry)],
            Self::EmptyEntry => &[("empty_entry", Entry)],
        }
    }
}
