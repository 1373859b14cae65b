//! Trends of series that are known: leaks among innocents, with noise, in whole pages, many of each.

use super::*;
use crate::model::memory::{MemoryHistory, Usage};

const KIB: f64 = 1024.0;
const MIB: f64 = 1024.0 * KIB;
const PAGE: f64 = 4096.0;
const SEEDS: u64 = 300;

/// A series of `seconds` polls about a second apart, in whole pages, with noise of `noise` pages either way.
fn series(
    seed: u64,
    seconds: u32,
    noise: f64,
    mut level: impl FnMut(f64, &mut fastrand::Rng) -> f64,
) -> Vec<(Duration, u64)> {
    let mut random = fastrand::Rng::with_seed(seed);
    let base = (2.0 + 298.0 * random.f64().powi(2)) * MIB;
    (0..=seconds)
        .map(|second| {
            // No poll comes to the millisecond.
            let at = f64::from(second) + 0.02 * random.f64();
            let value = base + level(at, &mut random) + (random.f64() * 2.0 - 1.0) * noise * PAGE;
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a memory size in whole pages")]
            let pages = (value / PAGE) as u64;
            (Duration::from_secs_f64(at), pages * 4096)
        })
        .collect()
}

/// The judgement on a history of the series, thinned where it is long.
fn judged(series: &[(Duration, u64)]) -> Judgement {
    let mut history = MemoryHistory::default();
    series.iter().for_each(|(at, rss)| history.push(*at, Usage { anon_bytes: *rss, ..Usage::default() }));
    history.judge()
}

/// How many of all seeds are increasing.
fn increasing(seconds: u32, noise: f64, level: impl Fn(u64, f64, &mut fastrand::Rng) -> f64) -> u64 {
    let is_increasing = |seed: &u64| {
        judged(&series(*seed, seconds, noise, |at, random| level(*seed, at, random))).trend == Trend::Increasing
    };
    (0..SEEDS).filter(is_increasing).count() as u64
}

/// The same figure for a seed each time: from `low` to `high`.
fn drawn(seed: u64, what: u64, low: f64, high: f64) -> f64 {
    let mut random = fastrand::Rng::with_seed(seed * 1000 + what);
    low + (high - low) * random.f64()
}

/// Rises for a part of the period, stays, and falls at once.
fn batch(at: f64, period: f64, rising: f64, height: f64) -> f64 {
    let phase = (at / period).fract();
    height * (phase / rising).min(1.0)
}

#[test]
fn leaks_are_increasing_within_a_minute_and_surely() {
    for rate in [10.0, 100.0, 1000.0] {
        for noise in [0.0, 1.0, 4.0] {
            let (mut found, mut least, mut worst) = (0, 1.0f64, 0.0f64);
            for seed in 0..SEEDS {
                let judgement = judged(&series(seed, 60, noise, |at, _| rate * KIB * at));
                if judgement.trend == Trend::Increasing {
                    found += 1;
                    least = least.min(judgement.confidence);
                    worst = worst.max((judgement.slope_per_s / (rate * KIB) - 1.0).abs());
                }
            }
            println!(
                "{rate} KiB/s, noise {noise} pages: {found} of {SEEDS}, confidence {least:.4}, slope off by {worst:.3}"
            );
            assert!(found >= SEEDS * 99 / 100, "{rate} KiB/s in {noise} pages of noise: {found} of {SEEDS}");
            assert!(least > 0.99 && worst < 0.2, "{least} {worst}");
        }
    }
}

/// How many of all seeds are increasing where nobody looked twice, for up to ten seconds of the minute each time.
fn increasing_with_holes(level: impl Fn(u64, f64, &mut fastrand::Rng) -> f64) -> u64 {
    let is_increasing = |seed: &u64| {
        let holes = [1, 2].map(|which| {
            let start = drawn(*seed, 90 + which, 0.0, 55.0);
            start..start + drawn(*seed, 95 + which, 3.0, 10.0)
        });
        let mut seen = series(*seed, 60, 1.0, |at, random| level(*seed, at, random));
        seen.retain(|(at, _)| !holes.iter().any(|hole| hole.contains(&at.as_secs_f64())));
        judged(&seen).trend == Trend::Increasing
    };
    (0..SEEDS).filter(is_increasing).count() as u64
}

#[test]
fn that_nobody_looked_for_a_while_hides_no_leak_and_makes_none() {
    let leaks = increasing_with_holes(|_, at, _| 100.0 * KIB * at);
    assert!(leaks >= SEEDS * 99 / 100, "{leaks} of {SEEDS}");
    let steps = increasing_with_holes(|seed, at, _| {
        drawn(seed, 0, 0.1, 50.0) * MIB * f64::from(u8::from(at > drawn(seed, 1, 1.0, 59.0)))
    });
    let caches = increasing_with_holes(|seed, at, _| {
        drawn(seed, 0, 0.5, 80.0) * MIB * (at / drawn(seed, 1, 18.0, 32.0)).min(1.0)
    });
    println!("with holes: {leaks} leaks, {steps} steps and {caches} caches of {SEEDS} each");
    assert!(steps * 300 <= SEEDS && caches * 100 <= SEEDS, "{steps} steps, {caches} caches of {SEEDS}");
}

#[test]
fn leaks_in_lumps_are_increasing() {
    // 64 KiB every six seconds or so, which is about 10 KiB a second.
    let lumps = |seed, at: f64, _: &mut fastrand::Rng| ((at + drawn(seed, 0, 0.0, 6.4)) / 6.4).floor() * 64.0 * KIB;
    let found = increasing(60, 1.0, lumps);
    assert!(found >= SEEDS * 95 / 100, "{found} of {SEEDS}");
}

#[test]
fn leaks_after_a_warm_up_or_a_long_idle_time_are_increasing() {
    let after_warm_up = |seed, at: f64, _: &mut fastrand::Rng| {
        100.0 * KIB * at + (drawn(seed, 0, 1.0, 30.0) * MIB) * (at / drawn(seed, 1, 2.0, 20.0)).min(1.0)
    };
    let found = increasing(60, 1.0, after_warm_up);
    assert!(found >= SEEDS * 95 / 100, "after a warm-up: {found} of {SEEDS}");
    let after_idling =
        |seed, at: f64, _: &mut fastrand::Rng| 100.0 * KIB * (at - drawn(seed, 0, 200.0, 440.0)).max(0.0);
    let found = increasing(500, 1.0, after_idling);
    assert!(found >= SEEDS * 98 / 100, "after minutes: {found} of {SEEDS}");
}

#[test]
fn a_leak_after_a_start_is_increasing_within_ten_seconds() {
    // As in the bundled program, which fills a cache in the first half second.
    let leak = |_, at: f64, _: &mut fastrand::Rng| 100.0 * KIB * at + MIB * (at / 0.5).min(1.0);
    let found = increasing(10, 1.0, leak);
    assert!(found >= SEEDS * 95 / 100, "{found} of {SEEDS}");
}

/// Asserts that hardly any seed of an innocent is increasing.
fn assert_innocent(what: &str, level: impl Fn(u64, f64, &mut fastrand::Rng) -> f64) {
    for noise in [0.0, 1.0, 8.0] {
        let alarms = increasing(60, noise, &level);
        println!("{what}, noise {noise} pages: {alarms} false alarms of {SEEDS}");
        assert!(alarms * 300 <= SEEDS, "{what} in {noise} pages of noise: {alarms} of {SEEDS}");
    }
}

#[test]
fn caches_that_have_filled_are_not_increasing() {
    assert_innocent("a cache that fills evenly", |seed, at, _| {
        drawn(seed, 0, 0.5, 80.0) * MIB * (at / drawn(seed, 1, 18.0, 32.0)).min(1.0)
    });
    assert_innocent("a cache that fills more and more slowly", |seed, at, _| {
        drawn(seed, 0, 0.5, 80.0) * MIB * (1.0 - (-at / drawn(seed, 1, 4.0, 10.0)).exp())
    });
    assert_innocent("a cache that begins to fill later", |seed, at, _| {
        let (start, fills) = (drawn(seed, 2, 0.0, 18.0), drawn(seed, 1, 20.0, 30.0));
        drawn(seed, 0, 0.5, 80.0) * MIB * ((at - start) / fills).clamp(0.0, 1.0)
    });
}

#[test]
fn periodic_work_is_not_increasing() {
    assert_innocent("a sawtooth", |seed, at, _| {
        batch(at + drawn(seed, 2, 0.0, 20.0), drawn(seed, 1, 5.0, 20.0), 1.0, drawn(seed, 0, 1.0, 10.0) * MIB)
    });
    assert_innocent("a batch job", |seed, at, _| {
        let rising = drawn(seed, 3, 0.1, 0.9);
        batch(at + drawn(seed, 2, 0.0, 20.0), drawn(seed, 1, 5.0, 20.0), rising, drawn(seed, 0, 1.0, 10.0) * MIB)
    });
    assert_innocent("a wave", |seed, at, _| {
        let turns = at / drawn(seed, 1, 5.0, 20.0) + drawn(seed, 2, 0.0, 1.0);
        drawn(seed, 0, 1.0, 10.0) * MIB * (turns * std::f64::consts::TAU).sin()
    });
}

#[test]
fn slow_periodic_work_is_not_increasing_once_it_has_been_seen_twice() {
    let sawtooth = |seed, at: f64, _: &mut fastrand::Rng| {
        batch(at + drawn(seed, 2, 0.0, 120.0), drawn(seed, 1, 60.0, 120.0), 1.0, drawn(seed, 0, 5.0, 20.0) * MIB)
    };
    let alarms = increasing(300, 1.0, sawtooth);
    assert!(alarms * 100 <= SEEDS, "{alarms} of {SEEDS}");
}

#[test]
fn steps_and_warm_ups_are_not_increasing() {
    assert_innocent("a step", |seed, at, _| {
        drawn(seed, 0, 0.1, 50.0) * MIB * f64::from(u8::from(at > drawn(seed, 1, 1.0, 59.0)))
    });
    assert_innocent("two steps", |seed, at, _| {
        let step = |what| f64::from(u8::from(at > drawn(seed, what, 1.0, 59.0)));
        (drawn(seed, 0, 0.1, 50.0) * step(1) + drawn(seed, 3, 0.1, 50.0) * step(4)) * MIB
    });
    assert_innocent("a warm-up", |seed, at, _| {
        drawn(seed, 0, 0.5, 50.0) * MIB * (at / drawn(seed, 1, 3.0, 30.0)).min(1.0).sqrt()
    });
}

#[test]
fn idling_and_jitter_are_not_increasing() {
    assert_innocent("idling", |_, _, _| 0.0);
    assert_innocent("jitter", |seed, _, random| drawn(seed, 0, 0.01, 5.0) * MIB * random.f64());
    assert_innocent("a few pages more", |seed, at, _| (at / drawn(seed, 0, 6.0, 30.0)).floor() * PAGE);
    assert_innocent("peaks", |seed, _, random| {
        drawn(seed, 0, 1.0, 20.0) * MIB * f64::from(u8::from(random.f64() < 0.05))
    });
}

#[test]
fn wandering_is_seldom_increasing() {
    let mut alarms = 0;
    for seed in 0..SEEDS {
        let mut level = 0.0;
        let step = drawn(seed, 0, 4.0, 200.0) * KIB;
        let wandering = series(seed, 60, 1.0, |_, random| {
            level += (random.f64() - 0.5) * step;
            level
        });
        alarms += u64::from(judged(&wandering).trend == Trend::Increasing);
    }
    println!("wandering: {alarms} of {SEEDS}");
    // It does rise now and then.
    assert!(alarms * 100 <= 3 * SEEDS, "{alarms} of {SEEDS}");
}

#[test]
fn what_stays_is_surely_stable_and_what_shrinks_is_decreasing() {
    let idle = judged(&series(1, 60, 0.0, |_, _| 0.0));
    assert_eq!((idle.trend, idle.confidence), (Trend::Stable, 1.0));
    let quiet = judged(&series(1, 60, 1.0, |_, _| 0.0));
    assert!(quiet.confidence > 0.9, "{quiet:?}");
    let shrinking = judged(&series(1, 60, 1.0, |at, _| 100.0 * MIB - 100.0 * KIB * at));
    assert_eq!(shrinking.trend, Trend::Decreasing);
    assert!((shrinking.slope_per_s / KIB + 100.0).abs() < 5.0, "{shrinking:?}");
}

#[test]
fn too_little_to_tell_is_said() {
    assert_eq!(judge(&[], &[]), Judgement { trend: Trend::Stable, confidence: 0.0, slope_per_s: 0.0 });
    let short = judged(&series(1, 5, 0.0, |at, _| MIB * at));
    assert_eq!((short.trend, short.confidence), (Trend::Stable, 0.0));
    let ten_seconds = judged(&series(1, 10, 0.0, |at, _| MIB * at));
    assert_eq!(ten_seconds.trend, Trend::Increasing);
}
