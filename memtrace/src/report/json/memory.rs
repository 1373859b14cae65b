//! The memory of a process, or of the kernel, over time.

use std::time::Duration;

use serde::Serialize;

use super::figures::nanoseconds;
use crate::model::{
    ledger::Ledger,
    memory::{KernelUsage, Memory, Reading, Series, Usage},
};

/// The parts of resident memory.
#[derive(Serialize)]
pub(super) struct JsonLedger {
    rss_at_attach_bytes: u64,
    rss_bytes: u64,
    live_heap_bytes: u64,
    live_mmap_bytes: u64,
    unexplained_bytes: i64,
    lost_events: u64,
    unmatched_frees: u64,
}

impl From<&Ledger> for JsonLedger {
    fn from(ledger: &Ledger) -> Self {
        Self {
            rss_at_attach_bytes: ledger.rss_at_attach_bytes,
            rss_bytes: ledger.rss_bytes,
            live_heap_bytes: ledger.live_heap_bytes,
            live_mmap_bytes: ledger.live_mmap_bytes,
            unexplained_bytes: ledger.unexplained_bytes(),
            lost_events: ledger.lost_events,
            unmatched_frees: ledger.unmatched_frees,
        }
    }
}

/// The memory of the process over time.
#[derive(Serialize)]
pub(super) struct JsonMemory {
    rss_anon_bytes: u64,
    rss_file_bytes: u64,
    rss_shmem_bytes: u64,
    swap_bytes: u64,
    vms_bytes: u64,
    limit_bytes: Option<u64>,
    limit_used_bytes: Option<u64>,
    seconds_to_limit: Option<f64>,
    series: Vec<JsonUsage>,
}

#[derive(Serialize)]
pub(super) struct JsonUsage {
    at_ns: u64,
    rss_bytes: u64,
    anon_bytes: u64,
    file_bytes: u64,
    shmem_bytes: u64,
    swap_bytes: u64,
    vms_bytes: u64,
}

/// The memory of a process over time; nothing of the kernel.
pub(super) fn json_memory(memory: &Memory) -> Option<JsonMemory> {
    let Series::OfProcess(readings) = &memory.series else { return None };
    let (_, latest) = readings.last()?;
    let usage = |(at, usage): &(Duration, Usage)| JsonUsage {
        at_ns: nanoseconds(*at),
        rss_bytes: usage.rss_bytes(),
        anon_bytes: usage.anon_bytes,
        file_bytes: usage.file_bytes,
        shmem_bytes: usage.shmem_bytes,
        swap_bytes: usage.swap_bytes,
        vms_bytes: usage.vms_bytes,
    };
    Some(JsonMemory {
        rss_anon_bytes: latest.anon_bytes,
        rss_file_bytes: latest.file_bytes,
        rss_shmem_bytes: latest.shmem_bytes,
        swap_bytes: latest.swap_bytes,
        vms_bytes: latest.vms_bytes,
        limit_bytes: memory.limit.map(|limit| limit.max_bytes),
        limit_used_bytes: memory.limit.map(|limit| limit.used_bytes),
        seconds_to_limit: memory.time_to_limit.map(|time| time.as_secs_f64()),
        series: readings.iter().map(usage).collect(),
    })
}

/// The memory that the kernel holds for itself.
#[derive(Serialize)]
pub(super) struct JsonKernelMemory {
    series: Vec<JsonKernelUsage>,
}

#[derive(Serialize)]
pub(super) struct JsonKernelUsage {
    at_ns: u64,
    held_bytes: u64,
    slab_reclaimable_bytes: u64,
    slab_unreclaimable_bytes: u64,
    stack_bytes: u64,
    vmalloc_bytes: u64,
    page_table_bytes: u64,
    percpu_bytes: u64,
}

/// The kernel's own memory over time; nothing of a process.
pub(super) fn json_kernel_memory(memory: &Memory) -> Option<JsonKernelMemory> {
    let Series::OfKernel(readings) = &memory.series else { return None };
    let usage = |(at, usage): &(Duration, KernelUsage)| JsonKernelUsage {
        at_ns: nanoseconds(*at),
        held_bytes: usage.bytes(),
        slab_reclaimable_bytes: usage.slab_reclaimable_bytes,
        slab_unreclaimable_bytes: usage.slab_unreclaimable_bytes,
        stack_bytes: usage.stack_bytes,
        vmalloc_bytes: usage.vmalloc_bytes,
        page_table_bytes: usage.page_table_bytes,
        percpu_bytes: usage.percpu_bytes,
    };
    Some(JsonKernelMemory { series: readings.iter().map(usage).collect() })
}
