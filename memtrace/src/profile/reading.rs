//! A reading of one subject: what was counted of it by a moment, and what the system says of it then.

use std::{collections::HashMap, ops::RangeInclusive, time::Duration};

use memtrace_common::{
    ids::{SiteIndex, StackId},
    steps::call::CallRoles,
    thread::Requested,
    wire::{counters::Counter, free_site::FreeSite, process::Sides, resident::Resident, site::Site as KernelSite},
};

use serde::{Deserialize, Serialize};

use super::stack::PlacedStack;
use crate::model::{
    category::Category,
    figures::FigureKind,
    memory::{KernelUsage, Limit, Usage},
    tier::Tier,
    totals::Totals,
};

/// Counts of what was lost, or needs explaining, by [`Counter`].
pub(crate) type Counters = [u64; Counter::ALL.len()];

/// The two sides of each allocator, by [`CallRoles::allocator`].
pub(crate) type AllSides = [Sides; CallRoles::ALLOCATORS];

/// When a reading is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Time {
    /// After the start.
    pub(crate) elapsed: Duration,
    /// The generation of the blocks that were allocated last ([`memtrace_common::wire::site::Generation`]).
    pub(crate) generation: u32,
    /// The generation of the blocks that will be allocated from now on.
    pub(crate) next: u32,
}

/// The kernel side's counts of a target.
#[derive(Default)]
pub(crate) struct Counted {
    /// How often the code of the program had changed before anything was counted: what was allocated since is in the next.
    pub(crate) code_changes: u64,
    pub(crate) sites: Vec<(SiteIndex, KernelSite)>,
    /// Nothing where every allocation is recorded, and nothing else ever will be.
    pub(crate) requested: Requested,
    /// Where blocks of its sites were freed, of those that were asked for.
    pub(crate) free_sites: Vec<(FreeSite, u64)>,
}

/// How allocations are sampled.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sampling {
    /// Whether every allocation may be counted at times.
    pub(crate) may_change: bool,
}

/// The basis of a target's figures, where memtrace chooses what is recorded of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Basis {
    /// The least exact tier that they rest on; the run's, where that is not told.
    pub(crate) tier: Option<Tier>,
    /// For how long until now no window stands yet; nothing where there are none now.
    pub(crate) unjudged: Option<Duration>,
}

/// A stack whose place is asked for.
pub(crate) struct Asked {
    pub(crate) stack: StackId,
    pub(crate) category: Category,
    /// When it was walked, by how often the code of its program had changed.
    pub(crate) during: RangeInclusive<u64>,
    /// Whether it was placed before: then it is only asked for where several images have been in the place of one.
    pub(crate) is_again: bool,
}

/// A stack, as it was placed.
pub(crate) enum Placed {
    /// There.
    At {
        stack: PlacedStack,
        /// Whether the walk left the code that is known.
        is_cut: bool,
    },
    /// Memory from there does not count, because its user counts by itself.
    LeftOut,
}

/// The figures of a subject at one moment.
pub(crate) struct Reading<'a> {
    pub(crate) time: Time,
    pub(crate) counted: &'a Counted,
    /// The ranges that each site has mapped, where they are followed.
    pub(crate) mapped: Option<&'a HashMap<SiteIndex, Totals>>,
    /// How its pages have changed, where that is followed.
    pub(crate) resident: Option<Resident>,
    /// The memory that it has; nothing once it has none any more.
    pub(crate) usage: Option<Usage>,
    /// The memory that the kernel holds by its own account; nothing unless all of that is asked about.
    pub(crate) kernel_usage: Option<KernelUsage>,
    /// Reads what its cgroup may have, which is asked for seldom.
    pub(crate) limit: &'a dyn Fn() -> Option<Limit>,
    /// For how long it has run, as the system counts it.
    pub(crate) cpu: Option<Duration>,
    /// The same by the kernel side, of threads that have ended.
    pub(crate) cpu_at_end: Option<Duration>,
    pub(crate) counters: Counters,
    pub(crate) sides: AllSides,
    /// Nothing where every allocation is counted.
    pub(crate) sampling: Option<Sampling>,
    pub(crate) basis: Basis,
    /// Which figures its sums are of.
    pub(crate) figures: FigureKind,
    /// How often the code of the program had changed after all was counted.
    pub(crate) code_changes: u64,
    /// How often addresses were found at which there was another image before.
    pub(crate) contests: u64,
}

impl<'a> Reading<'a> {
    /// The counts, and nothing besides.
    pub(crate) fn new(time: Time, counted: &'a Counted) -> Self {
        Self {
            time,
            counted,
            mapped: None,
            resident: None,
            usage: None,
            kernel_usage: None,
            limit: &|| None,
            cpu: None,
            cpu_at_end: None,
            counters: Counters::default(),
            sides: AllSides::default(),
            sampling: None,
            basis: Basis::default(),
            figures: FigureKind::default(),
            code_changes: 0,
            contests: 0,
        }
    }
}
