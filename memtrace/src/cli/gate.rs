//! What makes a run fail: suspects that neither a list of suppressions nor an older report lets pass.

use std::{fs, path::Path, process::ExitCode};

use super::{args::GateArguments, failure::Failure};
use crate::{
    model::{
        at_exit::AtExit,
        frame::Frame,
        gate::{Baseline, Gate, Tally, remains},
        report::{Process, Report, Site},
        suppressions::Suppressions,
        units,
    },
    report::{
        baseline,
        suspects::{culprit, place},
    },
};

/// Exit status where suspects remain.
pub(super) const SUSPECTS: u8 = 3;
/// Suspects that are told on stderr; the report has all.
const TOLD: usize = 10;

/// The gate of a run, and what has come to it.
pub(super) struct Gatekeeper {
    gate: Gate,
    fails: bool,
    /// What the last report has, once there is one.
    verdict: Option<Verdict>,
}

/// What there is to say of the last report.
struct Verdict {
    /// How many suspects remain.
    remaining: usize,
    /// What is told of them and of what was not looked at, a line each.
    lines: Vec<String>,
}

impl Gatekeeper {
    /// Reads the files that the arguments name.
    pub(super) fn new(arguments: &GateArguments) -> Result<Self, Failure> {
        let suppressions = arguments.suppressions.as_deref().map(read_suppressions).transpose()?.unwrap_or_default();
        let baseline = arguments.baseline.as_deref().map(read_baseline).transpose()?;
        Ok(Self { gate: Gate { suppressions, baseline }, fails: arguments.fail_on_leak, verdict: None })
    }

    /// Marks a report's suspects.
    pub(super) fn look_at(&mut self, report: &mut Report, is_last: bool) {
        let used = self.gate.mark(report);
        if !is_last {
            return;
        }
        let unused = self.gate.suppressions.patterns.iter().enumerate().filter(|(index, _)| !used.contains(index));
        unused.for_each(|(_, pattern)| log::info!("{pattern} has let no suspect pass"));
        let tally = Tally::of(report.processes.iter().flat_map(|process| &process.sites));
        let mut lines: Vec<String> = report.processes.iter().filter_map(unchecked).collect();
        if self.fails && tally.remaining > 0 {
            lines.extend(suspects(report, &tally));
        }
        self.verdict = Some(Verdict { remaining: tally.remaining, lines });
    }

    /// Tells on stderr what there is to say of the last report.
    pub(super) fn tell(&self) {
        self.verdict.iter().flat_map(|verdict| &verdict.lines).for_each(|line| eprintln!("{line}"));
    }

    /// The status to end with, of a run that would end with `status` otherwise and has succeeded or not.
    pub(super) fn status(&self, status: ExitCode, has_succeeded: bool) -> Result<ExitCode, Failure> {
        match &self.verdict {
            _ if !self.fails || !has_succeeded => Ok(status),
            Some(Verdict { remaining: 0, .. }) => Ok(status),
            Some(_) => Ok(ExitCode::from(SUSPECTS)),
            None => Err(Failure::no_verdict()),
        }
    }
}

fn read_suppressions(path: &Path) -> Result<Suppressions, Failure> {
    let text = fs::read_to_string(path).map_err(|error| Failure::suppressions(path, &error))?;
    let read = Suppressions::parse(&text).map_err(|error| Failure::suppressions(path, &error))?;
    for (line, kind) in &read.ignored {
        log::warn!("line {line} of {} is ignored: `{kind}:` is not about leaks", path.display());
    }
    Ok(read)
}

fn read_baseline(path: &Path) -> Result<Baseline, Failure> {
    let text = fs::read(path).map_err(|error| Failure::baseline(path, &error))?;
    baseline::parse(&text).map_err(|error| Failure::baseline(path, &error))
}

/// That a command's memory was not looked at is worth knowing: leaks may be missed.
fn unchecked(process: &Process) -> Option<String> {
    let Some(AtExit::Unchecked(why)) = &process.at_exit else { return None };
    Some(format!("memtrace: {} (pid {}) not checked for reachability: {why}", process.comm, process.pid))
}

/// The suspects that remain.
fn suspects(report: &Report, tally: &Tally) -> Vec<String> {
    let passed = tally.passed().map_or_else(String::new, |passed| format!(" ({passed})"));
    let noun = if tally.remaining == 1 { "leak suspect" } else { "leak suspects" };
    let mut lines = vec![format!("memtrace: {} {noun}{passed}:", units::count(tally.remaining as u64))];
    let of_process = |process| move |site| (process, site);
    let remaining: Vec<(&Process, &Site)> = report
        .processes
        .iter()
        .flat_map(|process| process.sites.iter().filter(|site| remains(site)).map(of_process(process)))
        .collect();
    lines.extend(remaining.iter().take(TOLD).map(|(process, site)| suspect(process, site)));
    if remaining.len() > TOLD {
        lines.push(format!("  … and {} more", units::count((remaining.len() - TOLD) as u64)));
    }
    let name = remaining.first().and_then(|(process, site)| culprit(process, &site.stack)).map(Frame::label);
    lines.push(format!(
        "hint: the report has their stacks; a line `leak:{}` in a file for --suppressions lets one pass, --baseline \
         REPORT.json all that were there before",
        name.unwrap_or_else(|| "FUNCTION".to_owned())
    ));
    lines
}

fn suspect(process: &Process, site: &Site) -> String {
    let place = culprit(process, &site.stack).map_or_else(|| "(no stack)".to_owned(), place);
    let lost = site.unreachable.filter(|lost| lost.objects > 0);
    let bytes = units::bytes(lost.map_or(site.held_bytes(), |lost| lost.bytes));
    let (sure, reason) = (site.judgement.confidence * 100.0, &site.judgement.reason);
    format!("  {place}: {bytes}, {sure:.0} %: {reason}")
}
