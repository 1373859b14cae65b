//! The cycle of windows: a gap in which the targets are left alone, a window in which every allocation is recorded, and a
//! time in which the blocks of that window are followed to their ends.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use memtrace_common::{block::Recorded, control::Watch};
use tokio::time::Instant as Deadline;

use super::{
    PipelineError,
    meter::{Demand, Reading},
    steering::{CHECK, Helm, TOO_MUCH},
    targets::TargetId,
};
use crate::{
    capture::kernel::{Armed, KernelError},
    model::{
        budget::{Budget, Closeness, Load, Plan},
        clock::{Clock, Cycle, Weight},
        overhead::TrapCost,
        passing::Passing,
        windows::{Cohort, Window},
    },
};

/// How long windows of a target of which nothing is known are open.
const WINDOW: Duration = Duration::from_millis(5);

/// What comes before and after the first window of such a target.
const FIRST: Plan = Plan { follow: Duration::from_millis(20), gap: Duration::from_millis(500) };

/// For how long at most what was recorded before windows begin is seen freed.
const LONGEST_SETTLING: Duration = Duration::from_millis(300);

/// How many windows there are between sweeps of the table of blocks.
const SWEEP_EACH: u32 = 64;

/// What is in place.
enum State {
    /// Whatever the present tier takes: there are no windows now.
    Over,
    /// Probes on frees: what was recorded for good before, and does not live for long, is seen freed before windows begin.
    Settling { until: Deadline },
    /// None on allocations, and none on frees where these cost too much, until the next window.
    Gap { until: Deadline },
    /// Those on frees: the blocks of a window are followed.
    Following(Box<Following>),
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

/// What has come of a step.
pub(super) enum Step {
    /// There is more to come of the present window.
    Within,
    /// A window is judged; in its cycle, this was done by the target that paid most.
    Judged(Option<Demand>),
}

/// The windows of a run.
pub(super) struct Cycles {
    budget: Budget,
    trap: TrapCost,
    state: State,
    random: fastrand::Rng,
    /// When the present cycle began, and what was read then.
    begun: Instant,
    reading: Option<Reading>,
    /// All the time that windows stand for; how many there were.
    stood_for: Duration,
    windows: u32,
    /// The number of the cohort that is followed, or will be next.
    cohort: u32,
    clocks: HashMap<TargetId, Clock>,
    /// Those that come and go, of which none has a clock.
    passing: Passing,
    /// What comes after the present window, or before and after the next one.
    plan: Plan,
    /// How long the next window is to be open, and how long probes were in place for the last.
    window: Duration,
    in_place: Duration,
}

impl Cycles {
    pub(super) fn new(budget: Budget, trap: TrapCost) -> Self {
        Self {
            budget,
            trap,
            state: State::Over,
            random: fastrand::Rng::new(),
            begun: Instant::now(),
            reading: None,
            stood_for: Duration::ZERO,
            windows: 0,
            cohort: 0,
            clocks: HashMap::new(),
            passing: Passing::default(),
            plan: FIRST,
            window: WINDOW,
            in_place: WINDOW * 2,
        }
    }

    /// How many windows were judged.
    pub(super) fn count(&self) -> u32 {
        self.windows
    }

    /// All windows together stand for one part in so many of the time in which there were any: that of the present one is
    /// not judged yet.
    pub(super) fn scale(&self) -> f64 {
        if matches!(self.state, State::Over) || self.stood_for.is_zero() {
            return 1.0;
        }
        1.0 + self.begun.elapsed().as_secs_f64() / self.stood_for.as_secs_f64()
    }

    /// Windows begin, or begin again, of targets of this load.
    pub(super) fn begin(&mut self, load: Option<&Load>, helm: &mut Helm<'_>) -> Result<(), PipelineError> {
        self.plan = load.map_or(FIRST, |load| self.draw(load));
        self.next_cohort(helm)?;
        helm.kernel.arm(Armed::Frees);
        self.begun = Instant::now();
        self.state = State::Settling { until: Deadline::now() + self.plan.follow.min(LONGEST_SETTLING) };
        Ok(())
    }

    /// There are no more windows. (The last is judged.)
    pub(super) fn stop(&mut self) {
        self.state = State::Over;
    }

    /// When there is something to be done.
    pub(super) fn deadline(&self) -> Deadline {
        match &self.state {
            State::Over => Deadline::now() + CHECK,
            State::Settling { until } | State::Gap { until } => *until,
            State::Following(following) => {
                let next = following.halfway.unwrap_or(following.until);
                // Where frees are followed all the time, because that costs little, they may come to cost more.
                if self.plan.gap.is_zero() { next.min(Deadline::now() + CHECK) } else { next }
            }
        }
    }

    /// Does it. Once a window is judged, [`Cycles::go_on`] or [`Cycles::stop`] says what comes next.
    pub(super) fn step(&mut self, helm: &mut Helm<'_>) -> Result<Step, PipelineError> {
        match &mut self.state {
            State::Over => {}
            State::Settling { .. } => self.settle(helm)?,
            State::Gap { .. } => self.open_window(helm)?,
            State::Following(following) => {
                let now = Deadline::now();
                if following.halfway.take_if(|halfway| *halfway <= now).is_some() {
                    helm.targets.note_halfway(helm.kernel)?;
                }
                if following.until <= now || self.follows_for_too_much(helm) {
                    return self.close_window(helm).map(Step::Judged);
                }
            }
        }
        Ok(Step::Within)
    }

    /// Of those that come and go it is known what they do, while all of it is recorded.
    pub(super) fn know_passing(&mut self, load: Load) {
        self.passing.know(load);
    }

    /// The load of a target by itself, or of those that come and go, whichever is more.
    pub(super) fn load(&self, target: Option<TargetId>) -> Load {
        let clock = target.and_then(|target| self.clocks.get(&target));
        let own = clock.map(|clock| clock.greatest_load(self.trap)).unwrap_or_default();
        let passing = self.passing.load();
        let share = |load: &Load| load.share(Closeness::All, self.trap);
        if share(&passing) > share(&own) { passing } else { own }
    }

    /// The next cycle begins, of targets of which `demand` is the one that pays most.
    pub(super) fn go_on(&mut self, demand: Option<&Demand>, helm: &mut Helm<'_>) {
        let clock = demand.and_then(|demand| self.clocks.get(&demand.target));
        self.window = clock.map_or(WINDOW, |clock| clock.window(self.trap));
        // The next window's length is known, how long its probes take to be put in place only of the last.
        self.in_place = self.in_place.max(self.window);
        let load = self.load(demand.map(|demand| demand.target));
        self.plan = self.draw(&load);
        log::debug!("{load:?}: {:?}", self.plan);
        self.wait(self.plan.gap, helm);
    }

    /// What was recorded for good has been seen freed, as far as it does not live for long.
    fn settle(&mut self, helm: &mut Helm<'_>) -> Result<(), PipelineError> {
        helm.targets.begin_windows(helm.kernel)?;
        self.reading = Some(Reading::take(helm.kernel, helm.targets, None));
        // The first comes at a random moment of a cycle.
        let Plan { follow, gap } = self.plan;
        let first = (follow + gap).mul_f64(self.random.f64());
        self.wait(first, helm);
        Ok(())
    }

    /// Leaves the target alone until the next window.
    fn wait(&mut self, gap: Duration, helm: &mut Helm<'_>) {
        self.state = State::Gap { until: Deadline::now() + gap };
        if !self.plan.gap.is_zero() {
            helm.kernel.arm(Armed::Neither);
        }
    }

    /// From now on, frees of the last window's blocks are passed over.
    fn next_cohort(&mut self, helm: &mut Helm<'_>) -> Result<(), KernelError> {
        // Never 0, which is none.
        self.cohort = self.cohort % Recorded::MAX_COHORT + 1;
        helm.watch(Watch::Frees, self.cohort)
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

    fn draw(&mut self, load: &Load) -> Plan {
        self.budget.plan(load, self.trap, self.in_place, self.random.f64())
    }

    /// Opens a window and closes it. Meanwhile, nothing else is done here: it must not stay open for longer.
    fn open_window(&mut self, helm: &mut Helm<'_>) -> Result<(), PipelineError> {
        helm.kernel.arm(Armed::Frees);
        let before = Reading::take(helm.kernel, helm.targets, self.reading.as_ref());
        let placed = Instant::now();
        helm.kernel.arm(Armed::Everything);
        let opened = Instant::now();
        helm.watch(Watch::Window, self.cohort)?;
        std::thread::sleep(self.window);
        helm.watch(Watch::Frees, self.cohort)?;
        let open = opened.elapsed();
        let closed = Reading::take(helm.kernel, helm.targets, Some(&before));
        helm.kernel.arm(Armed::Frees);
        let in_place = placed.elapsed();
        log::debug!("a window of {open:?}, its probes in place for {in_place:?}");
        self.in_place = in_place;
        let now = Deadline::now();
        let (halfway, until) = (Some(now + self.plan.follow / 2), now + self.plan.follow);
        self.state = State::Following(Box::new(Following { before, closed, open, halfway, until }));
        Ok(())
    }

    /// The present window, if its blocks are being followed, as if those of this target were looked at for the last time
    /// now; with how long it has lived.
    pub(super) fn window(&self, target: (TargetId, Duration)) -> Option<Window> {
        let State::Following(following) = &self.state else { return None };
        Some(self.weighed(target, following))
    }

    /// Books the present window, whose blocks are not followed any more. Returns what was done in its cycle by the target
    /// that paid most.
    fn close_window(&mut self, helm: &mut Helm<'_>) -> Result<Option<Demand>, PipelineError> {
        let State::Following(following) = std::mem::replace(&mut self.state, State::Over) else { return Ok(None) };
        self.next_cohort(helm)?;
        let now = Reading::take(helm.kernel, helm.targets, Some(&following.closed));
        let begun = self.reading.take().unwrap_or_else(|| following.before.clone());
        self.clocks.retain(|target, _| now.has(*target));
        helm.targets.judge(helm.kernel, |target, cohort| self.weigh(target, cohort, &begun, &following, &now))?;
        self.windows += 1;
        if self.windows.is_multiple_of(SWEEP_EACH) {
            // What has survived of judged windows takes room that others need.
            helm.kernel.sweep();
        }
        let [whole, open, followed] =
            [(&begun, &now), (&following.before, &following.closed), (&following.closed, &now)]
                .map(|(from, until)| from.passing(until, self.trap));
        self.passing.estimate((whole.cpu, whole.cost(), whole.elapsed), open.counted(), followed.counted());
        let demand = begun.greatest(&now, self.trap);
        self.stood_for += self.begun.elapsed();
        self.begun = Instant::now();
        self.reading = Some(now);
        Ok(demand)
    }

    /// How much a window that is judged `now` stands for in a target, where this became of its blocks.
    fn weigh(
        &mut self,
        (target, lived): (TargetId, Duration),
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
        let weighed = self.weighed((target, lived), following);
        log::debug!("{target:?}: {weighed:?}");
        weighed
    }

    /// A window as it is now: by the target's clock, or by the one on the wall where the target has none yet. It stands for no more
    /// than the target has lived: most of those that live for milliseconds are in no window, and none is in more than it has seen.
    fn weighed(&self, (target, lived): (TargetId, Duration), following: &Following) -> Window {
        let cycle = self.begun.elapsed();
        let known = self.clocks.get(&target).and_then(|clock| clock.weight(self.trap));
        let on_the_wall = || {
            let own = cycle.min(lived).as_secs_f64().max(1e-6);
            Weight { windows: (own / following.open.as_secs_f64().max(1e-6)).max(1.0), doubt: 0.0, own }
        };
        let Weight { windows, doubt, own } = known.unwrap_or_else(on_the_wall);
        Window { weight: windows, doubt, followed: following.closed.elapsed(), cycle, own }
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
}
