//! The verdict on a stack that makes pages resident.
//!
//! Which of its pages are still resident nobody tells: it is known what was touched there, which only rises, and what becomes of
//! the process as a whole. So none is a suspect, and none grows unless its process does.

use super::{Evidence, LONG_ENOUGH, OF_SITE, Trend, WORTH_A_WORD, bytes, points, said};
use crate::model::{
    stats::{
        rank::{Point, sen_slope},
        trend::last_third,
    },
    survival::GENERATION_S,
    verdict::{Judgement, Verdict},
    verdict_reason::VerdictReason,
};

/// The part of what is touched that the process must grow by, for it to be said of the stack.
const STAYS: f64 = 0.5;

/// Judges such a stack; its live bytes are what was touched there.
#[must_use]
pub fn judge(evidence: &Evidence<'_>) -> Judgement {
    let now_s = evidence.now.as_secs_f64();
    if evidence.now < LONG_ENOUGH {
        return said(Verdict::TooEarly, 0.0, VerdictReason::SeenFor { seconds: now_s });
    }
    let touched = points(evidence.live);
    let first_s = touched.iter().find(|point| point.value > 0.0).map_or(0.0, |point| point.at);
    if now_s - first_s < LONG_ENOUGH.as_secs_f64() / 2.0 && first_s > GENERATION_S {
        return said(Verdict::TooEarly, 0.0, VerdictReason::FirstTouched { seconds_ago: now_s - first_s });
    }
    still_touches(evidence, last_third(&touched))
}

/// Whether it goes on, and whether that stays.
fn still_touches(evidence: &Evidence<'_>, recent: &[Point]) -> Judgement {
    let all = evidence.totals.alloc_bytes as f64;
    let lately = recent.last().map_or(0.0, |last| last.value) - recent.first().map_or(0.0, |first| first.value);
    let seconds = recent.last().map_or(0.0, |last| last.at) - recent.first().map_or(0.0, |first| first.at);
    let lately_bytes = bytes(lately);
    if lately <= (WORTH_A_WORD * all).max(OF_SITE.growth) {
        let reason = VerdictReason::HasTouched { bytes: bytes(all), lately_bytes, seconds };
        return said(Verdict::Stable, 0.9, reason);
    }
    let slope_per_s = sen_slope(recent);
    let process_grows = is_borne_out(evidence, slope_per_s);
    let process_slope_per_s = evidence.process.resident_growth_bytes_per_s;
    let reason = VerdictReason::Touches { lately_bytes, seconds, slope_per_s, process_slope_per_s, process_grows };
    match process_grows {
        true => said(Verdict::Growing, 0.6, reason),
        false => said(Verdict::Stable, 0.9, reason),
    }
}

/// Whether resident memory grows, steadily or by as much as is touched there.
fn is_borne_out(evidence: &Evidence<'_>, slope_per_s: f64) -> bool {
    let process = evidence.process;
    process.resident == Some(Trend::Increasing) || process.resident_growth_bytes_per_s >= STAYS * slope_per_s
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{analysis::verdict::ProcessContext, model::totals::Totals};
    use std::time::Duration;

    /// A reading a second.
    fn judged(touched: &[u64], process: &ProcessContext) -> Judgement {
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
        let judgement = judged(&steadily(60, 8), &ProcessContext::default());
        assert_eq!(judgement.verdict, Verdict::Stable, "{judgement:?}");
        let VerdictReason::Touches { slope_per_s, process_grows, .. } = judgement.reason else {
            panic!("{judgement:?}")
        };
        assert!((slope_per_s - 8_388_608.0).abs() < 1.0 && !process_grows, "{judgement:?}");
    }

    #[test]
    fn what_is_touched_grows_where_the_process_does() {
        let increasing = ProcessContext {
            resident: Some(Trend::Increasing),
            resident_growth_bytes_per_s: 100_000.0,
            ..ProcessContext::default()
        };
        // It may be one page of many that stays.
        assert_eq!(judged(&steadily(60, 8), &increasing).verdict, Verdict::Growing);
        let by_as_much = ProcessContext { resident_growth_bytes_per_s: 5e6, ..ProcessContext::default() };
        assert_eq!(judged(&steadily(60, 8), &by_as_much).verdict, Verdict::Growing);
    }

    #[test]
    fn what_was_touched_once_grows_no_more_than_what_the_process_has() {
        let once: Vec<u64> = (0..60).map(|second| if second < 3 { 0 } else { 64 << 20 }).collect();
        let increasing = ProcessContext { resident: Some(Trend::Increasing), ..ProcessContext::default() };
        let judgement = judged(&once, &increasing);
        assert_eq!(judgement.verdict, Verdict::Stable);
        assert!(
            matches!(judgement.reason, VerdictReason::HasTouched { bytes: 0x400_0000, lately_bytes: 0, .. }),
            "{judgement:?}"
        );
    }

    #[test]
    fn that_nobody_can_tell_is_not_promised() {
        let judgement = judged(&steadily(12, 8), &ProcessContext::default());
        assert_eq!(
            (judgement.verdict, judgement.reason),
            (Verdict::TooEarly, VerdictReason::SeenFor { seconds: 12.0 })
        );
    }
}
