//! A run, as profiles and reports tell it.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::{
    not_seen::NotSeen,
    tier::{BudgetLog, Tier},
    totals::Totals,
};

/// A run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// The host's name.
    pub host: String,
    /// The kernel's release.
    pub kernel: String,
    /// When counting began.
    pub started_at: SystemTime,
    /// How long it went on.
    pub duration: Duration,
    /// How closely; the least exact of all tiers that the figures rest on.
    pub tier: Tier,
    /// The budget and what came of it, where memtrace chose the tier.
    pub budget: Option<BudgetLog>,
    /// The memory that was asked about and that nobody could see.
    pub not_seen: Vec<NotSeen>,
    /// Targets that have ended and have no profile of their own.
    pub unlisted: Unlisted,
}

/// Targets of which only the sum is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unlisted {
    /// How many.
    pub processes: u64,
    /// The sums that they allocated and freed, all together.
    pub totals: Totals,
    /// Leak suspects of theirs that are at no site of the report either.
    pub suspects: usize,
    /// Processes that were not looked at when they ended, although that was asked for.
    pub unchecked: u64,
}
