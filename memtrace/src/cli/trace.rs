//! `memtrace --pid N` and `memtrace -- CMD`.

use std::{
    io,
    os::unix::process::ExitStatusExt,
    process::{ExitCode, ExitStatus},
    time::Duration,
};

use super::{
    args::{CategoryArgument, LinksArgument, TierArgument, TraceArguments, UnwindArgument},
    failure::Failure,
    output::Output,
};
use crate::{
    capture::{
        attach::Programs,
        kernel::{Capacities, Links, Unwind},
        preflight,
    },
    model::{
        budget::{Budget, Closeness},
        report::Tier,
    },
    pipeline::{self, Look, Options, PipelineError},
};

/// How often the live table changes unless told otherwise.
const LIVE_INTERVAL: Duration = Duration::from_secs(1);

pub(super) fn run(arguments: &TraceArguments, verbose: u8) -> Result<ExitCode, Failure> {
    check_kernel(arguments)?;
    let look = look(arguments)?;
    let mut output = Output::open(arguments)?;
    let options = options(arguments, look, verbose, output.is_live());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| PipelineError::Wait { what: "anything", source })?;
    let mut sink = |report: &_, is_last| output.write(report, is_last);
    match runtime.block_on(pipeline::run(&options, &mut sink)) {
        Ok(None) => Ok(ExitCode::SUCCESS),
        Ok(Some(status)) => Ok(command_status(status)),
        // Whoever read the report has enough of it, as `head` does.
        Err(PipelineError::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        Err(PipelineError::Write(error)) if arguments.output.is_some() => {
            let path = arguments.output.as_deref().unwrap_or_else(|| "stdout".as_ref());
            Err(Failure::output(path, &error))
        }
        Err(error) => Err(error.into()),
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
    } else if *follow {
        refused("--follow", "use --comm or --cgroup, or leave it out for all of the host")
    } else if !alloc.is_empty() {
        refused("--alloc and --free", "leave them out")
    } else if !matches!(tier, TierArgument::Auto | TierArgument::Exact) {
        refused("this --tier", "leave it out: every allocation is counted")
    } else {
        Ok(())
    }
}

fn look(arguments: &TraceArguments) -> Result<Look, Failure> {
    let within = |closest| Look::Within {
        budget: Budget(arguments.max_overhead),
        closest,
        sample_bytes: arguments.sample_bytes,
    };
    let ranges = arguments.categories.contains(&CategoryArgument::Mmap);
    match arguments.tier {
        // What allocators map for themselves is known by their calls: all of them must be seen.
        TierArgument::Auto if ranges => {
            eprintln!("memtrace: --category mmap takes every allocation: tier exact, whatever that costs");
            Ok(Look::Fixed(Tier::Exact))
        }
        TierArgument::Windowed if ranges => Err(Failure::usage(
            "--category mmap takes every allocation, which tier `windowed` does not see",
            "use --tier exact",
        )),
        TierArgument::Auto => Ok(within(Closeness::All)),
        TierArgument::Windowed => Ok(within(Closeness::Windows)),
        TierArgument::Exact => Ok(Look::Fixed(Tier::Exact)),
        TierArgument::Sampled => Ok(Look::Fixed(Tier::Sampled { sample_bytes: arguments.sample_bytes })),
        TierArgument::Growth => Err(Failure::usage(
            "this version has no tier `growth` yet",
            "use --tier windowed, sampled or exact, or leave it out",
        )),
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

/// How to walk stacks. That the kernel cannot do what was not asked for is worth saying.
fn unwind(argument: UnwindArgument) -> Unwind {
    match argument {
        UnwindArgument::Fp => Unwind::FramePointers,
        UnwindArgument::Dwarf => Unwind::Rows,
        UnwindArgument::Auto if preflight::has_bpf_loop() => Unwind::Rows,
        UnwindArgument::Auto => {
            log::warn!("this kernel is older than Linux 5.17: stacks are walked by frame pointers");
            Unwind::FramePointers
        }
    }
}

fn options(arguments: &TraceArguments, look: Look, verbose: u8, is_live: bool) -> Options {
    let selection = arguments.target.selection();
    let capacities = match arguments.categories.contains(&CategoryArgument::Kernel) {
        true => Capacities::of_kernel(),
        false => Capacities::of(selection.scope(arguments.follow)),
    };
    Options {
        capacities: arguments.capacities.capacities(capacities),
        selection,
        follow: arguments.follow,
        categories: arguments.categories.iter().map(|category| (*category).into()).collect(),
        duration: arguments.duration,
        interval: arguments.interval.or(is_live.then_some(LIVE_INTERVAL)),
        look,
        unwind: unwind(arguments.unwind),
        debug_lines: verbose >= 2,
        custom: arguments.alloc.iter().chain(&arguments.free).cloned().collect(),
        links: links(arguments.links),
        writes_a_file: arguments.output.is_some(),
        programs: if arguments.empty_probes { Programs::Empty } else { Programs::Tracing },
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
