//! Windows over simulated work that comes in bursts: whether intervals hold the truth as often as they say.

use super::*;

/// Work that is done in one part of each period.
struct Bursts {
    /// The part of the time in which there is work.
    duty: f64,
    period_s: f64,
    /// When the first period began, before the run.
    phase_s: f64,
    /// Allocations in a second of work, of which each fiftieth is kept.
    rate: f64,
}

const KEPT: f64 = 0.02;
const OPEN_S: f64 = 0.005;
const FOLLOWED_S: f64 = 0.1;
/// The mean time from window to window, and the range of it.
const CYCLE_S: f64 = 2.0;
const SPREAD: (f64, f64) = (0.4, 1.6);

impl Bursts {
    /// The seconds of work from the beginning of the run until `at`.
    fn work_until(&self, at: f64) -> f64 {
        let total = |at: f64| {
            let periods = (at / self.period_s).floor();
            let in_period = at - periods * self.period_s;
            periods * self.period_s * self.duty + in_period.min(self.period_s * self.duty)
        };
        total(at + self.phase_s) - total(self.phase_s)
    }

    fn work(&self, from: f64, until: f64) -> f64 {
        self.work_until(until) - self.work_until(from)
    }
}

/// A run of windows: the true number of allocations and of kept blocks, with the figures.
fn run(bursts: &Bursts, seconds: f64, random: &mut fastrand::Rng) -> ([u64; 2], Totals, Uncertainty) {
    let mut estimate = Estimate::default();
    let (mut begun, mut windows) = (0.0, 0);
    loop {
        let cycle = CYCLE_S * (SPREAD.0 + (SPREAD.1 - SPREAD.0) * random.f64());
        if begun + cycle > seconds {
            break;
        }
        // The window lies after a gap; then its blocks are followed for a while.
        let open = begun + cycle - FOLLOWED_S;
        let born = (bursts.work(open, open + OPEN_S) * bursts.rate).round();
        let kept = (0..round(born)).filter(|_| random.f64() < KEPT).count() as f64;
        let window = Window {
            weight: cycle / OPEN_S,
            doubt: 0.0,
            followed: Duration::from_secs_f64(FOLLOWED_S),
            cycle: Duration::from_secs_f64(cycle),
            own: cycle,
            work: None,
            has_all: false,
        };
        let [born, kept] = [born, kept].map(|objects| [objects * 64.0, objects]);
        estimate.add(&window, &Cohort { born, halfway: kept, survived: kept }, windows);
        (begun, windows) = (begun + cycle, windows + 1);
    }
    let truth = bursts.work(0.0, seconds) * bursts.rate;
    let scale = seconds / begun;
    let (totals, uncertainty) = estimate.figures(windows, scale);
    ([round(truth), round(truth * KEPT)], totals, uncertainty)
}

/// The parts of runs whose intervals hold the truth, of allocated and of live objects; and that have upper ends.
fn coverage(duty: f64, period_s: f64, seconds: f64, runs: u32) -> [f64; 3] {
    let mut random = fastrand::Rng::with_seed(11);
    let mut counts = [0u32; 3];
    for _ in 0..runs {
        let bursts = Bursts { duty, period_s, phase_s: random.f64() * period_s, rate: 50_000.0 };
        let ([alloc, live], totals, uncertainty) = run(&bursts, seconds, &mut random);
        let intervals = Intervals::of(&totals, &uncertainty);
        counts[0] += u32::from(intervals.alloc_objects.holds(alloc));
        counts[1] += u32::from(intervals.live_objects.holds(live));
        counts[2] += u32::from(intervals.alloc_objects.high.is_some());
    }
    counts.map(|count| f64::from(count) / f64::from(runs))
}

/// The parts of the time in which there is work, and its periods in seconds.
const DUTIES: [f64; 6] = [1.0, 0.5, 0.2, 0.05, 0.02, 0.005];
const PERIODS_S: [f64; 5] = [0.05, 0.5, 2.0, 10.0, 60.0];

/// Asserts that intervals hold the truth often enough in runs of so many seconds, of each kind of work and of all together.
fn assert_covered(seconds: f64, runs: u32, least_of_each: f64) {
    let kinds: Vec<(f64, f64)> = DUTIES.iter().flat_map(|duty| PERIODS_S.map(|period| (*duty, period))).collect();
    let coverages: Vec<[f64; 3]> = kinds.iter().map(|(duty, period)| coverage(*duty, *period, seconds, runs)).collect();
    for (kind, [alloc, live, _]) in kinds.iter().zip(&coverages) {
        assert!(alloc.min(*live) >= least_of_each, "{kind:?}: {alloc}, {live}");
    }
    for figure in 0..2 {
        let mean = coverages.iter().map(|covered| covered[figure]).sum::<f64>() / coverages.len() as f64;
        assert!(mean >= 0.95, "{mean} of {seconds} s");
    }
    // With work all the time, and enough windows, both ends are known.
    let most_windows = seconds / CYCLE_S;
    assert!(most_windows < 100.0 || coverages[0][2] == 1.0);
}

#[test]
fn intervals_of_bursts_hold_the_truth() {
    assert_covered(60.0, 200, 0.92);
    assert_covered(300.0, 200, 0.92);
}

#[test]
#[ignore = "long: half a minute of simulation"]
fn intervals_of_bursts_hold_the_truth_in_half_an_hour() {
    assert_covered(1800.0, 1000, 0.94);
}
