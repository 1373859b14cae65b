//! Estimates from windows: short times in which every allocation is recorded, and whose blocks are then followed for a
//! while.
//!
//! A window stands for its cycle: from the end of the one before it to its own. What was born in it has a weight: by how
//! much more work the target does in a cycle than in a window ([`super::clock`]). Windows are clusters: blocks of one come
//! and go together, so what matters is how much windows differ from each other, not how many blocks there were. They are
//! compared by the target's own time: that it had less of it in one cycle than in another is known, and is in the weights
//! (a ratio estimate: Cochran, "Sampling Techniques", 1977, chapter 6). Of a trend that is the difference of each to the next (von Neumann, "Distribution of the Ratio of the Mean Square Successive Difference to
//! the Variance", Annals of Mathematical Statistics 12, 1941; for systematic samples: Wolter, "Introduction to Variance
//! Estimation", 2007, chapter 8).

use std::time::Duration;

use super::{
    estimate::{Intervals, Pair, Uncertainty, Variances, Z, sum},
    report::Totals,
};

/// A window that has been judged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Window {
    /// How much each of its blocks stands for.
    pub weight: f64,
    /// How wrong the weights of all windows may be together, as a part of them and a standard deviation.
    pub doubt: f64,
    /// How long its blocks were followed.
    pub followed: Duration,
    /// The time that it stands for.
    pub cycle: Duration,
    /// How much of that the target had for itself, in seconds.
    pub own: f64,
}

/// What became of a window's blocks, of one site or of a whole process; in bytes and objects.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cohort {
    /// Allocated in the window.
    pub born: Pair,
    /// Still live half-way through the time they were followed.
    pub halfway: Pair,
    /// Still live when they were looked at for the last time.
    pub survived: Pair,
}

impl Cohort {
    /// Both together.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            born: sum(self.born, other.born),
            halfway: sum(self.halfway, other.halfway),
            survived: sum(self.survived, other.survived),
        }
    }
}

/// A sum of one weighted figure for each window, and the differences of its rates: the target does not
/// get the same done in each cycle.
#[derive(Clone, Copy, Debug, Default)]
struct Series {
    sum: f64,
    last_rate: f64,
    squared_differences: f64,
}

impl Series {
    fn push(&mut self, value: f64, own: f64, is_first: bool) {
        let rate = value / own;
        self.sum += value;
        // Of what appears later, there was nothing in the windows before.
        let difference = if is_first { 0.0 } else { rate - self.last_rate };
        self.squared_differences += difference.powi(2);
        self.last_rate = rate;
    }

    /// The variance of the sum, of so many windows, whose squared times add up to so much. Wider than it is for a few of
    /// them, since they do not tell it well: by as much as Student's distribution is than the normal one.
    fn variance(&self, windows: u32, squared_own: f64) -> f64 {
        let n = f64::from(windows);
        if windows < 2 {
            return self.sum.powi(2);
        }
        self.squared_differences / (2.0 * (n - 1.0)) * squared_own * wider_by(n).powi(2)
    }
}

/// How much further out Student's distribution has its 97.5 % point than the normal distribution (Cornish and Fisher, "Moments
/// and Cumulants in the Specification of Distributions", 1938); successive differences tell as much as two thirds of
/// their number.
fn wider_by(windows: f64) -> f64 {
    let freedom = (windows - 1.0) * 2.0 / 3.0;
    let z2 = Z * Z;
    1.0 + (z2 + 1.0) / (4.0 * freedom) + ((5.0 * z2 + 16.0) * z2 + 3.0) / (96.0 * freedom * freedom)
}

/// What all windows so far tell of one site, or of a whole process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Estimate {
    alloc: [Series; 2],
    live: [Series; 2],
    freed: [Series; 2],
    /// What would be live if blocks went on dying as in the second half of the time they were followed.
    lasting: Pair,
    /// What died in that half, and what lived through it times its seconds.
    deaths: Pair,
    exposure: Pair,
    /// What was live half-way, with its weight.
    halfway: Pair,
    /// What died in the first half and in the second, without weights.
    halves: [Pair; 2],
    /// All cycles together, and how long blocks were followed, in seconds.
    seconds: f64,
    followed: f64,
    /// Bytes and objects of the blocks themselves, without weights: for the mean block's size; the greatest weight.
    born: Pair,
    weight: f64,
    doubt: f64,
    squared_own: f64,
}

impl Estimate {
    /// Takes in what a window has shown, the first of all or another one. To be called for every window, whether anything was
    /// born in it or not.
    pub fn add(&mut self, window: &Window, cohort: &Cohort, is_first: bool) {
        let Window { weight, doubt, followed, cycle, own } = *window;
        let (half, seconds) = (followed.as_secs_f64() / 2.0, cycle.as_secs_f64().max(1e-6));
        self.squared_own += own.powi(2);
        self.seconds += seconds;
        self.followed += followed.as_secs_f64();
        for what in 0..2 {
            let (born, survived) = (cohort.born[what], cohort.survived[what]);
            self.alloc[what].push(weight * born, own, is_first);
            self.live[what].push(weight * survived, own, is_first);
            self.freed[what].push(weight * (born - survived), own, is_first);
            self.halfway[what] += weight * cohort.halfway[what];
            self.deaths[what] += weight * (cohort.halfway[what] - survived);
            self.exposure[what] += weight * half * (cohort.halfway[what] + survived) / 2.0;
            // Those of this cycle were born all over it.
            let fading = self.hazard(what) * seconds;
            self.lasting[what] = self.lasting[what] * (-fading).exp() + weight * survived * mean_of_fading(fading);
            self.born[what] += born;
            self.halves[0][what] += born - cohort.halfway[what];
            self.halves[1][what] += cohort.halfway[what] - survived;
        }
        (self.weight, self.doubt) = (self.weight.max(weight), doubt);
    }

    /// What dies in a second, as a part of what lives: of blocks that have outlived the first half of the time in which
    /// they are followed (occurrence over exposure).
    fn hazard(&self, what: usize) -> f64 {
        if self.exposure[what] > 0.0 { (self.deaths[what] / self.exposure[what]).max(0.0) } else { 0.0 }
    }

    /// Whether fewer blocks die in the second half, by more than chance.
    fn slows_down(&self) -> bool {
        let [first, second] = self.halves.map(|half| half[1]);
        first - second > 2.0 * (first + second).sqrt()
    }

    /// How much is live, of all that was allocated.
    ///
    /// Of a window's blocks, a part dies soon, at a constant rate, and the rest lasts: that is how many were live at the
    /// beginning, half-way and at the end of the time in which they were followed goes on (Aitken, "On Bernoulli's Numerical
    /// Solution of Algebraic Equations", 1926: the limit of a geometric sequence from three of its members).
    fn live(&self, what: usize, windows: u32) -> f64 {
        let (born, halfway, survived) = (self.alloc[what].sum, self.halfway[what], self.live[what].sum);
        let (first, second) = (born - halfway, halfway - survived);
        let followed = self.followed / f64::from(windows.max(1));
        let lasts = if second <= 0.0 {
            survived
        } else if !self.slows_down() {
            0.0
        } else {
            (survived - second * second / (first - second)).max(0.0)
        };
        let dying = born - lasts;
        if dying <= 0.0 {
            return lasts;
        }
        // How many time constants there were in the time followed, and are in all of the time.
        let constants = if lasts > 0.0 { 2.0 * (first / second).ln() } else { (born / survived.max(1e-9)).ln() };
        let all = constants * self.seconds / followed.max(1e-6);
        lasts + dying * mean_of_fading(all)
    }

    /// The figures, where `windows` stand for one part in `scale` of the time, and how sure they are.
    #[must_use]
    pub fn figures(&self, windows: u32, scale: f64) -> (Totals, Uncertainty) {
        let live = [0, 1].map(|what| self.live(what, windows));
        let figure = |what: usize| {
            let alloc = round(self.alloc[what].sum * scale);
            (alloc, alloc - round(live[what] * scale).min(alloc))
        };
        let ((alloc_bytes, freed_bytes), (alloc_objects, freed_objects)) = (figure(0), figure(1));
        let totals = Totals::new(alloc_bytes, alloc_objects, freed_bytes, freed_objects);
        let of_series = |series: &Series| series.variance(windows, self.squared_own) * scale * scale;
        // What lives for longer than it is followed has shown few deaths, whose own scatter says little of all there are: the part
        // of what was allocated that a figure is, is no surer than that.
        let relative = |what: usize| of_series(&self.alloc[what]) / (self.alloc[what].sum * scale).powi(2).max(1.0);
        let variances = |series: &[Series; 2], figures: Pair| {
            [0, 1].map(|what| {
                let square = figures[what].powi(2);
                of_series(&series[what]).max(relative(what) * square) + square * self.doubt.powi(2)
            })
        };
        let alloc = [alloc_bytes as f64, alloc_objects as f64];
        let freed = [freed_bytes as f64, freed_objects as f64];
        let mean_bytes = if self.born[1] > 0.0 { self.born[0] / self.born[1] } else { 0.0 };
        let beside = |what: usize, other: f64| (other - live[what]) * scale;
        let uncertainty = Uncertainty {
            variances: Variances {
                live: variances(&self.live, live.map(|live| live * scale)),
                alloc: variances(&self.alloc, alloc),
                freed: variances(&self.freed, freed),
            },
            alloc_is_exact: false,
            one_more: Some([mean_bytes * self.weight * scale, self.weight * scale]),
            fewer: [0, 1].map(|what| -beside(what, self.lasting[what]).min(0.0)),
            more: [0, 1].map(|what| beside(what, self.live[what].sum).max(0.0)),
        };
        (totals, uncertainty)
    }
}

/// How what windows take for live is brought down to what there can be, since the process has no memory for more: what lives for much
/// longer than a window's blocks are followed, and then dies, would add up for ever.
///
/// First all sites come nearer to their lower bounds, so that what is surely live stays, then all by the same part. At which of them
/// it was too much nobody knows: their upper bounds stay where they were.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fit {
    /// How much of what lies between the figure and its lower bound is taken off, and then what part is left of the rest.
    off: f64,
    part: f64,
}

impl Fit {
    /// Nothing is too much.
    pub const LOOSE: Self = Self { off: 0.0, part: 1.0 };

    /// So that the sites' live bytes are no more than `most` together.
    pub fn of(figures: impl Iterator<Item = (Totals, Uncertainty)> + Clone, most: u64) -> Self {
        let live: u64 = figures.clone().map(|(totals, _)| totals.live_bytes()).sum();
        if live <= most {
            return Self::LOOSE;
        }
        let least: u64 = figures.map(|(totals, uncertainty)| surely_live(&totals, &uncertainty)).sum();
        if least <= most {
            return Self { off: (live - most) as f64 / (live - least) as f64, part: 1.0 };
        }
        Self { off: 1.0, part: most as f64 / least as f64 }
    }

    /// A site's figures, brought down.
    #[must_use]
    pub fn apply(&self, totals: &Totals, uncertainty: &Uncertainty) -> (Totals, Uncertainty) {
        let live = totals.live_bytes();
        if *self == Self::LOOSE || live == 0 {
            return (*totals, *uncertainty);
        }
        let doubtful = (live - surely_live(totals, uncertainty)) as f64;
        let fitted = totals.with_live((live as f64 - self.off * doubtful) * self.part / live as f64);
        let off = [live - fitted.live_bytes(), totals.live_objects() - fitted.live_objects()];
        let more = sum(uncertainty.more, off.map(|off| off as f64));
        (fitted, Uncertainty { more, ..*uncertainty })
    }
}

fn surely_live(totals: &Totals, uncertainty: &Uncertainty) -> u64 {
    Intervals::of(totals, uncertainty).live_bytes.low.min(totals.live_bytes())
}

/// What is left, in the mean, of what was born at any time during so many time constants.
fn mean_of_fading(constants: f64) -> f64 {
    match constants {
        none if none <= 0.0 => 1.0,
        all if all.is_finite() => -(-all).exp_m1() / all,
        _ => 0.0,
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a sum of what is not negative")]
fn round(figure: f64) -> u64 {
    figure.round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Window = Window {
        weight: 100.0,
        doubt: 0.0,
        followed: Duration::from_millis(400),
        cycle: Duration::from_secs(1),
        own: 1.0,
    };

    fn cohort(born: f64, halfway: f64, survived: f64) -> Cohort {
        Cohort { born: [born * 64.0, born], halfway: [halfway * 64.0, halfway], survived: [survived * 64.0, survived] }
    }

    #[test]
    fn each_window_stands_for_its_cycle() {
        let mut estimate = Estimate::default();
        (0..10).for_each(|index| estimate.add(&WINDOW, &cohort(50.0, 10.0, 10.0), index == 0));
        let (totals, _) = estimate.figures(10, 1.0);
        assert_eq!((totals.alloc_objects, totals.live_objects(), totals.freed_bytes), (50_000, 10_000, 2_560_000));
        let (totals, _) = estimate.figures(10, 1.1);
        assert_eq!(totals.alloc_objects, 55_000);
    }

    #[test]
    fn what_never_dies_is_in_no_doubt_and_what_goes_on_dying_is() {
        let (mut leak, mut fading) = (Estimate::default(), Estimate::default());
        for index in 0..20 {
            let more = f64::from(index % 3);
            leak.add(&WINDOW, &cohort(50.0 + more, 50.0 + more, 50.0 + more), index == 0);
            fading.add(&WINDOW, &cohort(50.0 + more, 40.0, 30.0), index == 0);
        }
        let interval = |estimate: &Estimate| {
            let (totals, uncertainty) = estimate.figures(20, 1.0);
            (totals.live_objects(), Intervals::of(&totals, &uncertainty).live_objects)
        };
        let (live, interval_of_leak) = interval(&leak);
        assert!(interval_of_leak.low as f64 > live as f64 * 0.95, "{live} {interval_of_leak:?}");
        // A quarter of them in a fifth of a second, and not fewer in the second fifth: all will be gone soon.
        let (live, interval_of_fading) = interval(&fading);
        assert!(live < 10_000, "{live}");
        assert!(interval_of_fading.low <= live && interval_of_fading.high > 50_000, "{live} {interval_of_fading:?}");
    }

    #[test]
    fn what_lasts_is_told_from_what_goes_on_dying() {
        // A tenth lasts, the rest has a half-life of a tenth of a second.
        let mut estimate = Estimate::default();
        let alive = |seconds: f64| 100.0 + 900.0 * (-seconds / 0.1f64).exp2();
        for index in 0..30 {
            estimate.add(&WINDOW, &cohort(1000.0, alive(0.2), alive(0.4)), index == 0);
        }
        let (totals, uncertainty) = estimate.figures(30, 1.0);
        // What was born in the last seconds and will die soon is live as well: 90,000 a second for 0.144 s.
        let truth = 30.0 * 100.0 * 100.0 + 90_000.0 * 0.144;
        assert!((totals.live_objects() as f64 / truth - 1.0).abs() < 0.01, "{totals:?} for {truth}");
        let interval = Intervals::of(&totals, &uncertainty).live_objects;
        assert!(interval.high as f64 > 30.0 * 100.0 * alive(0.4) && interval.low < totals.live_objects());
    }

    #[test]
    fn intervals_of_windows_that_differ_cover_the_truth_as_often_as_they_say() {
        // Bursts: the number born in a window is Poisson around a mean that is itself exponential.
        let mut random = fastrand::Rng::with_seed(7);
        let runs = 2000;
        let mut covered = 0;
        for _ in 0..runs {
            let mut estimate = Estimate::default();
            for index in 0..25 {
                let mean = -(1.0 - random.f64()).ln() * 40.0;
                estimate.add(&WINDOW, &cohort(poisson(mean, &mut random), 0.0, 0.0), index == 0);
            }
            let (totals, uncertainty) = estimate.figures(25, 1.0);
            let interval = Intervals::of(&totals, &uncertainty).alloc_objects;
            covered += u32::from((interval.low..=interval.high).contains(&(25 * 40 * 100)));
        }
        let coverage = f64::from(covered) / f64::from(runs);
        assert!((0.93..0.975).contains(&coverage), "{coverage}");
    }

    #[test]
    fn no_more_is_live_than_there_is_memory_for_and_nobody_knows_of_which() {
        // One that never dies, and one of which nobody knows how much will last.
        let (mut kept, mut fading) = (Estimate::default(), Estimate::default());
        for index in 0..30 {
            kept.add(&WINDOW, &cohort(50.0, 50.0, 50.0), index == 0);
            fading.add(&WINDOW, &cohort(500.0, 260.0, 250.0), index == 0);
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
                assert!(is.live_bytes.low <= now.live_bytes() && is.live_bytes.high >= was.live_bytes.low, "{is:?}");
                assert!(
                    is.live_bytes.high >= totals.live_bytes() && is.freed_bytes.low <= totals.freed_bytes,
                    "{is:?}"
                );
            }
        }
        // What is surely live goes last.
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
            estimate.add(&window, &cohort(50.0, 0.0, 0.0), index == 0);
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
}
