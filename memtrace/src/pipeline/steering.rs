//! Keeping to a budget: the tier that is in force, and what changes it.
//!
//! While every allocation is recorded, or samples are, it is looked every twentieth of a second whether that costs more
//! than the budget. If so, windows begin: [`State`] tells what is in place in which part of a cycle.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use memtrace_common::{
    block::Recorded,
    control::{Control, Watch},
};
use tokio::time::Instant as Deadline;

use super::{
    PipelineError,
    meter::{Demand, Reading},
    targets::{TargetId, Targets},
};
use crate::{
    capture::kernel::{Armed, Kernel, KernelError},
    model::{
        budget::{Budget, Closeness, Load, Plan},
        clock::{Clock, Cycle},
        overhead::TrapCost,
        report::{Steered, Tier, TierChange},
        windows::{Cohort, Window},
    },
};

/// How often it is looked what tracing costs, and how many of these times are looked at together.
const CHECK: Duration = Duration::from_millis(50);
const CHECKS: usize = 16;

/// So much CPU time beyond the budget is too much, however short the time in which it was taken: a burst that is over after
/// a twentieth of a second is not worth a change.
const TOO_MUCH: Duration = Duration::from_millis(40);

/// At first, whoever is busy already is let go sooner, and looked at more often.
const CHECK_AT_FIRST: Duration = Duration::from_millis(10);
const TOO_MUCH_AT_FIRST: Duration = Duration::from_millis(5);
const AT_FIRST: Duration = Duration::from_millis(150);

/// How long windows of a target of which nothing is known are open.
const WINDOW: Duration = Duration::from_millis(5);

/// How long a closer look must have been affordable before it is taken: at first, and at most. It doubles each time that
/// this turns out to have been too early.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(60));

/// A closer look that had to be given up within this time was too early.
const TOO_EARLY: Duration = Duration::from_secs(30);

/// What comes after the first window of a target of which nothing is known.
const FIRST: Plan = Plan { follow: Duration::from_millis(20), gap: Duration::from_millis(500) };

/// What steering acts on.
pub(super) struct Helm<'a> {
    pub(super) kernel: &'a mut Kernel,
    pub(super) targets: &'a mut Targets,
    pub(super) control: &'a mut Control,
    pub(super) started: Instant,
}

/// What is in place.
enum State {
    /// The same probes until further notice.
    Steady,
    /// None on allocations or frees, until the next window.
    Gap { until: Deadline },
    /// Those on frees: the blocks of a window are followed.
    Following(Following),
}

struct Following {
    /// When the window was opened, and when it was closed.
    before: Reading,
    closed: Reading,
    /// How long the window was open.
    open: Duration,
    halfway: Option<Deadline>,
    until: Deadline,
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
    state: State,
    readings: VecDeque<Reading>,
    /// Since when a closer look has been affordable.
    calm_since: Option<Instant>,
    patience: Duration,
    changed: Instant,
    changes: Vec<TierChange>,
    random: fastrand::Rng,
    /// The end of the last cycle; all that windows stand for; how many there were.
    cycle_begun: Instant,
    cycle_reading: Option<Reading>,
    stood_for: Duration,
    windows: u32,
    clocks: HashMap<TargetId, Clock>,
    /// What comes after the present window, or before and after the next one.
    plan: Plan,
    /// How long the next window is to be open, and how long probes were in place for the last.
    window: Duration,
    in_place: Duration,
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
            state: State::Steady,
            readings: VecDeque::new(),
            calm_since: None,
            patience: PATIENCE.0,
            changed: now,
            changes: Vec::new(),
            random: fastrand::Rng::new(),
            cycle_begun: now,
            cycle_reading: None,
            clocks: HashMap::new(),
            plan: FIRST,
            stood_for: Duration::ZERO,
            windows: 0,
            window: WINDOW,
            in_place: WINDOW * 2,
        }
    }

    /// Counting begins.
    pub(super) fn begin(&mut self, helm: &mut Helm<'_>) -> Result<(), PipelineError> {
        let reason = "as closely as was asked for".to_owned();
        self.changes.push(TierChange { at: Duration::ZERO, tier: self.tier_of(self.now), reason });
        self.changed = Instant::now();
        self.readings.push_back(Reading::take(helm.kernel, helm.targets, None));
        if self.closest == Closeness::Windows { self.begin_windows(helm, None) } else { Ok(()) }
    }

    /// The least exact tier so far: what figures rest on.
    pub(super) fn tier(&self) -> Tier {
        self.changes.iter().map(|change| change.tier).max().unwrap_or_else(|| self.tier_of(self.now))
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
        Steered { max_overhead: self.budget.0, changes: self.changes.clone(), windows: self.windows }
    }

    /// All windows together stand for one part in so many of the time in which there were any: that of the present one is
    /// not judged yet.
    pub(super) fn scale(&self) -> f64 {
        if self.now != Closeness::Windows || self.stood_for.is_zero() {
            return 1.0;
        }
        1.0 + self.cycle_begun.elapsed().as_secs_f64() / self.stood_for.as_secs_f64()
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
        match &self.state {
            State::Steady => Deadline::now() + if self.is_beginning() { CHECK_AT_FIRST } else { CHECK },
            State::Gap { until } => *until,
            State::Following(following) => {
                let next = following.halfway.unwrap_or(following.until);
                // Where frees are followed all the time, because that costs little, they may come to cost more.
                if self.plan.gap.is_zero() { next.min(Deadline::now() + CHECK) } else { next }
            }
        }
    }

    /// Does it.
    pub(super) fn steer(&mut self, helm: &mut Helm<'_>) -> Result<(), PipelineError> {
        match &mut self.state {
            State::Steady => self.check(helm),
            State::Gap { .. } => self.open_window(helm),
            State::Following(following) => {
                let now = Deadline::now();
                if following.halfway.take_if(|halfway| *halfway <= now).is_some() {
                    helm.targets.note_halfway(helm.kernel)?;
                }
                if following.until <= now || self.follows_for_too_much(helm) { self.judge(helm) } else { Ok(()) }
            }
        }
    }

    /// Whether frees alone, which were to be followed all the time, cost more than the budget.
    fn follows_for_too_much(&self, helm: &Helm<'_>) -> bool {
        let State::Following(following) = &self.state else { return false };
        if !self.plan.gap.is_zero() {
            return false;
        }
        let now = Reading::take(helm.kernel, helm.targets, Some(&following.closed));
        let demand = following.closed.greatest(&now, self.trap);
        demand.is_some_and(|demand| self.budget.beyond(demand.cost(), demand.cpu, demand.elapsed) > TOO_MUCH)
    }

    /// Looks what the present tier costs, and changes it where that is too much, or where more can be had.
    fn check(&mut self, helm: &mut Helm<'_>) -> Result<(), PipelineError> {
        let reading = Reading::take(helm.kernel, helm.targets, self.readings.back());
        self.readings.push_back(reading);
        if self.readings.len() > CHECKS + 1 {
            self.readings.pop_front();
        }
        let Some(demand) = self.demand() else { return Ok(()) };
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
            return self.begin_windows(helm, Some(load));
        }
        self.state = State::Steady;
        self.set(helm, self.watch(), 0)?;
        Ok(helm.kernel.arm(Armed::Everything)?)
    }

    fn tell(&mut self, demand: Option<&Demand>, load: &Load, was: Closeness, helm: &Helm<'_>) {
        let followed = demand.and_then(|demand| helm.targets.get(demand.target.slot));
        let of_whom = match followed.map(|followed| &followed.target) {
            Some(target) => format!("the CPU time of {} (pid {})", target.comm, target.pid),
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
        eprintln!("memtrace: tier {tier} from now on: {reason}");
        self.changes.push(TierChange { at: helm.started.elapsed(), tier: self.tier_of(self.now), reason });
    }

    fn begin_windows(&mut self, helm: &mut Helm<'_>, load: Option<&Load>) -> Result<(), PipelineError> {
        self.set(helm, Watch::Frees, helm.control.cohort)?;
        helm.targets.begin_windows(helm.kernel)?;
        self.cycle_begun = Instant::now();
        self.cycle_reading = Some(Reading::take(helm.kernel, helm.targets, None));
        self.plan = load.map_or(FIRST, |load| self.draw(load));
        // Nothing of the first is followed yet: it comes at a random moment of a cycle.
        let Plan { follow, gap } = self.plan;
        let until = Deadline::now() + (follow + gap).mul_f64(self.random.f64());
        self.state = State::Gap { until };
        Ok(helm.kernel.arm(Armed::Neither)?)
    }

    fn draw(&mut self, load: &Load) -> Plan {
        self.budget.plan(load, self.trap, self.in_place, self.random.f64())
    }

    /// Opens a window and closes it. Meanwhile, nothing else is done here: it must not stay open for longer.
    fn open_window(&mut self, helm: &mut Helm<'_>) -> Result<(), PipelineError> {
        // Never 0, which is none.
        let cohort = helm.control.cohort % Recorded::MAX_COHORT + 1;
        self.set(helm, Watch::Frees, cohort)?;
        helm.kernel.arm(Armed::Frees)?;
        let before = Reading::take(helm.kernel, helm.targets, self.cycle_reading.as_ref());
        let placed = Instant::now();
        helm.kernel.arm(Armed::Everything)?;
        let opened = Instant::now();
        self.set(helm, Watch::Window, cohort)?;
        std::thread::sleep(self.window);
        self.set(helm, Watch::Frees, cohort)?;
        let open = opened.elapsed();
        let closed = Reading::take(helm.kernel, helm.targets, Some(&before));
        helm.kernel.arm(Armed::Frees)?;
        let in_place = placed.elapsed();
        log::debug!("a window of {open:?}, its probes in place for {in_place:?}");
        self.in_place = in_place;
        let now = Deadline::now();
        let (halfway, until) = (Some(now + self.plan.follow / 2), now + self.plan.follow);
        self.state = State::Following(Following { before, closed, open, halfway, until });
        Ok(())
    }

    /// The present window, if its blocks are being followed, as if those of this target were looked at for the last time
    /// now.
    pub(super) fn window(&self, target: TargetId) -> Option<Window> {
        let State::Following(following) = &self.state else { return None };
        let cycle = self.cycle_begun.elapsed();
        let on_the_clock = (cycle.as_secs_f64() / following.open.as_secs_f64().max(1e-6), 0.0);
        let known = self.clocks.get(&target).and_then(|clock| clock.weight(self.trap));
        let (weight, doubt) = known.unwrap_or(on_the_clock);
        Some(Window { weight, doubt, followed: following.closed.elapsed(), cycle })
    }

    /// Looks at the blocks of the present window for the last time.
    fn judge(&mut self, helm: &mut Helm<'_>) -> Result<(), PipelineError> {
        let demand = self.close_window(helm)?;
        let clock = demand.as_ref().and_then(|demand| self.clocks.get(&demand.target));
        let load = clock.map(|clock| clock.load(self.trap)).unwrap_or_default();
        self.window = clock.map_or(WINDOW, |clock| clock.window(self.trap));
        let next = self.budget.closest(&load, self.trap, self.can_skip_returns).max(self.closest);
        if self.is_calm(next) {
            return self.change(next, demand.as_ref(), &load, helm);
        }
        // The next window's length is known, how long its probes take to be put in place only of the last.
        self.in_place = self.in_place.max(self.window);
        self.plan = self.draw(&load);
        let Plan { follow, gap } = self.plan;
        log::debug!("{load:?}: {follow:?} of following, after {gap:?}");
        self.state = State::Gap { until: Deadline::now() + gap };
        if gap.is_zero() { Ok(()) } else { Ok(helm.kernel.arm(Armed::Neither)?) }
    }

    /// Books the present window. Returns what was done in its cycle by the target that paid most.
    fn close_window(&mut self, helm: &mut Helm<'_>) -> Result<Option<Demand>, PipelineError> {
        let (State::Following(following), Some(begun)) = (&self.state, &self.cycle_reading) else { return Ok(None) };
        let now = Reading::take(helm.kernel, helm.targets, Some(&following.closed));
        self.clocks.retain(|target, _| now.has(*target));
        let between = |from: &Reading, until, target| from.demand(target, until, self.trap);
        let (cycle_elapsed, followed_for) = (self.cycle_begun.elapsed(), following.closed.elapsed());
        let window = |target, cohort: &Cohort| {
            let clock = self.clocks.entry(target).or_default();
            if let Some(whole) = between(begun, &now, target)
                && let Some(in_place) = between(&following.before, &following.closed, target)
                && let Some(followed) = between(&following.closed, &now, target)
            {
                clock.push(Cycle {
                    in_place: in_place.part(),
                    followed: followed.part(),
                    whole: whole.part(),
                    cpu: whole.cpu,
                    open: following.open,
                    freed: whole.window_frees,
                    born: cohort.born[1],
                    survived: cohort.survived[1],
                });
            }
            let on_the_clock = cycle_elapsed.as_secs_f64() / following.open.as_secs_f64().max(1e-6);
            let (weight, doubt) = clock.weight(self.trap).unwrap_or((on_the_clock, 0.0));
            log::debug!("{target:?}: each block stands for {weight:.0}, give or take {:.0} %", doubt * 100.0);
            Window { weight, doubt, followed: followed_for, cycle: cycle_elapsed }
        };
        helm.targets.judge(helm.kernel, window)?;
        let demand = begun.greatest(&now, self.trap);
        self.windows += 1;
        self.stood_for += self.cycle_begun.elapsed();
        self.cycle_begun = Instant::now();
        self.cycle_reading = Some(now);
        Ok(demand)
    }

    /// Counting is over. What is known of the present window counts, if its blocks were followed for long enough.
    pub(super) fn end(&mut self, helm: &mut Helm<'_>) -> Result<(), PipelineError> {
        let least = self.plan.follow / 2;
        let is_long_enough = |following: &Following| self.windows == 0 || following.closed.elapsed() >= least;
        if matches!(&self.state, State::Following(following) if is_long_enough(following)) {
            self.close_window(helm)?;
        }
        Ok(())
    }

    fn set(&self, helm: &mut Helm<'_>, watch: Watch, cohort: u32) -> Result<(), KernelError> {
        let is_partial = helm.control.is_partial | u32::from(watch != Watch::All);
        *helm.control = Control { watch: watch as u32, cohort, is_partial, ..*helm.control };
        helm.kernel.set_control(*helm.control)
    }
}
