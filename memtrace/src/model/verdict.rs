//! Verdicts on sites, as reports have them.

use std::time::Duration;

use super::verdict_reason::VerdictReason;

/// Before this there is no verdict but that it grows: a leak's blocks must have had the time to grow old.
pub const LONG_ENOUGH: Duration = Duration::from_secs(24);

/// The verdict on a site.
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
    /// It was not seen for long enough to judge.
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
    /// The verdict.
    pub verdict: Verdict,
    /// How sure that is, from 0 to 1.
    pub confidence: f64,
    /// Why.
    pub reason: VerdictReason,
}
