//! The causes that make a run fail: suspects that neither a list of suppressions nor an older report lets pass, and checks that
//! were asked for and could not be made.

use std::{collections::BTreeSet, fs, path::Path, process::ExitCode};

use super::{
    args::gate::GateArguments,
    exit_status::{SUSPECTS, UNSEEN},
    failure::Failure,
};
use crate::{
    analysis::gate::{Baseline, Gate, remains, suppressions::Suppressions, unseen::Question},
    capture::target::TargetError,
    engine::error::PipelineError,
    model::{
        frame::Frame,
        outcome::{Outcome, Tally, Unseen},
        report::{Process, Report, Site},
        unchecked::Cause,
    },
    report::{
        baseline,
        suspects::{culprit, place},
        words::{self, units},
    },
};

/// Suspects that are told on stderr, and what was not checked; the report has all.
const TOLD: usize = 10;

/// The gate of a run, and what has come to it.
pub(super) struct Gatekeeper {
    gate: Gate,
    fails: bool,
    /// The gate's question to the run; nothing where no gate was asked for.
    question: Option<Question>,
    /// The verdict on the last report, once there is one.
    verdict: Option<Verdict>,
}

/// The gate's findings in the last report.
struct Verdict {
    outcome: Outcome,
    /// The lines that tell it.
    lines: Vec<String>,
}

impl Gatekeeper {
    /// Reads the files that the arguments name. `question` is the gate's to the run; nothing where no gate was asked for.
    pub(super) fn new(arguments: &GateArguments, question: Option<Question>) -> Result<Self, Failure> {
        let suppressions = arguments.suppressions.as_deref().map(read_suppressions).transpose()?.unwrap_or_default();
        let baseline = arguments.baseline.as_deref().map(read_baseline).transpose()?;
        Ok(Self { gate: Gate { suppressions, baseline }, fails: arguments.fail_on_leak, question, verdict: None })
    }

    /// Marks a report's suspects.
    pub(super) fn look_at(&mut self, report: &mut Report, is_last: bool) {
        let used = self.gate.mark(report);
        let Some(question) = self.question.filter(|_| is_last) else { return };
        let unused = self.gate.suppressions.patterns.iter().enumerate().filter(|(index, _)| !used.contains(index));
        unused.for_each(|(_, pattern)| log::info!("{pattern} has let no suspect pass"));
        let outcome = Outcome::of(report, question);
        let mut lines = not_checked(&outcome, question);
        if self.fails && outcome.tally.remaining > 0 {
            lines.extend(suspects(report, &outcome.tally));
        }
        report.gate = Some(outcome.clone());
        self.verdict = Some(Verdict { outcome, lines });
    }

    /// Tells on stderr what there is to say of the last report.
    pub(super) fn tell(&self) {
        self.verdict.iter().flat_map(|verdict| &verdict.lines).for_each(|line| eprintln!("{line}"));
    }

    /// The status to end with, of a run that would end with `status` otherwise and has succeeded or not.
    pub(super) fn status(&self, status: ExitCode, has_succeeded: bool) -> Result<ExitCode, Failure> {
        match &self.verdict {
            _ if self.question.is_none() || !has_succeeded => Ok(status),
            Some(verdict) if self.fails && verdict.outcome.tally.remaining > 0 => Ok(ExitCode::from(SUSPECTS)),
            Some(verdict) if !verdict.outcome.unseen.is_empty() => Ok(ExitCode::from(UNSEEN)),
            Some(_) => Ok(status),
            None => Err(Failure::no_verdict()),
        }
    }

    /// Whether a run that failed so has failed to check what it was asked to: nothing could be hooked.
    pub(super) fn could_not_look(&self, error: &PipelineError) -> bool {
        use TargetError::{Attach, NoAllocator, NoImage};
        let is_unhooked = matches!(error, PipelineError::Target(NoAllocator { .. } | NoImage { .. } | Attach(_)));
        self.question.is_some() && is_unhooked
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

/// The checks that were not made, with the next step for each cause: leaks may be missed.
fn not_checked(outcome: &Outcome, question: Question) -> Vec<String> {
    let how = match question {
        Question::Ends => "not checked for reachability",
        Question::Growth { .. } => "not judged",
    };
    let line = |unseen: &Unseen| match &unseen.process {
        Some((pid, comm)) => format!("memtrace: {comm} (pid {pid}) {how}: {}", words::unchecked::reason(&unseen.why)),
        None => format!("memtrace: not checked: {}", words::unchecked::reason(&unseen.why)),
    };
    let all: Vec<&Unseen> = outcome.ended_early.iter().chain(&outcome.unseen).collect();
    let mut lines: Vec<String> = all.iter().take(TOLD).map(|unseen| line(unseen)).collect();
    if all.len() > TOLD {
        lines.push(format!("memtrace: … and {} more", units::count((all.len() - TOLD) as u64)));
    }
    let causes: BTreeSet<Cause> = outcome.unseen.iter().map(|unseen| unseen.why.cause()).collect();
    lines.extend(causes.into_iter().map(|cause| format!("hint: {}", hint(cause))));
    lines
}

/// The next step where something was not checked.
fn hint(cause: Cause) -> &'static str {
    match cause {
        Cause::NoAllocator => {
            "trace a 64-bit build that keeps its symbols, or name its functions with --alloc and --free; -v lists the images searched"
        }
        Cause::NotHooked => "run `memtrace doctor`; -v says what was hooked",
        Cause::Tier => "leave out --tier: a gate takes every allocation",
        Cause::Losses => {
            "make the table that was full larger, with --max-blocks, --max-sites, --max-stacks or --max-threads"
        }
        Cause::Refused => "does a debugger hold it? `memtrace doctor` says what is missing",
        Cause::TooMuch => "check a smaller run: a look takes 16 GiB and half a minute at most",
        Cause::Killed | Cause::EndNotSeen => "let the program end by itself, through exit or _exit of its C library",
        Cause::Stopped => "let the command end by itself: give it more time, or leave out --duration",
        Cause::Daemon => "--follow=daemons waits for daemons as well",
        Cause::Forked => {
            "check with glibc's malloc, or let the child call exec: memory that was inherited hides leaks here"
        }
        Cause::NotFollowed => "--max-processes makes room for more",
        Cause::LeftOut => "check fewer processes in one run",
        Cause::TooEarly => "trace for longer, with --duration 60s or without --duration",
        Cause::Nothing => "is the command, or the process, there? -v says what was found",
    }
}

/// The suspects that remain.
fn suspects(report: &Report, tally: &Tally) -> Vec<String> {
    let passed = words::outcome::passed(tally).map_or_else(String::new, |passed| format!(" ({passed})"));
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
    if report.run.unlisted.suspects > 0 {
        let count = units::count(report.run.unlisted.suspects as u64);
        lines.push(format!("  … and {count} of processes that are left out of the report"));
    }
    let first = remaining.first().and_then(|(process, site)| culprit(process, &site.stack));
    lines.push(how_to_let_pass(first));
    lines
}

/// The next step where suspects are known: by the function of the first, if that has a name. A part of a name, or an image's, would
/// let pass much besides.
fn how_to_let_pass(first: Option<&Frame>) -> String {
    let by_name = first.and_then(|frame| frame.function.as_ref().ok()).map_or_else(String::new, |function| {
        format!("a line `leak:^{}$` in a file for --suppressions lets all through that function pass, ", function.name)
    });
    format!("hint: the report has their stacks; {by_name}--baseline REPORT.json lets pass all that were there before")
}

fn suspect(process: &Process, site: &Site) -> String {
    let place = culprit(process, &site.stack).map_or_else(|| "(no stack)".to_owned(), place);
    let lost = site.unreachable.filter(|lost| lost.objects > 0);
    let bytes = units::bytes(lost.map_or(site.held_bytes(), |lost| lost.bytes));
    let (sure, reason) = (site.judgement.confidence * 100.0, words::verdict::of_site(site));
    format!("  {place}: {bytes}, {sure:.0} %: {reason}")
}
