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

/// The same while nobody is held up at all: looking costs memtrace itself some CPU time.
const CHECK_WHEN_IDLE: Duration = Duration::from_millis(200);

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

/// How many changes are told of.
const MAX_CHANGES: usize = 100;

/// For how long at most what was recorded before windows begin is seen freed.
const LONGEST_SETTLING: Duration = Duration::from_millis(300);

/// How many windows there are between sweeps of the table of blocks.
const SWEEP_EACH: u32 = 64;

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
    /// Those on frees: what was recorded for good before, and does not live for long, is seen freed before windows begin.
    Settling { until: Deadline },
    /// None on allocations, and none on frees where these cost too much, until the next window.
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
    random: fastrand::Rng,
    /// The end of the last cycle; all that windows stand for; how many there were.
    cycle_begun: Instant,
    cycle_reading: Option<Reading>,
    stood_for: Duration,
    windows: u32,
    /// The number of the last window's cohort.
    cohort: u32,
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
            is_idle: false,
            calm_since: None,
            patience: PATIENCE.0,
            changed: now,
            changes: Vec::new(),
            least: closest,
            random: fastrand::Rng::new(),
            cycle_begun: now,
            cycle_reading: None,
            cohort: 0,
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
        self.note_change(Duration::ZERO, reason);
        self.changed = Instant::now();
        self.readings.push_back(Reading::take(helm.kernel, helm.targets, None));
        if self.closest == Closeness::Windows { self.begin_windows(helm, None) } else { Ok(()) }
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
            State::Steady if self.is_beginning() => Deadline::now() + CHECK_AT_FIRST,
            State::Steady => Deadline::now() + if self.is_idle { CHECK_WHEN_IDLE } else { CHECK },
            State::Settling { until } | State::Gap { until } => *until,
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
            State::Settling { .. } => self.begin_cycles(helm),
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
        let since = self.readings.back().and_then(|last| last.greatest(&reading, self.trap));
        self.is_idle = since.is_some_and(|demand| demand.cost().is_zero());
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
        helm.kernel.arm(Armed::Everything);
        Ok(())
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
        let hint = if self.now > was { " (--tier exact: whatever it costs)" } else { "" };
        eprintln!("memtrace: tier {tier} from now on: {reason}{hint}");
        self.note_change(helm.started.elapsed(), reason);
    }

    fn begin_windows(&mut self, helm: &mut Helm<'_>, load: Option<&Load>) -> Result<(), PipelineError> {
        self.plan = load.map_or(FIRST, |load| self.draw(load));
        self.next_cohort(helm)?;
        helm.kernel.arm(Armed::Frees);
        self.cycle_begun = Instant::now();
        self.state = State::Settling { until: Deadline::now() + self.plan.follow.min(LONGEST_SETTLING) };
        Ok(())
    }

    fn begin_cycles(&mut self, helm: &mut Helm<'_>) -> Result<(), PipelineError> {
        helm.targets.begin_windows(helm.kernel)?;
        self.cycle_reading = Some(Reading::take(helm.kernel, helm.targets, None));
        // The first comes at a random moment of a cycle.
        let Plan { follow, gap } = self.plan;
        let first = (follow + gap).mul_f64(self.random.f64());
        self.wait(helm, first);
        Ok(())
    }

    /// Leaves the target alone until the next window.
    fn wait(&mut self, helm: &mut Helm<'_>, gap: Duration) {
        self.state = State::Gap { until: Deadline::now() + gap };
        if !self.plan.gap.is_zero() {
            helm.kernel.arm(Armed::Neither);
        }
    }

    /// From now on, frees of the last window's blocks are passed over.
    fn next_cohort(&mut self, helm: &mut Helm<'_>) -> Result<(), KernelError> {
        // Never 0, which is none.
        self.cohort = self.cohort % Recorded::MAX_COHORT + 1;
        self.set(helm, Watch::Frees, self.cohort)
    }

    fn draw(&mut self, load: &Load) -> Plan {
        self.budget.plan(load, self.trap, self.in_place, self.random.f64())
    }

    /// Opens a window and closes it. Meanwhile, nothing else is done here: it must not stay open for longer.
    fn open_window(&mut self, helm: &mut Helm<'_>) -> Result<(), PipelineError> {
        let cohort = self.cohort;
        helm.kernel.arm(Armed::Frees);
        let before = Reading::take(helm.kernel, helm.targets, self.cycle_reading.as_ref());
        let placed = Instant::now();
        helm.kernel.arm(Armed::Everything);
        let opened = Instant::now();
        self.set(helm, Watch::Window, cohort)?;
        std::thread::sleep(self.window);
        self.set(helm, Watch::Frees, cohort)?;
        let open = opened.elapsed();
        let closed = Reading::take(helm.kernel, helm.targets, Some(&before));
        helm.kernel.arm(Armed::Frees);
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
        Some(self.weighed(target, following))
    }

    /// Looks at the blocks of the present window for the last time.
    fn judge(&mut self, helm: &mut Helm<'_>) -> Result<(), PipelineError> {
        let demand = self.close_window(helm)?;
        let clock = demand.as_ref().and_then(|demand| self.clocks.get(&demand.target));
        let load = clock.map(|clock| clock.greatest_load(self.trap)).unwrap_or_default();
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
        self.wait(helm, gap);
        Ok(())
    }

    /// Books the present window, whose blocks are not followed any more. Returns what was done in its cycle by the target
    /// that paid most.
    fn close_window(&mut self, helm: &mut Helm<'_>) -> Result<Option<Demand>, PipelineError> {
        let State::Following(following) = std::mem::replace(&mut self.state, State::Steady) else { return Ok(None) };
        self.next_cohort(helm)?;
        let now = Reading::take(helm.kernel, helm.targets, Some(&following.closed));
        let begun = self.cycle_reading.take().unwrap_or_else(|| following.before.clone());
        self.clocks.retain(|target, _| now.has(*target));
        helm.targets.judge(helm.kernel, |target, cohort| self.weigh(target, cohort, &begun, &following, &now))?;
        self.windows += 1;
        if self.windows.is_multiple_of(SWEEP_EACH) {
            // What has survived of judged windows takes room that others need.
            helm.kernel.sweep();
        }
        let demand = begun.greatest(&now, self.trap);
        self.stood_for += self.cycle_begun.elapsed();
        self.cycle_begun = Instant::now();
        self.cycle_reading = Some(now);
        Ok(demand)
    }

    /// How much a window that is judged `now` stands for in a target, where this became of its blocks.
    fn weigh(
        &mut self,
        target: TargetId,
        cohort: &Cohort,
        begun: &Reading,
        following: &Following,
        now: &Reading,
    ) -> Window {
        let between = |from: &Reading, until: &Reading| from.demand(target, until, self.trap);
        let clock = self.clocks.entry(target).or_default();
        if let Some(whole) = between(begun, now)
            && let Some(in_place) = between(&following.before, &following.closed)
            && let Some(followed) = between(&following.closed, now)
        {
            clock.push(Cycle {
                in_place: in_place.part(),
                followed: followed.part(),
                whole: whole.part(),
                cpu: whole.cpu,
                open: following.open,
                ended: whole.window_ends,
                born: cohort.born[1],
                survived: cohort.survived[1],
            });
        }
        let weighed = self.weighed(target, following);
        log::debug!("{target:?}: {weighed:?}");
        weighed
    }

    /// A window as it is now: by the target's clock, or by the one on the wall where the target has none yet.
    fn weighed(&self, target: TargetId, following: &Following) -> Window {
        let cycle = self.cycle_begun.elapsed();
        let known = self.clocks.get(&target).and_then(|clock| clock.weight(self.trap));
        let on_the_wall = || (cycle.as_secs_f64() / following.open.as_secs_f64().max(1e-6), 0.0);
        let (weight, doubt) = known.unwrap_or_else(on_the_wall);
        Window { weight, doubt, followed: following.closed.elapsed(), cycle }
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
