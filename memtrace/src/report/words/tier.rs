//! Why there is another tier.

use super::units;
use crate::model::tier::{Payer, Tier, TierReason};

/// A tier, with the gap between its samples.
#[must_use]
pub fn name(tier: Tier) -> String {
    match tier.sample_bytes() {
        Some(bytes) => format!("{} (one in {})", tier.name(), units::bytes(bytes)),
        None => tier.name().to_owned(),
    }
}

/// Why there is a tier from some moment on.
#[must_use]
pub fn reason(reason: &TierReason) -> String {
    match reason {
        TierReason::AsAskedFor => "as closely as was asked for".to_owned(),
        TierReason::Shared => "probes have come to be in every process, and one tier serves all".to_owned(),
        TierReason::TooDear { before, share, payer, max_overhead } => {
            format!("tier {} takes {}", name(*before), of_budget(*share, payer, *max_overhead))
        }
        TierReason::NoRoom { before } => format!("tier {} fills the table of blocks (--max-blocks)", name(*before)),
        TierReason::Affordable { share, payer, max_overhead } => {
            format!("it would take {}", of_budget(*share, payer, *max_overhead))
        }
    }
}

/// A share beside the budget.
fn of_budget(share: f64, payer: &Payer, max_overhead: f64) -> String {
    let whose = match payer {
        Payer::Process { comm, pid } => format!("the CPU time of {comm} (pid {pid})"),
        Payer::Gone => "CPU time".to_owned(),
        Payer::Passing => "the CPU time of processes that come and go".to_owned(),
    };
    format!("{:.1} % of {whose}, --max-overhead is {:.1} %", share * 100.0, max_overhead * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_told_with_its_share_and_the_budget() {
        let (share, max_overhead) = (0.1234, 0.03);
        let dear = |payer| reason(&TierReason::TooDear { before: Tier::Exact, share, payer, max_overhead });
        let process = Payer::Process { comm: "demo".into(), pid: 42 };
        assert_eq!(
            dear(process.clone()),
            "tier exact takes 12.3 % of the CPU time of demo (pid 42), --max-overhead is 3.0 %"
        );
        let before = Tier::Sampled { sample_bytes: 4096 };
        assert_eq!(
            reason(&TierReason::NoRoom { before }),
            "tier sampled (one in 4.00 KiB) fills the table of blocks (--max-blocks)"
        );
        assert_eq!(dear(Payer::Gone), "tier exact takes 12.3 % of CPU time, --max-overhead is 3.0 %");
        let closer = TierReason::Affordable { share: 0.01, payer: Payer::Passing, max_overhead };
        let told = "it would take 1.0 % of the CPU time of processes that come and go, --max-overhead is 3.0 %";
        assert_eq!(reason(&closer), told);
        assert_eq!(reason(&TierReason::AsAskedFor), "as closely as was asked for");
        assert!(reason(&TierReason::Shared).ends_with(", and one tier serves all"));
    }
}
