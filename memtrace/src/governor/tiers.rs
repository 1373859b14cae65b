//! The tier that is in force, and what changes it.
//!
//! While every allocation is recorded, or samples are, it is checked every twentieth of a second whether that costs more
//! than the budget. If so, the next tier takes over; windows are [`super::window_schedule`].

use std::{collections::VecDeque, time::Duration};

use super::{
    budget::{Budget, Load, TOO_MUCH},
    decision::{Change, Closed, Decision, Judging, Opening, Phase},
    gaps::Room,
    meter::{Demand, Meter, Metering},
    window_schedule::WindowSchedule,
};
use crate::model::{
    life::Life,
    overhead::TrapCost,
    sample_gap::SampleGap,
    stats::windows::{Cohort, Window},
    target_id::TargetId,
    tier::Tier,
};

/// How often it is checked what tracing costs, and how many of these times are taken together.
const CHECK: Duration = Duration::from_millis(50);
const CHECKS: usize = 16;

/// The same while nobody is held up at all: a check costs memtrace itself some CPU time.
const CHECK_WHEN_IDLE: Duration = Duration::from_millis(200);

/// At first, whoever is busy already is let go sooner, and checked more often.
const CHECK_AT_FIRST: Duration = Duration::from_millis(10);
const TOO_MUCH_AT_FIRST: Duration = Duration::from_millis(5);
const AT_FIRST: Duration = Duration::from_millis(150);

/// How long a closer tier must have been affordable before it is taken: at first, and at most. It doubles each time that
/// this turns out to have been too early.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(60));

/// A closer tier that had to be given up within this time was too early.
const TOO_EARLY: Duration = Duration::from_secs(30);

/// The settings of a governor.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The part of a target's CPU time that tracing may take.
    pub budget: Budget,
    /// The closest tier that may be taken.
    pub closest: Tier,
    /// The mean gap between samples, where samples are taken.
    pub gap: SampleGap,
    /// How many blocks the table of blocks holds.
    pub blocks: u64,
    /// Whether the return of a call can be left alone: otherwise samples save too little to be taken.
    pub can_skip_returns: bool,
    /// Whether targets were there before.
    pub attaches: bool,
    /// The cost of a probe.
    pub trap: TrapCost,
    /// How many cohorts the kernel side tells apart: they are numbered from 1 to this.
    pub cohorts: u32,
    /// Where the moments of windows are drawn from.
    pub seed: u64,
}

/// Keeps what tracing takes of the targets within a budget.
///
/// Every call is told the time since the start. The engine begins it, lets it [`Governor::step`] at each
/// [`Governor::deadline`], and ends it.
pub struct Governor {
    budget: Budget,
    trap: TrapCost,
    /// The tiers that may be chosen, closest first.
    tiers: Vec<Tier>,
    /// Whether the gap between samples is its choice.
    chooses_gap: bool,
    room: Room,
    attaches: bool,
    tier: Tier,
    /// The least exact tier so far.
    least: Tier,
    readings: VecDeque<Metering>,
    /// Whether nobody was held up of late.
    is_idle: bool,
    /// Since when a closer tier has been affordable.
    calm_since: Option<Duration>,
    patience: Duration,
    /// When the present tier was taken, and whether it is another one than at first.
    changed: Duration,
    has_changed: bool,
    schedule: WindowSchedule,
}

impl Governor {
    /// Counting has not begun yet.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        let Settings { budget, closest, trap, attaches, cohorts, seed, .. } = *settings;
        Self {
            budget,
            trap,
            tiers: tiers(settings),
            chooses_gap: settings.gap == SampleGap::Chosen,
            room: Room::new(settings.blocks),
            attaches,
            tier: closest,
            least: closest,
            readings: VecDeque::new(),
            is_idle: false,
            calm_since: None,
            patience: PATIENCE.0,
            changed: Duration::ZERO,
            has_changed: false,
            schedule: WindowSchedule::new(budget, trap, cohorts, seed),
        }
    }

    /// The governor of all that these have served until now, in the least exact tier that is in force.
    pub(super) fn succeeding<'a>(settings: &Settings, others: impl Iterator<Item = &'a Self>) -> Self {
        let mut next = Self::new(settings);
        for other in others {
            next.tier = next.tier.max(other.tier);
            next.patience = next.patience.max(other.patience);
            next.has_changed |= other.has_changed;
        }
        next.least = next.tier;
        next
    }

    /// Whether it only checks what tracing costs, by a reading: there are no windows.
    pub(super) fn only_checks(&self) -> bool {
        self.tier != Tier::Windowed
    }

    /// Whether its next step opens a window.
    pub(super) fn opens_window(&self) -> bool {
        self.tier == Tier::Windowed && self.schedule.opens_window()
    }

    /// The tier in force.
    #[must_use]
    pub fn tier(&self) -> Tier {
        self.tier
    }

    /// The least exact tier so far: what figures rest on.
    #[must_use]
    pub fn least_exact(&self) -> Tier {
        self.least
    }

    /// The part of a target's CPU time that tracing may take.
    #[must_use]
    pub fn budget(&self) -> Budget {
        self.budget
    }

    /// How many windows were judged.
    #[must_use]
    pub fn windows(&self) -> u32 {
        self.schedule.count()
    }

    /// When the last cycle of windows ended, or windows began: no window stands for the time since. Nothing where there are none
    /// now.
    #[must_use]
    pub fn unjudged_since(&self) -> Option<Duration> {
        self.schedule.unjudged_since()
    }

    /// The present window, where its blocks are being followed, for a target of this life that ends now.
    #[must_use]
    pub fn window(&self, now: Duration, target: (TargetId, Life)) -> Option<Window> {
        self.schedule.window(now, target)
    }

    /// Every target of which anything is known.
    #[cfg(test)]
    pub(super) fn known_targets(&self) -> std::collections::BTreeSet<TargetId> {
        let read = self.readings.iter().flat_map(|reading| reading.targets.keys().copied());
        read.chain(self.schedule.known_targets()).collect()
    }

    /// Counting begins.
    pub fn begin(&mut self, now: Duration, meter: &mut dyn Meter) -> Decision {
        self.changed = now;
        self.readings.push_back(meter.read(None));
        let phase = if self.tier == Tier::Windowed { self.schedule.begin(now, None) } else { Phase::first(self.tier) };
        Decision { phase: Some(phase), ..Decision::default() }
    }

    /// When there is something to be done, asked once the last decision is carried out: that takes time.
    #[must_use]
    pub fn deadline(&self, now: Duration) -> Duration {
        if self.tier == Tier::Windowed {
            return self.schedule.deadline(now);
        }
        let check = match self.is_idle {
            _ if self.is_beginning(now) => CHECK_AT_FIRST,
            true => CHECK_WHEN_IDLE,
            false => CHECK,
        };
        now.saturating_add(check)
    }

    /// Decides what is to be done now; nothing before the deadline.
    pub fn step(&mut self, now: Duration, meter: &mut dyn Meter) -> Decision {
        if self.tier == Tier::Windowed { self.schedule.step(now, meter) } else { self.check(now, meter) }
    }

    /// A window was opened and closed.
    pub fn opened(&mut self, now: Duration, opening: Opening, closed: Closed) {
        self.schedule.opened(now, opening, closed);
    }

    /// How much a window that is judged stands for in a target of this life, where this became of its blocks.
    pub fn weigh(&mut self, judging: &Judging, target: (TargetId, Life), cohort: &Cohort) -> Window {
        self.schedule.weigh(judging, target, cohort)
    }

    /// A window is judged: the next comes, or a closer tier, or nothing where counting is over.
    pub fn judged(&mut self, now: Duration, judging: Judging) -> Decision {
        let is_last = judging.is_last;
        let end = self.schedule.judged(now, judging);
        let load = Load { sizes: end.demand.sizes(), ..self.schedule.load(end.demand.payer) };
        let next = self.closest(&load);
        if is_last {
            Decision { sweeps: end.sweeps, ..Decision::default() }
        } else if self.is_calm(now, next) {
            Decision { sweeps: end.sweeps, ..self.change(now, next, &end.demand, &load) }
        } else {
            self.schedule.go_on(now, end)
        }
    }

    /// Counting is over.
    pub fn end(&mut self, now: Duration, meter: &mut dyn Meter) -> Decision {
        self.schedule.end(now, meter)
    }

    /// Checks what the present tier costs, and changes it where that is too much, or where more can be had.
    fn check(&mut self, now: Duration, meter: &mut dyn Meter) -> Decision {
        let reading = meter.read(self.readings.back());
        let last = self.readings.back();
        self.is_idle = last.is_some_and(|last| last.greatest(&reading, self.trap).cost().is_zero());
        if self.readings.len() > CHECKS {
            self.readings.pop_front();
        }
        let first = self.readings.front().unwrap_or(&reading);
        let (demand, passing) = (first.greatest(&reading, self.trap), first.passing(&reading, self.trap));
        self.schedule.know_passing(passing.load());
        self.schedule.forget_ended(&reading);
        let blocks = reading.blocks;
        self.readings.push_back(reading);
        let load = demand.load_in(self.tier);
        let (next, finest) = (self.closest(&load), self.finest_with_room(blocks));
        let next_with_room = if matches!(next, Tier::Sampled { .. }) { next.max(finest) } else { next };
        if self.is_too_much(now, &demand)
            && let Some(to) = self.less_exact(next)
        {
            self.change(now, to.max(finest), &demand, &load)
        } else if finest > self.tier {
            let change = self.change(now, finest, &demand, &load);
            Decision { change: change.change.map(|change| Change { is_for_room: true, ..change }), ..change }
        } else if self.is_calm(now, next_with_room) {
            self.change(now, next_with_room, &demand, &load)
        } else {
            Decision::default()
        }
    }

    /// The closest tier that fits this load.
    fn closest(&self, load: &Load) -> Tier {
        match self.tiers.last() {
            Some(Tier::Sampled { .. }) => self.budget.finest(load, self.trap, &self.tiers).unwrap_or(self.tier),
            _ => self.budget.closest(load, self.trap, &self.tiers),
        }
    }

    /// The tier to take where the present one is too dear, and `next` is the closest that fits. `None` where samples are all that may
    /// be taken, and coarser ones save nothing.
    fn less_exact(&self, next: Tier) -> Option<Tier> {
        match self.tiers.last() {
            Some(Tier::Sampled { .. }) => Some(next).filter(|next| *next > self.tier),
            _ => {
                let less_exact = self.tiers.iter().find(|tier| **tier > self.tier);
                Some(next.max(less_exact.copied().unwrap_or(Tier::Windowed)))
            }
        }
    }

    /// The tier with the finest samples that the table of blocks has room for, while so many blocks stand there. The closest of all
    /// where that does not matter.
    fn finest_with_room(&mut self, blocks: u64) -> Tier {
        match self.tier {
            Tier::Sampled { sample_bytes } if self.chooses_gap => {
                Tier::Sampled { sample_bytes: self.room.finest(blocks, sample_bytes) }
            }
            _ => Tier::Exact,
        }
    }

    /// Whether so much is too much: at once, or for long.
    fn is_too_much(&self, now: Duration, demand: &Demand) -> bool {
        let too_much = if self.is_beginning(now) { TOO_MUCH_AT_FIRST } else { TOO_MUCH };
        let is_for_long = self.readings.len() > CHECKS;
        self.budget.beyond(demand.cost(), demand.cpu, demand.elapsed) > too_much
            || (is_for_long && demand.share > self.budget.0)
    }

    /// Whether memtrace has just come to targets that were there before.
    fn is_beginning(&self, now: Duration) -> bool {
        self.attaches && !self.has_changed && now.saturating_sub(self.changed) < AT_FIRST
    }

    /// Whether a closer tier has been affordable for so long that it is taken.
    fn is_calm(&mut self, now: Duration, next: Tier) -> bool {
        if next >= self.tier {
            self.calm_since = None;
            return false;
        }
        now.saturating_sub(*self.calm_since.get_or_insert(now)) >= self.patience
    }

    /// Takes another tier, because of what a target has done, of which this is the load.
    fn change(&mut self, now: Duration, to: Tier, demand: &Demand, load: &Load) -> Decision {
        let from = std::mem::replace(&mut self.tier, to);
        let is_less_exact = to > from;
        if is_less_exact && self.has_changed && now.saturating_sub(self.changed) < TOO_EARLY {
            self.patience = (self.patience * 2).min(PATIENCE.1);
        }
        // A gap is no part of a tier: each sample has its own.
        let is_of_samples = |tier| matches!(tier, Tier::Sampled { .. });
        self.least = if is_of_samples(self.least) && is_of_samples(to) { to } else { self.least.max(to) };
        (self.changed, self.has_changed, self.calm_since) = (now, true, None);
        self.readings.clear();
        let share = if is_less_exact { demand.share } else { load.share(to, self.trap) };
        let change = Some(Change { at: now, from, to, share, payer: demand.payer, is_for_room: false });
        let phase = if to == Tier::Windowed {
            self.schedule.begin(now, Some(load))
        } else {
            self.schedule.stop();
            Phase::first(to)
        };
        Decision { change, phase: Some(phase), ..Decision::default() }
    }
}

/// The tiers that may be chosen, closest first. Where samples were asked for, there is no other.
fn tiers(settings: &Settings) -> Vec<Tier> {
    let gaps = match settings.gap {
        SampleGap::Chosen => SampleGap::choices().collect(),
        SampleGap::Bytes(bytes) => vec![bytes],
    };
    let sampled = gaps.into_iter().map(|sample_bytes| Tier::Sampled { sample_bytes });
    if matches!(settings.closest, Tier::Sampled { .. }) {
        return sampled.collect();
    }
    let sampled = sampled.filter(|_| settings.can_skip_returns);
    let tiers = [Tier::Exact].into_iter().chain(sampled).chain([Tier::Windowed]);
    tiers.filter(|tier| *tier >= settings.closest).collect()
}
