//! Who is calling: the target behind the current thread, and its counters.

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use memtrace_common::{
    block::BlockKey,
    control::Control,
    process::{Counter, Process, ProcessSlot},
    thread::Requested,
};

use crate::{
    atomic::add,
    maps::{CONTROL, FIRST_PROCESS, PROCESS_SLOTS, PROCESSES},
};

/// The current thread, by its ids. Asked for once in a program: the kernel takes some ten nanoseconds to answer.
#[derive(Clone, Copy)]
pub(crate) struct Task {
    pub(crate) tgid: u32,
    pub(crate) tid: u32,
}

impl Task {
    #[inline(always)]
    pub(crate) fn current() -> Self {
        let pid_tgid = bpf_get_current_pid_tgid();
        Self { tgid: (pid_tgid >> 32) as u32, tid: pid_tgid as u32 }
    }
}

/// The current thread, of a process that is a target.
pub(crate) struct Target {
    pub(crate) tgid: u32,
    pub(crate) tid: u32,
    pub(crate) slot: ProcessSlot,
    pub(crate) now_ms: u32,
    /// Whether stacks that free are wanted of some sites.
    pub(crate) follows_frees: bool,
    process: *mut Process,
}

impl Target {
    /// The current thread, where its process is a target.
    #[inline(always)]
    pub(crate) fn current() -> Option<Self> {
        Self::with(CONTROL.get(0)?, Task::current())
    }

    /// The same of `task`, which is the current thread, while events are counted.
    #[inline(always)]
    pub(crate) fn counted(task: Task) -> Option<Self> {
        let control = CONTROL.get(0)?;
        if control.counting == 0 { None } else { Self::with(control, task) }
    }

    #[inline(always)]
    fn with(control: &Control, Task { tgid, tid }: Task) -> Option<Self> {
        let slot = slot_of(tgid)?;
        let process = PROCESSES.get_ptr_mut(slot.0)?;
        Some(Self { tgid, tid, slot, now_ms: control.now_ms, follows_frees: control.follows_frees != 0, process })
    }

    /// Names the block at `address` of this target.
    #[inline(always)]
    pub(crate) fn block(&self, address: u64) -> BlockKey {
        BlockKey::new(self.slot, address)
    }

    /// Counts one event that is missing from the figures, or needs explaining.
    #[inline(always)]
    pub(crate) fn count(&self, counter: Counter) {
        // SAFETY: see `current`; the counters are touched atomically only.
        let counters = unsafe { &mut (*self.process).counters };
        // No indexing: it could panic, and a program that could panic is refused.
        if let Some(at) = counters.get_mut(counter as usize) {
            add(at, 1);
        }
    }
}

/// Whether events are counted.
#[inline(always)]
pub(crate) fn is_counting() -> bool {
    CONTROL.get(0).is_some_and(|control| control.counting != 0)
}

/// Adds what a thread that has ended had asked for to what its process has.
#[inline(always)]
pub(crate) fn count_requested(slot: ProcessSlot, requested: Requested) {
    let Some(process) = PROCESSES.get_ptr_mut(slot.0) else { return };
    // SAFETY: an array map's entry lives as long as the map; this is touched atomically only.
    let sum = unsafe { &mut (*process).requested };
    add(&raw mut sum.bytes, requested.bytes);
    add(&raw mut sum.objects, requested.objects);
    add(&raw mut sum.returns, requested.returns);
    add(&raw mut sum.rets, requested.rets);
    add(&raw mut sum.frees, requested.frees);
    add(&raw mut sum.ends, requested.ends);
    add(&raw mut sum.window_ends, requested.window_ends);
}

/// Where a process stands, if it is a target.
#[inline(always)]
pub(crate) fn slot_of(tgid: u32) -> Option<ProcessSlot> {
    match FIRST_PROCESS.get(0)?.of(tgid) {
        Some(slot) => Some(slot),
        // SAFETY: the value is a plain integer, copied at once.
        None => unsafe { PROCESS_SLOTS.get(&tgid) }.copied(),
    }
}

/// Counts one event that belongs to no target, but to the run as a whole.
#[inline(always)]
pub(crate) fn count_of_run(counter: Counter) {
    count_at(ProcessSlot::NONE, counter);
}

/// Counts one event of the target that stands there.
#[inline(always)]
pub(crate) fn count_at(slot: ProcessSlot, counter: Counter) {
    let Some(process) = PROCESSES.get_ptr_mut(slot.0) else { return };
    // SAFETY: an array map's entry lives as long as the map; the counters are touched atomically only.
    if let Some(at) = unsafe { &mut (*process).counters }.get_mut(counter as usize) {
        add(at, 1);
    }
}
