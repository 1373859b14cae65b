//! Properties of governors that serve one process each: as [`super::tests`], and that none changes what is recorded of another.

use std::time::Duration;

use proptest::{collection::vec, prelude::*};

use super::{
    budget::Load,
    simulation::{Curve, Run, Stretch, settings},
    tests::{COARSE, TOO_MUCH, cases, load, loads, patience_of, stretches},
};
use crate::model::{target_id::BudgetGroup, tier::Tier};

/// The longest window, and the time that it takes to put its probes in place, in seconds: so late may a check be.
const LONGEST_WINDOW: f64 = 0.026;

/// The groups of two targets.
const FIRST: BudgetGroup = BudgetGroup(1);
const SECOND: BudgetGroup = BudgetGroup(2);

fn tiers(run: &Run, group: BudgetGroup) -> Vec<&str> {
    run.logs[&group].changes.iter().map(|change| change.to.name()).collect()
}

/// Loads that every budget of at least a tenth affords in tier exact.
fn light_loads() -> impl Strategy<Value = Vec<Stretch>> {
    vec((0.1..2.0, 0.0..1.0e4f64, 0.0..2.0f64), 1..8).prop_map(|stretches| {
        let mut at = 0.0;
        let mut begin = |(seconds, allocs, cpu): (f64, f64, f64)| {
            let stretch = Stretch { at, load: load(allocs, cpu) };
            at += seconds;
            stretch
        };
        stretches.into_iter().map(&mut begin).collect()
    })
}

#[test]
fn a_busy_one_goes_to_windows_while_a_quiet_one_stays_exact() {
    let curves = vec![Curve::constant(load(1e6, 1.0)), Curve::constant(load(1e3, 0.2))];
    let run = Run::apart(&settings(0.1, 1), curves, 20.0);
    assert_eq!((tiers(&run, FIRST), tiers(&run, SECOND)), (vec!["windowed"], vec![]));
    assert_eq!((run.governors.tier(FIRST), run.governors.tier(SECOND)), (Tier::Windowed, Tier::Exact));
    assert_eq!(run.governors.least_exact(), Tier::Windowed);
    assert!(run.governors.windows() > 5);
    assert!(run.governors.unjudged_since(FIRST).is_some() && run.governors.unjudged_since(SECOND).is_none());
}

#[test]
fn a_burst_is_let_go_within_40_ms_one_check_and_a_window_of_another() {
    for cpu in [0.5, 1.0, 4.0] {
        let burst = Stretch { at: 5.0, load: load(1e7, cpu) };
        let curves = vec![Curve::constant(load(1e6, 4.0)), Curve::of(vec![burst])];
        let run = Run::apart(&settings(0.1, 1), curves, 6.0);
        let at = run.logs[&SECOND].changes[0].at.as_secs_f64();
        assert_eq!(tiers(&run, SECOND), ["windowed"]);
        let (cost, _) = run.world.work_at(1, at);
        let (a_check, unused) = ((0.2 + LONGEST_WINDOW) * cpu, 0.1 * 0.1 * 16.0 * 0.2);
        assert!(cost <= TOO_MUCH + unused + a_check, "{cost} s of {cpu} CPUs at {at} s");
    }
}

#[test]
fn patience_of_one_does_not_double_with_that_of_another() {
    let quiet = Curve::of((0..20).map(|_| Stretch { at: 0.0, load: Load::default() }).collect());
    let mut run = Run::begin_apart(&settings(0.1, 1), vec![quiet.clone(), quiet]);
    let mut waited = [Vec::new(), Vec::new()];
    // The first is busy four times, the second once, at last.
    for target in [0, 0, 0, 0, 1] {
        let group = [FIRST, SECOND][target];
        let changes = |run: &Run| run.logs[&group].changes.len();
        let before = changes(&run);
        run.world.curves[target] = Curve::constant(load(1e6, 1.0));
        while changes(&run) == before {
            run.step();
        }
        let quiet = run.world.now;
        run.world.curves[target] = Curve::constant(Load::default());
        while changes(&run) == before + 1 {
            run.step();
        }
        waited[target].push(run.world.now - quiet);
    }
    for (waited, patience) in waited[0].iter().zip([3.0, 6.0, 12.0, 24.0]) {
        assert!((patience..patience + 6.0).contains(waited), "{waited} s instead of {patience}");
    }
    // It was idle for long, so that the first gap is, too. The patience of the first would be 48 s by now.
    assert!((3.0..24.0).contains(&waited[1][0]), "{} s", waited[1][0]);
}

#[test]
fn those_that_come_to_share_probes_go_on_in_the_least_exact_tier_and_are_told_apart_until_then() {
    let curves = vec![Curve::constant(load(1e6, 1.0)), Curve::constant(load(1e3, 0.2))];
    let mut run = Run::begin_apart(&settings(0.1, 1), curves).until(10.0);
    let windows = run.governors.windows();
    run.share();
    assert_eq!(run.governors.groups(), [BudgetGroup::SHARED]);
    assert_eq!((run.governor().tier(), run.governors.tier(SECOND)), (Tier::Windowed, Tier::Windowed));
    assert!(run.governors.windows() >= windows, "none is forgotten");
    let mut run = run.until(20.0);
    assert!(run.governors.windows() > windows && run.governors.unjudged_since(SECOND) > Some(Duration::from_secs(10)));
    // Once neither is busy, all is recorded of both again.
    run.world.curves[0] = Curve::constant(Load::default());
    let run = run.until(40.0);
    assert_eq!(tiers(&run, BudgetGroup::SHARED), ["exact"]);

    let curves = vec![Curve::constant(load(1e3, 0.2)), Curve::constant(load(1e3, 0.2))];
    let mut run = Run::begin_apart(&settings(0.1, 1), curves).until(5.0);
    run.share();
    assert_eq!((run.governor().tier(), run.governors.tier(SECOND)), (Tier::Exact, Tier::Exact));
}

#[test]
fn more_processes_than_there_are_groups_share_one() {
    let count = BudgetGroup::MAX.0 as usize + 3;
    let run = Run::apart(&settings(0.1, 1), vec![Curve::constant(load(1e3, 0.1)); count], 1.0);
    assert_eq!(run.governors.groups().len(), BudgetGroup::MAX.0 as usize + 1);
    assert_eq!(run.world.groups[count - 3..], [BudgetGroup::SHARED; 3]);
}

#[test]
fn one_that_has_gone_is_told_of_and_wakes_nobody() {
    let curves = vec![Curve::constant(load(1e6, 1.0)), Curve::constant(load(1e3, 0.2))];
    let mut run = Run::apart(&settings(0.1, 1), curves, 10.0);
    let windows = run.governors.windows();
    run.governors.leave(FIRST);
    assert_eq!((run.governors.tier(FIRST), run.governors.windows()), (Tier::Windowed, windows));
    assert_eq!((run.governors.least_exact(), run.governors.groups()), (Tier::Windowed, vec![SECOND]));
    run.governors.leave(SECOND);
    assert_eq!((run.governors.deadline(), run.governors.due(Duration::MAX)), (None, vec![]));
}

#[test]
fn checks_of_several_are_made_together() {
    let curves = vec![Curve::constant(load(1e3, 0.2)); 3];
    let mut run = Run::begin_apart(&settings(0.1, 1), curves);
    run.step();
    // One is late by itself.
    run.sleep(0.007);
    run.governors.carried_out(SECOND, Duration::from_secs_f64(run.world.now));
    let run = run.until(5.0);
    let late = |group: BudgetGroup| run.logs[&group].checks.last().copied();
    assert_eq!(late(FIRST), late(SECOND));
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn a_busy_one_never_changes_a_quiet_one(
        quiet in light_loads(), busy in vec(stretches(), 1..4), budget in 0.1..0.3, seed: u64,
    ) {
        let curves = [quiet].into_iter().chain(busy).map(Curve::of).collect();
        let run = Run::apart(&settings(budget, seed), curves, 20.0);
        prop_assert!(run.logs[&FIRST].changes.is_empty(), "{:?}", run.logs[&FIRST].changes);
        prop_assert_eq!(run.governors.tier(FIRST), Tier::Exact);
    }

    #[test]
    fn no_decision_of_any_flaps(curves in vec(stretches(), 2..5), budget in 0.01..0.3, seed: u64) {
        let run = Run::apart(&settings(budget, seed), curves.into_iter().map(Curve::of).collect(), 40.0);
        for (group, log) in &run.logs {
            for (waited, patience) in patience_of(&log.changes) {
                prop_assert!(waited >= patience, "{waited:?} instead of {patience:?}: {:?}", log.changes);
            }
            let least = log.changes.iter().map(|change| change.to).max().unwrap_or(Tier::Exact);
            prop_assert_eq!(run.governors.tier(*group), least);
        }
    }

    #[test]
    fn no_window_of_any_opens_before_its_gap_is_over(
        curves in vec(stretches(), 2..4), naps in vec((0.0..1.0, 0.0..0.1), 60), seed: u64,
    ) {
        let settings = super::tiers::Settings { closest: Tier::Windowed, ..settings(0.1, seed) };
        let mut run = Run::begin_apart(&settings, curves.into_iter().map(Curve::of).collect());
        let opened = |run: &Run| run.logs.iter().map(|(group, log)| (*group, log.opened.len())).collect::<Vec<_>>();
        for (part, late) in naps {
            // Too early for all: nothing may come of it.
            let (due, before) = (run.next(), opened(&run));
            run.sleep((due - run.world.now) * part);
            if run.world.now + 1e-6 < due {
                run.step_now();
                prop_assert_eq!(opened(&run), before);
            }
            run.sleep((run.next() - run.world.now).max(0.0) + late);
            let (expected, before) = (run.governors.due(run.moment()), opened(&run));
            run.step();
            for ((group, before), (_, after)) in before.iter().zip(opened(&run)) {
                prop_assert!(*before == after || expected.contains(group));
            }
        }
        prop_assert!(run.logs.values().all(|log| !log.opened.is_empty()));
    }

    #[test]
    fn the_share_of_each_stays_within_the_budget_over_every_cycle_of_windows(
        loads in vec(loads(), 2..5), budget in 0.02..0.3, seed: u64,
    ) {
        let run = Run::apart(&settings(budget, seed), loads.into_iter().map(Curve::constant).collect(), 30.0);
        for (group, log) in &run.logs {
            // The first is planned by what a few milliseconds have told.
            for cycle in log.judged.windows(2).skip(1) {
                let beyond = run.world.beyond(group.0 as usize - 1, budget, (cycle[0], cycle[1]));
                prop_assert!(beyond <= COARSE * budget, "{beyond} s in {cycle:?} {:?}", log.judged);
            }
        }
    }
}
