//! Keeping to a budget: the tier that is in force, and what changes it.
//!
//! While every allocation is recorded, or samples are, it is looked every twentieth of a second whether that costs more
//! than the budget. If so, the next tier takes over; windows are [`super::cycles`].

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use memtrace_common::control::{Control, Watch};
use tokio::time::Instant as Deadline;

use super::{
    PipelineError,
    cycles::{Cycles, Step},
    meter::{Demand, Reading},
    targets::{TargetId, Targets},
};
use crate::{
    capture::kernel::{Armed, Kernel, KernelError},
    model::{
        budget::{Budget, Closeness, Load},
        overhead::TrapCost,
        report::{Steered, Tier, TierChange},
        windows::Window,
    },
};

/// How often it is looked what tracing costs, and how many of these times are looked at together.
pub(super) const CHECK: Duration = Duration::from_millis(50);
const CHECKS: usize = 16;

/// The same while nobody is held up at all: looking costs memtrace itself some CPU time.
const CHECK_WHEN_IDLE: Duration = Duration::from_millis(200);

/// So much CPU time beyond the budget is too much, however short the time in which it was taken: a burst that is over after
/// a twentieth of a second is not worth a change.
pub(super) const TOO_MUCH: Duration = Duration::from_millis(40);

/// At first, whoever is busy already is let go sooner, and looked at more often.
const CHECK_AT_FIRST: Duration = Duration::from_millis(10);
const TOO_MUCH_AT_FIRST: Duration = Duration::from_millis(5);
const AT_FIRST: Duration = Duration::from_millis(150);

/// How long a closer look must have been affordable before it is taken: at first, and at most. It doubles each time that
/// this turns out to have been too early.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(60));

/// A closer look that had to be given up within this time was too early.
const TOO_EARLY: Duration = Duration::from_secs(30);

/// How many changes are told of.
const MAX_CHANGES: usize = 100;

/// What steering acts on.
pub(super) struct Helm<'a> {
    pub(super) kernel: &'a mut Kernel,
    pub(super) targets: &'a mut Targets,
    pub(super) control: &'a mut Control,
    pub(super) started: Instant,
}

impl Helm<'_> {
    /// From now on this is recorded, as part of that cohort; 0 for good.
    pub(super) fn watch(&mut self, watch: Watch, cohort: u32) -> Result<(), KernelError> {
        let is_partial = self.control.is_partial | u32::from(watch != Watch::All);
        *self.control = Control { watch: watch as u32, cohort, is_partial, ..*self.control };
        self.kernel.set_control(*self.control)
    }
}

/// Keeps to a budget.
pub(super) struct Steering {
    budget: Budget,
    trap: TrapCost,
    sample_bytes: u64,
    can_skip_returns: bool,
    /// Whether targets were there before.
    attaches: bool,
    /// The closest look that was asked for.
    closest: Closeness,
    now: Closeness,
    readings: VecDeque<Reading>,
    /// Whether nobody was held up of late.
    is_idle: bool,
    /// Since when a closer look has been affordable.
    calm_since: Option<Instant>,
    patience: Duration,
    changed: Instant,
    /// The first, and the last of all others.
    changes: Vec<TierChange>,
    /// The least exact so far.
    least: Closeness,
    cycles: Cycles,
}

impl Steering {
    pub(super) fn new(
        budget: Budget,
        closest: Closeness,
        sample_bytes: u64,
        trap: TrapCost,
        can_skip_returns: bool,
        attaches: bool,
    ) -> Self {
        let now = Instant::now();
        Self {
            budget,
            trap,
            sample_bytes,
            can_skip_returns,
            attaches,
            closest,
            now: closest,
            readings: VecDeque::new(),
            is_idle: false,
            calm_since: None,
            patience: PATIENCE.0,
            changed: now,
            changes: Vec::new(),
            least: closest,
            cycles: Cycles::new(budget, trap),
        }
    }

    /// Counting begins.
    pub(super) fn begin(&mut self, helm: &mut Helm<'_>) -> Result<(), PipelineError> {
        let reason = "as closely as was asked for".to_owned();
        self.note_change(Duration::ZERO, reason);
        self.changed = Instant::now();
        self.readings.push_back(Reading::take(helm.kernel, helm.targets, None));
        if self.closest == Closeness::Windows { self.cycles.begin(None, helm) } else { Ok(()) }
    }

    /// The least exact tier so far: what figures rest on.
    pub(super) fn tier(&self) -> Tier {
        self.tier_of(self.least)
    }

    /// The part of a target's CPU time that tracing may take.
    pub(super) fn max_overhead(&self) -> f64 {
        self.budget.0
    }

    fn note_change(&mut self, at: Duration, reason: String) {
        self.least = self.least.max(self.now);
        if self.changes.len() == MAX_CHANGES {
            self.changes.remove(1);
        }
        self.changes.push(TierChange { at, tier: self.tier_of(self.now), reason });
    }

    fn tier_of(&self, closeness: Closeness) -> Tier {
        match closeness {
            Closeness::All => Tier::Exact,
            Closeness::Samples => Tier::Sampled { sample_bytes: self.sample_bytes },
            Closeness::Windows => Tier::Windowed,
        }
    }

    /// What came of the budget.
    pub(super) fn steered(&self) -> Steered {
        Steered { max_overhead: self.budget.0, changes: self.changes.clone(), windows: self.cycles.count() }
    }

    /// See [`Cycles::scale`].
    pub(super) fn scale(&self) -> f64 {
        self.cycles.scale()
    }

    /// See [`Cycles::window`].
    pub(super) fn window(&self, target: (TargetId, Duration)) -> Option<Window> {
        self.cycles.window(target)
    }

    /// Counting is over.
    pub(super) fn end(&mut self, helm: &mut Helm<'_>) -> Result<(), PipelineError> {
        self.cycles.end(helm)
    }

    /// What is recorded at first.
    pub(super) fn watch(&self) -> Watch {
        match self.now {
            Closeness::All => Watch::All,
            Closeness::Samples => Watch::Samples,
            Closeness::Windows => Watch::Frees,
        }
    }

    /// When there is something to be done.
    pub(super) fn deadline(&self) -> Deadline {
        match self.now {
            Closeness::Windows => self.cycles.deadline(),
            _ if self.is_beginning() => Deadline::now() + CHECK_AT_FIRST,
            _ => Deadline::now() + if self.is_idle { CHECK_WHEN_IDLE } else { CHECK },
        }
    }

    /// Does it.
    pub(super) fn steer(&mut self, helm: &mut Helm<'_>) -> Result<(), PipelineError> {
        if self.now != Closeness::Windows {
            return self.check(helm);
        }
        match self.cycles.step(helm)? {
            Step::Within => Ok(()),
            Step::Judged(demand) => self.go_on(demand.as_ref(), helm),
        }
    }

    /// Looks what the present tier costs, and changes it where that is too much, or where more can be had.
    fn check(&mut self, helm: &mut Helm<'_>) -> Result<(), PipelineError> {
        let reading = Reading::take(helm.kernel, helm.targets, self.readings.back());
        let since = self.readings.back().and_then(|last| last.greatest(&reading, self.trap));
        self.is_idle = since.is_some_and(|demand| demand.cost().is_zero());
        self.readings.push_back(reading);
        if self.readings.len() > CHECKS + 1 {
            self.readings.pop_front();
        }
        let Some(demand) = self.demand() else { return Ok(()) };
        if let (Some(first), Some(last)) = (self.readings.front(), self.readings.back()) {
            self.cycles.know_passing(first.passing(last, self.trap).load());
        }
        let next = self.budget.closest(&demand.load(), self.trap, self.can_skip_returns).max(self.closest);
        let is_for_long = self.readings.len() > CHECKS;
        let too_much = if self.is_beginning() { TOO_MUCH_AT_FIRST } else { TOO_MUCH };
        if self.budget.beyond(demand.cost(), demand.cpu, demand.elapsed) > too_much
            || (is_for_long && demand.share > self.budget.0)
        {
            let is_closest = self.now == Closeness::All && self.can_skip_returns;
            let least = if is_closest { Closeness::Samples } else { Closeness::Windows };
            return self.change(next.max(least), Some(&demand), &demand.load(), helm);
        }
        if self.is_calm(next) { self.change(next, Some(&demand), &demand.load(), helm) } else { Ok(()) }
    }

    /// Whether memtrace has just come to targets that were there before.
    fn is_beginning(&self) -> bool {
        self.attaches && self.changes.len() < 2 && self.changed.elapsed() < AT_FIRST
    }

    /// What was done by the target that paid most, over all readings that are at hand.
    fn demand(&self) -> Option<Demand> {
        self.readings.front()?.greatest(self.readings.back()?, self.trap)
    }

    /// Whether a closer look has been affordable for so long that it is taken.
    fn is_calm(&mut self, next: Closeness) -> bool {
        if next >= self.now {
            self.calm_since = None;
            return false;
        }
        self.calm_since.get_or_insert_with(Instant::now).elapsed() >= self.patience
    }

    /// Takes another look, because of what a target has done, of which this is the load.
    fn change(
        &mut self,
        next: Closeness,
        demand: Option<&Demand>,
        load: &Load,
        helm: &mut Helm<'_>,
    ) -> Result<(), PipelineError> {
        let was = std::mem::replace(&mut self.now, next);
        if next > was && self.changed.elapsed() < TOO_EARLY && self.changes.len() > 1 {
            self.patience = (self.patience * 2).min(PATIENCE.1);
        }
        (self.changed, self.calm_since) = (Instant::now(), None);
        self.readings.clear();
        self.tell(demand, load, was, helm);
        if next == Closeness::Windows {
            return self.cycles.begin(Some(load), helm);
        }
        self.cycles.stop();
        helm.watch(self.watch(), 0)?;
        helm.kernel.arm(Armed::Everything);
        Ok(())
    }

    fn tell(&mut self, demand: Option<&Demand>, load: &Load, was: Closeness, helm: &Helm<'_>) {
        let followed = demand.and_then(|demand| helm.targets.get(demand.target.slot));
        let of_whom = match followed.map(|followed| &followed.target) {
            Some(target) => format!("the CPU time of {} (pid {})", target.comm, target.pid),
            None if demand.is_some_and(|demand| demand.target == TargetId::PASSING) => {
                "the CPU time of processes that come and go".to_owned()
            }
            None => "CPU time".to_owned(),
        };
        let (tier, before) = (self.tier_of(self.now).name(), self.tier_of(was).name());
        let budget = format!("--max-overhead is {:.1} %", self.budget.0 * 100.0);
        let reason = if self.now > was {
            let share = 100.0 * demand.map_or(0.0, |demand| demand.share);
            format!("tier {before} takes {share:.1} % of {of_whom}, {budget}")
        } else {
            let share = 100.0 * load.share(self.now, self.trap);
            format!("it would take {share:.1} % of {of_whom}, {budget}")
        };
        let hint = if self.now > was { " (--tier exact: whatever it costs)" } else { "" };
        eprintln!("memtrace: tier {tier} from now on: {reason}{hint}");
        self.note_change(helm.started.elapsed(), reason);
    }

    /// A window is judged: the next comes, or a closer look.
    fn go_on(&mut self, demand: Option<&Demand>, helm: &mut Helm<'_>) -> Result<(), PipelineError> {
        let load = self.cycles.load(demand.map(|demand| demand.target));
        let next = self.budget.closest(&load, self.trap, self.can_skip_returns).max(self.closest);
        if self.is_calm(next) {
            return self.change(next, demand, &load, helm);
        }
        self.cycles.go_on(demand, helm);
        Ok(())
    }
}
