//! Estimates of windows of which the truth is known.

use super::*;

const WINDOW: Window = Window {
    weight: 100.0,
    doubt: 0.0,
    followed: Duration::from_millis(400),
    cycle: Duration::from_secs(1),
    own: 1.0,
    work: None,
    has_all: false,
};

fn cohort(born: f64, halfway: f64, survived: f64) -> Cohort {
    Cohort { born: [born * 64.0, born], halfway: [halfway * 64.0, halfway], survived: [survived * 64.0, survived] }
}

#[test]
fn each_window_stands_for_its_cycle() {
    let mut estimate = Estimate::default();
    (0..10).for_each(|index| estimate.add(&WINDOW, &cohort(50.0, 10.0, 10.0), index));
    let (totals, _) = estimate.figures(10, 1.0);
    assert_eq!((totals.alloc_objects, totals.live_objects(), totals.freed_bytes), (50_000, 10_000, 2_560_000));
    let (totals, _) = estimate.figures(10, 1.1);
    assert_eq!(totals.alloc_objects, 55_000);
}

#[test]
fn what_never_dies_is_in_no_doubt_and_what_goes_on_dying_is() {
    let (mut leak, mut fading) = (Estimate::default(), Estimate::default());
    for index in 0..40 {
        let more = f64::from(index % 3);
        leak.add(&WINDOW, &cohort(50.0 + more, 50.0 + more, 50.0 + more), index);
        fading.add(&WINDOW, &cohort(50.0 + more, 40.0, 30.0), index);
    }
    let interval = |estimate: &Estimate| {
        let (totals, uncertainty) = estimate.figures(40, 1.0);
        (totals.live_objects(), Intervals::of(&totals, &uncertainty).live_objects)
    };
    let (live, interval_of_leak) = interval(&leak);
    assert!(interval_of_leak.low as f64 > live as f64 * 0.95, "{live} {interval_of_leak:?}");
    // A quarter of them in a fifth of a second, and not fewer in the second fifth: all will be gone soon.
    let (live, interval_of_fading) = interval(&fading);
    assert!(live < 20_000, "{live}");
    assert!(interval_of_fading.low <= live && interval_of_fading.high > Some(100_000), "{live} {interval_of_fading:?}");
}

#[test]
fn what_lasts_is_told_from_what_goes_on_dying() {
    // A tenth lasts, the rest has a half-life of a tenth of a second.
    let mut estimate = Estimate::default();
    let alive = |seconds: f64| 100.0 + 900.0 * (-seconds / 0.1f64).exp2();
    for index in 0..30 {
        estimate.add(&WINDOW, &cohort(1000.0, alive(0.2), alive(0.4)), index);
    }
    let (totals, uncertainty) = estimate.figures(30, 1.0);
    // Blocks that were born in the last seconds and will die soon are live as well: 90,000 a second for 0.144 s.
    let truth = 30.0 * 100.0 * 100.0 + 90_000.0 * 0.144;
    assert!((totals.live_objects() as f64 / truth - 1.0).abs() < 0.01, "{totals:?} for {truth}");
    let interval = Intervals::of(&totals, &uncertainty).live_objects;
    assert!(interval.high.unwrap() as f64 > 30.0 * 100.0 * alive(0.4) && interval.low < totals.live_objects());
}

#[test]
fn what_few_windows_have_met_is_known_from_below_only() {
    let figures = |met: u32| {
        let mut estimate = Estimate::default();
        for index in 0..200 {
            let born = if index % 5 == 2 && index / 5 < met { 50.0 } else { 0.0 };
            estimate.add(&WINDOW, &cohort(born, born, born), index);
        }
        estimate.figures(200, 1.0)
    };
    for (met, is_known) in [(0, false), (1, false), (19, false), (20, true), (40, true)] {
        let (totals, uncertainty) = figures(met);
        let intervals = Intervals::of(&totals, &uncertainty);
        assert_eq!(intervals.alloc_objects.high.is_some(), is_known, "{met}");
        assert_eq!((intervals.live_bytes.high.is_some(), uncertainty.is_hardly_met()), (is_known, !is_known), "{met}");
        assert!(intervals.alloc_objects.low <= totals.alloc_objects);
    }
    // One window of two hundred: it may have met the only one there was.
    let (totals, uncertainty) = figures(1);
    assert!(Intervals::of(&totals, &uncertainty).alloc_objects.low < totals.alloc_objects / 20);
}

#[test]
fn intervals_of_windows_that_differ_cover_the_truth_as_often_as_they_say() {
    const WINDOWS: u32 = 80;
    // Bursts: the number born in a window is Poisson around a mean that is itself exponential.
    let mut random = fastrand::Rng::with_seed(7);
    let runs = 2000;
    let mut covered = 0;
    for _ in 0..runs {
        let mut estimate = Estimate::default();
        for index in 0..WINDOWS {
            let mean = -(1.0 - random.f64()).ln() * 40.0;
            estimate.add(&WINDOW, &cohort(poisson(mean, &mut random), 0.0, 0.0), index);
        }
        let (totals, uncertainty) = estimate.figures(WINDOWS, 1.0);
        let interval = Intervals::of(&totals, &uncertainty).alloc_objects;
        assert!(interval.high.is_some());
        covered += u32::from(interval.holds(u64::from(WINDOWS) * 40 * 100));
    }
    let coverage = f64::from(covered) / f64::from(runs);
    assert!((0.93..0.975).contains(&coverage), "{coverage}");
}

#[test]
fn no_more_is_live_than_there_is_memory_for_and_nobody_knows_of_which() {
    // One that never dies, and one of which nobody knows how much will last.
    let (mut kept, mut fading) = (Estimate::default(), Estimate::default());
    for index in 0..30 {
        kept.add(&WINDOW, &cohort(50.0, 50.0, 50.0), index);
        fading.add(&WINDOW, &cohort(500.0, 260.0, 250.0), index);
    }
    let sites = [kept, fading].map(|estimate| estimate.figures(30, 1.0));
    let live = |sites: &[(Totals, Uncertainty)]| sites.iter().map(|(totals, _)| totals.live_bytes()).sum::<u64>();
    let before = live(&sites);
    assert_eq!(Fit::of(sites.iter().copied(), before), Fit::LOOSE);
    for most in [before * 9 / 10, before / 2, before / 10, 0] {
        let fit = Fit::of(sites.iter().copied(), most);
        let fitted = sites.map(|(totals, uncertainty)| fit.apply(&totals, &uncertainty));
        assert!(live(&fitted).abs_diff(most) <= most / 100 + 2, "{} of {most}", live(&fitted));
        for ((totals, uncertainty), (now, doubt)) in sites.iter().zip(&fitted) {
            let (was, is) = (Intervals::of(totals, uncertainty), Intervals::of(now, doubt));
            assert_eq!(now.alloc_bytes, totals.alloc_bytes);
            assert!(is.live_bytes.low <= now.live_bytes() && is.live_bytes.high >= Some(was.live_bytes.low), "{is:?}");
            assert!(
                is.live_bytes.high >= Some(totals.live_bytes()) && is.freed_bytes.low <= totals.freed_bytes,
                "{is:?}"
            );
        }
    }
    // Surely live bytes go last.
    let fit = Fit::of(sites.iter().copied(), before * 9 / 10);
    let part = |index: usize| {
        let (totals, uncertainty) = &sites[index];
        fit.apply(totals, uncertainty).0.live_bytes() as f64 / totals.live_bytes() as f64
    };
    assert!(part(0) > 0.99 && part(1) < 0.95, "{} {}", part(0), part(1));
}

#[test]
fn that_a_target_had_less_time_in_some_cycles_is_no_doubt() {
    let mut estimate = Estimate::default();
    for index in 0..10 {
        let own = f64::from(1 + index % 3);
        let window = Window { weight: 100.0 * own, own, ..WINDOW };
        estimate.add(&window, &cohort(50.0, 0.0, 0.0), index);
    }
    let (totals, uncertainty) = estimate.figures(10, 1.0);
    assert_eq!(totals.alloc_objects, 100 * 50 * 19);
    assert!(uncertainty.variances.alloc[1] < 1.0, "{uncertainty:?}");
}

/// By Knuth's method.
fn poisson(mean: f64, random: &mut fastrand::Rng) -> f64 {
    let (limit, mut product, mut count) = ((-mean).exp(), random.f64(), 0.0);
    while product > limit {
        product *= random.f64();
        count += 1.0;
    }
    count
}

#[test]
fn a_few_windows_tell_little_of_how_they_differ() {
    // Student's 97.5 % points: 4.303 with 2 degrees of freedom, 2.228 with 10.
    assert!((wider_by(4.0) * Z - 4.303).abs() < 0.6, "{}", wider_by(4.0) * Z);
    assert!((wider_by(16.0) * Z - 2.228).abs() < 0.02);
}
