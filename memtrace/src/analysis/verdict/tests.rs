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

/// The evidence after `run_s` seconds of these blocks.
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

    fn judged(&self, process: &ProcessContext) -> Judgement {
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
    Seen::of(blocks, run_s).judged(&ProcessContext::default())
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

/// A generator of a program's blocks.
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
fn a_leak_of_a_few_bursts_grows_and_that_of_more_is_a_suspect() {
    // A report every 20 s, of which a hundred blocks stay: two of them have grown old in a minute.
    let reports: Vec<Block> = (0..500).map(|number| block(12.0 + f64::from(number / 100) * 20.0, FOR_EVER)).collect();
    assert_eq!(judged(&reports, 60.0).verdict, Verdict::Growing);
    assert_eq!(judged(&reports, 95.0).verdict, Verdict::LeakSuspect);
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
    let VerdictReason::ComesAndGoes { period_s, .. } = batches.reason else { panic!("{batches:?}") };
    assert!((period_s - 13.0).abs() < 0.5, "{period_s}");
    let nothing = judged(&[block(1.0, 2.0)], 60.0);
    assert_eq!((nothing.verdict, nothing.reason), (Verdict::Stable, VerdictReason::NothingLive));
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
    let with = |resident, resident_growth_bytes_per_s| ProcessContext {
        unmatched_frees_per_s: 20.0,
        resident: Some(resident),
        resident_growth_bytes_per_s,
        growth_bytes_per_s: 20_000.0,
    };
    let replaced = seen.judged(&with(Trend::Stable, 0.0));
    assert_eq!(replaced.verdict, Verdict::Growing, "{replaced:?}");
    assert!(matches!(replaced.reason, VerdictReason::Accumulates { doubt: Doubt::ReplacesOlder, .. }), "{replaced:?}");
    assert_eq!(seen.judged(&with(Trend::Increasing, 20_000.0)).verdict, Verdict::LeakSuspect);
    // It grows by what leaks beside the table.
    let beside = seen.judged(&with(Trend::Increasing, 5_000.0));
    assert_eq!(beside.reason, replaced.reason, "{beside:?}");
}

#[test]
fn what_only_windows_have_seen_is_a_suspect_where_resident_memory_grows_as_well() {
    let mut random = fastrand::Rng::with_seed(1);
    let seen = Seen::of(&births(&mut random, 50.0, 0.0..60.0, |_, _| FOR_EVER), 60.0);
    let judged = |resident| {
        let process = ProcessContext { resident: Some(resident), ..ProcessContext::default() };
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
fn what_has_never_fallen_does_not_go_up_and_down() {
    // Beside an older one, ten small blocks come within the last third of a minute.
    let old = Block { bytes: 900, ..block(1.0, FOR_EVER) };
    let small = (0..10).map(|at| Block { bytes: 50, ..block(45.0 + f64::from(at), FOR_EVER) });
    let judgement = judged(&small.chain([old]).collect::<Vec<_>>(), 60.0);
    assert_eq!(judgement.reason, VerdictReason::HasRisen { from_bytes: 900, to_bytes: 1400 }, "{judgement:?}");
}

#[test]
fn what_few_windows_have_met_is_a_suspect_or_too_early() {
    let hardly = Uncertainty { met: Some([19.4, 30.0]), ..Uncertainty::default() };
    let of = |verdict| of_hardly_met(said(verdict, 0.9, VerdictReason::Unjudged), Some(&hardly));
    for verdict in [Verdict::Growing, Verdict::Plateau, Verdict::Stable] {
        let judgement = of(verdict);
        assert_eq!(judgement, said(Verdict::TooEarly, 0.0, VerdictReason::HardlyMet { times: 19 }));
    }
    assert_eq!(of(Verdict::LeakSuspect).verdict, Verdict::LeakSuspect);
    let well = Uncertainty { met: Some([20.0, 30.0]), ..Uncertainty::default() };
    assert_eq!(
        of_hardly_met(said(Verdict::Plateau, 0.9, VerdictReason::Unjudged), Some(&well)).verdict,
        Verdict::Plateau
    );
    // Samples of every allocation have no windows.
    let sampled = Uncertainty::default();
    assert_eq!(
        of_hardly_met(said(Verdict::Stable, 0.9, VerdictReason::Unjudged), Some(&sampled)).verdict,
        Verdict::Stable
    );
}

#[test]
fn a_suspects_share_is_of_all_that_the_process_grows_by() {
    let leak: Vec<Block> = (0..600).map(|at| block(f64::from(at) / 10.0, FOR_EVER)).collect();
    let share = |growth_bytes_per_s, resident, resident_growth_bytes_per_s| {
        let process = ProcessContext {
            growth_bytes_per_s,
            resident: Some(resident),
            resident_growth_bytes_per_s,
            ..ProcessContext::default()
        };
        let judgement = Seen::of(&leak, 60.0).judged(&process);
        let VerdictReason::StillLive { pace, .. } = &judgement.reason else { panic!("{judgement:?}") };
        pace.of_process.map(|part| (part * 1000.0).round() / 1000.0)
    };
    // It grows by 10 kB a second.
    assert_eq!(share(20_000.0, Trend::Increasing, 15_000.0), Some(0.5));
    assert_eq!(share(15_000.0, Trend::Increasing, 10_000_000.0), Some(0.001), "most of it is no live block");
    assert_eq!(share(20_000.0, Trend::Stable, 10_000_000.0), Some(0.5));
    assert_eq!(share(10_000.0, Trend::Stable, 0.0), None, "all of it");
    assert_eq!(share(0.0, Trend::Stable, 0.0), None);
}

#[test]
fn a_suspect_says_what_lives_and_how_fast_it_grows() {
    let leak: Vec<Block> = (0..600).map(|at| block(f64::from(at) / 10.0, FOR_EVER)).collect();
    let judgement = judged(&leak, 60.0);
    let VerdictReason::StillLive { survivors, pace } = &judgement.reason else { panic!("{judgement:?}") };
    assert_eq!((survivors.youngest_s.round(), survivors.oldest_s.round()), (8.0, 33.0));
    assert_eq!((survivors.live_objects, survivors.older_freed_objects), (survivors.born_objects, 0));
    assert!(survivors.older_objects > 0 && (pace.slope_per_s / 1024.0 - 9.7).abs() < 0.1, "{judgement:?}");
    assert!((0.9..1.0).contains(&judgement.confidence), "{judgement:?}");
}

/// The judgement after a minute on one block that had these sizes from these seconds on, in a process whose resident memory
/// grows so.
fn judged_by_sizes(sizes: &[(u64, u64)], resident: Trend, resident_growth_bytes_per_s: f64) -> Judgement {
    let size_at = |at: u64| sizes.iter().rfind(|(from, _)| *from <= at).map_or(0, |(_, size)| *size);
    let live: Vec<(Duration, u64)> = (0..=30).map(|turn| (Duration::from_secs(turn * 2), size_at(turn * 2))).collect();
    let (all, held) = (sizes.iter().map(|(_, size)| size).sum(), size_at(60));
    let process = ProcessContext {
        resident: Some(resident),
        resident_growth_bytes_per_s,
        growth_bytes_per_s: resident_growth_bytes_per_s,
        ..ProcessContext::default()
    };
    let totals = Totals::new(all, sizes.len() as u64, all - held, sizes.len() as u64 - 1);
    let now = Duration::from_secs(60);
    judge(&Evidence { now, live: &live, aged: &[], totals, live_bytes_low: None, survival: None, process: &process })
}

const DOUBLING: [(u64, u64); 6] = [(1, 65536), (2, 131_072), (4, 262_144), (8, 524_288), (16, 1 << 20), (32, 2 << 20)];

#[test]
fn a_buffer_that_doubles_and_is_filled_evenly_is_a_suspect() {
    let said = judged_by_sizes(&DOUBLING, Trend::Increasing, 32768.0);
    assert_eq!(said.verdict, Verdict::LeakSuspect, "{said:?}");
    let VerdictReason::Stepped { live_objects: 1, steps, pace } = said.reason else { panic!("{said:?}") };
    assert!(steps >= 4 && (pace.slope_per_s - 32768.0).abs() < 1.0, "{pace:?}");
}

#[test]
fn a_buffer_that_was_filled_long_ago_is_none() {
    let said = judged_by_sizes(&DOUBLING[..4], Trend::Increasing, 32768.0);
    assert_ne!(said.verdict, Verdict::LeakSuspect, "{said:?}");
}

#[test]
fn resident_memory_must_bear_it_out() {
    for (resident, growth) in [(Trend::Stable, 32768.0), (Trend::Increasing, 1024.0), (Trend::Increasing, 1_000_000.0)]
    {
        let said = judged_by_sizes(&DOUBLING, resident, growth);
        assert_ne!(said.verdict, Verdict::LeakSuspect, "{resident:?} {growth}: {said:?}");
    }
}

#[test]
fn a_table_that_is_made_at_once_and_enlarged_once_is_none() {
    let said = judged_by_sizes(&[(2, 1 << 20), (30, 2 << 20)], Trend::Increasing, 32768.0);
    assert_ne!(said.verdict, Verdict::LeakSuspect, "{said:?}");
}
