//! What is thought of a site, how sure that is, and why.
//!
//! In: its live bytes over time, how many of them were old, and what has become of its blocks by age. Out: a verdict.
//! Knows nothing of BPF, symbols or output.
//!
//! That a site grows does not make a leak: caches fill, pools warm up, batch jobs build up and let go. What does, is that blocks
//! which have grown old go on accumulating:
//!
//! 1. *Old blocks accumulate.* Judged are the bytes of blocks that are older than eight seconds, read once a generation: what lives
//!    shortly, however much of it, has no part in them. They rise in the sense of [`super::trend`]: by the Mann-Kendall
//!    test, out of their swing, steadily, beyond what was seen before.
//! 2. *They still do.* Births that stay have not stopped for longer than they ever did, and come at half of their former rate at least: what
//!    fills up slows down first, as the coupons of a collector do.
//! 3. *Old blocks do not die.* Of those that have become older than half a minute, few were freed: the hazard of the survival curve
//!    (Kaplan and Meier, "Nonparametric estimation from incomplete observations", JASA 53, 1958) stays at zero. In a table that
//!    is full as many die as become old.
//! 4. *They are not what replaces older ones.* Frees of blocks from before attach say that something turns over which memtrace has not
//!    seen filled. Where as many were freed as the site has grown by, resident memory decides.
//!
//! Some leaks have no old blocks: one buffer that is appended to for ever, and moved each time; or a queue whose blocks are freed, each
//! a little later than the one before. Their live bytes alone rise, without ever falling.

use std::time::Duration;

use super::{
    rank::{Point, sen_slope},
    report::Totals,
    survival::{GENERATION_S, Survival},
    trend::{Demands, Trend, last_third, rise},
    units,
};

/// What is thought of a site.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    /// Blocks accumulate that will hardly ever be freed.
    LeakSuspect,
    /// It grows, and may stop.
    Growing,
    /// It has grown, and does not any more.
    Plateau,
    /// It holds what it holds, or comes and goes.
    Stable,
    /// Not seen for long enough to judge.
    #[default]
    TooEarly,
}

impl Verdict {
    /// The word used in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::LeakSuspect => "leak-suspect",
            Self::Growing => "growing",
            Self::Plateau => "plateau",
            Self::Stable => "stable",
            Self::TooEarly => "too-early",
        }
    }
}

/// A verdict, with what it rests on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Judgement {
    /// What is thought.
    pub verdict: Verdict,
    /// How sure that is, from 0 to 1.
    pub confidence: f64,
    /// Why, in one sentence without a full stop.
    pub reason: String,
}

/// What is known of a site.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// How long the run has gone on.
    pub now: Duration,
    /// Its live bytes; before the first reading of it there were none.
    pub live: &'a [(Duration, u64)],
    /// What of them was older than two generations, once a generation; empty where that is not known.
    pub aged: &'a [(Duration, u64)],
    /// What it has allocated and freed.
    pub totals: Totals,
    /// What is live at least (95 %), where that is an estimate.
    pub live_bytes_low: Option<u64>,
    /// What has become of its blocks; nothing where that is not known.
    pub survival: Option<&'a Survival>,
    /// What its process does meanwhile.
    pub process: &'a Surroundings,
}

/// What a process does while its sites are judged.
#[derive(Clone, Copy, Debug, Default)]
pub struct Surroundings {
    /// How fast its live bytes grow, in bytes a second.
    pub growth_bytes_per_s: f64,
    /// Which way its resident memory goes; nothing where that is not known.
    pub resident: Option<Trend>,
    /// How fast it grows at present, in bytes a second.
    pub resident_growth_bytes_per_s: f64,
    /// Blocks from before attach that are freed, a second.
    pub unmatched_frees_per_s: f64,
}

/// Before this there is no verdict but that it grows: a leak's blocks must have had the time to grow old.
pub const LONG_ENOUGH: Duration = Duration::from_secs(24);
/// What a site's bytes are asked for until it grows.
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
/// The part of an estimate that must be sure.
const SURELY_LIVE: f64 = 0.25;
/// Steps without which a rise of live bytes alone is no more than growth.
const MIN_STEPS: usize = 8;
/// What has fallen by more than this part of its rises comes and goes.
const FALLS: f64 = 0.02;
/// The same of a queue, in which some go as others come.
const FALLS_OF_QUEUE: f64 = 0.1;
/// What has risen by less than this part of what is held now has not grown.
const WORTH_A_WORD: f64 = 0.1;

/// Judges a site.
#[must_use]
pub fn judge(evidence: &Evidence<'_>) -> Judgement {
    if evidence.totals.live_objects() == 0 {
        return said(Verdict::Stable, 0.99, "nothing of it is live".to_owned());
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
    doubt: Option<String>,
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
fn stops(stretch: &[Point], survival: Option<&Survival>) -> Option<String> {
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
    (quiet_s > 1.5 * pause).then(|| format!("but nothing was added in the last {quiet_s:.0} s"))
}

/// What comes in the last third of a stretch, as a part of what came in the third before.
fn pace_kept(stretch: &[Point]) -> f64 {
    let [first, .., last] = stretch else { return 0.0 };
    let third = (last.at - first.at) / 3.0;
    let at = |seconds: f64| interpolated(stretch, seconds);
    let (one, two) = (at(first.at + third), at(first.at + 2.0 * third));
    let (middle, end) = (two - one, last.value - two);
    end / middle.max(1.0)
}

/// Why what comes seems to become less, if it does.
fn slows_down(stretch: &[Point]) -> Option<String> {
    let ratio = pace_kept(stretch);
    (ratio < STILL_COMES).then(|| format!("but slows down, to {:.0} % of its former rate", ratio.max(0.0) * 100.0))
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
    let reason = format!("{}{}", survivors(survival), pace(evidence, accumulation.slope_per_s));
    Some(said(Verdict::LeakSuspect, confidence, reason))
}

fn turns_over(survival: &Survival) -> bool {
    survival.late_deaths().is_some_and(|deaths| deaths > TURNS_OVER)
}

/// Whether blocks of the site may come in place of older ones, whose frees are unmatched: then nothing grows.
fn replaces_older(evidence: &Evidence<'_>, accumulation: &Accumulation) -> bool {
    let Surroundings { unmatched_frees_per_s, resident, .. } = evidence.process;
    let mean_bytes = evidence.totals.live_bytes() as f64 / evidence.totals.live_objects().max(1) as f64;
    let objects_per_s = accumulation.slope_per_s / mean_bytes.max(1.0);
    *unmatched_frees_per_s > 0.5 * objects_per_s && *resident != Some(Trend::Increasing)
}

/// What accumulates, and may stop or has an explanation.
fn grows(evidence: &Evidence<'_>, accumulation: &Accumulation) -> Judgement {
    let pace = pace(evidence, accumulation.slope_per_s);
    let of_old = |survival: &Survival| {
        turns_over(survival).then(|| {
            let percent = survival.late_deaths().unwrap_or(0.0) * 100.0;
            format!("but {percent:.0} % of its blocks that had become older than half a minute were freed")
        })
    };
    let why = accumulation.doubt.clone().or_else(|| evidence.survival.and_then(of_old)).unwrap_or_else(|| {
        "but as many blocks from before attach were freed, and resident memory does not grow".to_owned()
    });
    let since = seconds(evidence.now.as_secs_f64() - accumulation.since_s);
    said(
        Verdict::Growing,
        accumulation.confidence * 0.8,
        format!("old blocks have accumulated for {since}{pace}, {why}"),
    )
}

/// A suspect that has few blocks, or none that grow old: what is live only ever rises. It may also be a queue that gets longer and
/// longer: then its blocks are freed, each a little later than the one before.
fn enlarged(evidence: &Evidence<'_>, live: &[Point], have_none_grown_old: bool) -> Option<Judgement> {
    let few = evidence.totals.live_objects() <= 16 || evidence.survival.is_none();
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
    let objects = units::count(evidence.totals.live_objects());
    let blocks =
        if evidence.totals.live_objects() == 1 { "one block is".to_owned() } else { format!("{objects} blocks are") };
    let shrank = if falls.0 == 0 { "never shrank".to_owned() } else { format!("shrank in {}", falls.0) };
    let reason = format!(
        "{blocks} live, which grew in {} of {} readings and {shrank}{}",
        rises.0,
        live.len() - 1,
        pace(evidence, slope)
    );
    Some(said(Verdict::LeakSuspect, (confidence * 0.9).min(0.95), reason))
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

/// What has been seen for less than it takes.
fn early(evidence: &Evidence<'_>, live: &[Point]) -> Judgement {
    let seen = seconds(evidence.now.as_secs_f64());
    let grows = rise(live, &[], &OF_SITE).filter(|_| slows_down(live).is_none());
    match grows {
        Some((confidence, slope)) => said(
            Verdict::Growing,
            confidence * 0.6,
            format!(
                "{} in {seen}; whether it is freed again takes {} s to tell",
                units::bytes_per_s(slope),
                LONG_ENOUGH.as_secs()
            ),
        ),
        None => said(Verdict::TooEarly, 0.0, format!("seen for {seen}; a verdict takes {} s", LONG_ENOUGH.as_secs())),
    }
}

/// What nobody suspects.
fn no_suspect(evidence: &Evidence<'_>, live: &[Point]) -> Judgement {
    let held = evidence.totals.live_bytes() as f64;
    let recent = last_third(live);
    let first_seen_s = live.iter().find(|point| point.value > 0.0).map_or(0.0, |point| point.at);
    let now_s = evidence.now.as_secs_f64();
    if now_s - first_seen_s < LONG_ENOUGH.as_secs_f64() / 2.0 && first_seen_s > GENERATION_S {
        let seen = seconds(now_s - first_seen_s);
        return said(Verdict::TooEarly, 0.0, format!("first seen {seen} ago"));
    }
    let most = live.iter().map(|point| point.value).fold(0.0, f64::max);
    let before = &live[..live.len() - recent.len()];
    let (before_most, recent_least, recent_most) = (
        before.iter().map(|point| point.value).fold(0.0, f64::max),
        recent.iter().map(|point| point.value).fold(f64::INFINITY, f64::min),
        recent.iter().map(|point| point.value).fold(0.0, f64::max),
    );
    let grown = recent_most - before_most;
    let period = period_s(live, most);
    if let Some(period) = period {
        let reason = format!("comes and goes, every {} or so, up to {}", seconds(period), bytes(most));
        return said(Verdict::Stable, 0.9, reason);
    }
    if grown > WORTH_A_WORD * held.max(OF_SITE.growth / WORTH_A_WORD) {
        let slope = sen_slope(recent);
        let span = seconds(recent.last().map_or(0.0, |last| last.at) - recent.first().map_or(0.0, |first| first.at));
        let reason =
            format!("holds {} more than ever before in the last {span}{}", bytes(grown), pace(evidence, slope));
        return said(Verdict::Growing, 0.6, reason);
    }
    let start = live.iter().find(|point| point.at > GENERATION_S).map_or(0.0, |point| point.value);
    let since_s = live.iter().find(|point| point.value >= 0.95 * held).map_or(0.0, |point| point.at);
    if held - start > (WORTH_A_WORD * held).max(OF_SITE.growth) && recent_least > 0.7 * recent_most {
        let (grew, flat) = (seconds(since_s), seconds(now_s - since_s));
        let reason = format!("grew to {} in {grew}, and has not for {flat}", bytes(held));
        return said(Verdict::Plateau, 0.9, reason);
    }
    let reason = if recent_least > 0.9 * recent_most {
        format!("has held {} for {}", bytes(held), seconds(now_s - since_s))
    } else {
        format!("goes up and down between {} and {}", bytes(recent_least), bytes(recent_most))
    };
    said(Verdict::Stable, 0.9, reason)
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

/// What of the older blocks lives.
fn survivors(survival: &Survival) -> String {
    const FROM: usize = 3;
    let of_age = survival.since(FROM);
    let (low, high) = (FROM as f64 * GENERATION_S - GENERATION_S, survival.generations.len() as f64 * GENERATION_S);
    let told = format!(
        "{} of {} blocks allocated {low:.0} to {high:.0} s ago are still live",
        units::count(of_age.live.objects),
        units::count(of_age.born.objects)
    );
    let older = survival.older_live.objects.saturating_add(survival.older_freed.objects);
    match (older, survival.older_freed.objects) {
        (0, _) => told,
        (older, 0) => format!("{told}, and all {} older ones", units::count(older)),
        (older, freed) => {
            format!("{told}, and {} of {} older ones", units::count(older.saturating_sub(freed)), units::count(older))
        }
    }
}

/// How fast it grows, and how much of the process's growth that is.
fn pace(evidence: &Evidence<'_>, slope_per_s: f64) -> String {
    let of_process = slope_per_s / evidence.process.growth_bytes_per_s;
    let share = if evidence.process.growth_bytes_per_s > 0.0 && (0.01..=0.95).contains(&of_process) {
        format!(", {:.0} % of what the process grows by", of_process * 100.0)
    } else {
        String::new()
    };
    format!("; {}{share}", units::bytes_per_s(slope_per_s))
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rounded and not negative")]
fn bytes(amount: f64) -> String {
    units::bytes(amount.max(0.0).round() as u64)
}

/// A time in whole seconds, or in minutes.
fn seconds(seconds: f64) -> String {
    if seconds < 60.0 {
        format!("{:.0} s", seconds.max(0.0))
    } else {
        units::duration(Duration::from_secs_f64(seconds))
    }
}

fn points(of: &[(Duration, u64)]) -> Vec<Point> {
    of.iter().map(|(at, value)| Point::new(*at, *value)).collect()
}

fn said(verdict: Verdict, confidence: f64, reason: String) -> Judgement {
    Judgement { verdict, confidence, reason }
}

pub mod touched;

#[cfg(test)]
mod tests;
