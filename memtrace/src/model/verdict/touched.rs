//! What is thought of a stack that makes pages resident.
//!
//! Which of its pages are still resident nobody tells: it is known what was touched there, which only rises, and what becomes of
//! the process as a whole. So none is a suspect, and none grows unless its process does.

use super::{Evidence, Judgement, LONG_ENOUGH, OF_SITE, Trend, Verdict, WORTH_A_WORD, bytes, points, said, seconds};
use crate::model::{
    rank::{Point, sen_slope},
    survival::GENERATION_S,
    trend::last_third,
    units,
};

/// The part of what is touched that the process must grow by, for it to be said of the stack.
const STAYS: f64 = 0.5;

/// Judges such a stack; its live bytes are what was touched there.
#[must_use]
pub fn judge(evidence: &Evidence<'_>) -> Judgement {
    let now_s = evidence.now.as_secs_f64();
    if evidence.now < LONG_ENOUGH {
        let reason = format!("seen for {}; a verdict takes {} s", seconds(now_s), LONG_ENOUGH.as_secs());
        return said(Verdict::TooEarly, 0.0, reason);
    }
    let touched = points(evidence.live);
    let first_s = touched.iter().find(|point| point.value > 0.0).map_or(0.0, |point| point.at);
    if now_s - first_s < LONG_ENOUGH.as_secs_f64() / 2.0 && first_s > GENERATION_S {
        return said(Verdict::TooEarly, 0.0, format!("first touched {} ago", seconds(now_s - first_s)));
    }
    still_touches(evidence, last_third(&touched))
}

/// Whether it goes on, and whether that stays.
fn still_touches(evidence: &Evidence<'_>, recent: &[Point]) -> Judgement {
    let all = evidence.totals.alloc_bytes as f64;
    let lately = recent.last().map_or(0.0, |last| last.value) - recent.first().map_or(0.0, |first| first.value);
    let span = seconds(recent.last().map_or(0.0, |last| last.at) - recent.first().map_or(0.0, |first| first.at));
    if lately <= (WORTH_A_WORD * all).max(OF_SITE.growth) {
        let reason = format!("touched {}, of that {} in the last {span}", bytes(all), bytes(lately));
        return said(Verdict::Stable, 0.9, reason);
    }
    let slope = sen_slope(recent);
    let pace = format!("touched {} in the last {span}; {}", bytes(lately), units::bytes_per_s(slope));
    let growth = units::bytes_per_s(evidence.process.resident_growth_bytes_per_s);
    if is_borne_out(evidence, slope) {
        return said(Verdict::Growing, 0.6, format!("{pace}, and the process grows ({growth})"));
    }
    said(Verdict::Stable, 0.9, format!("{pace}, but the process does not grow by it ({growth})"))
}

/// Whether resident memory grows, steadily or by as much as is touched there.
fn is_borne_out(evidence: &Evidence<'_>, slope_per_s: f64) -> bool {
    let process = evidence.process;
    process.resident == Some(Trend::Increasing) || process.resident_growth_bytes_per_s >= STAYS * slope_per_s
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::{report::Totals, verdict::Surroundings};

    /// A reading a second.
    fn judged(touched: &[u64], process: &Surroundings) -> Judgement {
        let live: Vec<(Duration, u64)> =
            (0..).zip(touched).map(|(second, bytes)| (Duration::from_secs(second), *bytes)).collect();
        let (now, bytes) = *live.last().unwrap();
        judge(&Evidence {
            now,
            live: &live,
            aged: &[],
            totals: Totals::new(bytes, bytes / 4096, 0, 0),
            live_bytes_low: None,
            survival: None,
            process,
        })
    }

    /// So many MiB a second.
    fn steadily(seconds: u64, mib_per_s: u64) -> Vec<u64> {
        (0..=seconds).map(|second| (second * mib_per_s) << 20).collect()
    }

    #[test]
    fn what_is_touched_again_and_again_does_not_grow() {
        let judgement = judged(&steadily(60, 8), &Surroundings::default());
        assert_eq!(judgement.verdict, Verdict::Stable, "{judgement:?}");
        assert!(
            judgement.reason.ends_with("+8.00 MiB/s, but the process does not grow by it (0 B/s)"),
            "{judgement:?}"
        );
    }

    #[test]
    fn what_is_touched_grows_where_the_process_does() {
        let increasing = Surroundings {
            resident: Some(Trend::Increasing),
            resident_growth_bytes_per_s: 100_000.0,
            ..Surroundings::default()
        };
        // It may be one page of many that stays.
        assert_eq!(judged(&steadily(60, 8), &increasing).verdict, Verdict::Growing);
        let by_as_much = Surroundings { resident_growth_bytes_per_s: 5e6, ..Surroundings::default() };
        assert_eq!(judged(&steadily(60, 8), &by_as_much).verdict, Verdict::Growing);
    }

    #[test]
    fn what_was_touched_once_grows_no_more_than_what_the_process_has() {
        let once: Vec<u64> = (0..60).map(|second| if second < 3 { 0 } else { 64 << 20 }).collect();
        let increasing = Surroundings { resident: Some(Trend::Increasing), ..Surroundings::default() };
        let judgement = judged(&once, &increasing);
        assert_eq!(judgement.verdict, Verdict::Stable);
        assert!(judgement.reason.starts_with("touched 64.0 MiB, of that 0 B in the last "), "{judgement:?}");
    }

    #[test]
    fn that_nobody_can_tell_is_not_promised() {
        let judgement = judged(&steadily(12, 8), &Surroundings::default());
        assert_eq!(
            (judgement.verdict, judgement.reason.as_str()),
            (Verdict::TooEarly, "seen for 12 s; a verdict takes 24 s")
        );
    }
}
