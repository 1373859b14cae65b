//! The checks that a gate was asked for and could not make, and why.
//!
//! In: the last report of a run, and which question the gate asks of it. Out: the suspects that remain, and everything of which
//! the gate does not know whether it leaks. Knows nothing of exit statuses.

use crate::model::{
    at_exit::AtExit,
    category::Category,
    finding::OneSided,
    health::HealthKind,
    outcome::{Outcome, Tally, Unseen},
    report::{Process, Report},
    unchecked::Unchecked,
    verdict::LONG_ENOUGH,
};

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

impl Outcome {
    /// The checks that were not made, of a report whose suspects are marked.
    #[must_use]
    pub fn of(report: &Report, question: Question) -> Self {
        let sites = report.processes.iter().flat_map(|process| &process.sites);
        let mut outcome = Self { tally: Tally::of(sites), ..Self::default() };
        outcome.tally.remaining += report.run.unlisted.suspects;
        match question {
            Question::Ends => outcome.ends(report),
            Question::Growth { each } => outcome.growth(report, each),
        }
        outcome.run(report);
        outcome
    }

    fn ends(&mut self, report: &Report) {
        let mut is_any_known = report.run.unlisted.processes > 0;
        for process in &report.processes {
            let Some(at_exit) = process.at_exit() else { continue };
            is_any_known = true;
            if let AtExit::Unchecked(why) = at_exit {
                self.unseen.push(Unseen { process: Some(named(process)), why: why.clone() });
            }
        }
        if !is_any_known {
            self.add(Unchecked::NoProgram);
        }
        if report.run.unlisted.unchecked > 0 {
            self.add(Unchecked::LeftOut { processes: report.run.unlisted.unchecked });
        }
    }

    fn growth(&mut self, report: &Report, each: bool) {
        let mut is_any_judged = report.processes.iter().any(|process| unjudged(process, report).is_none());
        is_any_judged |= self.tally.remaining > 0;
        let unjudged = report.processes.iter().filter_map(|process| {
            let why = unjudged(process, report)?;
            Some((process.ended, Unseen { process: Some(named(process)), why }))
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
            self.add(Unchecked::NoProcess);
        }
    }

    /// Losses of the run as a whole, and memory that was asked for and never there.
    fn run(&mut self, report: &Report) {
        report.run.not_seen.iter().for_each(|not_seen| self.add(Unchecked::NotSeen(not_seen.clone())));
        for counter in report.health.iter().filter(|counter| counter.count > 0) {
            self.add(match counter.name {
                "processes_full" => Unchecked::NotFollowed { programs: counter.count },
                _ => Unchecked::LostNotices(counter.into()),
            });
        }
    }

    fn add(&mut self, why: Unchecked) {
        self.unseen.push(Unseen { process: None, why });
    }
}

/// A process, as the outcome names it.
fn named(process: &Process) -> (u32, String) {
    (process.subject.pid(), process.subject.comm().into_owned())
}

/// Why the growth of a process says nothing; nothing where it does.
fn unjudged(process: &Process, report: &Report) -> Option<Unchecked> {
    if process.figures.allocators().is_empty() && process.sites.iter().all(|site| site.category != Category::Mmap) {
        return Some(Unchecked::NoAllocator);
    }
    if let Some(OneSided { allocator, .. }) = process.one_sided().first() {
        return Some(Unchecked::OneSided { allocator: allocator.clone() });
    }
    let is_full = |name: &str| name.ends_with("_full") && name != "free_sides_full";
    let lost = process
        .health
        .iter()
        .find(|counter| counter.kind == HealthKind::Loss && counter.count > 0 && is_full(counter.name));
    if let Some(lost) = lost {
        return Some(Unchecked::TableFull(lost.into()));
    }
    if report.run.duration < LONG_ENOUGH && process.figures.totals().live_objects() > 0 {
        return Some(Unchecked::TooEarly { traced: report.run.duration });
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{
            finding::{Finding, Side},
            health::HealthCounter,
            unchecked::Cause,
        },
        report::fixture,
    };

    /// A report of one process that lives and holds something, after so many seconds.
    fn report(seconds: u64) -> Report {
        let mut report = fixture::report();
        report.run.duration = std::time::Duration::from_secs(seconds);
        report.processes[0].health.clear();
        report.processes[0].sites.clear();
        report
    }

    fn causes(report: &Report, question: Question) -> Vec<Cause> {
        Outcome::of(report, question).unseen.iter().map(|unseen| unseen.why.cause()).collect()
    }

    const EACH: Question = Question::Growth { each: true };
    const ANY: Question = Question::Growth { each: false };

    #[test]
    fn growth_takes_time_to_be_judged_unless_there_is_none() {
        assert_eq!(causes(&report(23), EACH), [Cause::TooEarly]);
        assert_eq!(causes(&report(24), EACH), []);
        let mut idle = report(1);
        fixture::blocks(&mut idle.processes[0]).totals = Default::default();
        assert_eq!(causes(&idle, EACH), []);
    }

    #[test]
    fn each_process_that_was_named_is_judged_of_others_one_is_enough() {
        let mut two = report(60);
        let mut other = two.processes[0].clone();
        fixture::blocks(&mut other).allocators.clear();
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
    fn an_allocator_of_which_only_one_side_is_seen_leaves_growth_unseen() {
        let mut one_sided = report(60);
        let found = OneSided { allocator: "x".into(), image: "/x".into(), seen: Side::Frees, events: 1000 };
        one_sided.processes[0].findings.push(Finding::OneSided(vec![found]));
        assert_eq!(causes(&one_sided, EACH), [Cause::NotHooked]);
    }

    #[test]
    fn every_end_that_was_to_be_looked_at_counts_those_that_are_left_out_too() {
        let mut ends = report(1);
        assert_eq!(causes(&ends, Question::Ends), [Cause::Nothing], "nobody was to be looked at");
        ends.processes[0].findings = vec![Finding::AtExit(AtExit::Checked(Default::default()))];
        assert_eq!(causes(&ends, Question::Ends), []);
        ends.run.unlisted.unchecked = 2;
        ends.run.unlisted.suspects = 3;
        assert_eq!(causes(&ends, Question::Ends), [Cause::LeftOut]);
        assert_eq!(Outcome::of(&ends, Question::Ends).tally.remaining, 3);
        let why = Unchecked::Killed { signal: 9 };
        ends.processes[0].findings = vec![Finding::AtExit(AtExit::Unchecked(why))];
        assert_eq!(causes(&ends, Question::Ends), [Cause::Killed, Cause::LeftOut]);
    }
}
