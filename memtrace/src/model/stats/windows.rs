//! Estimates from windows: short times in which every allocation is recorded, and whose blocks are then followed for a
//! while.
//!
//! A window stands for its cycle: from the end of the one before it to its own. A block that was born in it has a
//! weight: by how much more work the target does in a cycle than in a window (the governor's clock). Windows are clusters:
//! blocks of one come and go together, so what matters is how much windows differ from each other, not how many blocks
//! there were. They are compared by the target's own time: that it had less of it in one cycle than in another is
//! known, and is in the weights (a ratio estimate: Cochran, "Sampling Techniques", 1977, chapter 6). Their variance
//! comes from the difference of each to the next, so that a trend widens it little (von Neumann, "Distribution of the
//! Ratio of the Mean Square Successive Difference to the Variance", Annals of Mathematical Statistics 12, 1941; for
//! systematic samples: Wolter, "Introduction to Variance Estimation", 2007, chapter 8).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::estimate::{Intervals, Pair, Uncertainty, Variances, Z, sum};
use crate::model::totals::Totals;

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
    /// How many objects the target has allocated in this cycle and all before, by its clock; nothing where it has none.
    pub work: Option<f64>,
    /// Whether the program began and ended while it was open: its blocks are all that there ever were.
    pub has_all: bool,
}

/// The fate of a window's blocks, of one site or of a whole process; in bytes and objects.
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
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Series {
    sum: f64,
    /// The rates of the last window and of the one before it.
    last_rates: [f64; 2],
    /// The squared differences of each rate to the last, and to the one before that.
    squared_differences: [f64; 2],
    /// How many differences there are of each kind.
    differences: [u32; 2],
}

/// How much more windows differ from the truth than from each other, as variances, where work is in step with them: by simulation
/// of periods of a quarter of a cycle.
const IN_STEP: f64 = 1.13;

impl Series {
    fn push(&mut self, value: f64, own: f64, before: u32) {
        let rate = value / own;
        self.sum += value;
        // The first windows have nothing before them.
        for lag in (0..2).take(before as usize) {
            self.squared_differences[lag] += (rate - self.last_rates[lag]).powi(2);
            self.differences[lag] += 1;
        }
        self.last_rates = [rate, self.last_rates[0]];
    }

    /// The variance of the sum, of so many windows, whose squared times add up to so much. Wider than it is for a few of
    /// them, since they do not tell it well: by as much as Student's distribution is than the normal one.
    ///
    /// Work whose period is about as long as a cycle makes successive windows alike, or unlike: the greater of the differences
    /// over one window and over two.
    fn variance(&self, windows: u32, squared_own: f64) -> f64 {
        let n = f64::from(windows);
        if windows < 2 {
            return self.sum.powi(2);
        }
        let mean = |lag: usize| self.squared_differences[lag] / f64::from(self.differences[lag].max(1));
        mean(0).max(mean(1)) / 2.0 * squared_own * wider_by(n).powi(2) * IN_STEP
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

/// The sum of all windows so far, of one site or of a whole process.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Estimate {
    alloc: [Series; 2],
    live: [Series; 2],
    freed: [Series; 2],
    /// The live part if blocks went on dying as in the second half of the time they were followed.
    lasting: Pair,
    /// The blocks that died in that half, and those that lived through it times its seconds.
    deaths: Pair,
    exposure: Pair,
    /// The live blocks half-way, with their weight.
    halfway: Pair,
    /// The deaths in the first half and in the second, without weights.
    halves: [Pair; 2],
    /// All cycles together, and how long blocks were followed, in seconds.
    seconds: f64,
    followed: f64,
    /// The sum of the windows' squared figures of allocations, for how many windows have met them.
    squares: Pair,
    /// Bytes and objects of the blocks themselves, without weights: for the mean block's size; the greatest weight.
    born: Pair,
    weight: f64,
    doubt: f64,
    squared_own: f64,
}

impl Estimate {
    /// Takes in what a window has shown that came after so many others. To be called for every window, whether anything was born in
    /// it or not.
    pub fn add(&mut self, window: &Window, cohort: &Cohort, before: u32) {
        let Window { weight, doubt, followed, cycle, own, .. } = *window;
        let (half, seconds) = (followed.as_secs_f64() / 2.0, cycle.as_secs_f64().max(1e-6));
        self.squared_own += own.powi(2);
        self.seconds += seconds;
        self.followed += followed.as_secs_f64();
        for what in 0..2 {
            let (born, survived) = (cohort.born[what], cohort.survived[what]);
            self.alloc[what].push(weight * born, own, before);
            self.live[what].push(weight * survived, own, before);
            self.freed[what].push(weight * (born - survived), own, before);
            self.halfway[what] += weight * cohort.halfway[what];
            self.deaths[what] += weight * (cohort.halfway[what] - survived);
            self.exposure[what] += weight * half * (cohort.halfway[what] + survived) / 2.0;
            // Those of this cycle were born all over it.
            let fading = self.hazard(what) * seconds;
            self.lasting[what] = self.lasting[what] * (-fading).exp() + weight * survived * mean_of_fading(fading);
            self.squares[what] += (weight * born).powi(2);
            self.born[what] += born;
            self.halves[0][what] += born - cohort.halfway[what];
            self.halves[1][what] += cohort.halfway[what] - survived;
        }
        (self.weight, self.doubt) = (self.weight.max(weight), doubt);
    }

    /// The deaths in a second, as a part of the living: of blocks that have outlived the first half of the time in which
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
        // Blocks that live longer than they are followed show few deaths, whose own scatter says little of all there are: the part
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
            met: Some([0, 1].map(|what| self.alloc[what].sum.powi(2) / self.squares[what].max(f64::MIN_POSITIVE))),
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
    /// The fit that takes nothing off.
    pub const LOOSE: Self = Self { off: 0.0, part: 1.0 };

    /// The fit by which the sites' live bytes are no more than `most` together.
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

/// The part that is left, in the mean, of blocks that were born at any time during so many time constants.
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
mod simulation;
#[cfg(test)]
mod tests;
