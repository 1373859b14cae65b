//! The table of tier, kind of memory and target: the cells that are traced, and for each other the reason and the next step.
//!
//! In: a command line, as far as these rules tell command lines apart. Out: the tier, or a refusal. Rules of grammar (one
//! target, options that need one another) are clap's, in `args`.

use crate::cli::args::{
    TraceArguments,
    target::{CategoryArgument, TargetArguments},
    tracing::TierArgument,
};

use CategoryArgument as Category;
use Memory::{Heap, HeapAndMappings, Kernel, KernelAndOthers, Mappings, Pages, Unnamed};
use Outcome::{AsAsked, Instead, Refused};
use Target::{Cgroup, Comm, Command, Everyone, Nothing, Pids};
use TierArgument::{Auto, Exact, Growth, Sampled, Windowed};

/// A command line that is not carried out: status 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Refusal {
    /// The reason.
    pub(in crate::cli) message: &'static str,
    /// The next step.
    pub(in crate::cli) hint: &'static str,
}

/// The memory that a command line names, as far as rules tell it apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Memory {
    /// No category.
    Unnamed,
    /// Heap, maybe with pages.
    Heap,
    /// Mappings, maybe with pages.
    Mappings,
    /// Heap and mappings, maybe with pages.
    HeapAndMappings,
    /// Pages alone.
    Pages,
    /// The kernel's own alone.
    Kernel,
    /// The kernel's own and that of programs.
    KernelAndOthers,
}

impl Memory {
    /// Of these categories.
    fn of(categories: &[Category]) -> Self {
        let has = |category| categories.contains(&category);
        match (has(Category::Kernel), has(Category::Heap), has(Category::Mmap), has(Category::Pages)) {
            (false, false, false, false) => Unnamed,
            (false, true, false, _) => Heap,
            (false, false, true, _) => Mappings,
            (false, true, true, _) => HeapAndMappings,
            (false, false, false, true) => Pages,
            (true, false, false, false) => Kernel,
            (true, ..) => KernelAndOthers,
        }
    }
}

/// The way in which a command line names targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    /// No target.
    Nothing,
    /// `--pid`.
    Pids,
    /// `--comm`.
    Comm,
    /// `--cgroup`.
    Cgroup,
    /// `--all`.
    Everyone,
    /// `-- CMD`.
    Command,
}

impl Target {
    fn of(arguments: &TargetArguments) -> Self {
        let TargetArguments { pids, comm, cgroup, all, command_line } = arguments;
        match (pids.is_empty(), comm, cgroup, all, command_line.is_empty()) {
            (false, ..) => Pids,
            (_, Some(_), ..) => Comm,
            (_, _, Some(_), ..) => Cgroup,
            (_, _, _, true, _) => Everyone,
            (.., false) => Command,
            (true, None, None, false, true) => Nothing,
        }
    }
}

/// A further demand that a row is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Demand {
    /// `--follow`.
    Follow,
    /// `--alloc` and `--free`.
    NamedFunctions,
    /// `--at-exit`.
    AtExit,
    /// `--fail-on-leak` or `--at-exit`.
    Gate,
}

/// The outcome of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// It is traced in the tier that was asked for.
    AsAsked,
    /// It is traced in this tier, which is told in these words where it is not plain.
    Instead(TierArgument, Option<&'static str>),
    /// It is refused.
    Refused(Refusal),
}

/// The cells of some memory, some tiers and some targets; those with a demand, where there is one.
struct Row(&'static [Memory], &'static [TierArgument], &'static [Target], Option<Demand>, Outcome);

const ANY_MEMORY: &[Memory] = &[Unnamed, Heap, Mappings, HeapAndMappings, Pages, Kernel, KernelAndOthers];
const OF_PROGRAMS: &[Memory] = &[Unnamed, Heap, Mappings, HeapAndMappings, Pages];
const OF_HEAP: &[Memory] = &[Unnamed, Heap, HeapAndMappings];
const OF_MAPPINGS: &[Memory] = &[Mappings, HeapAndMappings];
const ANY_TIER: &[TierArgument] = &[Auto, Growth, Windowed, Sampled, Exact];
const ANY_TARGET: &[Target] = &[Nothing, Pids, Comm, Cgroup, Everyone, Command];
const ALL_BUT_COMMAND: &[Target] = &[Nothing, Pids, Comm, Cgroup, Everyone];

/// The first row that a command line is in decides; without one it is traced as asked.
#[rustfmt::skip]
const TABLE: [Row; 17] = [
    Row(OF_PROGRAMS, ANY_TIER, &[Nothing], None, Refused(NO_TARGET)),

    Row(&[KernelAndOthers], ANY_TIER, ANY_TARGET, None, Refused(KERNEL_AND_OTHERS)),
    Row(&[Kernel], ANY_TIER, &[Command], None, Refused(KERNEL_OF_COMMAND)),
    Row(&[Kernel], ANY_TIER, ANY_TARGET, Some(Demand::Follow), Refused(KERNEL_OF_CHILDREN)),
    Row(&[Kernel], ANY_TIER, ANY_TARGET, Some(Demand::NamedFunctions), Refused(KERNEL_OF_FUNCTIONS)),
    Row(&[Kernel], &[Growth, Windowed, Sampled], ANY_TARGET, None, Refused(KERNEL_IN_TIER)),

    Row(ANY_MEMORY, ANY_TIER, ALL_BUT_COMMAND, Some(Demand::AtExit), Refused(END_NOT_SEEN)),
    Row(&[Pages, Kernel], ANY_TIER, ANY_TARGET, Some(Demand::Gate), Refused(NO_SUSPECTS)),
    Row(ANY_MEMORY, &[Growth], ANY_TARGET, Some(Demand::Gate), Refused(NO_SUSPECTS)),

    Row(&[Kernel], ANY_TIER, ANY_TARGET, None, Instead(Exact, None)),
    Row(&[Unnamed], &[Growth], ANY_TARGET, None, AsAsked),
    Row(&[Pages], &[Auto, Growth], ANY_TARGET, None, Instead(Growth, None)),
    Row(&[Pages], ANY_TIER, ANY_TARGET, None, Refused(PAGES_ALONE)),
    Row(ANY_MEMORY, &[Growth], ANY_TARGET, None, Refused(GROWTH_OF_ALLOCATIONS)),
    Row(OF_HEAP, &[Auto], &[Command], Some(Demand::Gate), Instead(Exact, Some(END_TAKES_ALL))),
    Row(OF_MAPPINGS, &[Auto], ANY_TARGET, None, Instead(Exact, Some(MAPPINGS_TAKE_ALL))),
    Row(OF_MAPPINGS, &[Windowed], ANY_TARGET, None, Refused(MAPPINGS_IN_WINDOWS)),
];

const NO_TARGET: Refusal = Refusal {
    message: "a target is required: --pid <N>, --comm <NAME>, --cgroup <PATH>, --all or -- <CMD>...",
    hint: "`memtrace --help` shows every option, with examples",
};
const KERNEL_AND_OTHERS: Refusal = Refusal {
    message: "--category kernel does not go with other categories",
    hint: "run memtrace twice, at the same time if you like",
};
const KERNEL_OF_COMMAND: Refusal = Refusal {
    message: "--category kernel does not go with -- CMD",
    hint: "start memtrace first, with --comm NAME or without any target, and then CMD",
};
const KERNEL_OF_CHILDREN: Refusal = Refusal {
    message: "--category kernel does not go with --follow",
    hint: "use --comm or --cgroup, or leave it out for all of the host",
};
const KERNEL_OF_FUNCTIONS: Refusal =
    Refusal { message: "--category kernel does not go with --alloc and --free", hint: "leave them out" };
const KERNEL_IN_TIER: Refusal = Refusal {
    message: "--category kernel does not go with this --tier",
    hint: "leave it out: every allocation is counted",
};
const END_NOT_SEEN: Refusal = Refusal {
    message: "--at-exit looks at the end only of -- CMD, which memtrace has seen from its beginning",
    hint: "start the program with memtrace: memtrace --at-exit -- CMD",
};
const NO_SUSPECTS: Refusal = Refusal {
    message: "pages and the kernel's memory are named, and nobody is convicted: --fail-on-leak would never fail",
    hint: "leave out --category and --tier growth, or --fail-on-leak",
};
const PAGES_ALONE: Refusal = Refusal {
    message: "--category pages alone has no allocations to look at in this tier",
    hint: "use --tier growth, or --category heap,pages",
};
const GROWTH_OF_ALLOCATIONS: Refusal = Refusal {
    message: "tier `growth` sees pages become resident, no allocations",
    hint: "leave out --category, or use another tier",
};
/// An allocator's own mappings are known by its calls: all of them must be seen.
const MAPPINGS_IN_WINDOWS: Refusal = Refusal {
    message: "--category mmap takes every allocation, which tier `windowed` does not see",
    hint: "use --tier exact",
};

const END_TAKES_ALL: &str = "a look at the end of -- CMD takes every allocation: tier exact, whatever that costs";
const MAPPINGS_TAKE_ALL: &str = "--category mmap takes every allocation: tier exact, whatever that costs";

/// The tier of a command line, with words for stderr where it is not plain.
pub(super) fn decide(arguments: &TraceArguments) -> Result<(TierArgument, Option<&'static str>), Refusal> {
    let (memory, target) = (Memory::of(&arguments.categories), Target::of(&arguments.target));
    let is_demanded = |demand| match demand {
        Demand::Follow => arguments.follow.is_some(),
        Demand::NamedFunctions => !arguments.alloc.is_empty(),
        Demand::AtExit => arguments.gate.at_exit,
        Demand::Gate => arguments.gate.is_asked_for(),
    };
    let row = TABLE.iter().find(|Row(memories, tiers, targets, demand, _)| {
        memories.contains(&memory)
            && tiers.contains(&arguments.tier)
            && targets.contains(&target)
            && demand.is_none_or(is_demanded)
    });
    match row.map_or(AsAsked, |Row(.., outcome)| *outcome) {
        AsAsked => Ok((arguments.tier, None)),
        Instead(tier, words) => Ok((tier, words)),
        Refused(refusal) => Err(refusal),
    }
}

/// Whether the blocks are looked at that a command leaves behind: where there is one, its heap is traced and a gate asks.
pub(super) fn looks_at_exit(arguments: &TraceArguments) -> bool {
    let is_of_heap = OF_HEAP.contains(&Memory::of(&arguments.categories));
    arguments.gate.is_asked_for() && !arguments.target.command_line.is_empty() && is_of_heap
}
