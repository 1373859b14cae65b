//! The settings made at load for tracing of programs, and how the programs see them.

use std::time::Duration;

use aya::EbpfLoader;
use memtrace_common::wire::address_space::AddressSpaceLayout;

use super::{
    capacities::{Capacities, Extras},
    probe_kind::AttachMethod,
};
use crate::process::{status, task_type::TaskOffsets};

/// How stacks are walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unwind {
    /// By call frame information, compiled to rows.
    Rows,
    /// By frame pointers.
    FramePointers,
}

/// The settings made at load, for good.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How much each map can hold.
    pub capacities: Capacities,
    /// How stacks are walked.
    pub unwind: Unwind,
    /// Whether the programs write what they do to the log.
    pub debug_lines: bool,
    /// Where the kernel holds what is read of a task; nothing where children of targets do not matter.
    pub task: TaskOffsets,
    /// Where the kernel holds what is read of address spaces; nothing where those do not matter, or it does not say.
    pub address_space: AddressSpaceLayout,
    /// The tables that are needed besides those of every run.
    pub extras: Extras,
    /// Whether anything will be hooked.
    pub hooks: bool,
    /// How probes are attached; by the best means that the kernel has where nothing is said.
    pub links: Option<AttachMethod>,
    /// The mean number of bytes between samples; nothing where every allocation is counted.
    pub sample_bytes: Option<u64>,
    /// Whether what is recorded will change: as [`memtrace_common::wire::control::InForce::recording`] says, from then on.
    pub is_adaptive: bool,
    /// How many programs the kernel verifies at once, each on a thread and with memory of its own; one at least.
    pub verified_at_once: usize,
}

/// The same, as the programs' global variables.
pub(super) struct Globals {
    log_level: u8,
    unwind_by_rows: u8,
    is_adaptive: u8,
    thread_mask: u32,
    row_count: u32,
    half_tick_ns: u32,
    sample_bytes: u64,
    task: TaskOffsets,
    address_space: AddressSpaceLayout,
}

impl Globals {
    pub(super) fn new(settings: &Settings) -> Self {
        let half_tick: Duration = status::tick() / 2;
        Self {
            log_level: if settings.debug_lines { aya_log::Level::Debug as u8 } else { 0 },
            unwind_by_rows: u8::from(settings.unwind == Unwind::Rows),
            is_adaptive: u8::from(settings.is_adaptive),
            row_count: settings.capacities.rows,
            thread_mask: settings.capacities.thread_places() - 1,
            half_tick_ns: u32::try_from(half_tick.as_nanos()).unwrap_or(0),
            sample_bytes: settings.sample_bytes.unwrap_or(0),
            task: settings.task,
            address_space: settings.address_space,
        }
    }

    pub(super) fn set<'a>(&'a self, loader: &mut EbpfLoader<'a>) {
        loader
            .override_global("UNWIND_BY_ROWS", &self.unwind_by_rows, true)
            .override_global("THREAD_MASK", &self.thread_mask, true)
            .override_global("ROW_COUNT", &self.row_count, true)
            .override_global("SAMPLE_BYTES", &self.sample_bytes, true)
            .override_global("IS_ADAPTIVE", &self.is_adaptive, true)
            .override_global("TASK_PID_OFFSET", &self.task.pid, true)
            .override_global("TASK_START_OFFSET", &self.task.start, true)
            .override_global("TASK_RUNTIME_OFFSET", &self.task.runtime, true)
            .override_global("ADDRESS_SPACE_LAYOUT", &self.address_space, true)
            .override_global("HALF_TICK_NS", &self.half_tick_ns, true)
            .override_global(aya_log::LEVEL, &self.log_level, true);
    }
}
