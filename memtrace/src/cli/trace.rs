//! `memtrace --pid N` and `memtrace -- CMD`.

use std::{
    io,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{ExitCode, ExitStatus},
    time::Duration,
};

use tokio::runtime::Runtime;

use super::{
    args::{
        CategoryArgument, FollowArgument, LinksArgument, ReturnsArgument, TargetArguments, TierArgument,
        TraceArguments, UnwindArgument,
    },
    failure::Failure,
    gate::Gatekeeper,
    output::Output,
};
use crate::{
    capture::{
        attach::Programs,
        kernel::{Capacities, Links, Unwind},
        preflight,
        returns::Returns,
    },
    model::{
        budget::{Budget, Closeness},
        report::{Category, Tier},
        unseen::Question,
    },
    pipeline::{self, Look, Options, PipelineError},
};

/// How often the live table changes unless told otherwise.
const LIVE_INTERVAL: Duration = Duration::from_secs(1);

pub(super) fn run(arguments: &TraceArguments, verbose: u8) -> Result<ExitCode, Failure> {
    check_kernel(arguments)?;
    check_gate(arguments)?;
    let (look, categories) = look(arguments)?;
    let mut gatekeeper = Gatekeeper::new(&arguments.gate, question(arguments))?;
    let mut output = Output::open(&arguments.report)?;
    let options = options(arguments, look, categories, verbose, output.is_live());
    let mut sink = |report: &mut _, is_last| {
        gatekeeper.look_at(report, is_last);
        output.write(report, is_last)
    };
    let outcome = runtime()?.block_on(pipeline::run(&options, &mut sink));
    // The terminal is the report's until then.
    drop(output);
    gatekeeper.tell();
    match outcome {
        Ok(None) => gatekeeper.status(ExitCode::SUCCESS, true),
        Ok(Some(status)) => gatekeeper.status(command_status(status), status.success()),
        Err(error) => {
            let could_not_look = gatekeeper.could_not_look(&error);
            let failed = failed(error, arguments.report.output.as_deref());
            let failed = failed.map_err(|failure| if could_not_look { failure.of_gate() } else { failure });
            failed.and_then(|status| gatekeeper.status(status, true))
        }
    }
}

/// The loop that a run waits in.
pub(super) fn runtime() -> Result<Runtime, Failure> {
    let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
    built.map_err(|source| PipelineError::Wait { what: "anything", source }.into())
}

/// How a run ends that failed, whose reports go to `output`.
pub(super) fn failed(error: PipelineError, output: Option<&Path>) -> Result<ExitCode, Failure> {
    match (error, output) {
        // Whoever read the report has enough of it, as `head` does.
        (PipelineError::Write(error), _) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        (PipelineError::Write(error), Some(path)) => Err(Failure::output(path, &error)),
        (error, _) => Err(error.into()),
    }
}

/// What the kernel's own memory cannot be asked for with.
fn check_kernel(arguments: &TraceArguments) -> Result<(), Failure> {
    let TraceArguments { categories, target, follow, tier, alloc, .. } = arguments;
    if !categories.contains(&CategoryArgument::Kernel) {
        return Ok(());
    }
    let refused = |what, hint| Err(Failure::usage(format!("--category kernel does not go with {what}"), hint));
    if categories.iter().any(|category| *category != CategoryArgument::Kernel) {
        refused("other categories", "run memtrace twice, at the same time if you like")
    } else if !target.command_line.is_empty() {
        refused("-- CMD", "start memtrace first, with --comm NAME or without any target, and then CMD")
    } else if follow.is_some() {
        refused("--follow", "use --comm or --cgroup, or leave it out for all of the host")
    } else if !alloc.is_empty() {
        refused("--alloc and --free", "leave them out")
    } else if !matches!(tier, TierArgument::Auto | TierArgument::Exact) {
        refused("this --tier", "leave it out: every allocation is counted")
    } else {
        Ok(())
    }
}

/// What a gate would never fail for, or cannot be asked for.
fn check_gate(arguments: &TraceArguments) -> Result<(), Failure> {
    let TraceArguments { gate, target, categories, tier, .. } = arguments;
    let is_judged = |category: &CategoryArgument| matches!(category, CategoryArgument::Heap | CategoryArgument::Mmap);
    let convicts = *tier != TierArgument::Growth && (categories.is_empty() || categories.iter().any(is_judged));
    if gate.at_exit && target.command_line.is_empty() {
        Err(Failure::usage(
            "--at-exit looks at the end only of -- CMD, which memtrace has seen from its beginning",
            "start the program with memtrace: memtrace --at-exit -- CMD",
        ))
    } else if gate.looks_at_exit() && !convicts {
        Err(Failure::usage(
            "pages and the kernel's memory are named, and nobody is convicted: --fail-on-leak would never fail",
            "leave out --category and --tier growth, or --fail-on-leak",
        ))
    } else {
        Ok(())
    }
}

/// How closely to look, and at which kinds of memory.
fn look(arguments: &TraceArguments) -> Result<(Look, Vec<Category>), Failure> {
    let within = |closest| Look::Within {
        budget: Budget(arguments.max_overhead),
        closest,
        sample_bytes: arguments.sample_bytes,
    };
    let asked = &arguments.categories;
    let ranges = asked.contains(&CategoryArgument::Mmap);
    let only_pages = !asked.is_empty() && asked.iter().all(|category| *category == CategoryArgument::Pages);
    let look = match arguments.tier {
        TierArgument::Auto if only_pages => Look::Fixed(Tier::Growth),
        TierArgument::Growth if asked.is_empty() || only_pages => Look::Fixed(Tier::Growth),
        TierArgument::Growth => {
            return Err(Failure::usage(
                "tier `growth` sees pages become resident, no allocations",
                "leave out --category, or use another tier",
            ));
        }
        _ if only_pages => {
            return Err(Failure::usage(
                "--category pages alone has no allocations to look at in this tier",
                "use --tier growth, or --category heap,pages",
            ));
        }
        TierArgument::Auto if looks_at_exit(arguments, asked) => {
            eprintln!(
                "memtrace: what -- CMD leaves behind is known of all blocks or of none: tier exact, whatever that costs"
            );
            Look::Fixed(Tier::Exact)
        }
        // What allocators map for themselves is known by their calls: all of them must be seen.
        TierArgument::Auto if ranges => {
            eprintln!("memtrace: --category mmap takes every allocation: tier exact, whatever that costs");
            Look::Fixed(Tier::Exact)
        }
        TierArgument::Windowed if ranges => {
            return Err(Failure::usage(
                "--category mmap takes every allocation, which tier `windowed` does not see",
                "use --tier exact",
            ));
        }
        TierArgument::Auto => within(Closeness::All),
        TierArgument::Windowed => within(Closeness::Windows),
        TierArgument::Exact => Look::Fixed(Tier::Exact),
        TierArgument::Sampled => Look::Fixed(Tier::Sampled { sample_bytes: arguments.sample_bytes }),
    };
    let default = [if look == Look::Fixed(Tier::Growth) { CategoryArgument::Pages } else { CategoryArgument::Heap }];
    let categories = if asked.is_empty() { &default[..] } else { asked };
    Ok((look, categories.iter().flat_map(|category| category.categories()).collect()))
}

/// Whether what a command leaves behind is looked at: where there is one, and its allocations are.
fn looks_at_exit(arguments: &TraceArguments, categories: &[CategoryArgument]) -> bool {
    let is_of_heap = categories.is_empty() || categories.contains(&CategoryArgument::Heap);
    arguments.gate.looks_at_exit() && !arguments.target.command_line.is_empty() && is_of_heap
}

/// The gate's question to such a run.
fn question(arguments: &TraceArguments) -> Question {
    let TargetArguments { pids, command_line, .. } = &arguments.target;
    if looks_at_exit(arguments, &arguments.categories) {
        Question::Ends
    } else {
        Question::Growth { each: !pids.is_empty() || !command_line.is_empty() }
    }
}

/// How to attach probes.
fn links(argument: LinksArgument) -> Option<Links> {
    match argument {
        LinksArgument::Auto => None,
        LinksArgument::PerfEvent => Some(Links::PerfEvent),
        LinksArgument::Multi => Some(Links::Multi),
        LinksArgument::Session => Some(Links::Session),
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

/// How to walk stacks. That the kernel cannot do what was not asked for is worth saying.
fn unwind(argument: UnwindArgument) -> Unwind {
    match argument {
        UnwindArgument::Fp => Unwind::FramePointers,
        UnwindArgument::Dwarf => Unwind::Rows,
        UnwindArgument::Auto => best_unwind(),
    }
}

/// By call frame information, if the kernel can.
pub(super) fn best_unwind() -> Unwind {
    if preflight::has_bpf_loop() {
        return Unwind::Rows;
    }
    log::warn!("this kernel is older than Linux 5.17: stacks are walked by frame pointers");
    Unwind::FramePointers
}

fn options(arguments: &TraceArguments, look: Look, categories: Vec<Category>, verbose: u8, is_live: bool) -> Options {
    let selection = arguments.target.selection();
    let defaults = if categories.iter().any(|category| category.is_kernel()) {
        Capacities::of_kernel()
    } else {
        Capacities::of(selection.scope(arguments.follow.is_some()))
    };
    let mut asked = arguments.capacities.asked();
    let mut capacities = defaults.halved(0, &asked);
    let mut programs = if arguments.empty_probes { Programs::Empty } else { Programs::Tracing };
    if look == Look::Fixed(Tier::Growth) {
        (capacities.blocks, asked.blocks, programs) = (1, None, Programs::Nothing);
    }
    Options {
        capacities,
        asked,
        selection,
        follow: arguments.follow.is_some(),
        waits_for_daemons: arguments.follow == Some(FollowArgument::Daemons),
        categories,
        duration: arguments.duration,
        interval: arguments.interval.or(is_live.then_some(LIVE_INTERVAL)),
        look,
        unwind: unwind(arguments.unwind),
        debug_lines: verbose >= 2,
        custom: arguments.alloc.iter().chain(&arguments.free).cloned().collect(),
        links: links(arguments.links),
        returns: returns(arguments.returns),
        writes_a_file: arguments.report.output.is_some(),
        programs,
        at_exit: looks_at_exit(arguments, &arguments.categories) && look != Look::Fixed(Tier::Growth),
    }
}

/// The command's own status, or 128 and the signal that ended it, as shells have it.
fn command_status(status: ExitStatus) -> ExitCode {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_was_killed_ends_as_in_a_shell() {
        assert_eq!(command_status(ExitStatus::from_raw(9)), ExitCode::from(137));
        assert_eq!(command_status(ExitStatus::from_raw(3 << 8)), ExitCode::from(3));
    }
}
