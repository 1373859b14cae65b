//! Watches the memory of many processes for nearly nothing, and acts on those that reach a threshold.
//!
//! In: which processes, which thresholds, what to do. Out: what was done. Between two processes that reach a threshold nothing
//! is attached to anybody; one at a time is looked at closely, by an ordinary run on it alone.

use std::{
    collections::{HashMap, HashSet},
    ffi::OsString,
    io,
    num::NonZeroU32,
    time::{Duration, Instant},
};

use tokio::{process::Command, time::Instant as Deadline};

use super::threshold::{Gate, Observed, Threshold};
use crate::{
    capture::selection::Selection,
    engine::{
        Engine,
        error::PipelineError,
        options::Options,
        process_scan::{Entry, ProcessScan},
        session,
        wait::Signals,
    },
    model::{
        report::Report,
        stats::trend::{Judgement, Trend},
    },
    process::{memory, status},
    report::words::units,
};

/// How often it is looked who is selected: reading the list of all processes of a host takes longer than reading the memory
/// of most.
const SELECT_EVERY: Duration = Duration::from_secs(5);
/// The part of its time in which memtrace looks: one in so many.
const IDLE: u32 = 200;
/// A slope is judged over at least this time.
const MIN_SLOPE_SPAN: Duration = Duration::from_secs(10);
/// Memory that rises by less than this part of a slope threshold from one end of the last minute to the other is not judged:
/// judging takes longer than reading.
const WORTH_JUDGING: f64 = 0.25;

/// The processes to watch, their thresholds and the reaction.
pub struct Watch {
    /// Which processes.
    pub selection: Selection,
    /// The thresholds that their memory should not reach.
    pub thresholds: Vec<Threshold>,
    /// How often to look.
    pub interval: Duration,
    /// How long a process that was acted on is left alone.
    pub cooldown: Duration,
    /// Whether to end after the first.
    pub once: bool,
    /// The reaction to a threshold that was reached.
    pub reaction: Reaction,
}

/// The reaction to a process that reaches a threshold.
pub enum Reaction {
    /// It is traced so; the selection is replaced, and the duration is to be given.
    Trace(Box<Options>),
    /// A command of the shell is run, which is told in its environment: `MEMTRACE_PID`, `MEMTRACE_COMM`, `MEMTRACE_REASON`,
    /// `MEMTRACE_RSS_BYTES`.
    Run(OsString),
}

/// A process that has reached a threshold.
#[derive(Clone, Debug)]
pub struct Crossing {
    /// Its thread group id.
    pub pid: NonZeroU32,
    /// Its short name.
    pub comm: String,
    /// Which threshold it was, with figures.
    pub reason: String,
    /// Its resident memory then.
    pub rss_bytes: u64,
}

/// Takes the report on each process that was traced.
pub type CrossingSink<'a> = &'a mut dyn FnMut(&Crossing, &Report) -> io::Result<()>;

/// Watches until a signal comes, the last of the named processes has ended or, where only one was asked for, one was acted
/// on.
///
/// # Errors
/// Where watching cannot begin, processes cannot be listed, or a report cannot be written. That one process cannot be traced is a
/// warning, unless it was to be the only one.
pub async fn watch(watched: &Watch, sink: CrossingSink<'_>) -> Result<(), PipelineError> {
    if matches!(watched.reaction, Reaction::Trace(_)) {
        // Not when it is too late.
        crate::engine::check_machine()?;
    }
    if let Selection::Pids(pids) = &watched.selection {
        pids.iter().try_for_each(|pid| session::find(*pid).map(drop))?;
    }
    let mut signals = Signals::new()?;
    let mut watcher = Watcher::new(watched)?;
    let mut next_look = watcher.look()?;
    watcher.announce();
    loop {
        if watcher.is_over() {
            eprintln!("memtrace: nobody is left to watch");
            return Ok(());
        }
        if let Some(crossing) = watcher.crossing() {
            let is_last = watcher.act(&crossing, sink, &mut signals).await?;
            if is_last || watched.once {
                return Ok(());
            }
        }
        tokio::select! {
            biased;
            _ = signals.next() => return Ok(()),
            () = tokio::time::sleep_until(next_look) => next_look = watcher.look()?,
        }
    }
}

/// The state of the watch.
struct Watcher<'a> {
    watched: &'a Watch,
    scan: ProcessScan,
    selected: Vec<NonZeroU32>,
    selected_at: Option<Duration>,
    /// The time that the last look took.
    cost: Duration,
    /// By the entry's serial number.
    gates: HashMap<u64, Gate>,
    machine_bytes: u64,
    started: Instant,
    /// Traces those that have reached a threshold, from the first one on.
    engine: Option<Engine>,
}

impl<'a> Watcher<'a> {
    fn new(watched: &'a Watch) -> Result<Self, PipelineError> {
        let wait = |source| PipelineError::Wait { what: "the size of the machine's memory", source };
        Ok(Self {
            watched,
            scan: ProcessScan::default(),
            selected: Vec::new(),
            selected_at: None,
            cost: Duration::ZERO,
            gates: HashMap::new(),
            machine_bytes: memory::machine_bytes().map_err(wait)?,
            started: Instant::now(),
            engine: None,
        })
    }

    fn announce(&self) {
        let thresholds: Vec<String> = self.watched.thresholds.iter().map(ToString::to_string).collect();
        let count = units::processes(self.scan.count() as u64);
        let shares = self.watched.thresholds.iter().any(|threshold| matches!(threshold, Threshold::Share(_)));
        let unlimited = self.scan.iter().filter(|entry| entry.limit().is_none()).count();
        eprintln!(
            "memtrace: watching {count} for {}, every {}",
            thresholds.join(" or "),
            units::duration(self.watched.interval)
        );
        if shares && unlimited > 0 {
            let (unlimited, machine) = (units::processes(unlimited as u64), units::bytes(self.machine_bytes));
            eprintln!("memtrace: {unlimited} in no cgroup with a limit: there, parts of the machine's {machine}");
        }
    }

    /// Looks at everybody. Returns when to look again.
    fn look(&mut self) -> Result<Deadline, PipelineError> {
        let (begun, elapsed) = (status::own_cpu_time(), self.started.elapsed());
        if self.selected_at.is_none_or(|at| elapsed.saturating_sub(at) >= SELECT_EVERY) {
            self.selected = self.watched.selection.processes()?;
            self.selected_at = Some(elapsed);
        }
        self.scan.read(&self.selected, elapsed);
        let cost = status::own_cpu_time().saturating_sub(begun);
        log::debug!("looked at {} processes in {cost:?}", self.scan.count());
        // One that took longer than others, as where everybody is new, is no reason to look away for so long.
        let usual = cost.min(std::mem::replace(&mut self.cost, cost));
        Ok(Deadline::now() + self.watched.interval.max(usual * IDLE))
    }

    /// Whether all that was named has ended.
    fn is_over(&self) -> bool {
        matches!(self.watched.selection, Selection::Pids(_)) && self.scan.iter().next().is_none()
    }

    /// The process to act on: of those that have reached a threshold and are to be told, the one with most memory. The others
    /// are found again at the next look.
    fn crossing(&mut self) -> Option<Crossing> {
        let Self { watched, scan, gates, machine_bytes, started, .. } = self;
        let (thresholds, cooldown, now) = (&watched.thresholds, watched.cooldown, started.elapsed());
        let serials: HashSet<u64> = scan.iter().map(|entry| entry.serial).collect();
        gates.retain(|serial, _| serials.contains(serial));
        let mut due = Vec::new();
        for entry in scan.iter() {
            let observed = observed(entry, thresholds, *machine_bytes);
            if let Some(reached) = gates.entry(entry.serial).or_default().look(thresholds, &observed, now, cooldown) {
                due.push((entry, reached, observed));
            }
        }
        let (entry, reached, observed) = due.into_iter().max_by_key(|(_, _, observed)| observed.rss_bytes)?;
        gates.entry(entry.serial).or_default().tell(thresholds, &observed, now);
        Some(Crossing {
            pid: entry.pid,
            comm: entry.comm.clone(),
            reason: reason(entry, &observed, reached),
            rss_bytes: observed.rss_bytes,
        })
    }

    /// Acts on a process, and goes on looking at the others meanwhile. Returns whether a signal asked to end.
    async fn act(
        &mut self,
        crossing: &Crossing,
        sink: CrossingSink<'_>,
        signals: &mut Signals,
    ) -> Result<bool, PipelineError> {
        let Crossing { pid, comm, reason, .. } = crossing;
        let Watch { once, reaction, .. } = self.watched;
        let what = match reaction {
            Reaction::Trace(options) => {
                format!("tracing it for {}", units::duration(options.duration.unwrap_or_default()))
            }
            Reaction::Run(command) => format!("running {}", command.to_string_lossy()),
        };
        eprintln!("memtrace: {comm} (pid {pid}) {reason}; {what}");
        let options = match reaction {
            Reaction::Trace(options) => options,
            Reaction::Run(command) => {
                let command = run(command.clone(), crossing.clone());
                if !once {
                    // It may take as long as it likes: the others are watched all the same.
                    tokio::spawn(command);
                    return Ok(false);
                }
                // A signal ends the watch; the command is left to itself.
                tokio::select! {
                    () = command => {}
                    _ = signals.next() => {}
                }
                return Ok(true);
            }
        };
        let mut engine = match self.engine.take() {
            Some(engine) => engine,
            None => Engine::start(options, true)?,
        };
        let mut action = Box::pin(trace(&mut engine, crossing, *once));
        let mut is_last = false;
        let mut next_look = Deadline::now() + self.watched.interval;
        let report = loop {
            tokio::select! {
                biased;
                outcome = &mut action => break outcome?,
                // The run on the process hears the same signal and ends with its report.
                _ = signals.next() => is_last = true,
                () = tokio::time::sleep_until(next_look) => next_look = self.look()?,
            }
        };
        drop(action);
        self.engine = Some(engine);
        if let Some(mut report) = report {
            self.scan.tell(&mut report);
            sink(crossing, &report).map_err(PipelineError::Write)?;
        }
        Ok(is_last)
    }
}

/// The figures that thresholds are about. Whether a process is increasing is only asked where one is about that, and it may
/// be reached.
fn observed(entry: &Entry, thresholds: &[Threshold], machine_bytes: u64) -> Observed {
    let least_slope = thresholds.iter().filter_map(|threshold| match threshold {
        Threshold::Slope(bytes_per_s) => Some(*bytes_per_s),
        Threshold::Rss(_) | Threshold::Share(_) => None,
    });
    let history = entry.history();
    let may_be_steep = least_slope.reduce(f64::min).is_some_and(|slope| history.rise_per_s() >= slope * WORTH_JUDGING);
    let judgement = (may_be_steep && history.span() >= MIN_SLOPE_SPAN).then(|| history.judge());
    let increasing = judgement.filter(|judgement| judgement.trend == Trend::Increasing);
    Observed {
        rss_bytes: entry.usage().rss_bytes(),
        limit_bytes: entry.limit().map(|limit| limit.max_bytes),
        machine_bytes,
        slope_bytes_per_s: increasing.map(|judgement| judgement.slope_per_s),
    }
}

/// Which threshold a process has reached, with its figures, as far as they are known.
fn reason(entry: &Entry, observed: &Observed, reached: &Threshold) -> String {
    let Judgement { trend, confidence, slope_per_s } = entry.history().judge();
    let of_what = match (reached, observed.limit_bytes) {
        (Threshold::Share(_), Some(limit)) => format!(" of its cgroup's {}", units::bytes(limit)),
        (Threshold::Share(_), None) => format!(" of the machine's {}", units::bytes(observed.machine_bytes)),
        (Threshold::Rss(_) | Threshold::Slope(_), _) => String::new(),
    };
    let rss = units::bytes(observed.rss_bytes);
    let trend = (confidence > 0.0).then(|| format!(", {}, {}", units::bytes_per_s(slope_per_s), trend.name()));
    format!("has reached {reached}{of_what}: RSS {rss}{}", trend.unwrap_or_default())
}

/// Traces one process. That this is not possible is a warning, unless nothing else was asked for.
async fn trace(engine: &mut Engine, crossing: &Crossing, once: bool) -> Result<Option<Report>, PipelineError> {
    let selection = Selection::Pids(vec![crossing.pid]);
    let mut last = None;
    let mut sink = |report: &mut Report, is_last: bool| {
        last = is_last.then(|| report.clone());
        Ok(())
    };
    match engine.trace(selection, &mut sink).await {
        Ok(_) => Ok(last),
        Err(error) if once => Err(error),
        Err(error) => {
            log::warn!("{error}");
            Ok(None)
        }
    }
}

/// Runs a command of the shell to its end. That it fails is a warning.
async fn run(command: OsString, crossing: Crossing) {
    let mut shell = Command::new("/bin/sh");
    shell
        .arg("-c")
        .arg(&command)
        .env("MEMTRACE_PID", crossing.pid.to_string())
        .env("MEMTRACE_COMM", crossing.comm)
        .env("MEMTRACE_REASON", crossing.reason)
        .env("MEMTRACE_RSS_BYTES", crossing.rss_bytes.to_string())
        .stdin(std::process::Stdio::null());
    match shell.status().await {
        Ok(status) if status.success() => {}
        Ok(status) => log::warn!("{} ended with {status}", command.to_string_lossy()),
        Err(error) => log::warn!("cannot run {}: {error}", command.to_string_lossy()),
    }
}
