//! `memtrace watch`: many processes for nearly nothing, and a close look at those that reach a threshold.

use std::{
    io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use super::{
    args::Format,
    failure::Failure,
    output::{Output, ReportFile},
    trace,
    watch_args::{OnThreshold, WatchArguments},
};
use crate::{
    capture::{
        attach::Programs,
        images::Scope,
        kernel::{Asked, Capacities},
        returns::Returns,
    },
    model::{
        budget::{Budget, Closeness},
        report::{Category, Report},
    },
    pipeline::{
        Look, Options,
        lookout::{self, Crossing, Lookout, Reaction},
    },
    report::json,
};

/// The mean number of bytes between samples, where the budget leads to samples.
const SAMPLE_BYTES: u64 = 512 << 10;

pub(super) fn run(arguments: &WatchArguments, verbose: u8) -> Result<ExitCode, Failure> {
    check(arguments)?;
    let lookout = Lookout {
        selection: arguments.target.selection(),
        thresholds: arguments.thresholds.clone(),
        interval: arguments.interval,
        cooldown: arguments.cooldown,
        once: arguments.once,
        reaction: match &arguments.on_threshold {
            OnThreshold::Run(command) => Reaction::Run(command.clone()),
            OnThreshold::Report | OnThreshold::Record => Reaction::Trace(Box::new(options(arguments, verbose))),
        },
    };
    let mut sink = |crossing: &Crossing, report: &Report| match arguments.on_threshold {
        OnThreshold::Record => record(arguments, crossing, report),
        OnThreshold::Report | OnThreshold::Run(_) => {
            Output::open_plain(&arguments.report).and_then(|mut output| output.write(report, true))
        }
    };
    match trace::runtime()?.block_on(lookout::watch(&lookout, &mut sink)) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => trace::failed(error, arguments.report.output.as_deref()),
    }
}

/// Not when the first process has reached its threshold, maybe days from now.
fn check(arguments: &WatchArguments) -> Result<(), Failure> {
    // The table is what is not asked for.
    let is_json = matches!(arguments.report.format, Format::Table | Format::Json);
    if arguments.on_threshold == OnThreshold::Record && !is_json {
        return Err(Failure::usage("recordings are JSON", "leave out --format, or use --on-threshold report"));
    }
    let Some(place) = &arguments.report.output else { return Ok(()) };
    match arguments.on_threshold {
        OnThreshold::Record if !place.is_dir() => Err(Failure::usage(
            format!("{} is no folder", place.display()),
            "with --on-threshold record, -o names the folder that recordings go to",
        )),
        OnThreshold::Record => Ok(()),
        OnThreshold::Report => {
            Output::open_plain(&arguments.report).map(drop).map_err(|error| Failure::output(place, &error))
        }
        OnThreshold::Run(_) => {
            Err(Failure::usage("a command that is run writes no report", "leave out -o, or use --on-threshold report"))
        }
    }
}

/// How a process is traced that has reached a threshold.
fn options(arguments: &WatchArguments, verbose: u8) -> Options {
    let selection = arguments.target.selection();
    Options {
        capacities: Capacities::of(Scope::Targets),
        asked: Asked::default(),
        selection,
        follow: false,
        waits_for_daemons: false,
        categories: vec![Category::Heap],
        duration: Some(arguments.capture),
        interval: None,
        look: Look::Within {
            budget: Budget(arguments.max_overhead),
            closest: Closeness::All,
            sample_bytes: SAMPLE_BYTES,
        },
        unwind: trace::best_unwind(),
        links: None,
        returns: Returns::Auto,
        debug_lines: verbose >= 2,
        custom: Vec::new(),
        programs: Programs::Tracing,
        at_exit: false,
        writes_a_file: arguments.on_threshold == OnThreshold::Record || arguments.report.output.is_some(),
    }
}

/// Writes a report to a file of its own.
fn record(arguments: &WatchArguments, crossing: &Crossing, report: &Report) -> io::Result<()> {
    let folder = arguments.report.output.as_deref().unwrap_or(Path::new("."));
    let path = folder.join(file_name(crossing, report));
    let written = ReportFile::create(&path).and_then(|mut file| {
        file.write(|out| json::render(report, arguments.report.top, out))?;
        file.finish()
    });
    written.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    eprintln!("memtrace: wrote {}", path.display());
    Ok(())
}

/// `memtrace-COMM-PID-TIME.json`: the process's name without what means something to a shell or in a path, and when tracing
/// began.
fn file_name(crossing: &Crossing, report: &Report) -> PathBuf {
    let is_plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let comm: String = crossing.comm.chars().map(|c| if is_plain(&c) { c } else { '_' }).collect();
    let time: String = humantime::format_rfc3339_seconds(report.started_at).to_string();
    let time = time.replace(['-', ':'], "");
    format!("memtrace-{comm}-{}-{time}.json", crossing.pid).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture;
    use std::num::NonZeroU32;

    #[test]
    fn recordings_have_names_that_lead_nowhere_else() {
        let crossing =
            Crossing { pid: NonZeroU32::MIN, comm: "../$(x) é".into(), reason: String::new(), rss_bytes: 0 };
        let name = file_name(&crossing, &fixture::report());
        assert_eq!(name, PathBuf::from("memtrace-..___x___-1-20231114T221320Z.json"));
    }
}
