//! `memtrace heap`: the content of processes' heaps as of now, read from outside by processes that are begun for it.

mod stop;
mod targets;

use std::{
    io::{self, Write},
    process::ExitCode,
    time::{Duration, Instant, SystemTime},
};

use stop::StopSignals;
use targets::{LookedAt, Targets};

use super::{
    args::heap::{HeapArguments, HeapFormat},
    failure::Failure,
    output::Place,
    plan::heap::Plan,
};
use crate::{
    model::heap_report::{HeapReport, NotRead},
    process::host,
    report::{
        heap::{folded, json, table},
        words,
    },
};

/// Carries out the plan of these arguments.
pub(super) fn run(plan: &Plan, arguments: &HeapArguments) -> Result<ExitCode, Failure> {
    let stop = StopSignals::listen().map_err(|error| Failure::signals(&error))?;
    let (begun, started_at) = (Instant::now(), SystemTime::now());
    let mut targets = Targets::of(plan.selection.clone(), plan.asked.clone());
    targets.find()?;
    let is_plain = arguments.output.is_none() && !plan.is_live;
    let mut place = if is_plain { None } else { Some(Place::open(arguments.output.as_deref(), plan.is_live)?) };
    let mut rounds =
        Rounds { interval: plan.interval, duration: plan.duration, begun, next: begun, number: 1, is_last: false };
    loop {
        let is_stopped = targets.look(plan.limits, begun, &stop);
        let is_over = is_stopped || rounds.is_over(begun.elapsed()) || targets.have_all_ended();
        let report =
            HeapReport { host: host::name(), started_at, duration: begun.elapsed(), processes: targets.processes() };
        // Without an interval there is one report, at the end.
        if is_over || plan.interval.is_some() {
            let render = |width, out: &mut dyn Write| render(arguments, &report, width, out);
            let written = match &mut place {
                Some(place) => place.write(is_over, render),
                None => stop.write(|out| render(None, out)),
            };
            if let Err(error) = written {
                return not_written(&error, arguments);
            }
        }
        if is_over {
            break;
        }
        let had_enough = stop.wait(rounds.pause(begun.elapsed())).map_err(|error| Failure::signals(&error))?;
        rounds.go_on(had_enough);
        targets.find_more()?;
    }
    // The terminal is the report's until then.
    drop(place);
    status(&targets)
}

/// Writes the report in the wanted format; for a person, as wide as the terminal.
fn render(arguments: &HeapArguments, report: &HeapReport, width: Option<u16>, out: &mut dyn Write) -> io::Result<()> {
    match arguments.format {
        HeapFormat::Table => table::render(report, arguments.top, width, out),
        HeapFormat::Json => json::render(report, arguments.top, out),
        HeapFormat::Folded => folded::render(report, arguments.top, out),
    }
}

/// How a command ends whose report could not be written.
fn not_written(error: &io::Error, arguments: &HeapArguments) -> Result<ExitCode, Failure> {
    match &arguments.output {
        // The reader of the report has enough of it, as `head` does.
        _ if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        Some(path) => Err(Failure::output(path, error)),
        None => Err(Failure::output("stdout".as_ref(), error)),
    }
}

/// The exit status, and a line for each process that could not be looked at.
fn status(targets: &Targets) -> Result<ExitCode, Failure> {
    let mut failures: Vec<Failure> = targets.looked_at().filter_map(failure).collect();
    let Some(last) = failures.pop() else { return Ok(ExitCode::SUCCESS) };
    for failure in failures {
        failure.report();
    }
    Err(last)
}

/// Why a process could not be looked at; nothing where it could, or has ended, or nobody wanted it any more.
fn failure(target: &LookedAt) -> Option<Failure> {
    let why = target.process.not_read.as_ref().filter(|why| why.is_failure())?;
    let pid = target.process.program.pid;
    Some(Failure::look(pid, &words::heap::not_read(why), hint(pid, why)))
}

/// The next step where a process could not be looked at.
fn hint(pid: u32, why: &NotRead) -> String {
    match why {
        NotRead::Gone => format!("has it ended? see `ps -p {pid}`"),
        NotRead::NoMemory => "kernel threads and processes that have ended hold no heap".into(),
        NotRead::Refused { .. } => {
            "needs CAP_SYS_PTRACE; run with sudo, or see the line `heap` of `memtrace doctor`".into()
        }
        NotRead::Late { .. } => "give it more time with --timeout; is the machine overloaded?".into(),
        NotRead::TooMuch { .. } => "only a part of such a heap can be read; please report this".into(),
        NotRead::Died { .. } => {
            "is memory short in memtrace's own cgroup? run it elsewhere; else please report this".into()
        }
        NotRead::Stopped => "let it run to its end".into(),
        NotRead::Failed { .. } => "run `memtrace doctor`; if it finds nothing wrong, please report this".into(),
    }
}

/// When processes are looked at.
struct Rounds {
    interval: Option<Duration>,
    duration: Option<Duration>,
    begun: Instant,
    /// When the next round is due.
    next: Instant,
    /// The number of the round that is made, from 1.
    number: u32,
    /// Whether somebody has asked to stop: the round that is made is the last.
    is_last: bool,
}

impl Rounds {
    /// Whether the round that was made is the last. A duration makes two at least, however long the first has taken.
    fn is_over(&self, elapsed: Duration) -> bool {
        let is_enough = match (self.interval, self.duration) {
            (None, None) => true,
            (_, Some(duration)) => self.number > 1 && elapsed >= duration,
            (Some(_), None) => false,
        };
        is_enough || self.is_last
    }

    /// How long to wait for the next round: whatever comes first, the interval's end or that of all.
    fn pause(&mut self, elapsed: Duration) -> Duration {
        let at = self.begun + elapsed;
        let to_the_end = self.duration.map(|duration| duration.saturating_sub(elapsed));
        let to_the_next = self.interval.map(|interval| {
            // Rounds that were missed are not made up for.
            let missed = at.saturating_duration_since(self.next).as_nanos() / interval.as_nanos().max(1);
            let missed = u32::try_from(missed).unwrap_or(u32::MAX);
            self.next += interval.saturating_mul(missed);
            if self.next <= at {
                self.next += interval;
            }
            self.next.saturating_duration_since(at)
        });
        to_the_end.into_iter().chain(to_the_next).min().unwrap_or_default()
    }

    /// Goes on to the next round, which is the last where somebody has asked to stop.
    fn go_on(&mut self, had_enough: bool) {
        self.number = self.number.saturating_add(1);
        self.is_last = had_enough;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn rounds(interval: Option<u32>, duration: Option<u32>) -> Rounds {
        let begun = Instant::now();
        let seconds = |count: Option<u32>| count.map(|count| SECOND * count);
        let (interval, duration) = (seconds(interval), seconds(duration));
        Rounds { interval, duration, begun, next: begun, number: 1, is_last: false }
    }

    #[test]
    fn without_options_there_is_one_round_and_with_a_duration_there_are_two() {
        assert!(rounds(None, None).is_over(Duration::ZERO));
        let mut two = rounds(None, Some(10));
        assert!(!two.is_over(SECOND));
        assert_eq!(two.pause(SECOND), SECOND * 9);
        // The first took longer than all may.
        assert!(!two.is_over(SECOND * 11));
        assert_eq!(two.pause(SECOND * 11), Duration::ZERO);
        two.go_on(false);
        assert!(two.is_over(SECOND * 11));
    }

    #[test]
    fn rounds_come_at_multiples_of_the_interval_and_at_the_end() {
        let mut rounds = rounds(Some(4), Some(10));
        assert_eq!(rounds.pause(SECOND), SECOND * 3);
        assert_eq!(rounds.pause(SECOND * 5), SECOND * 3);
        // A round took from 8 to 9.
        assert_eq!(rounds.pause(SECOND * 9), SECOND);
        rounds.go_on(false);
        assert!(!rounds.is_over(SECOND * 9) && rounds.is_over(SECOND * 10));
    }

    #[test]
    fn a_request_to_stop_makes_the_next_round_the_last() {
        let mut rounds = rounds(Some(4), None);
        rounds.go_on(false);
        assert!(!rounds.is_over(SECOND));
        rounds.go_on(true);
        assert!(rounds.is_over(SECOND));
    }

    #[test]
    fn every_reason_has_a_next_step() {
        let error = String::new();
        let reasons = [
            NotRead::Gone,
            NotRead::NoMemory,
            NotRead::Refused { error: error.clone() },
            NotRead::Late { limit: SECOND },
            NotRead::TooMuch { error: error.clone() },
            NotRead::Died { signal: None, memory_bytes: 0 },
            NotRead::Stopped,
            NotRead::Failed { error },
        ];
        for why in reasons {
            assert!(!hint(7, &why).is_empty(), "{why:?}");
        }
    }
}
