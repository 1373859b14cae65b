//! The outcome of a gate, for scripts.

use serde::Serialize;

use crate::{
    model::outcome::{Outcome, Unseen},
    report::words,
};

/// The outcome of a run's gate.
#[derive(Serialize)]
pub(super) struct JsonGate<'a> {
    suspects: usize,
    suppressed: usize,
    in_baseline: usize,
    not_checked: Vec<JsonUnseen<'a>>,
    ended_early: Vec<JsonUnseen<'a>>,
}

/// A check that was not made: of no process where it is about the run as a whole.
#[derive(Serialize)]
struct JsonUnseen<'a> {
    pid: Option<u32>,
    comm: Option<&'a str>,
    cause: &'static str,
    reason: String,
}

impl<'a> From<&'a Outcome> for JsonGate<'a> {
    fn from(outcome: &'a Outcome) -> Self {
        let all = |unseen: &'a [Unseen]| unseen.iter().map(JsonUnseen::from).collect();
        Self {
            suspects: outcome.tally.remaining,
            suppressed: outcome.tally.suppressed,
            in_baseline: outcome.tally.in_baseline,
            not_checked: all(&outcome.unseen),
            ended_early: all(&outcome.ended_early),
        }
    }
}

impl<'a> From<&'a Unseen> for JsonUnseen<'a> {
    fn from(unseen: &'a Unseen) -> Self {
        let process = unseen.process.as_ref();
        Self {
            pid: process.map(|(pid, _)| *pid),
            comm: process.map(|(_, comm)| comm.as_str()),
            cause: unseen.why.cause().name(),
            reason: words::unchecked::reason(&unseen.why),
        }
    }
}
