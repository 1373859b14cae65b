//! The processes of a scan that grow, and the price of a look at one, which the governor's decisions rest on.

use std::{num::NonZeroU32, time::Duration};

use super::process_scan::ProcessScan;
use crate::{
    governor::growth_slots::{GrowthSlots, Seen, Slots, Step},
    process::status,
};

/// The price of a byte of code that nobody has mapped before, until one was paid, in nanoseconds.
const GUESSED_NS_PER_BYTE: f64 = 20.0;
/// Less code tells nothing of the price, in bytes.
const TELLS_THE_PRICE: u64 = 1 << 20;

/// The processes that grow, and the price of a look at one.
#[derive(Debug)]
pub(super) struct GrowthLooks {
    slots: GrowthSlots,
    ns_per_byte: f64,
}

impl Default for GrowthLooks {
    fn default() -> Self {
        Self { slots: GrowthSlots::default(), ns_per_byte: GUESSED_NS_PER_BYTE }
    }
}

impl GrowthLooks {
    /// Takes in a scan.
    pub(super) fn note(&mut self, scan: &ProcessScan, elapsed: Duration) {
        let now = status::since_boot();
        let seen = scan.iter().map(|entry| Seen {
            pid: entry.pid,
            serial: entry.serial,
            rss_bytes: entry.usage().rss_bytes(),
            age: now.saturating_sub(entry.began()),
        });
        self.slots.note(elapsed, seen);
    }

    /// The governor's decision; `code_bytes` tells how much code a look at a process has to look up.
    pub(super) fn decide(&mut self, slots: &Slots, code_bytes: impl Fn(NonZeroU32) -> u64) -> Vec<Step> {
        let ns_per_byte = self.ns_per_byte;
        self.slots.decide(slots, |pid| Duration::from_secs_f64(code_bytes(pid) as f64 * ns_per_byte / 1e9))
    }

    /// A look at so much new code has taken so much CPU time.
    pub(super) fn learn(&mut self, code_bytes: u64, took: Duration) {
        if code_bytes >= TELLS_THE_PRICE {
            let paid = took.as_secs_f64() * 1e9 / code_bytes as f64;
            self.ns_per_byte = self.ns_per_byte.midpoint(paid);
        }
    }
}
