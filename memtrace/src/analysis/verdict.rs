//! The verdict on a site, how sure it is, and why.
//!
//! In: its live bytes over time, how many of them were old, and what has become of its blocks by age. Out: a verdict.
//! Knows nothing of BPF, symbols or output.
//!
//! Growth alone does not make a leak: caches fill, pools warm up, batch jobs build up and let go. A leak is a site whose blocks
//! go on accumulating once they have grown old:
//!
//! 1. *Old blocks accumulate.* Judged are the bytes of blocks that are older than eight seconds, read once a generation: what lives
//!    shortly, however much of it, has no part in them. They rise in the sense of [`crate::model::stats::trend`]: by the Mann-Kendall
//!    test, out of their swing, steadily, beyond what was seen before.
//! 2. *They still do.* Births that stay have not stopped for longer than they ever did, and come at half of their
//!    former rate at least: what fills up slows down first, as the coupons of a collector do.
//! 3. *Old blocks do not die.* Of those that have become older than half a minute, few were freed: the hazard of the survival curve
//!    (Kaplan and Meier, "Nonparametric estimation from incomplete observations", JASA 53, 1958) stays at zero. In a table that
//!    is full as many die as become old.
//! 4. *They are not what replaces older ones.* Frees of blocks from before attach say that something turns over which
//!    memtrace has not seen filled. Where as many are freed as the site grows by, resident memory decides: it must grow by half
//!    as fast as the site.
//!
//! Some leaks have no old blocks: one buffer that is appended to for ever, and moved each time; or a queue whose blocks
//! are freed, each a little later than the one before. Their live bytes alone rise, without ever falling. Or they rise by
//! ever larger steps, ever more seldom ([`crate::model::stats::enlargement`]).

use std::time::Duration;

use crate::model::{
    stats::{
        enlargement::filling,
        estimate::Uncertainty,
        rank::{Point, sen_slope},
        trend::{self, Demands, Trend, last_third, rise},
    },
    survival::{GENERATION_S, Survival},
    totals::Totals,
    verdict::{Judgement, LONG_ENOUGH, Verdict},
    verdict_reason::{Doubt, Pace, Survivors, VerdictReason},
};

/// The evidence on a site.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// How long the run has gone on.
    pub now: Duration,
    /// Its live bytes; before the first reading of it there were none.
    pub live: &'a [(Duration, u64)],
    /// The part of them that was older than two generations, once a generation; empty where that is not known.
    pub aged: &'a [(Duration, u64)],
    /// The sums that it has allocated and freed.
    pub totals: Totals,
    /// The least that is live (95 %), where that is an estimate.
    pub live_bytes_low: Option<u64>,
    /// The fate of its blocks; nothing where that is not known.
    pub survival: Option<&'a Survival>,
    /// The behaviour of its process meanwhile.
    pub process: &'a ProcessContext,
}

/// The behaviour of a process while its sites are judged.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessContext {
    /// How fast its live bytes grow, in bytes a second.
    pub growth_bytes_per_s: f64,
    /// Which way its resident memory goes; nothing where that is not known.
    pub resident: Option<Trend>,
    /// How fast it grows at present, in bytes a second.
    pub resident_growth_bytes_per_s: f64,
    /// Blocks from before attach that were freed lately, a second.
    pub unmatched_frees_per_s: f64,
}

impl ProcessContext {
    /// The context of a process whose resident memory is judged so.
    #[must_use]
    pub fn new(growth_bytes_per_s: f64, resident: &trend::Judgement, unmatched_frees_per_s: f64) -> Self {
        Self {
            growth_bytes_per_s,
            resident: (resident.confidence > 0.0).then_some(resident.trend),
            resident_growth_bytes_per_s: resident.slope_per_s,
            unmatched_frees_per_s,
        }
    }
}

/// The demands on a site's bytes until it grows.
const OF_SITE: Demands = Demands {
    // Half a minute of generations: as few as make the rest of this sure, where there are no more.
    points: 7,
    // 70 bytes a second, in the minute that is judged: 6 MB a day.
    growth: 4096.0,
    sure: 0.99,
    sure_of_recent: 0.9,
    swings: 3.0,
    longest_pause: 0.34,
    longest_pause_at_the_end: 0.27,
};
/// Stretches of the readings of old blocks that are judged, in generations: all of them, the last minute, and less.
const STRETCHES: [usize; 4] = [usize::MAX, 16, 12, 9];
/// The part of the former rate at which what accumulates must still come.
const STILL_COMES: f64 = 0.45;
/// The same of a queue that gets longer evenly.
const EVENLY: f64 = 0.7;
/// More than this part of what has become old being freed then, it turns over.
const TURNS_OVER: f64 = 0.5;
/// The part of a site's growth by which resident memory must grow, where blocks from before attach are freed as well.
const BORNE_OUT: f64 = 0.5;
/// The part of an estimate that must be sure.
const SURELY_LIVE: f64 = 0.25;
/// More blocks than this are judged by their ages.
const FEW: u64 = 16;
/// The part of resident memory's growth that the filling of room must explain, and the other way round.
const BEARS_OUT: f64 = 0.5;
/// Steps without which a rise of live bytes alone is no more than growth.
const MIN_STEPS: usize = 8;
/// A site whose bytes have fallen by more than this part of their rises comes and goes.
const FALLS: f64 = 0.02;
/// The same of a queue, in which some go as others come.
const FALLS_OF_QUEUE: f64 = 0.1;
/// A share of a process's growth that is not told, since it is nearly all of it.
const NEARLY_ALL: f64 = 0.95;
/// A site that has risen by less than this part of its present bytes has not grown.
const WORTH_A_WORD: f64 = 0.1;

/// Whether time alone changes no verdict any more, where nothing was read after `end`.
#[must_use]
pub fn is_final(now: Duration, end: Duration) -> bool {
    // A queue is told after twice the usual time; a site is new for half of it.
    now >= LONG_ENOUGH * 2 && now.saturating_sub(end) >= LONG_ENOUGH / 2
}

/// Judges a site.
#[must_use]
pub fn judge(evidence: &Evidence<'_>) -> Judgement {
    if evidence.totals.live_objects() == 0 {
        return said(Verdict::Stable, 0.99, VerdictReason::NothingLive);
    }
    let live = points(evidence.live);
    if evidence.now < LONG_ENOUGH {
        return early(evidence, &live);
    }
    if !is_surely_live(evidence) {
        return no_suspect(evidence, &live);
    }
    let accumulation = accumulates(evidence);
    if let Some(accumulation) = &accumulation
        && let Some(judgement) = convict(evidence, accumulation)
    {
        return judgement;
    }
    if let Some(judgement) = enlarged(evidence, &live, accumulation.is_none()) {
        return judgement;
    }
    if let Some(judgement) = stepped(evidence, &live) {
        return judgement;
    }
    if let Some(accumulation) = &accumulation {
        return grows(evidence, accumulation);
    }
    no_suspect(evidence, &live)
}

/// Whether what is live is no mere guess: estimates of what comes and goes quickly may drift.
fn is_surely_live(evidence: &Evidence<'_>) -> bool {
    let enough = (evidence.totals.live_bytes() as f64 * SURELY_LIVE).max(OF_SITE.growth);
    evidence.live_bytes_low.is_none_or(|low| low as f64 >= enough)
}

/// The judgement where so few windows have met a site that it is known from below only. A suspect stays one: it rests on what
/// is surely live, and on growing resident memory. All else may have come and gone, or stayed, between the windows.
#[must_use]
pub fn of_hardly_met(judgement: Judgement, uncertainty: Option<&Uncertainty>) -> Judgement {
    let hardly_met = uncertainty.filter(|uncertainty| uncertainty.is_hardly_met());
    let Some(met) = hardly_met.and_then(|uncertainty| uncertainty.met) else { return judgement };
    if judgement.verdict == Verdict::LeakSuspect {
        return judgement;
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "below the limit, and not negative")]
    let times = met[0].min(met[1]) as u64;
    said(Verdict::TooEarly, 0.0, VerdictReason::HardlyMet { times })
}

/// Judges what is known by its growth alone, because nobody tells what becomes of single blocks: no suspect is made of that.
#[must_use]
pub fn judge_growth(evidence: &Evidence<'_>) -> Judgement {
    let live = points(evidence.live);
    if evidence.now < LONG_ENOUGH { early(evidence, &live) } else { no_suspect(evidence, &live) }
}

/// Old blocks that accumulate.
struct Accumulation {
    /// How sure it is that they do.
    confidence: f64,
    /// How fast.
    slope_per_s: f64,
    /// Since when.
    since_s: f64,
    /// Why they may not go on to.
    doubt: Option<Doubt>,
}

/// Whether old blocks accumulate.
fn accumulates(evidence: &Evidence<'_>) -> Option<Accumulation> {
    let aged = points(evidence.aged);
    STRETCHES.iter().find_map(|length| {
        let stretch = &aged[aged.len().saturating_sub(*length)..];
        let before = &aged[..aged.len() - stretch.len()];
        let (confidence, slope_per_s) = rise(stretch, before, &OF_SITE)?;
        let since_s = stretch.iter().rfind(|point| point.value <= stretch[0].value).map_or(0.0, |point| point.at);
        let doubt = stops(stretch, evidence.survival).or_else(|| slows_down(stretch));
        Some(Accumulation { confidence, slope_per_s, since_s, doubt })
    })
}

/// Why births that stay seem to have stopped, if they do: none came for longer than ever before.
fn stops(stretch: &[Point], survival: Option<&Survival>) -> Option<Doubt> {
    let survival = survival?;
    let rises: Vec<f64> =
        stretch.windows(2).filter(|pair| pair[1].value > pair[0].value).map(|pair| pair[1].at).collect();
    let pause = rises.windows(2).map(|pair| pair[1] - pair[0]).fold(GENERATION_S, f64::max);
    let growth = stretch.last()?.value - stretch.first()?.value;
    // Less than a fiftieth of all is no sign of life.
    let counts = |bytes: u64| bytes as f64 * 50.0 * (stretch.len() as f64 / 12.0).max(1.0) > growth;
    let youngest =
        survival.generations.iter().position(|cohort| counts(cohort.live.bytes)).unwrap_or(survival.generations.len());
    // The youngest may have begun just now.
    let quiet_s = youngest.saturating_sub(1) as f64 * GENERATION_S;
    (quiet_s > 1.5 * pause).then_some(Doubt::Stopped { seconds: quiet_s })
}

/// The increase in the last third of a stretch, as a part of that in the third before.
fn pace_kept(stretch: &[Point]) -> f64 {
    let [first, .., last] = stretch else { return 0.0 };
    let third = (last.at - first.at) / 3.0;
    let at = |seconds: f64| interpolated(stretch, seconds);
    let (one, two) = (at(first.at + third), at(first.at + 2.0 * third));
    let (middle, end) = (two - one, last.value - two);
    end / middle.max(1.0)
}

/// Why what comes seems to become less, if it does.
fn slows_down(stretch: &[Point]) -> Option<Doubt> {
    let part = pace_kept(stretch);
    (part < STILL_COMES).then(|| Doubt::SlowsDown { part: part.max(0.0) })
}

fn interpolated(points: &[Point], seconds: f64) -> f64 {
    let after = points.iter().position(|point| point.at >= seconds).unwrap_or(points.len() - 1).max(1);
    let (a, b) = (points[after - 1], points[after]);
    let way = if b.at > a.at { ((seconds - a.at) / (b.at - a.at)).clamp(0.0, 1.0) } else { 1.0 };
    a.value + way * (b.value - a.value)
}

/// A suspect, unless something speaks for the site.
fn convict(evidence: &Evidence<'_>, accumulation: &Accumulation) -> Option<Judgement> {
    let survival = evidence.survival?;
    if accumulation.doubt.is_some() || turns_over(survival) || replaces_older(evidence, accumulation) {
        return None;
    }
    let deaths = survival.late_deaths().unwrap_or(0.0);
    let confidence = (accumulation.confidence * (1.0 - deaths / 2.0)).min(0.99);
    let (survivors, pace) = (survivors(survival), pace(evidence, accumulation.slope_per_s));
    Some(said(Verdict::LeakSuspect, confidence, VerdictReason::StillLive { survivors, pace }))
}

fn turns_over(survival: &Survival) -> bool {
    survival.late_deaths().is_some_and(|deaths| deaths > TURNS_OVER)
}

/// Whether blocks of the site may come in place of older ones, whose frees are unmatched: then nothing grows.
fn replaces_older(evidence: &Evidence<'_>, accumulation: &Accumulation) -> bool {
    let ProcessContext { unmatched_frees_per_s, resident, resident_growth_bytes_per_s, .. } = evidence.process;
    let mean_bytes = evidence.totals.live_bytes() as f64 / evidence.totals.live_objects().max(1) as f64;
    let objects_per_s = accumulation.slope_per_s / mean_bytes.max(1.0);
    // Beside a table that turns over there may be a leak, by which alone resident memory grows.
    let is_borne_out =
        *resident == Some(Trend::Increasing) && *resident_growth_bytes_per_s >= BORNE_OUT * accumulation.slope_per_s;
    *unmatched_frees_per_s > 0.5 * objects_per_s && !is_borne_out
}

/// The judgement on old blocks that accumulate, and may stop or have an explanation.
fn grows(evidence: &Evidence<'_>, accumulation: &Accumulation) -> Judgement {
    let turnover = |survival: &Survival| {
        turns_over(survival).then(|| Doubt::TurnsOver { part: survival.late_deaths().unwrap_or(0.0) })
    };
    let doubt = accumulation.doubt.or_else(|| evidence.survival.and_then(turnover)).unwrap_or(Doubt::ReplacesOlder);
    let seconds = evidence.now.as_secs_f64() - accumulation.since_s;
    let pace = pace(evidence, accumulation.slope_per_s);
    said(Verdict::Growing, accumulation.confidence * 0.8, VerdictReason::Accumulates { seconds, pace, doubt })
}

/// A suspect that has few blocks, or none that grow old: what is live only ever rises. It may also be a queue that gets longer and
/// longer: then its blocks are freed, each a little later than the one before.
fn enlarged(evidence: &Evidence<'_>, live: &[Point], have_none_grown_old: bool) -> Option<Judgement> {
    let few = evidence.totals.live_objects() <= FEW || evidence.survival.is_none();
    let lengthens = have_none_grown_old && evidence.now >= LONG_ENOUGH * 2 && pace_kept(live) >= EVENLY;
    if !few && !lengthens {
        return None;
    }
    let (confidence, slope) = rise(live, &[], &OF_SITE)?;
    // Where ages are not known, nor are deaths of blocks that live long: resident memory must bear it out.
    if evidence.live_bytes_low.is_some()
        && evidence.survival.is_none()
        && evidence.process.resident != Some(Trend::Increasing)
    {
        return None;
    }
    let (rises, falls) = steps(live);
    let tolerated = if few { FALLS } else { FALLS_OF_QUEUE };
    if rises.0 < MIN_STEPS || falls.1 > tolerated * rises.1 || slows_down(live).is_some() {
        return None;
    }
    let reason = VerdictReason::Enlarged {
        live_objects: evidence.totals.live_objects(),
        rises: rises.0,
        falls: falls.0,
        readings: live.len() - 1,
        pace: pace(evidence, slope),
    };
    Some(said(Verdict::LeakSuspect, (confidence * 0.9).min(0.95), reason))
}

/// A suspect that is enlarged by ever larger steps, and still being filled. Estimates rise by steps of their own, and only resident
/// memory tells that room is filled.
fn stepped(evidence: &Evidence<'_>, live: &[Point]) -> Option<Judgement> {
    let ProcessContext { resident, resident_growth_bytes_per_s: grows, .. } = *evidence.process;
    let live_objects = evidence.totals.live_objects();
    let is_estimated = evidence.live_bytes_low.is_some();
    if live_objects > FEW || is_estimated || resident != Some(Trend::Increasing) || evidence.now < LONG_ENOUGH * 2 {
        return None;
    }
    let (rises, falls) = steps(live);
    let filling = filling(live, evidence.now.as_secs_f64())?;
    let filled = filling.filled_per_s;
    let is_borne_out = grows >= BEARS_OUT * filled && filled >= BEARS_OUT * grows;
    (falls.1 <= FALLS * rises.1 && is_borne_out).then(|| {
        let pace = pace(evidence, filled);
        said(Verdict::LeakSuspect, 0.8, VerdictReason::Stepped { live_objects, steps: filling.steps, pace })
    })
}

/// How often a series rises and falls, and by how much.
fn steps(points: &[Point]) -> ((usize, f64), (usize, f64)) {
    let mut of = [(0, 0.0), (0, 0.0)];
    for pair in points.windows(2) {
        let step = pair[1].value - pair[0].value;
        if step != 0.0 {
            let sum = &mut of[usize::from(step < 0.0)];
            *sum = (sum.0 + 1, sum.1 + step.abs());
        }
    }
    (of[0], of[1])
}

/// The judgement on a site that was seen for less than a verdict takes.
fn early(evidence: &Evidence<'_>, live: &[Point]) -> Judgement {
    let seconds = evidence.now.as_secs_f64();
    let grows = rise(live, &[], &OF_SITE).filter(|_| slows_down(live).is_none());
    match grows {
        Some((confidence, slope_per_s)) => {
            said(Verdict::Growing, confidence * 0.6, VerdictReason::GrowsSoFar { slope_per_s, seconds })
        }
        None => said(Verdict::TooEarly, 0.0, VerdictReason::SeenFor { seconds }),
    }
}

/// The judgement on a site that nobody suspects.
fn no_suspect(evidence: &Evidence<'_>, live: &[Point]) -> Judgement {
    let held = evidence.totals.live_bytes() as f64;
    let recent = last_third(live);
    let first_seen_s = live.iter().find(|point| point.value > 0.0).map_or(0.0, |point| point.at);
    let now_s = evidence.now.as_secs_f64();
    if now_s - first_seen_s < LONG_ENOUGH.as_secs_f64() / 2.0 && first_seen_s > GENERATION_S {
        return said(Verdict::TooEarly, 0.0, VerdictReason::FirstSeen { seconds_ago: now_s - first_seen_s });
    }
    let most = live.iter().map(|point| point.value).fold(0.0, f64::max);
    let before = &live[..live.len() - recent.len()];
    let (before_most, recent_least, recent_most) = (
        before.iter().map(|point| point.value).fold(0.0, f64::max),
        recent.iter().map(|point| point.value).fold(f64::INFINITY, f64::min),
        recent.iter().map(|point| point.value).fold(0.0, f64::max),
    );
    let grown = recent_most - before_most;
    if let Some(period_s) = period_s(live, most) {
        return said(Verdict::Stable, 0.9, VerdictReason::ComesAndGoes { period_s, most_bytes: bytes(most) });
    }
    if grown > WORTH_A_WORD * held.max(OF_SITE.growth / WORTH_A_WORD) {
        let seconds = recent.last().map_or(0.0, |last| last.at) - recent.first().map_or(0.0, |first| first.at);
        let pace = pace(evidence, slope_of(recent));
        return said(Verdict::Growing, 0.6, VerdictReason::HoldsMore { grown_bytes: bytes(grown), seconds, pace });
    }
    let start = live.iter().find(|point| point.at > GENERATION_S).map_or(0.0, |point| point.value);
    let since_s = live.iter().find(|point| point.value >= 0.95 * held).map_or(0.0, |point| point.at);
    if held - start > (WORTH_A_WORD * held).max(OF_SITE.growth) && recent_least > 0.7 * recent_most {
        let (held_bytes, flat_s) = (bytes(held), now_s - since_s);
        return said(Verdict::Plateau, 0.9, VerdictReason::Filled { held_bytes, grew_s: since_s, flat_s });
    }
    let reason = if recent_least > 0.9 * recent_most {
        VerdictReason::Holds { held_bytes: bytes(held), seconds: now_s - since_s }
    } else if steps(recent).1.0 == 0 {
        VerdictReason::HasRisen { from_bytes: bytes(recent_least), to_bytes: bytes(recent_most) }
    } else {
        VerdictReason::GoesUpAndDown { least_bytes: bytes(recent_least), most_bytes: bytes(recent_most) }
    };
    said(Verdict::Stable, 0.9, reason)
}

/// How steep it is: mostly. One that mostly stands still rises by steps, so then on average.
fn slope_of(points: &[Point]) -> f64 {
    let slope = sen_slope(points);
    let [first, .., last] = points else { return slope };
    if slope == 0.0 && last.at > first.at { (last.value - first.value) / (last.at - first.at) } else { slope }
}

/// How far apart great falls are, where there were two or more: by half of the most that was ever held.
fn period_s(live: &[Point], most: f64) -> Option<f64> {
    let mut falls: Vec<f64> = Vec::new();
    let mut peak = 0.0f64;
    for point in live {
        peak = peak.max(point.value);
        if peak - point.value > most / 2.0 {
            falls.push(point.at);
            peak = point.value;
        }
    }
    let [first, .., last] = falls.as_slice() else { return None };
    Some((last - first) / (falls.len() - 1) as f64)
}

/// The living part of the older blocks.
fn survivors(survival: &Survival) -> Survivors {
    const FROM: usize = 3;
    let of_age = survival.since(FROM);
    Survivors {
        youngest_s: FROM as f64 * GENERATION_S - GENERATION_S,
        oldest_s: survival.generations.len() as f64 * GENERATION_S,
        live_objects: of_age.live.objects,
        born_objects: of_age.born.objects,
        older_objects: survival.older_live.objects.saturating_add(survival.older_freed.objects),
        older_freed_objects: survival.older_freed.objects,
    }
}

/// How fast it grows, and how much of the process's growth that is: of its resident memory, where that grows by more than live
/// bytes do.
fn pace(evidence: &Evidence<'_>, slope_per_s: f64) -> Pace {
    let ProcessContext { growth_bytes_per_s, resident, resident_growth_bytes_per_s, .. } = *evidence.process;
    let of_resident = if resident == Some(Trend::Increasing) { resident_growth_bytes_per_s } else { 0.0 };
    let whole = growth_bytes_per_s.max(of_resident);
    let part = slope_per_s / whole;
    Pace { slope_per_s, of_process: (whole > 0.0 && part <= NEARLY_ALL).then_some(part.max(0.0)) }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rounded and not negative")]
fn bytes(amount: f64) -> u64 {
    amount.max(0.0).round() as u64
}

fn points(of: &[(Duration, u64)]) -> Vec<Point> {
    of.iter().map(|(at, value)| Point::new(*at, *value)).collect()
}

fn said(verdict: Verdict, confidence: f64, reason: VerdictReason) -> Judgement {
    Judgement { verdict, confidence, reason }
}

pub mod touched;

#[cfg(test)]
mod tests;
