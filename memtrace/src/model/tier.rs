//! Tiers: how closely targets are looked at, and what came of a budget.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How closely the targets were looked at, closest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Tier {
    /// Every allocation was counted.
    #[default]
    Exact,
    /// One allocation in so many bytes was, in the mean.
    Sampled {
        /// The mean number of bytes between samples.
        sample_bytes: u64,
    },
    /// Every allocation was, at times.
    Windowed,
    /// No allocation was: what makes memory resident was, page by page.
    Growth,
}

/// From when on there was another tier, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TierChange {
    /// After the start.
    pub at: Duration,
    /// The process whose tier it is; nothing where it is that of all who share one.
    pub pid: Option<u32>,
    /// The tier from then on.
    pub tier: Tier,
    /// Why.
    pub reason: TierReason,
}

/// Why there is a tier from some moment on. Shares are parts of CPU time, from 0 to 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum TierReason {
    /// It is the closest that was asked for, with which a run begins.
    AsAskedFor,
    /// Its probes have come to be in every process, so that one tier serves all.
    Shared,
    /// The tier before takes too much.
    TooDear {
        /// The tier before.
        before: Tier,
        /// The share that it takes.
        share: f64,
        /// The target that pays it.
        payer: Payer,
        /// The budget.
        max_overhead: f64,
    },
    /// Samples under the gap before fill the table of blocks.
    NoRoom {
        /// The tier before.
        before: Tier,
    },
    /// There is room for a closer one.
    Affordable {
        /// The share that it would take.
        share: f64,
        /// The target that would pay it.
        payer: Payer,
        /// The budget.
        max_overhead: f64,
    },
}

/// The target that pays most for being traced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Payer {
    /// A process.
    Process {
        /// Its short name.
        comm: String,
        /// Its thread group id.
        pid: u32,
    },
    /// A process that is gone by now.
    Gone,
    /// Processes that come and go, all together.
    Passing,
}

/// The budget of tracing, and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BudgetLog {
    /// The part of a target's CPU time, from 0 to 1.
    pub max_overhead: f64,
    /// The tiers, from the first on.
    pub changes: Vec<TierChange>,
    /// How many windows there were.
    pub windows: u32,
}

impl Tier {
    /// The word used on the command line and in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Sampled { .. } => "sampled",
            Self::Windowed => "windowed",
            Self::Growth => "growth",
        }
    }

    /// The mean number of bytes between samples; nothing where every allocation is counted.
    #[must_use]
    pub fn sample_bytes(self) -> Option<u64> {
        match self {
            Self::Exact | Self::Windowed | Self::Growth => None,
            Self::Sampled { sample_bytes } => Some(sample_bytes),
        }
    }
}
