//! The checks that a gate was asked for and could not make, and why.
//!
//! In: the last report of a run, and which question the gate asks of it. Out: the suspects that remain, and everything of which
//! the gate does not know whether it leaks. Knows nothing of exit statuses.

use super::{
    at_exit::AtExit,
    gate::Tally,
    report::{Category, HealthKind, Process, Report},
    units,
    verdict::LONG_ENOUGH,
};

/// Why something was not checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// Nothing that the program has mapped is an allocator that could be hooked.
    NoAllocator,
    /// A probe was refused, or what the user has named was never there.
    NotHooked,
    /// The tier does not record every block.
    Tier,
    /// Events were lost.
    Losses,
    /// Its threads or its memory could not be looked at.
    Refused,
    /// There was more to look through than a look may take.
    TooMuch,
    /// A signal ended it.
    Killed,
    /// It ended, or became another program, by a way that nobody could stop.
    EndNotSeen,
    /// The run was stopped before it ended.
    Stopped,
    /// It goes on in a session of its own.
    Daemon,
    /// It was forked, and its allocator's tables cannot be told from pointers of its own.
    Forked,
    /// It found no room among the targets.
    NotFollowed,
    /// It ended, and was left out of the report to bound that.
    LeftOut,
    /// The run was too short to judge growth.
    TooEarly,
    /// There was nothing to look at.
    Nothing,
}

impl Cause {
    /// The word used in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NoAllocator => "no-allocator",
            Self::NotHooked => "not-hooked",
            Self::Tier => "tier",
            Self::Losses => "losses",
            Self::Refused => "refused",
            Self::TooMuch => "too-much",
            Self::Killed => "killed",
            Self::EndNotSeen => "end-not-seen",
            Self::Stopped => "stopped",
            Self::Daemon => "daemon",
            Self::Forked => "forked",
            Self::NotFollowed => "not-followed",
            Self::LeftOut => "left-out",
            Self::TooEarly => "too-early",
            Self::Nothing => "nothing",
        }
    }
}

/// Why one program was not checked: `reason` follows `not checked: `.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unchecked {
    /// For scripts.
    pub cause: Cause,
    /// For people, without a full stop.
    pub reason: String,
}

/// Something that was to be checked and was not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unseen {
    /// The process, by pid and short name; nothing where it is about the run as a whole.
    pub process: Option<(u32, String)>,
    /// Why.
    pub why: Unchecked,
}

/// A gate's question to a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// The memory that each program of a command leaves behind at its end.
    Ends,
    /// The sites that grow; with `each`, of every process that was named, else of those that can be told.
    Growth {
        /// Whether each process counts.
        each: bool,
    },
}

/// A gate's findings in the last report of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Its suspects.
    pub tally: Tally,
    /// The checks that were not made: the absence of suspects there says nothing.
    pub unseen: Vec<Unseen>,
    /// Processes that ended before they could be judged, where others were judged: no failure.
    pub ended_early: Vec<Unseen>,
}

impl Outcome {
    /// Of a report whose suspects are marked.
    #[must_use]
    pub fn of(report: &Report, question: Question) -> Self {
        let sites = report.processes.iter().flat_map(|process| &process.sites);
        let mut outcome = Self { tally: Tally::of(sites), ..Self::default() };
        outcome.tally.remaining += report.unlisted.suspects;
        match question {
            Question::Ends => outcome.ends(report),
            Question::Growth { each } => outcome.growth(report, each),
        }
        outcome.run(report);
        outcome
    }

    fn ends(&mut self, report: &Report) {
        let mut is_any_known = report.unlisted.processes > 0;
        for process in &report.processes {
            let Some(at_exit) = &process.at_exit else { continue };
            is_any_known = true;
            if let AtExit::Unchecked(why) = at_exit {
                self.unseen.push(Unseen { process: Some((process.pid, process.comm.clone())), why: why.clone() });
            }
        }
        if !is_any_known {
            self.add(Cause::Nothing, "the command ran no program whose end could be looked at".into());
        }
        if report.unlisted.unchecked > 0 {
            let count = units::processes(report.unlisted.unchecked);
            self.add(Cause::LeftOut, format!("{count} left out of the report, which may not have been looked at"));
        }
    }

    fn growth(&mut self, report: &Report, each: bool) {
        let mut is_any_judged = report.processes.iter().any(|process| unjudged(process, report).is_none());
        is_any_judged |= self.tally.remaining > 0;
        let unjudged = report.processes.iter().filter_map(|process| {
            let why = unjudged(process, report)?;
            Some((process.ended, Unseen { process: Some((process.pid, process.comm.clone())), why }))
        });
        let (ended, living): (Vec<_>, Vec<_>) = unjudged.partition(|(ended, _)| *ended);
        let (ended, living) =
            (ended.into_iter().map(|(_, unseen)| unseen), living.into_iter().map(|(_, unseen)| unseen));
        match (each, is_any_judged) {
            (true, true) => (self.unseen, self.ended_early) = (living.collect(), ended.collect()),
            (true, false) => self.unseen = living.chain(ended).collect(),
            (false, true) => {}
            (false, false) => self.unseen.extend(living.chain(ended).next()),
        }
        if report.processes.is_empty() {
            self.add(Cause::Nothing, "there was no process to trace".into());
        }
    }

    /// Losses of the run as a whole, and memory that was asked for and never there.
    fn run(&mut self, report: &Report) {
        report.not_seen.iter().for_each(|reason| self.add(Cause::NotHooked, reason.clone()));
        for counter in report.health.iter().filter(|counter| counter.count > 0) {
            let count = units::count(counter.count);
            match counter.name {
                "processes_full" => self.add(
                    Cause::NotFollowed,
                    format!("{count} programs found no room among the targets (processes_full)"),
                ),
                name => self.add(Cause::Losses, format!("{count} notices were lost ({name})")),
            }
        }
    }

    fn add(&mut self, cause: Cause, reason: String) {
        self.unseen.push(Unseen { process: None, why: Unchecked { cause, reason } });
    }
}

/// Why the growth of a process says nothing; nothing where it does.
fn unjudged(process: &Process, report: &Report) -> Option<Unchecked> {
    let because = |cause, reason| Some(Unchecked { cause, reason });
    if process.allocators.is_empty() && process.sites.iter().all(|site| site.category != Category::Mmap) {
        return because(Cause::NoAllocator, "none of its images defines an allocator that memtrace knows".into());
    }
    let is_full = |name: &str| name.ends_with("_full") && name != "free_sides_full";
    let lost = process
        .health
        .iter()
        .find(|counter| counter.kind == HealthKind::Loss && counter.count > 0 && is_full(counter.name));
    if let Some(lost) = lost {
        return because(Cause::Losses, format!("{} {}", lost.name, units::count(lost.count)));
    }
    if report.duration < LONG_ENOUGH && process.totals.live_objects() > 0 {
        let (traced, needed) = (units::duration(report.duration), LONG_ENOUGH.as_secs());
        return because(
            Cause::TooEarly,
            format!("traced for {traced}, and a leak takes {needed} s at least to be told"),
        );
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::report::HealthCounter, report::fixture};

    /// A report of one process that lives and holds something, after so many seconds.
    fn report(seconds: u64) -> Report {
        let mut report = fixture::report();
        report.duration = std::time::Duration::from_secs(seconds);
        report.processes[0].health.clear();
        report.processes[0].sites.clear();
        report
    }

    fn causes(report: &Report, question: Question) -> Vec<Cause> {
        Outcome::of(report, question).unseen.iter().map(|unseen| unseen.why.cause).collect()
    }

    const EACH: Question = Question::Growth { each: true };
    const ANY: Question = Question::Growth { each: false };

    #[test]
    fn growth_takes_time_to_be_judged_unless_there_is_none() {
        assert_eq!(causes(&report(23), EACH), [Cause::TooEarly]);
        assert_eq!(causes(&report(24), EACH), []);
        let mut idle = report(1);
        idle.processes[0].totals = Default::default();
        assert_eq!(causes(&idle, EACH), []);
    }

    #[test]
    fn each_process_that_was_named_is_judged_of_others_one_is_enough() {
        let mut two = report(60);
        let mut other = two.processes[0].clone();
        other.allocators.clear();
        two.processes.push(other);
        assert_eq!((causes(&two, EACH), causes(&two, ANY)), (vec![Cause::NoAllocator], vec![]));
        // One that has ended meanwhile is told.
        two.processes[1].ended = true;
        assert_eq!(causes(&two, EACH), []);
        assert_eq!(Outcome::of(&two, EACH).ended_early.len(), 1);
        two.processes.remove(0);
        assert_eq!((causes(&two, EACH), causes(&two, ANY)), (vec![Cause::NoAllocator], vec![Cause::NoAllocator]));
        two.processes.clear();
        assert_eq!(causes(&two, ANY), [Cause::Nothing]);
    }

    #[test]
    fn full_tables_leave_growth_unseen() {
        let mut full = report(60);
        let counter = |name, kind| HealthCounter { name, count: 1, kind };
        full.processes[0].health = vec![counter("free_sides_full", HealthKind::Loss)];
        assert_eq!(causes(&full, EACH), []);
        full.processes[0].health.push(counter("sites_full", HealthKind::Loss));
        assert_eq!(causes(&full, EACH), [Cause::Losses]);
        full.processes[0].health.clear();
        full.health = vec![counter("processes_full", HealthKind::Loss), counter("events_full", HealthKind::Loss)];
        assert_eq!(causes(&full, EACH), [Cause::NotFollowed, Cause::Losses]);
    }

    #[test]
    fn every_end_that_was_to_be_looked_at_counts_those_that_are_left_out_too() {
        let mut ends = report(1);
        assert_eq!(causes(&ends, Question::Ends), [Cause::Nothing], "nobody was to be looked at");
        ends.processes[0].at_exit = Some(AtExit::Checked(Default::default()));
        assert_eq!(causes(&ends, Question::Ends), []);
        ends.unlisted.unchecked = 2;
        ends.unlisted.suspects = 3;
        assert_eq!(causes(&ends, Question::Ends), [Cause::LeftOut]);
        assert_eq!(Outcome::of(&ends, Question::Ends).tally.remaining, 3);
        let why = Unchecked { cause: Cause::Killed, reason: String::new() };
        ends.processes[0].at_exit = Some(AtExit::Unchecked(why));
        assert_eq!(causes(&ends, Question::Ends), [Cause::Killed, Cause::LeftOut]);
    }
}
