//! A run, as its profile and its report tell it.

use std::time::{Duration, SystemTime};

use crate::{
    model::{
        run::{Run, Unlisted},
        tier::Tier,
    },
    process::{host, kernel_release},
};

/// A run on this host that goes on for so long, without a budget.
pub(super) fn this_run(started_at: SystemTime, duration: Duration, tier: Tier) -> Run {
    Run {
        host: host::name(),
        kernel: kernel_release(),
        started_at,
        duration,
        tier,
        budget: None,
        not_seen: Vec::new(),
        unlisted: Unlisted::default(),
    }
}

/// The release of the kernel that runs here.
pub(super) fn kernel_release() -> String {
    kernel_release::release().unwrap_or_default()
}
