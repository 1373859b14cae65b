//! The notices of a run to its user, on stderr.

use super::session::Session;
use crate::{capture::selection::Selection, model::tier::Tier, report::words::units};

impl Session {
    pub(super) fn tier_in_words(&self) -> String {
        match &self.governor {
            None => format!("tier {}", self.tier.name()),
            Some(governor) if matches!(governor.tier(), Tier::Sampled { .. }) => {
                format!("tier sampled, as finely as {:.1} % of CPU time allows", governor.max_overhead() * 100.0)
            }
            Some(governor) => format!(
                "tier {} while that takes no more than {:.1} % of CPU time",
                governor.tier().name(),
                governor.max_overhead() * 100.0
            ),
        }
    }

    pub(super) fn announce(&self) {
        /// More targets than this are told as a sum.
        const TOLD: usize = 4;
        let tier = self.tier_in_words();
        if let Some(scan) = &self.scan {
            let count = units::processes(scan.count() as u64);
            return eprintln!("memtrace: tracing the memory of {count}, and of those that begin later, {tier}");
        }
        let count = self.hooked().count();
        for target in self.hooked().take(if count > TOLD { 0 } else { TOLD }) {
            if target.allocators.is_empty() {
                eprintln!("memtrace: tracing {} (pid {}), {tier}", target.comm, target.pid);
            }
            for allocator in &target.allocators {
                eprintln!(
                    "memtrace: tracing {} (pid {}): {} functions of {} in {}, {tier}",
                    target.comm,
                    target.pid,
                    allocator.functions.len(),
                    allocator.name,
                    allocator.image
                );
            }
        }
        match &self.selection {
            Selection::Comm(name) if count == 0 => {
                eprintln!("memtrace: tracing every program called {name}, of which there is none yet, {tier}");
            }
            _ if count == 0 => eprintln!("memtrace: tracing what begins from now on, {tier}"),
            _ if count > TOLD => eprintln!("memtrace: tracing {count} processes, {tier}"),
            _ => {}
        }
    }
}
