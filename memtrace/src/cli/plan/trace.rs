//! The plan of a run: `memtrace --pid N`, `memtrace -- CMD` and their kin.

use std::time::Duration;

use super::{
    Facts, Note, best_unwind,
    table::{self, Refusal, decide},
};
use crate::{
    analysis::gate::unseen::Question,
    bpf::{Asked, AttachMethod, Capacities, Unwind},
    capture::{returns::Returns, selection::Selection},
    cli::args::{
        TraceArguments,
        gate::GateArguments,
        report::{Format, ReportArguments},
        target::{CategoryArgument, TargetArguments},
        tracing::{FollowArgument, LinksArgument, ReturnsArgument, TierArgument, UnwindArgument},
    },
    engine::options::{BudgetOptions, Options},
    governor::budget::Budget,
    model::{category::Category, figures::FigureKind, sample_gap::SampleGap, tier::Tier},
};

/// How often the live table changes unless told otherwise.
const LIVE_INTERVAL: Duration = Duration::from_secs(1);

/// Everything that a run does.
#[derive(Debug)]
pub(in crate::cli) struct Plan<'a> {
    /// How targets are traced.
    pub(in crate::cli) options: Options,
    /// How reports are rendered, and the file that they go to.
    pub(in crate::cli) report: &'a ReportArguments,
    /// Whether reports are drawn over one another on the terminal.
    pub(in crate::cli) is_live: bool,
    /// The gate's files, and what it fails for.
    pub(in crate::cli) gate: &'a GateArguments,
    /// The gate's question to the run; nothing where no gate was asked for.
    pub(in crate::cli) question: Option<Question>,
    /// Words for stderr.
    pub(in crate::cli) notes: Vec<Note>,
}

/// The plan of these arguments.
pub(in crate::cli) fn plan(arguments: &TraceArguments, facts: Facts) -> Result<Plan<'_>, Refusal> {
    let (asked_tier, choice) = decide(arguments)?;
    let (tier, budget) = tier(asked_tier, arguments);
    let (unwind, warning) = unwind(arguments.unwind, facts);
    let report = &arguments.report;
    let is_live = report.output.is_none() && report.format == Format::Table && facts.has_terminal;
    let categories = categories(&arguments.categories, tier);
    let selection = arguments.target.selection();
    let (capacities, asked) = capacities(arguments, &selection, &categories, tier);
    let options = Options {
        capacities,
        asked,
        selection,
        follow: arguments.follow.is_some(),
        waits_for_daemons: arguments.follow == Some(FollowArgument::Daemons),
        categories,
        duration: arguments.duration,
        interval: arguments.interval.or(is_live.then_some(LIVE_INTERVAL)),
        tier,
        budget,
        unwind,
        debug_lines: facts.verbose >= 2,
        custom: arguments.alloc.iter().chain(&arguments.free).cloned().collect(),
        links: links(arguments.links),
        returns: returns(arguments.returns),
        writes_a_file: report.output.is_some(),
        has_empty_probes: arguments.empty_probes,
        at_exit: table::looks_at_exit(arguments),
    };
    let notes = choice.map(Note::Choice).into_iter().chain(warning).collect();
    Ok(Plan { options, report, is_live, gate: &arguments.gate, question: question(arguments), notes })
}

/// The tier (with a budget, the closest that may be taken) and the budget.
fn tier(asked: TierArgument, arguments: &TraceArguments) -> (Tier, Option<BudgetOptions>) {
    let gap = arguments.sample_bytes;
    let budget = Some(BudgetOptions { budget: Budget(arguments.max_overhead), gap });
    match asked {
        TierArgument::Auto => (Tier::Exact, budget),
        TierArgument::Windowed => (Tier::Windowed, budget),
        TierArgument::Exact => (Tier::Exact, None),
        TierArgument::Sampled => {
            (Tier::Sampled { sample_bytes: gap.first_bytes() }, budget.filter(|_| gap == SampleGap::Chosen))
        }
        TierArgument::Growth => (Tier::Growth, None),
    }
}

/// The categories that reports are of.
fn categories(asked: &[CategoryArgument], tier: Tier) -> Vec<Category> {
    let default = [if tier == Tier::Growth { CategoryArgument::Pages } else { CategoryArgument::Heap }];
    let categories = if asked.is_empty() { &default[..] } else { asked };
    categories.iter().flat_map(|category| category.categories()).collect()
}

/// How much the kernel side can hold, and what of it was asked for.
fn capacities(
    arguments: &TraceArguments,
    selection: &Selection,
    categories: &[Category],
    tier: Tier,
) -> (Capacities, Asked) {
    let defaults = if FigureKind::of(categories) == FigureKind::Kernel {
        Capacities::of_kernel()
    } else {
        Capacities::of(selection.scope(arguments.follow.is_some()))
    };
    let asked = arguments.capacities.asked();
    let capacities = defaults.halved(0, &asked);
    match tier {
        // No block is followed there.
        Tier::Growth => (Capacities { blocks: 1, ..capacities }, Asked { blocks: None, ..asked }),
        Tier::Exact | Tier::Sampled { .. } | Tier::Windowed => (capacities, asked),
    }
}

/// The gate's question to such a run; nothing where no gate was asked for.
fn question(arguments: &TraceArguments) -> Option<Question> {
    let TargetArguments { pids, command_line, .. } = &arguments.target;
    let question = if table::looks_at_exit(arguments) {
        Question::Ends
    } else {
        Question::Growth { each: !pids.is_empty() || !command_line.is_empty() }
    };
    arguments.gate.is_asked_for().then_some(question)
}

/// How stacks are walked.
fn unwind(argument: UnwindArgument, facts: Facts) -> (Unwind, Option<Note>) {
    match argument {
        UnwindArgument::Fp => (Unwind::FramePointers, None),
        UnwindArgument::Dwarf => (Unwind::Rows, None),
        UnwindArgument::Auto => best_unwind(facts),
    }
}

/// How probes are attached.
fn links(argument: LinksArgument) -> Option<AttachMethod> {
    match argument {
        LinksArgument::Auto => None,
        LinksArgument::PerfEvent => Some(AttachMethod::PerfEvent),
        LinksArgument::Multi => Some(AttachMethod::Multi),
        LinksArgument::Session => Some(AttachMethod::Session),
    }
}

/// How returns are seen.
fn returns(argument: ReturnsArgument) -> Returns {
    match argument {
        ReturnsArgument::Auto => Returns::Auto,
        ReturnsArgument::Trampoline => Returns::Trampoline,
        ReturnsArgument::Instruction => Returns::Instruction,
    }
}
