//! Features of the running kernel that decide which programs are loaded.

use crate::process::kernel_release::{release, version};

/// Whether tables can take memory as their entries come, in programs of probes: from then on by an allocator that takes no lock.
#[must_use]
pub fn has_memory_on_demand() -> bool {
    release().is_some_and(|release| version(&release) >= Some((6, 1)))
}

/// Whether the kernel has `bpf_loop`, with which stacks are unwound by call frame information.
#[must_use]
pub fn has_bpf_loop() -> bool {
    release().is_some_and(|release| version(&release) >= Some((5, 17)))
}
