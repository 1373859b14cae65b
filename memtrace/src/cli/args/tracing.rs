//! Options for the tier, and how probes are attached. Only types.

use clap::ValueEnum;

/// A tier by its word. `auto` is none: it leaves the choice to the budget. From the plan on there is [`crate::model::tier::Tier`]
/// alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TierArgument {
    /// The most exact of exact, sampled and windowed that keeps to --max-overhead; changes with the load, and says so
    Auto,
    /// No probe in any program: the kernel's tracepoints tell which stacks make memory resident, page by page. Names
    /// growth, never a leak suspect
    Growth,
    /// Every allocation in random windows of some milliseconds, whose blocks are then followed: an estimate with its
    /// 95 % interval that keeps to --max-overhead
    Windowed,
    /// One allocation in --sample-bytes: an estimate with its 95 % interval, for two thirds of the cost of exact
    Sampled,
    /// Every allocation, at any cost
    Exact,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum UnwindArgument {
    /// By call frame information where the kernel can (Linux 5.17), else by frame pointers
    Auto,
    /// By frame pointers: cheaper, for code that was built with them throughout
    Fp,
    /// By call frame information, as exceptions and debuggers do
    Dwarf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FollowArgument {
    /// While a followed process of the command's session lives
    Session,
    /// While any followed process lives
    Daemons,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LinksArgument {
    /// The last of these that the kernel has (`memtrace doctor` says which)
    Auto,
    /// A perf event for each probe
    PerfEvent,
    /// One link for many probes (Linux 6.6)
    Multi,
    /// The same, and one probe for a call's entry and return (Linux 6.13)
    Session,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReturnsArgument {
    /// At instructions of allocators that memtrace does not know and of functions that may throw, else by return probes
    Auto,
    /// By return probes, but of functions that may throw
    Trampoline,
    /// At `ret` instructions: return addresses stay what they are, and a pair of calls costs about four times as much
    Instruction,
}
