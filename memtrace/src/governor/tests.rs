//! Properties of the governor over load curves, with a simulated clock, meter and engine.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use proptest::{collection::vec, prelude::*, test_runner::RngSeed};

use super::{
    budget::Load,
    decision::{Change, Closed, Decision, WindowStep},
    meter::{Counts, Done, Meter, Metering, Seen},
    simulation::{Curve, Run, Stretch, id, settings},
    tiers::Governor,
};
use crate::model::{
    life::Life, overhead::Hits, sample_gap::SampleGap, stats::windows::Cohort, target_id::BudgetGroup, tier::Tier,
};

/// CPU time is told in ticks: what follows from two readings of it may be off by so much, and more.
pub(super) const COARSE: f64 = 0.01;

/// The CPU time beyond the budget that a burst may cost, in seconds.
pub(super) const TOO_MUCH: f64 = 0.04;

pub(super) fn load(allocs: f64, cpu: f64) -> Load {
    Load { allocs, frees: allocs, cpu, ..Load::default() }
}

/// Loads from next to nothing to a hundred times what any budget allows, of up to four busy threads, that free all that they
/// allocate, or little of it.
pub(super) fn loads() -> impl Strategy<Value = Load> {
    (1.0..7.0f64, 0.01..1.0f64, 0.001..4.0f64).prop_map(|(exponent, freed, cpu)| {
        let allocs = 10f64.powf(exponent);
        Load { allocs, frees: allocs * freed, cpu, ..Load::default() }
    })
}

/// Another load every second or so.
pub(super) fn stretches() -> impl Strategy<Value = Vec<Stretch>> {
    vec((0.2..4.0, loads()), 1..12).prop_map(|stretches| {
        let mut at = 0.0;
        let mut begin = |(seconds, load): (f64, Load)| {
            let stretch = Stretch { at, load };
            at += seconds;
            stretch
        };
        stretches.into_iter().map(&mut begin).collect()
    })
}

/// A configuration of so many cases, the same each time: some of the bounds are those of chance.
pub(super) fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, rng_seed: RngSeed::Fixed(1), failure_persistence: None, ..ProptestConfig::default() }
}

/// The names of the tiers that were taken after the first.
fn tiers(run: &Run) -> Vec<&str> {
    run.log().changes.iter().map(|change| change.to.name()).collect()
}

#[test]
fn a_burst_is_let_go_within_40_ms_of_cpu_time_and_one_check() {
    for cpu in [0.5, 1.0, 4.0] {
        // After five seconds in which nobody is held up, so that checks are as rare as they get.
        let burst = Stretch { at: 5.0, load: load(1e7, cpu) };
        let run = Run::of(&settings(0.1, 1), vec![Curve::of(vec![burst])], 6.0);
        let at = run.log().changes[0].at.as_secs_f64();
        assert_eq!(tiers(&run), ["windowed"]);
        let (cost, _) = run.world.work_at(0, at);
        let (a_check, unused) = (0.2 * cpu, 0.1 * 0.1 * 16.0 * 0.2);
        assert!(cost <= TOO_MUCH + unused + a_check, "{cost} s of {cpu} CPUs at {at} s");
    }
}

#[test]
fn a_target_that_is_busy_at_first_is_let_go_within_50_ms() {
    let run = Run::of(&settings(0.1, 1), vec![Curve::constant(load(1e6, 1.0))], 1.0);
    assert!(run.log().changes[0].at <= Duration::from_millis(50), "{:?}", run.log().changes);
}

#[test]
fn patience_doubles_each_time_that_a_closer_tier_was_taken_too_early() {
    let mut run = Run::begin(&settings(0.1, 1), vec![Curve::constant(Load::default())]);
    let mut waited = Vec::new();
    for _ in 0..7 {
        let changes = run.log().changes.len();
        run.world.curves[0] = Curve::constant(load(1e6, 1.0));
        while run.log().changes.len() == changes {
            run.step();
        }
        let quiet = run.world.now;
        run.world.curves[0] = Curve::constant(Load::default());
        while run.log().changes.len() == changes + 1 {
            run.step();
        }
        waited.push(run.world.now - quiet);
    }
    for (waited, patience) in waited.iter().zip([3.0, 6.0, 12.0, 24.0, 48.0, 60.0, 60.0]) {
        // It is decided at the ends of windows, which come every few seconds.
        assert!((patience..patience + 6.0).contains(waited), "{waited} s instead of {patience}");
    }
}

#[test]
fn a_closer_tier_that_lasted_does_not_make_the_next_wait_longer() {
    let busy = |at| Stretch { at, load: load(1e6, 1.0) };
    let quiet = |at| Stretch { at, load: Load::default() };
    let curve = Curve::of(vec![busy(0.0), quiet(5.0), busy(60.0), quiet(65.0)]);
    let run = Run::of(&settings(0.1, 1), vec![curve], 80.0);
    assert_eq!(tiers(&run), ["windowed", "exact", "windowed", "exact"]);
    assert!(run.log().changes[3].at < Duration::from_secs(65 + 9), "{:?}", run.log().changes);
}

/// The waits that the rule of patience asks for, of a governor that changed so.
pub(super) fn patience_of(changes: &[Change]) -> Vec<(Duration, Duration)> {
    let (mut patience, mut last, mut waits) = (Duration::from_secs(3), None, Vec::new());
    for change in changes {
        let since = last.map(|last| change.at - last);
        if change.to < change.from {
            waits.extend(since.map(|since| (since, patience)));
        } else if since.is_some_and(|since| since < Duration::from_secs(30)) {
            patience = (patience * 2).min(Duration::from_secs(60));
        }
        last = Some(change.at);
    }
    waits
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn no_check_leaves_a_tier_in_force_that_took_40_ms_beyond_the_budget(
        stretches in stretches(), budget in 0.01..0.3, seed: u64,
    ) {
        let mut run = Run::begin(&settings(budget, seed), vec![Curve::of(stretches)]);
        while run.world.now < 30.0 {
            run.step();
            if run.governor().tier() != Tier::Windowed && !run.log().checks.is_empty() {
                let first = run.log().checks[run.log().checks.len().saturating_sub(17)];
                let beyond = run.world.beyond(0, budget, (first, run.world.now));
                prop_assert!(beyond <= TOO_MUCH + COARSE * budget + 1e-4, "{beyond} at {}", run.world.now);
            }
        }
    }

    #[test]
    fn no_decision_flaps(
        curves in vec(stretches(), 1..4), budget in 0.01..0.3, can_skip_returns: bool, seed: u64,
    ) {
        let settings = super::tiers::Settings { can_skip_returns, ..settings(budget, seed) };
        let run = Run::of(&settings, curves.into_iter().map(Curve::of).collect(), 60.0);
        for (waited, patience) in patience_of(&run.log().changes) {
            prop_assert!(waited >= patience, "{waited:?} instead of {patience:?}: {:?}", run.log().changes);
        }
        let chain = run.log().changes.windows(2).all(|pair| pair[0].to == pair[1].from && pair[0].at < pair[1].at);
        prop_assert!(chain && run.log().changes.iter().all(|change| change.from != change.to));
        let least = run.log().changes.iter().map(|change| change.to).max().unwrap_or(Tier::Exact);
        prop_assert_eq!(run.governor().least_exact(), least);
    }

    #[test]
    fn a_load_that_stays_the_same_comes_to_rest_in_one_tier(load in loads(), budget in 0.01..0.3, seed: u64) {
        let run = Run::of(&settings(budget, seed), vec![Curve::constant(load)], 90.0);
        // The first tenth of a second may tell too much.
        let closer = run.log().changes.iter().skip_while(|change| change.to > change.from);
        prop_assert!(closer.clone().all(|change| change.to < change.from), "{:?}", run.log().changes);
    }

    #[test]
    fn the_share_that_is_spent_stays_within_the_budget_over_every_cycle_of_windows(
        loads in vec(loads(), 1..4), budget in 0.01..0.3, seed: u64,
    ) {
        let run = Run::of(&settings(budget, seed), loads.into_iter().map(Curve::constant).collect(), 40.0);
        // The first is planned by what a few milliseconds have told.
        for cycle in run.log().judged.windows(2).skip(1) {
            let beyond = run.world.most_beyond(budget, (cycle[0], cycle[1]));
            prop_assert!(beyond <= 0.0, "{beyond} s in {cycle:?} {:?}", run.log().judged);
        }
    }

    #[test]
    fn no_second_after_the_first_takes_more_than_three_times_the_budget(
        loads in vec(loads(), 1..4), budget in 0.05..0.3, seed: u64,
    ) {
        let run = Run::of(&settings(budget, seed), loads.into_iter().map(Curve::constant).collect(), 30.0);
        let beyond = run.world.most_beyond_in_a_second(3.0 * budget, 1.0);
        prop_assert!(beyond <= COARSE, "{beyond} s, {:?}", run.log().changes);
    }

    #[test]
    fn no_window_opens_before_its_gap_is_over(
        stretches in stretches(), naps in vec((0.0..1.0, 0.0..0.1), 40), seed: u64,
    ) {
        let settings = super::tiers::Settings { closest: Tier::Windowed, ..settings(0.1, seed) };
        let mut run = Run::begin(&settings, vec![Curve::of(stretches)]);
        for (part, late) in naps {
            let due = run.next();
            let opened = run.log().opened.len();
            // Too early: nothing may come of it.
            run.sleep((due - run.world.now) * part);
            run.step_now();
            prop_assert!(run.log().opened.len() == opened || run.world.now >= due);
            run.sleep((due - run.world.now).max(0.0) + late);
            run.step_now();
        }
        prop_assert!(!run.log().opened.is_empty());
    }

    #[test]
    fn ended_targets_leave_no_state(
        lives in vec((0.0..20.0, 0.01..5.0, loads()), 1..20), stays in loads(), seed: u64,
    ) {
        let curve = |(from, lasts, load): (f64, f64, Load)| Curve { lives: (from, from + lasts), ..Curve::constant(load) };
        let curves = [Curve::constant(stays)].into_iter().chain(lives.into_iter().map(curve)).collect();
        let mut run = Run::of(&settings(0.1, seed), curves, 26.0);
        // Until two windows are judged, or as many checks were made as are taken together.
        let (windows, mut checks) = (run.governor().windows(), 0);
        while run.governor().windows() < windows + 2 && checks < 20 {
            run.step();
            checks += u32::from(run.governor().tier() != Tier::Windowed);
        }
        prop_assert_eq!(run.governor().known_targets(), BTreeSet::from([id(0)]));
    }
}

/// A meter that tells anything.
struct AnyMeter {
    meterings: Vec<Metering>,
    next: usize,
}

impl Meter for AnyMeter {
    fn read(&mut self, _: Option<&Metering>) -> Metering {
        self.next += 1;
        self.meterings[self.next % self.meterings.len()].clone()
    }
}

fn counts() -> impl Strategy<Value = Counts> {
    let number = || prop_oneof![0..1000u64, any::<u64>()];
    (number(), number(), number(), number(), number(), number(), number(), number()).prop_map(
        |(allocs, bytes, frees, ends, window_ends, calls, entries, rets)| Counts {
            allocs,
            bytes,
            frees,
            ends,
            window_ends,
            hits: Hits { calls, entries, rets },
        },
    )
}

/// Times that stand still, jump, and go back.
fn times() -> impl Strategy<Value = Duration> {
    prop_oneof![
        Just(Duration::ZERO),
        (0..100_000u64).prop_map(Duration::from_millis),
        any::<u64>().prop_map(Duration::from_nanos),
        any::<u64>().prop_map(Duration::from_secs),
    ]
}

fn meterings() -> impl Strategy<Value = Metering> {
    let seen =
        (counts(), proptest::option::of(times()), times()).prop_map(|(counts, cpu, at)| Seen { counts, cpu, at });
    let done = (counts(), times()).prop_map(|(counts, cpu)| Done { counts, cpu });
    let targets = proptest::collection::btree_map((0..4usize).prop_map(id), seen, 0..4);
    (times(), targets, done, any::<u64>()).prop_map(|(at, targets, done, blocks)| Metering {
        at,
        targets,
        done,
        blocks,
    })
}

fn closest() -> impl Strategy<Value = Tier> {
    prop_oneof![Just(Tier::Exact), Just(Tier::Windowed), Just(Tier::Sampled { sample_bytes: 1024 })]
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn nothing_that_a_clock_or_a_meter_tells_is_a_panic(
        meterings in vec(meterings(), 1..20), times in vec(times(), 1..60), closest in closest(), seed: u64,
    ) {
        let gap = SampleGap::Chosen;
        let mut governor = Governor::new(&super::tiers::Settings { closest, gap, ..settings(0.1, seed) });
        let mut meter = AnyMeter { meterings, next: 0 };
        let mut decision = governor.begin(times[0], &mut meter);
        for now in times {
            while let Some(step) = decision.window.take() {
                match step {
                    WindowStep::Begin | WindowStep::NoteHalfway => {}
                    WindowStep::Open(opening) => {
                        let (before, after) = (meter.read(None), meter.read(None));
                        let closed = Closed { before, after, opened: (now, now), open: now, in_place: now };
                        governor.opened(now, *opening, closed);
                    }
                    WindowStep::Judge(judging) => {
                        let cohort = Cohort { born: [1e12, 1e9], ..Cohort::default() };
                        for target in 0..4 {
                            governor.weigh(&judging, (id(target), Life { began: now, ended: Some(now) }), &cohort);
                        }
                        decision = governor.judged(now, *judging);
                    }
                }
            }
            assert!(governor.deadline(now) <= Duration::MAX);
            let window = governor.window(now, (id(0), Life::since(now)));
            assert!(window.is_none_or(|window| window.weight >= 0.0), "{window:?}");
            decision = governor.step(now, &mut meter);
        }
        governor.end(Duration::MAX, &mut meter);
    }
}

#[test]
fn the_same_seed_leads_to_the_same_decisions() {
    let opened = |seed| Run::of(&settings(0.1, seed), vec![Curve::constant(load(1e6, 1.0))], 30.0).log().opened.clone();
    assert!(opened(1).len() > 5);
    assert_eq!(opened(1), opened(1));
    assert_ne!(opened(1), opened(2));
}

#[test]
fn the_last_window_is_judged_and_nothing_comes_after_it() {
    let mut run = Run::begin(&settings(0.1, 1), vec![Curve::constant(load(1e6, 1.0))]);
    while run.log().opened.is_empty() {
        run.step();
    }
    let now = Duration::from_secs_f64(run.next());
    let mut meter = run.world.meter(BudgetGroup::SHARED);
    let decision = run.governors.get_mut(BudgetGroup::SHARED).unwrap().end(now, &mut meter);
    let Some(WindowStep::Judge(judging)) = decision.window else { panic!("{decision:?}") };
    let judged = run.governors.get_mut(BudgetGroup::SHARED).unwrap().judged(now, *judging);
    let Decision { window: None, phase: None, change: None, .. } = judged else { panic!() };
    assert_eq!(run.governor().windows(), 1);
}

#[test]
fn the_governor_imports_the_model_alone() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/governor");
    for file in fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        if ["simulation.rs", "tests.rs", "tests_apart.rs", "tests_gaps.rs"].iter().any(|tests| path.ends_with(tests)) {
            continue;
        }
        let code = text.split("#[cfg(test)]").next().unwrap();
        let rooms =
            code.split("crate::").skip(1).map(|rest| rest.split(|c: char| !c.is_alphanumeric()).next().unwrap());
        let others: Vec<_> = rooms.filter(|room| *room != "model").collect();
        assert!(others.is_empty(), "{}: {others:?}", path.display());
        for word in ["Instant", "SystemTime", "tokio", "std::fs", "log::", "eprintln", "memtrace_common"] {
            assert!(!code.contains(word), "{}: {word}", path.display());
        }
    }
}
