//! A gate's findings, as reports have them.

use super::unchecked::Unchecked;

/// Something that was to be checked and was not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unseen {
    /// The process, by pid and short name; nothing where it is about the run as a whole.
    pub process: Option<(u32, String)>,
    /// Why.
    pub why: Unchecked,
}

/// A gate's findings in the last report of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Its suspects.
    pub tally: Tally,
    /// The checks that were not made: the absence of suspects there says nothing.
    pub unseen: Vec<Unseen>,
    /// Processes that ended before they could be judged, where others were judged: no failure.
    pub ended_early: Vec<Unseen>,
}

/// How many suspects there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Suspects that are neither suppressed nor in the baseline.
    pub remaining: usize,
    /// Suspects that are suppressed.
    pub suppressed: usize,
    /// Suspects that the baseline has, and that are not suppressed.
    pub in_baseline: usize,
}
