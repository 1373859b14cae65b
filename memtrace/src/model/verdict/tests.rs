//! Sites that are made up block by block, and what is said of them.

use super::*;
use crate::model::survival::{Amount, Cohort, GENERATIONS};

/// A block that is allocated and, after some seconds, freed.
#[derive(Clone, Copy)]
struct Block {
    born_s: f64,
    lives_s: f64,
    bytes: u64,
}

const FOR_EVER: f64 = f64::INFINITY;

fn block(born_s: f64, lives_s: f64) -> Block {
    Block { born_s, lives_s, bytes: 1000 }
}

/// What memtrace would know after `run_s` seconds of these blocks.
struct Seen {
    now: Duration,
    live: Vec<(Duration, u64)>,
    aged: Vec<(Duration, u64)>,
    totals: Totals,
    survival: Survival,
}

impl Seen {
    fn of(blocks: &[Block], run_s: f64) -> Self {
        let lives_at = |block: &Block, at: f64| block.born_s <= at && at < block.born_s + block.lives_s;
        let bytes = |at: f64, born_until: f64| -> u64 {
            blocks
                .iter()
                .filter(|block| lives_at(block, at) && block.born_s < born_until)
                .map(|block| block.bytes)
                .sum()
        };
        // As histories keep them: every other second of a minute.
        let live = (0..).map(|reading| f64::from(reading) * (run_s / 30.0).max(1.0)).take_while(|at| *at <= run_s);
        let turns = (1..).map(|turn| f64::from(turn) * GENERATION_S).take_while(|at| *at <= run_s);
        let sum = |of: &dyn Fn(&Block) -> bool| -> Amount {
            let chosen = blocks.iter().filter(|block| block.born_s <= run_s && of(block));
            chosen.fold(Amount::default(), |sum, block| sum.plus(Amount { bytes: block.bytes, objects: 1 }))
        };
        let present = (run_s / GENERATION_S).floor();
        let generation = |block: &Block| present - (block.born_s / GENERATION_S).floor();
        let (all, live_now) = (sum(&|_| true), sum(&|block| lives_at(block, run_s)));
        let mut survival = Survival::default();
        for (age, cohort) in survival.generations.iter_mut().enumerate() {
            let is_of = |block: &Block| generation(block) == age as f64;
            *cohort = Cohort { born: sum(&is_of), live: sum(&|block| is_of(block) && lives_at(block, run_s)) };
        }
        let is_older = |block: &Block| generation(block) >= GENERATIONS as f64;
        survival.older_live = sum(&|block| is_older(block) && lives_at(block, run_s));
        survival.older_freed = sum(&|block| {
            let grew_old = block.lives_s > GENERATIONS as f64 * GENERATION_S;
            is_older(block) && grew_old && !lives_at(block, run_s)
        });
        Self {
            now: Duration::from_secs_f64(run_s),
            live: live.map(|at| (Duration::from_secs_f64(at), bytes(at, f64::INFINITY))).collect(),
            aged: turns.map(|at| (Duration::from_secs_f64(at), bytes(at, at - 2.0 * GENERATION_S))).collect(),
            totals: Totals::new(all.bytes, all.objects, all.bytes - live_now.bytes, all.objects - live_now.objects),
            survival,
        }
    }

    fn judged(&self, process: &Surroundings) -> Judgement {
        let Self { now, live, aged, totals, survival } = self;
        judge(&Evidence {
            now: *now,
            live,
            aged,
            totals: *totals,
            live_bytes_low: None,
            survival: Some(survival),
            process,
        })
    }
}

fn judged(blocks: &[Block], run_s: f64) -> Judgement {
    Seen::of(blocks, run_s).judged(&Surroundings::default())
}

/// Births at random, so many a second, each of which lives as long as is said.
fn births(
    random: &mut fastrand::Rng,
    rate: f64,
    seconds: std::ops::Range<f64>,
    lives: impl Fn(&mut fastrand::Rng, f64) -> f64,
) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut at = seconds.start;
    while at < seconds.end {
        let lives_s = lives(random, at);
        blocks.push(block(at, lives_s));
        at -= random.f64().max(1e-9).ln() / rate;
    }
    blocks
}

/// What makes a program's blocks.
type Kind<'a> = &'a dyn Fn(&mut fastrand::Rng) -> Vec<Block>;

/// How often what is made of each of a hundred seeds gets this verdict after a minute.
fn how_often(verdict: Verdict, make: impl Fn(&mut fastrand::Rng) -> Vec<Block>) -> usize {
    (0..100).filter(|seed| judged(&make(&mut fastrand::Rng::with_seed(*seed)), 60.0).verdict == verdict).count()
}

#[test]
fn leaks_of_many_shapes_are_suspects() {
    let steady = |random: &mut fastrand::Rng| births(random, 20.0, 0.0..60.0, |_, _| FOR_EVER);
    let slow = |random: &mut fastrand::Rng| births(random, 1.0, 0.0..60.0, |_, _| FOR_EVER);
    let late = |random: &mut fastrand::Rng| births(random, 20.0, 15.0..60.0, |_, _| FOR_EVER);
    // One in a hundred of what is allocated and freed at once.
    let hidden = |random: &mut fastrand::Rng| {
        births(
            random,
            200.0,
            0.0..60.0,
            |random, _| if random.u32(0..100) == 0 { FOR_EVER } else { random.f64() * 2.0 },
        )
    };
    let bursts = |random: &mut fastrand::Rng| {
        (0..7u32)
            .flat_map(|burst| {
                births(random, 1000.0, f64::from(burst) * 9.0..f64::from(burst) * 9.0 + 0.1, |_, _| FOR_EVER)
            })
            .collect()
    };
    let queue = |random: &mut fastrand::Rng| births(random, 50.0, 0.0..60.0, |_, at| at);
    // Each of its blocks is gone before it has grown old.
    let quick_queue = |random: &mut fastrand::Rng| births(random, 120.0, 0.0..60.0, |_, at| at / 6.0);
    let after_warm_up = |random: &mut fastrand::Rng| {
        let mut blocks = births(random, 500.0, 0.0..5.0, |_, _| FOR_EVER);
        blocks.extend(births(random, 30.0, 5.0..60.0, |_, _| FOR_EVER));
        blocks
    };
    let kinds: [(&str, Kind<'_>); 8] = [
        ("steady", &steady),
        ("slow", &slow),
        ("late", &late),
        ("hidden", &hidden),
        ("bursts", &bursts),
        ("queue", &queue),
        ("quick queue", &quick_queue),
        ("after warm-up", &after_warm_up),
    ];
    for (kind, make) in kinds {
        let found = how_often(Verdict::LeakSuspect, make);
        assert!(found >= 95, "{kind}: {found} of 100");
    }
}

#[test]
fn what_only_looks_like_a_leak_is_no_suspect() {
    let fills = |random: &mut fastrand::Rng| births(random, 30.0, 0.0..35.0, |_, _| FOR_EVER);
    let coupons = |random: &mut fastrand::Rng| {
        let mut blocks = births(random, 50.0, 0.0..60.0, |_, _| FOR_EVER);
        blocks.retain(|block| random.f64() < (-block.born_s / 12.0).exp());
        blocks
    };
    let sessions = |random: &mut fastrand::Rng| births(random, 20.0, 0.0..60.0, |random, _| 10.0 + random.f64() * 20.0);
    let batches = |random: &mut fastrand::Rng| births(random, 40.0, 0.0..60.0, |_, at| 17.0 - at % 17.0);
    // A table that was full before attach, and one that fills and then lets the oldest go.
    let turns_over = |random: &mut fastrand::Rng| births(random, 20.0, 0.0..60.0, |_, _| 38.0);
    let lazy = |random: &mut fastrand::Rng| births(random, 5.0, 0.0..20.0, |_, _| FOR_EVER);
    let once = |random: &mut fastrand::Rng| births(random, 1000.0, 0.0..0.5, |_, _| FOR_EVER);
    let churn = |random: &mut fastrand::Rng| births(random, 300.0, 0.0..60.0, |random, _| random.f64() * 6.0);
    let kinds: [(&str, Kind<'_>); 8] = [
        ("fills", &fills),
        ("coupons", &coupons),
        ("sessions", &sessions),
        ("batches", &batches),
        ("turns over", &turns_over),
        ("lazy", &lazy),
        ("once", &once),
        ("churn", &churn),
    ];
    for (kind, make) in kinds {
        let suspected = how_often(Verdict::LeakSuspect, make);
        assert!(suspected <= 1, "{kind}: {suspected} of 100");
    }
}

#[test]
fn what_fills_is_a_plateau_and_what_comes_and_goes_is_stable() {
    let mut random = fastrand::Rng::with_seed(1);
    let filled = judged(&births(&mut random, 30.0, 0.0..35.0, |_, _| FOR_EVER), 60.0);
    assert_eq!(filled.verdict, Verdict::Plateau, "{filled:?}");
    let batches = judged(&births(&mut random, 40.0, 0.0..60.0, |_, at| 13.0 - at % 13.0), 60.0);
    assert_eq!(batches.verdict, Verdict::Stable, "{batches:?}");
    assert!(batches.reason.contains("every 13 s"), "{}", batches.reason);
    let nothing = judged(&[block(1.0, 2.0)], 60.0);
    assert_eq!((nothing.verdict, nothing.reason.as_str()), (Verdict::Stable, "nothing of it is live"));
}

#[test]
fn before_blocks_can_have_grown_old_it_is_too_early_for_more_than_growth() {
    let mut random = fastrand::Rng::with_seed(1);
    let leak = births(&mut random, 50.0, 0.0..60.0, |_, _| FOR_EVER);
    assert_eq!(judged(&leak, 3.0).verdict, Verdict::TooEarly);
    assert_eq!(judged(&leak, 12.0).verdict, Verdict::Growing);
    assert_eq!(judged(&[block(1.0, FOR_EVER)], 12.0).verdict, Verdict::TooEarly);
}

#[test]
fn a_block_that_is_enlarged_for_ever_is_a_suspect() {
    // Moved twice a second, each time a little larger.
    let moved: Vec<Block> = (0..120u32)
        .map(|step| Block { born_s: f64::from(step) / 2.0, lives_s: 0.5, bytes: u64::from(step + 1) * 1000 })
        .collect();
    let judgement = judged(&moved, 59.9);
    assert_eq!(judgement.verdict, Verdict::LeakSuspect, "{judgement:?}");
    // One that doubles does so more and more seldom.
    let doubled: Vec<Block> = (0..6)
        .map(|power| Block { born_s: 2f64.powi(power) - 1.0, lives_s: 2f64.powi(power), bytes: 1000 << power })
        .collect();
    assert_ne!(judged(&doubled, 60.0).verdict, Verdict::LeakSuspect);
}

#[test]
fn a_table_from_before_attach_that_turns_over_is_no_suspect_unless_memory_grows() {
    let mut random = fastrand::Rng::with_seed(1);
    let seen = Seen::of(&births(&mut random, 20.0, 0.0..60.0, |_, _| FOR_EVER), 60.0);
    let with = |resident| Surroundings {
        unmatched_frees_per_s: 20.0,
        resident: Some(resident),
        growth_bytes_per_s: 20_000.0,
        ..Surroundings::default()
    };
    let replaced = seen.judged(&with(Trend::Stable));
    assert_eq!(replaced.verdict, Verdict::Growing, "{replaced:?}");
    assert!(replaced.reason.contains("before attach"), "{}", replaced.reason);
    assert_eq!(seen.judged(&with(Trend::Increasing)).verdict, Verdict::LeakSuspect);
}

#[test]
fn what_only_windows_have_seen_is_a_suspect_where_resident_memory_grows_as_well() {
    let mut random = fastrand::Rng::with_seed(1);
    let seen = Seen::of(&births(&mut random, 50.0, 0.0..60.0, |_, _| FOR_EVER), 60.0);
    let judged = |resident| {
        let process = Surroundings { resident: Some(resident), ..Surroundings::default() };
        let Seen { now, live, totals, .. } = &seen;
        let live_bytes_low = Some(totals.live_bytes() / 2);
        judge(&Evidence {
            now: *now,
            live,
            aged: &[],
            totals: *totals,
            live_bytes_low,
            survival: None,
            process: &process,
        })
        .verdict
    };
    assert_eq!(judged(Trend::Stable), Verdict::Growing);
    assert_eq!(judged(Trend::Increasing), Verdict::LeakSuspect);
}

#[test]
fn a_suspect_says_what_lives_and_how_fast_it_grows() {
    let leak: Vec<Block> = (0..600).map(|at| block(f64::from(at) / 10.0, FOR_EVER)).collect();
    let judgement = judged(&leak, 60.0);
    assert!(
        judgement.reason.contains("blocks allocated 8 to 33 s ago are still live, and all"),
        "{}",
        judgement.reason
    );
    assert!(judgement.reason.contains("+9.7"), "{}", judgement.reason);
    assert!((0.9..1.0).contains(&judgement.confidence), "{judgement:?}");
}
