//! The plan of `memtrace watch`. Processes that reach a threshold are traced in one cell of the table: their heap, within a budget.

use super::{Facts, Note, best_unwind, table::Refusal};
use crate::{
    bpf::{Asked, Capacities, Unwind, point::Scope},
    capture::returns::Returns,
    cli::args::{
        report::Format,
        watch::{OnThreshold, WatchArguments},
    },
    engine::options::{BudgetOptions, Options},
    governor::budget::Budget,
    model::{category::Category, sample_gap::SampleGap, tier::Tier},
    monitor::host::{Reaction, Watch},
};

/// Everything that watching does, but for what becomes of reports.
pub(in crate::cli) struct Plan {
    /// The watched processes, and their thresholds.
    pub(in crate::cli) watched: Watch,
    /// Words for stderr.
    pub(in crate::cli) note: Option<Note>,
}

const RECORDINGS_ARE_JSON: Refusal =
    Refusal { message: "recordings are JSON", hint: "leave out --format, or use --on-threshold report" };
const COMMANDS_REPORT_NOTHING: Refusal =
    Refusal { message: "a command that is run writes no report", hint: "leave out -o, or use --on-threshold report" };

/// The plan of these arguments. A refusal must not wait for the first process that reaches its threshold, maybe days from now.
pub(in crate::cli) fn plan(arguments: &WatchArguments, facts: Facts) -> Result<Plan, Refusal> {
    // The table is the default, and is not asked for.
    let is_json = matches!(arguments.report.format, Format::Table | Format::Json);
    let (reaction, note) = match &arguments.on_threshold {
        OnThreshold::Record if !is_json => return Err(RECORDINGS_ARE_JSON),
        OnThreshold::Run(_) if arguments.report.output.is_some() => return Err(COMMANDS_REPORT_NOTHING),
        OnThreshold::Run(command) => (Reaction::Run(command.clone()), None),
        OnThreshold::Report | OnThreshold::Record => {
            let (unwind, note) = best_unwind(facts);
            (Reaction::Trace(Box::new(options(arguments, unwind, facts))), note)
        }
    };
    let watched = Watch {
        selection: arguments.target.selection(),
        thresholds: arguments.thresholds.clone(),
        interval: arguments.interval,
        cooldown: arguments.cooldown,
        once: arguments.once,
        reaction,
    };
    Ok(Plan { watched, note })
}

/// How a process is traced that has reached a threshold.
fn options(arguments: &WatchArguments, unwind: Unwind, facts: Facts) -> Options {
    Options {
        capacities: Capacities::of(Scope::Targets),
        asked: Asked::default(),
        selection: arguments.target.selection(),
        follow: false,
        waits_for_daemons: false,
        categories: vec![Category::Heap],
        duration: Some(arguments.capture),
        interval: None,
        tier: Tier::Exact,
        budget: Some(BudgetOptions { budget: Budget(arguments.max_overhead), gap: SampleGap::Chosen }),
        unwind,
        links: None,
        returns: Returns::Auto,
        debug_lines: facts.verbose >= 2,
        custom: Vec::new(),
        has_empty_probes: false,
        at_exit: false,
        writes_a_file: arguments.on_threshold == OnThreshold::Record || arguments.report.output.is_some(),
    }
}
