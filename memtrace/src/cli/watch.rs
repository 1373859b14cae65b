//! `memtrace watch`: many processes for nearly nothing, and a close look at those that reach a threshold.

use std::{
    io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use super::{
    args::watch::{OnThreshold, WatchArguments},
    failure::Failure,
    output::{Output, ReportFile},
    plan::watch::Plan,
    trace,
};
use crate::{
    model::report::Report,
    monitor::host::{self, Crossing},
    report::json,
};

/// Carries out the plan of these arguments.
pub(super) fn run(plan: &Plan, arguments: &WatchArguments) -> Result<ExitCode, Failure> {
    check_output(arguments)?;
    plan.note.into_iter().for_each(trace::tell);
    let mut sink = |crossing: &Crossing, report: &Report| match arguments.on_threshold {
        OnThreshold::Record => record(arguments, crossing, report),
        OnThreshold::Report | OnThreshold::Run(_) => {
            Output::open_plain(&arguments.report).and_then(|mut output| output.write(report, true))
        }
    };
    match trace::runtime()?.block_on(host::watch(&plan.watched, &mut sink)) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => trace::failed(error, arguments.report.output.as_deref()),
    }
}

/// Whether reports can go to the place that is named: not when the first process has reached its threshold, maybe days from now.
fn check_output(arguments: &WatchArguments) -> Result<(), Failure> {
    let Some(place) = &arguments.report.output else { return Ok(()) };
    match arguments.on_threshold {
        OnThreshold::Record if !place.is_dir() => Err(Failure::usage(
            format!("{} is no folder", place.display()),
            "with --on-threshold record, -o names the folder that recordings go to",
        )),
        OnThreshold::Report => {
            Output::open_plain(&arguments.report).map(drop).map_err(|error| Failure::output(place, &error))
        }
        OnThreshold::Record | OnThreshold::Run(_) => Ok(()),
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
    let time: String = humantime::format_rfc3339_seconds(report.run.started_at).to_string();
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
