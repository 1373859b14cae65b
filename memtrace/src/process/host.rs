//! The machine's name.

use std::fs;

/// The host's name, as the kernel has it; empty where /proc does not say.
#[must_use]
pub fn name() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}
