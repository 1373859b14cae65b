//! Properties of the choice of the gap between samples, over simulated loads.

use std::time::Duration;

use proptest::prelude::*;

use super::{
    budget::Load,
    gaps::Sizes,
    simulation::{Curve, Run, Stretch, TRAP, settings},
    tests::{cases, patience_of, stretches},
    tiers::Settings,
};
use crate::model::{sample_gap::SampleGap, tier::Tier};

const FINEST: Tier = Tier::Sampled { sample_bytes: SampleGap::Chosen.first_bytes() };

/// Samples were asked for, under gaps that are chosen.
fn sampled(budget: f64, seed: u64) -> Settings {
    Settings { closest: FINEST, gap: SampleGap::Chosen, ..settings(budget, seed) }
}

/// So many calls a second that ask for so many bytes each, half of which are freed.
fn load(allocs: f64, mean_bytes: f64) -> Load {
    let sizes = Sizes { mean_bytes, seen: None };
    Load { allocs, frees: allocs / 2.0, cpu: 1.0, rets: 0.0, sizes }
}

/// Where a load that stays the same leads to.
fn settled(settings: &Settings, load: Load) -> Run {
    Run::of(settings, vec![Curve::constant(load)], 20.0)
}

/// The bytes between samples in force.
fn gap(run: &Run) -> u64 {
    run.governor().tier().sample_bytes().unwrap()
}

#[test]
fn a_light_load_is_sampled_as_finely_as_can_be() {
    let run = settled(&sampled(0.1, 1), load(5e3, 8192.0));
    assert_eq!((run.governor().tier(), run.log().changes.len()), (FINEST, 0));
}

#[test]
fn a_gap_becomes_coarser_with_the_load_and_finer_again() {
    let busy = |at| Stretch { at, load: load(8e4, 16_384.0) };
    let quiet = |at| Stretch { at, load: load(1e3, 16_384.0) };
    let curve = Curve::of(vec![quiet(0.0), busy(5.0), quiet(20.0)]);
    let mut run = Run::begin(&sampled(0.1, 1), vec![curve]);
    while run.world.now < 20.0 {
        run.step();
    }
    assert!(gap(&run) >= 64 << 10, "{:?}", run.log().changes);
    assert!(run.log().changes[0].at < Duration::from_secs_f64(6.0), "{:?}", run.log().changes);
    let run = run.until(40.0);
    assert_eq!(run.governor().tier(), FINEST, "{:?}", run.log().changes);
    assert_eq!(run.governor().least_exact(), FINEST, "each sample has its own gap");
}

#[test]
fn where_entries_alone_take_more_than_the_budget_samples_add_little_and_tell_much() {
    let run = settled(&sampled(0.1, 1), load(2e6, 64.0));
    assert!(gap(&run) < 16 << 10, "a coarser gap would save nothing: {:?}", run.log().changes);
    assert!(load(2e6, 64.0).samples_add(gap(&run), TRAP) < 0.1, "{:?}", run.log().changes);
    let run = settled(&sampled(0.1, 1), load(2e6, 1e6));
    assert!(load(2e6, 1e6).samples_add(gap(&run), TRAP) < 0.1, "{:?}", run.log().changes);
}

#[test]
fn a_table_that_fills_up_makes_the_gap_coarser() {
    let mut run = Run::begin(&sampled(0.1, 1), vec![Curve::constant(load(1e3, 100.0))]);
    for (blocks, least) in [(100, FINEST), (600 << 10, Tier::Sampled { sample_bytes: 2048 })] {
        run.world.blocks = blocks;
        (0..5).for_each(|_| run.step());
        assert_eq!(run.governor().tier(), least);
    }
    assert!(run.log().changes[0].is_for_room);
    // There is room for the samples of all that there are, four times over.
    run.world.blocks = 100 << 10;
    let now = run.world.now;
    assert_eq!(run.until(now + 10.0).governor().tier(), FINEST);
}

#[test]
fn a_budget_of_any_tier_takes_samples_under_a_gap_that_fits() {
    let settings = Settings { gap: SampleGap::Chosen, ..settings(0.1, 1) };
    // After windows, exact would take too much of it, and so would the finest samples; coarser ones do not.
    let curve = [(0.0, 1e6), (5.0, 4e4)].map(|(at, allocs)| Stretch { at, load: load(allocs, 16_384.0) });
    let run = Run::of(&settings, vec![Curve::of(curve.to_vec())], 30.0);
    assert!((16 << 10..=512 << 10).contains(&gap(&run)), "{:?}", run.log().changes);
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn the_finest_gap_within_the_budget_is_found(
        exponent in 2.0..6.5f64, size in 3.0..22.0f64, budget in 0.02..0.5, seed: u64,
    ) {
        let load = load(10f64.powf(exponent), size.exp2());
        let run = settled(&sampled(budget, seed), load);
        let (tier, changes) = (run.governor().tier(), &run.log().changes);
        let gap = tier.sample_bytes().unwrap();
        let fits = load.share(tier, TRAP) <= budget * 1.05 || load.samples_add(gap, TRAP) <= 0.1;
        prop_assert!(fits || gap == SampleGap::COARSEST, "{} of {} in {:?}: {:?}", load.share(tier, TRAP), budget, tier, changes);
        if tier != FINEST {
            // Plans use half of a budget, and gaps are a factor of two apart.
            let finer = Tier::Sampled { sample_bytes: gap / 4 };
            let fits = load.share(finer, TRAP) <= budget * 0.4 || load.samples_add(gap / 4, TRAP) <= 0.02;
            prop_assert!(!fits, "{:?} would do: {:?}", finer, changes);
        }
    }

    #[test]
    fn gaps_do_not_flap(stretches in stretches(), size in 3.0..22.0f64, budget in 0.01..0.3, any: bool, seed: u64) {
        let sized = |stretch: Stretch| {
            let sizes = Sizes { mean_bytes: size.exp2(), seen: None };
            Stretch { load: Load { sizes, ..stretch.load }, ..stretch }
        };
        let closest = if any { Tier::Exact } else { FINEST };
        let settings = Settings { closest, ..sampled(budget, seed) };
        let run = Run::of(&settings, vec![Curve::of(stretches.into_iter().map(sized).collect())], 60.0);
        for (waited, patience) in patience_of(&run.log().changes) {
            prop_assert!(waited >= patience, "{:?} instead of {:?}: {:?}", waited, patience, run.log().changes);
        }
        let are_samples = run.log().changes.iter().all(|change| change.to.sample_bytes().is_some());
        prop_assert!(any || are_samples, "{:?}", run.log().changes);
    }
}
