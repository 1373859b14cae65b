//! Targets, a kernel side and an engine that are simulated, for tests of the governor.
//!
//! Time is continuous: between two steps nothing changes but by the load curves, so that what tracing takes is known at every
//! moment. CPU time is told in ticks of four thousandths of a second, as the kernel reckons it for a thread that runs.

use std::{collections::BTreeMap, time::Duration};

use memtrace_common::ids::ProcessSlot;

use super::{
    budget::{Budget, Load},
    decision::{Change, Closed, Decision, Judging, Opening, Phase, WindowStep},
    groups::Governors,
    meter::{Counts, Done, Meter, Metering, Seen},
    tiers::{Governor, Settings},
};
use crate::model::{
    life::Life,
    overhead::{Hits, Overhead, TrapCost},
    sample_gap::SampleGap,
    stats::windows::Cohort,
    target_id::{BudgetGroup, TargetId},
    tier::Tier,
};

/// The cost of a probe on an ordinary machine.
pub(super) const TRAP: TrapCost = TrapCost { entry_ns: 500.0, call_ns: 1000.0, ret_ns: 2000.0 };

/// How long it takes to put probes in place, in seconds.
const ARMING: f64 = 0.001;

/// The settings of most governors here.
pub(super) fn settings(budget: f64, seed: u64) -> Settings {
    Settings {
        budget: Budget(budget),
        closest: Tier::Exact,
        gap: SampleGap::Bytes(4096),
        blocks: 1 << 20,
        can_skip_returns: true,
        attaches: true,
        trap: TRAP,
        cohorts: 7,
        seed,
    }
}

/// A load from `at` on, in seconds after the start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stretch {
    pub(super) at: f64,
    pub(super) load: Load,
}

/// A target that does nothing until its first stretch.
#[derive(Clone, Debug)]
pub(super) struct Curve {
    pub(super) stretches: Vec<Stretch>,
    /// When it begins and ends, in seconds after the start.
    pub(super) lives: (f64, f64),
}

impl Curve {
    /// A target that is there all the time.
    pub(super) fn of(stretches: Vec<Stretch>) -> Self {
        Self { stretches, lives: (0.0, f64::INFINITY) }
    }

    /// A target whose load stays the same.
    pub(super) fn constant(load: Load) -> Self {
        Self::of(vec![Stretch { at: 0.0, load }])
    }

    fn load(&self, at: f64) -> Load {
        let stretch = self.stretches.iter().rev().find(|stretch| stretch.at <= at);
        stretch.filter(|_| self.lives_at(at)).map(|stretch| stretch.load).unwrap_or_default()
    }

    fn lives_at(&self, at: f64) -> bool {
        self.lives.0 <= at && at < self.lives.1
    }
}

/// The work of a target until now.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Work {
    allocs: f64,
    bytes: f64,
    frees: f64,
    window_frees: f64,
    calls: f64,
    entries: f64,
    /// The time that tracing took, and the CPU time with it, in seconds.
    pub(super) cost: f64,
    pub(super) cpu: f64,
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small positive numbers")]
fn count(number: f64) -> u64 {
    number as u64
}

impl Work {
    /// Does what this load comes to in so many seconds on the clock.
    fn advance(&mut self, load: &Load, phase: Phase, seconds: f64) {
        let (are_all, are_sampled) = match phase {
            Phase::All | Phase::Window { .. } => (1.0, 0.0),
            Phase::Samples { sample_bytes } => {
                let seen = load.sizes.returns(sample_bytes);
                (seen, 1.0 - seen)
            }
            Phase::Following { .. } | Phase::Gap { .. } => (0.0, 0.0),
        };
        let frees = if matches!(phase, Phase::Gap { .. }) { 0.0 } else { load.frees };
        let (calls, entries) = (load.allocs * are_all, load.allocs * are_sampled + frees);
        let cost = Overhead::cost_ns(calls, entries, 0.0, TRAP) / 1e9;
        let own = load.cpu * seconds / (1.0 + cost);
        self.allocs += own * load.allocs * (are_all + are_sampled);
        self.bytes += own * load.allocs * load.sizes.mean_bytes * (are_all + are_sampled);
        self.frees += own * frees;
        if matches!(phase, Phase::Window { .. }) {
            self.window_frees += own * frees;
        }
        self.calls += own * calls;
        self.entries += own * entries;
        self.cost += own * cost;
        self.cpu += load.cpu * seconds;
    }

    fn counts(&self) -> Counts {
        Counts {
            allocs: count(self.allocs),
            bytes: count(self.bytes),
            frees: count(self.frees),
            ends: count(self.frees),
            window_ends: count(self.window_frees),
            hits: Hits { calls: count(self.calls), entries: count(self.entries), rets: 0 },
        }
    }

    /// The CPU time that the kernel tells.
    fn cpu(&self) -> Duration {
        Duration::from_millis(count(self.cpu * 250.0) * 4)
    }
}

/// The targets, and what has been done until now.
pub(super) struct World {
    pub(super) curves: Vec<Curve>,
    /// How many blocks stand in the table.
    pub(super) blocks: u64,
    /// Their groups, and what is recorded of them.
    pub(super) groups: Vec<BudgetGroup>,
    phases: Vec<Phase>,
    pub(super) now: f64,
    pub(super) work: Vec<Work>,
    /// The work of all at every moment at which something could change.
    pub(super) history: Vec<(f64, Vec<Work>)>,
}

impl World {
    fn new(curves: Vec<Curve>, groups: Vec<BudgetGroup>, phase: Phase) -> Self {
        let work = vec![Work::default(); curves.len()];
        let phases = vec![phase; curves.len()];
        Self { groups, phases, blocks: 0, now: 0.0, history: vec![(0.0, work.clone())], work, curves }
    }

    /// The targets of a group.
    fn targets(&self, group: BudgetGroup) -> Vec<usize> {
        (0..self.curves.len()).filter(|target| self.groups[*target] == group).collect()
    }

    /// Records this of a group from now on.
    fn record(&mut self, group: BudgetGroup, phase: Phase) {
        self.targets(group).into_iter().for_each(|target| self.phases[target] = phase);
    }

    /// The meter of a group.
    pub(super) fn meter(&self, group: BudgetGroup) -> WorldMeter<'_> {
        WorldMeter { world: self, group }
    }

    fn advance(&mut self, to: f64) {
        while self.now < to {
            let changes = self.curves.iter().flat_map(|curve| {
                let of_load = curve.stretches.iter().map(|stretch| stretch.at);
                of_load.chain([curve.lives.0, curve.lives.1])
            });
            let next = changes.filter(|at| *at > self.now).fold(to, f64::min);
            for ((curve, phase), work) in self.curves.iter().zip(&self.phases).zip(&mut self.work) {
                work.advance(&curve.load(self.now), *phase, next - self.now);
            }
            self.now = next;
            self.history.push((self.now, self.work.clone()));
        }
    }

    fn time(&self) -> Duration {
        Duration::from_secs_f64(self.now)
    }

    /// The work of a target until then.
    pub(super) fn work_at(&self, target: usize, at: f64) -> (f64, f64) {
        let after = self.history.partition_point(|(then, _)| *then < at).min(self.history.len() - 1);
        let (until, later) = (self.history[after].0, self.history[after].1[target]);
        let (from, earlier) = (self.history[after.max(1) - 1].0, self.history[after.max(1) - 1].1[target]);
        let part = if until > from { ((at - from) / (until - from)).clamp(0.0, 1.0) } else { 1.0 };
        let between = |from: f64, until: f64| from + part * (until - from);
        (between(earlier.cost, later.cost), between(earlier.cpu, later.cpu))
    }

    /// The CPU time, in seconds, that tracing took of a target beyond a budget in that time; a target that hardly runs counts as if
    /// it used a tenth of a CPU.
    pub(super) fn beyond(&self, target: usize, budget: f64, (from, until): (f64, f64)) -> f64 {
        let ((cost_then, cpu_then), (cost, cpu)) = (self.work_at(target, from), self.work_at(target, until));
        cost - cost_then - budget * (cpu - cpu_then).max(0.1 * (until - from))
    }

    /// The same of the target of which it took most beyond it.
    pub(super) fn most_beyond(&self, budget: f64, time: (f64, f64)) -> f64 {
        (0..self.curves.len()).map(|target| self.beyond(target, budget, time)).fold(f64::NEG_INFINITY, f64::max)
    }

    /// The most that tracing took beyond a budget in any second after `from`, of any target.
    pub(super) fn most_beyond_in_a_second(&self, budget: f64, from: f64) -> f64 {
        let moments = self.history.iter().map(|(at, _)| *at);
        let seconds = moments.flat_map(|at| [(at, at + 1.0), (at - 1.0, at)]);
        let seconds = seconds.filter(|second| second.0 >= from && second.1 <= self.now);
        seconds.map(|second| self.most_beyond(budget, second)).fold(f64::NEG_INFINITY, f64::max)
    }
}

/// The name of a target.
pub(super) fn id(target: usize) -> TargetId {
    TargetId { slot: ProcessSlot(u32::try_from(target).unwrap() + 1), serial: target as u64 + 1 }
}

/// The targets of a group, as they are read.
pub(super) struct WorldMeter<'a> {
    world: &'a World,
    group: BudgetGroup,
}

impl Meter for WorldMeter<'_> {
    fn read(&mut self, before: Option<&Metering>) -> Metering {
        let at = self.world.time();
        let mut metering = Metering { at, blocks: self.world.blocks, ..Metering::default() };
        for target in self.world.targets(self.group) {
            let (curve, work) = (&self.world.curves[target], &self.world.work[target]);
            let (counts, cpu) = (work.counts(), work.cpu());
            if curve.lives_at(self.world.now) {
                let known = before.and_then(|before| before.targets.get(&id(target)));
                let known = known.filter(|known| known.counts == counts).copied();
                metering.targets.insert(id(target), known.unwrap_or(Seen { counts, cpu: Some(cpu), at }));
            } else {
                let Done { counts: done, cpu: ran } = metering.done;
                metering.done = Done { counts: done.plus(counts), cpu: ran + cpu };
            }
        }
        metering
    }
}

/// The decisions of a governor. Times are in seconds after the start.
#[derive(Default)]
pub(super) struct Log {
    pub(super) changes: Vec<Change>,
    /// When windows were opened.
    pub(super) opened: Vec<f64>,
    /// When their cycles ended.
    pub(super) judged: Vec<f64>,
    /// When it was checked what tracing takes, in the present tier.
    pub(super) checks: Vec<f64>,
}

/// A run of governors over simulated targets.
pub(super) struct Run {
    pub(super) governors: Governors,
    pub(super) world: World,
    pub(super) logs: BTreeMap<BudgetGroup, Log>,
    born: Vec<f64>,
}

impl Run {
    /// Targets that share probes.
    pub(super) fn begin(settings: &Settings, curves: Vec<Curve>) -> Self {
        let mut governors = Governors::new(settings);
        let groups = curves.iter().map(|_| governors.shared()).collect();
        Self::begin_with(settings, governors, curves, groups)
    }

    /// Targets with probes of their own.
    pub(super) fn begin_apart(settings: &Settings, curves: Vec<Curve>) -> Self {
        let mut governors = Governors::new(settings);
        let groups = curves.iter().map(|_| governors.own()).collect();
        Self::begin_with(settings, governors, curves, groups)
    }

    fn begin_with(settings: &Settings, governors: Governors, curves: Vec<Curve>, groups: Vec<BudgetGroup>) -> Self {
        let born = vec![0.0; curves.len()];
        let world = World::new(curves, groups, Phase::first(settings.closest));
        let mut run = Self { governors, world, logs: BTreeMap::new(), born };
        run.governors.begin();
        run.begin_each();
        run
    }

    fn begin_each(&mut self) {
        for group in self.governors.groups() {
            self.log_of(group).checks.push(0.0);
            let now = self.world.time();
            let mut meter = self.world.meter(group);
            let decision = self.governors.get_mut(group).unwrap().begin(now, &mut meter);
            self.carry_out(group, decision);
        }
    }

    /// A whole run of targets that share probes.
    pub(super) fn of(settings: &Settings, curves: Vec<Curve>, seconds: f64) -> Self {
        Self::begin(settings, curves).until(seconds)
    }

    /// A whole run of targets with probes of their own.
    pub(super) fn apart(settings: &Settings, curves: Vec<Curve>, seconds: f64) -> Self {
        Self::begin_apart(settings, curves).until(seconds)
    }

    /// Goes on until then.
    pub(super) fn until(mut self, seconds: f64) -> Self {
        while self.next() <= seconds {
            self.step();
        }
        self
    }

    /// The only governor.
    pub(super) fn governor(&self) -> &Governor {
        let [group] = self.governors.groups()[..] else { panic!("there are several") };
        self.governors.get(group).unwrap()
    }

    /// The decisions of the only governor.
    pub(super) fn log(&self) -> &Log {
        assert_eq!(self.logs.len(), 1);
        self.logs.values().next().unwrap()
    }

    fn log_of(&mut self, group: BudgetGroup) -> &mut Log {
        self.logs.entry(group).or_default()
    }

    /// When the next step is.
    pub(super) fn next(&self) -> f64 {
        self.governors.deadline().unwrap().as_secs_f64().max(self.world.now)
    }

    /// The step that is next.
    pub(super) fn step(&mut self) {
        self.world.advance(self.next());
        for group in self.governors.due(self.moment()) {
            self.step_of(group);
        }
    }

    /// A step now of every governor, whether it is due or not.
    pub(super) fn step_now(&mut self) {
        self.governors.groups().into_iter().for_each(|group| self.step_of(group));
    }

    /// A moment at or after the deadline: a Duration holds whole nanoseconds.
    pub(super) fn moment(&self) -> Duration {
        self.world.time() + Duration::from_nanos(1)
    }

    fn step_of(&mut self, group: BudgetGroup) {
        let now = self.world.now;
        self.log_of(group).checks.push(now);
        let moment = self.moment();
        let mut meter = self.world.meter(group);
        let decision = self.governors.get_mut(group).unwrap().step(moment, &mut meter);
        self.carry_out(group, decision);
    }

    /// Time passes without a step.
    pub(super) fn sleep(&mut self, seconds: f64) {
        self.world.advance(self.world.now + seconds);
    }

    /// From now on all share probes.
    pub(super) fn share(&mut self) {
        for group in self.governors.groups() {
            let moment = self.moment();
            let mut meter = self.world.meter(group);
            let decision = self.governors.get_mut(group).unwrap().end(moment, &mut meter);
            self.carry_out(group, decision);
        }
        self.governors.share();
        self.world.groups.fill(BudgetGroup::SHARED);
        self.begin_each();
    }

    fn carry_out(&mut self, group: BudgetGroup, decision: Decision) {
        let mut next = Some(decision);
        while let Some(decision) = next.take() {
            if let Some(change) = decision.change {
                let log = self.log_of(group);
                log.changes.push(change);
                log.checks.clear();
            }
            match decision.window {
                None | Some(WindowStep::Begin | WindowStep::NoteHalfway) => {}
                Some(WindowStep::Open(opening)) => self.open(group, *opening),
                Some(WindowStep::Judge(judging)) => {
                    for target in self.world.targets(group) {
                        if self.world.curves[target].lives_at(self.world.now) {
                            self.weigh(group, target, &judging);
                        }
                    }
                    let now = self.world.now;
                    self.log_of(group).judged.push(now);
                    let time = self.world.time();
                    next = Some(self.governors.get_mut(group).unwrap().judged(time, *judging));
                }
            }
            if let Some(phase) = decision.phase {
                self.world.record(group, phase);
            }
        }
        self.governors.carried_out(group, self.world.time());
    }

    fn weigh(&mut self, group: BudgetGroup, target: usize, judging: &Judging) {
        let born = self.born[target];
        let load = self.world.curves[target].load(self.world.now);
        let survived = born * (1.0 - load.frees / load.allocs.max(1.0)).max(0.0);
        let cohort = Cohort { born: [born * 64.0, born], survived: [survived * 64.0, survived], ..Cohort::default() };
        let governor = self.governors.get_mut(group).unwrap();
        let life = Life::since(Duration::from_secs_f64(self.world.curves[target].lives.0));
        let window = governor.weigh(judging, (id(target), life), &cohort);
        assert!(window.weight.is_finite() && window.weight >= 0.0, "{window:?}");
    }

    fn open(&mut self, group: BudgetGroup, opening: Opening) {
        let now = self.world.now;
        self.log_of(group).opened.push(now);
        self.world.record(group, Phase::Following { cohort: opening.cohort });
        let before = self.world.meter(group).read(None);
        self.world.record(group, Phase::Window { cohort: opening.cohort });
        self.world.advance(self.world.now + ARMING);
        let allocs: Vec<f64> = self.world.work.iter().map(|work| work.allocs).collect();
        self.world.advance(self.world.now + opening.open_for.as_secs_f64());
        for target in self.world.targets(group) {
            self.born[target] = self.world.work[target].allocs - allocs[target];
        }
        let after = self.world.meter(group).read(Some(&before));
        self.world.record(group, Phase::Following { cohort: opening.cohort });
        let in_place = opening.open_for + Duration::from_secs_f64(ARMING);
        let time = self.world.time();
        let opened = (time.saturating_sub(opening.open_for), time);
        let closed = Closed { before, after, opened, open: opening.open_for, in_place };
        self.governors.get_mut(group).unwrap().opened(time, opening, closed);
    }
}
