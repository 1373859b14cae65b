//! The schedule of windows: a gap in which the targets are left alone, a window in which every allocation is recorded, and a
//! time in which the blocks of that window are followed to their ends.

use std::{collections::BTreeMap, time::Duration};

use super::{
    budget::{Budget, Load, Plan, TOO_MUCH},
    clock::{Clock, Cycle, Weight},
    decision::{Closed, Decision, Following, Judging, Opening, Phase, WindowStep},
    meter::{Demand, Meter, Metering, Payer},
    passing::Passing,
};
use crate::model::{
    life::Life,
    overhead::TrapCost,
    stats::windows::{Cohort, Window},
    target_id::TargetId,
    tier::Tier,
};

/// How long windows of a target of which nothing is known are open.
const WINDOW: Duration = Duration::from_millis(5);

/// The time before and after the first window of such a target.
const FIRST: Plan = Plan { follow: Duration::from_millis(20), gap: Duration::from_millis(500) };

/// For how long at most what was recorded before windows begin is seen freed.
const LONGEST_SETTLING: Duration = Duration::from_millis(300);

/// How many windows there are between sweeps of the table of blocks.
const SWEEP_EACH: u32 = 64;

/// How often it is checked what frees cost that are seen all the time.
const CHECK: Duration = Duration::from_millis(50);

/// The part of a cycle in which the targets are.
#[derive(Debug)]
enum State {
    /// None: there are no windows now, or the engine has the window and hands it back.
    Over,
    /// Probes on frees: what was recorded for good before, and does not live for long, is seen freed before windows begin.
    Settling { until: Duration },
    /// No probes on allocations, and none on frees where these cost too much, until the next window.
    Gap { until: Duration, begun: Metering },
    /// Probes on frees: the blocks of a window are followed.
    Following(Box<Following>),
}

/// The end of a cycle.
pub(super) struct CycleEnd {
    /// The work of the target that paid most in it.
    pub(super) demand: Demand,
    /// Whether the table of blocks is to be swept.
    pub(super) sweeps: bool,
    ended: Metering,
}

/// The windows of a run.
pub(super) struct WindowSchedule {
    budget: Budget,
    trap: TrapCost,
    state: State,
    random: fastrand::Rng,
    /// When the present cycle began.
    begun: Duration,
    /// How many there were.
    windows: u32,
    /// The number of the cohort that is followed, or will be next, and the highest there is.
    cohort: u32,
    cohorts: u32,
    clocks: BTreeMap<TargetId, Clock>,
    /// Targets that come and go, of which none has a clock.
    passing: Passing,
    /// The time after the present window, or before and after the next one.
    plan: Plan,
    /// How long the next window is to be open, and how long probes were in place for the last.
    window: Duration,
    in_place: Duration,
}

impl WindowSchedule {
    /// No windows yet. Cohorts are numbered from 1 to `cohorts`; moments are drawn from `seed`.
    pub(super) fn new(budget: Budget, trap: TrapCost, cohorts: u32, seed: u64) -> Self {
        Self {
            budget,
            trap,
            state: State::Over,
            random: fastrand::Rng::with_seed(seed),
            begun: Duration::ZERO,
            windows: 0,
            cohort: 0,
            cohorts: cohorts.max(1),
            clocks: BTreeMap::new(),
            passing: Passing::default(),
            plan: FIRST,
            window: WINDOW,
            in_place: WINDOW * 2,
        }
    }

    /// Whether the next step opens a window.
    pub(super) fn opens_window(&self) -> bool {
        matches!(self.state, State::Gap { .. })
    }

    /// How many windows were judged.
    pub(super) fn count(&self) -> u32 {
        self.windows
    }

    /// See [`super::tiers::Governor::unjudged_since`].
    pub(super) fn unjudged_since(&self) -> Option<Duration> {
        (!matches!(self.state, State::Over)).then_some(self.begun)
    }

    /// Every target of which anything is known.
    #[cfg(test)]
    pub(super) fn known_targets(&self) -> Vec<TargetId> {
        let read: Vec<&Metering> = match &self.state {
            State::Over | State::Settling { .. } => Vec::new(),
            State::Gap { begun, .. } => vec![begun],
            State::Following(following) => {
                vec![&following.begun, &following.closed.before, &following.closed.after]
            }
        };
        let read = read.into_iter().flat_map(|metering| metering.targets.keys().copied());
        read.chain(self.clocks.keys().copied()).collect()
    }

    /// Windows begin, or begin again, of targets of this load.
    pub(super) fn begin(&mut self, now: Duration, load: Option<&Load>) -> Phase {
        self.plan = load.map_or(FIRST, |load| self.draw(load));
        self.begun = now;
        self.state = State::Settling { until: now.saturating_add(self.plan.follow.min(LONGEST_SETTLING)) };
        self.next_cohort()
    }

    /// There are no more windows. (The last is judged.)
    pub(super) fn stop(&mut self) {
        self.state = State::Over;
    }

    /// When there is something to be done.
    pub(super) fn deadline(&self, now: Duration) -> Duration {
        let check = now.saturating_add(CHECK);
        match &self.state {
            State::Over => check,
            State::Settling { until } | State::Gap { until, .. } => *until,
            State::Following(following) => {
                let next = following.halfway.unwrap_or(following.until);
                // Where frees are followed all the time, because that costs little, they may come to cost more.
                if self.plan.gap.is_zero() { next.min(check) } else { next }
            }
        }
    }

    /// Does what is due.
    pub(super) fn step(&mut self, now: Duration, meter: &mut dyn Meter) -> Decision {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Settling { until } if until <= now => self.settle(now, meter),
            State::Gap { until, begun } if until <= now => {
                let opening = Opening { cohort: self.cohort, open_for: self.window, begun };
                Decision { window: Some(WindowStep::Open(Box::new(opening))), ..Decision::default() }
            }
            State::Following(following) => self.follow(now, following, meter),
            state => {
                self.state = state;
                Decision::default()
            }
        }
    }

    /// A window was opened and closed. From now on its blocks are followed.
    pub(super) fn opened(&mut self, now: Duration, opening: Opening, closed: Closed) {
        self.in_place = closed.in_place;
        let halfway = Some(now.saturating_add(self.plan.follow / 2));
        let until = now.saturating_add(self.plan.follow);
        self.state = State::Following(Box::new(Following { begun: opening.begun, closed, halfway, until }));
    }

    /// Takes in the load of targets that come and go, which is known while all of it is recorded.
    pub(super) fn know_passing(&mut self, load: Load) {
        self.passing.know(load);
    }

    /// Only of those that are there it matters what windows have told.
    pub(super) fn forget_ended(&mut self, now: &Metering) {
        self.clocks.retain(|target, _| now.targets.contains_key(target));
    }

    /// The load of a target by itself, or of those that come and go, whichever is more.
    pub(super) fn load(&self, payer: Payer) -> Load {
        let clock = payer.target().and_then(|target| self.clocks.get(&target));
        let own = clock.map(|clock| clock.greatest_load(self.trap)).unwrap_or_default();
        let passing = self.passing.load();
        let share = |load: &Load| load.share(Tier::Exact, self.trap);
        if share(&passing) > share(&own) { passing } else { own }
    }

    /// The next cycle begins, where another has ended.
    pub(super) fn go_on(&mut self, now: Duration, end: CycleEnd) -> Decision {
        let CycleEnd { demand: Demand { payer, .. }, sweeps, ended } = end;
        let clock = payer.target().and_then(|target| self.clocks.get(&target));
        self.window = clock.map_or(WINDOW, |clock| clock.window(self.trap));
        // The next window's length is known, how long its probes take to be put in place only of the last.
        self.in_place = self.in_place.max(self.window);
        self.plan = self.draw(&self.load(payer));
        Decision { phase: self.wait(now, self.plan.gap, ended), sweeps, ..Decision::default() }
    }

    /// Blocks that were recorded for good are freed by now, as far as they do not live for long.
    fn settle(&mut self, now: Duration, meter: &mut dyn Meter) -> Decision {
        // The first comes at a random moment of a cycle.
        let Plan { follow, gap } = self.plan;
        let first = (follow + gap).mul_f64(self.random.f64());
        let phase = self.wait(now, first, meter.read(None));
        Decision { phase, window: Some(WindowStep::Begin), ..Decision::default() }
    }

    /// Leaves the targets alone until the next window.
    fn wait(&mut self, now: Duration, gap: Duration, begun: Metering) -> Option<Phase> {
        self.state = State::Gap { until: now.saturating_add(gap), begun };
        (!self.plan.gap.is_zero()).then_some(Phase::Gap { cohort: self.cohort })
    }

    /// Follows the blocks of a window, until it is judged.
    fn follow(&mut self, now: Duration, mut following: Box<Following>, meter: &mut dyn Meter) -> Decision {
        // Where this is late, the end follows in the next step.
        if following.halfway.take_if(|halfway| *halfway <= now).is_some() {
            self.state = State::Following(following);
            return Decision { window: Some(WindowStep::NoteHalfway), ..Decision::default() };
        }
        let is_over = following.until <= now;
        if !is_over && !self.plan.gap.is_zero() {
            self.state = State::Following(following);
            return Decision::default();
        }
        let metering = meter.read(Some(&following.closed.after));
        if is_over || self.costs_too_much(&following, &metering) {
            return self.judge(following, metering, false);
        }
        self.state = State::Following(following);
        Decision::default()
    }

    /// Whether frees alone, which were to be followed all the time, cost more than the budget.
    fn costs_too_much(&self, following: &Following, now: &Metering) -> bool {
        let demand = following.closed.after.greatest(now, self.trap);
        self.budget.beyond(demand.cost(), demand.cpu, demand.elapsed) > TOO_MUCH
    }

    /// Ends the present window, whose blocks are not followed any more.
    fn judge(&mut self, following: Box<Following>, ended: Metering, is_last: bool) -> Decision {
        self.forget_ended(&ended);
        let phase = Some(self.next_cohort());
        let judging = Judging { following: *following, ended, is_last };
        Decision { phase, window: Some(WindowStep::Judge(Box::new(judging))), ..Decision::default() }
    }

    /// From now on, frees of the last window's blocks are passed over.
    fn next_cohort(&mut self) -> Phase {
        // Never 0, which is none.
        self.cohort = self.cohort % self.cohorts + 1;
        Phase::Following { cohort: self.cohort }
    }

    fn draw(&mut self, load: &Load) -> Plan {
        self.budget.plan(load, self.trap, self.in_place, self.random.f64())
    }

    /// The present window, if its blocks are being followed, as if those of this target were looked at for the last time
    /// now.
    pub(super) fn window(&self, now: Duration, target: (TargetId, Life)) -> Option<Window> {
        let State::Following(following) = &self.state else { return None };
        Some(self.weighed(now, target, following))
    }

    /// How much a window that is judged stands for in a target of this life, where this became of its blocks.
    pub(super) fn weigh(&mut self, judging: &Judging, target: (TargetId, Life), cohort: &Cohort) -> Window {
        let Judging { following, ended, .. } = judging;
        let Closed { before, after, open, .. } = &following.closed;
        let between = |from: &Metering, until: &Metering| from.demand(target.0, until, self.trap);
        let parts = (between(&following.begun, ended), between(before, after), between(after, ended));
        if let (Some(whole), Some(in_place), Some(followed)) = parts {
            self.clocks.entry(target.0).or_default().push(
                Cycle {
                    in_place: in_place.part(),
                    followed: followed.part(),
                    whole: whole.part(),
                    open: *open,
                    ended: whole.counts.window_ends,
                    born: cohort.born[1],
                    survived: cohort.survived[1],
                },
                self.trap,
            );
        }
        self.weighed(ended.at, target, following)
    }

    /// A window as it is now: by the target's clock, or by the one on the wall where the target has none yet. It stands for no more
    /// than the target has lived: most of those that live for milliseconds are in no window, and for one that was there only while it
    /// was open, for no more than itself.
    fn weighed(&self, now: Duration, (target, life): (TargetId, Life), following: &Following) -> Window {
        let Closed { after, opened, .. } = &following.closed;
        let (from, until) = *opened;
        let cycle = life.within(self.begun, now);
        let known = self.clocks.get(&target).and_then(|clock| clock.weight(self.trap));
        let on_the_wall = || {
            let (own, open) = (cycle.as_secs_f64().max(1e-6), life.within(from, until).as_secs_f64().max(1e-6));
            Weight { windows: (own / open).max(1.0), doubt: 0.0, own, work: None }
        };
        let has_all = life.is_within(from, until);
        let Weight { windows, doubt, own, work } = known.filter(|_| !has_all).unwrap_or_else(on_the_wall);
        Window { weight: windows, doubt, followed: now.saturating_sub(after.at), cycle, own, work, has_all }
    }

    /// The window is judged, and its cycle is over.
    pub(super) fn judged(&mut self, now: Duration, judging: Judging) -> CycleEnd {
        let Judging { following: Following { begun, closed, .. }, ended, .. } = judging;
        self.windows = self.windows.saturating_add(1);
        let [whole, open, followed] = [(&begun, &ended), (&closed.before, &closed.after), (&closed.after, &ended)]
            .map(|(from, until)| from.passing(until, self.trap));
        self.passing.estimate((whole.cpu, whole.cost(), whole.elapsed), open.counted(), followed.counted());
        let demand = begun.greatest(&ended, self.trap);
        self.begun = now;
        CycleEnd { demand, sweeps: self.windows.is_multiple_of(SWEEP_EACH), ended }
    }

    /// Counting is over. The present window counts, if its blocks were followed for long enough.
    pub(super) fn end(&mut self, now: Duration, meter: &mut dyn Meter) -> Decision {
        let least = self.plan.follow / 2;
        match std::mem::replace(&mut self.state, State::Over) {
            State::Following(following)
                if self.windows == 0 || now.saturating_sub(following.closed.after.at) >= least =>
            {
                let ended = meter.read(Some(&following.closed.after));
                self.judge(following, ended, true)
            }
            state => {
                self.state = state;
                Decision::default()
            }
        }
    }
}
