//! Births and ends of threads, processes and programs.

use aya_ebpf::{
    Global,
    helpers::{bpf_ktime_get_ns, bpf_probe_read_kernel},
    programs::RawTracePointContext,
};
use aya_log_ebpf::debug;
use memtrace_common::{
    ids::{BudgetGroup, ProcessSlot},
    wire::{
        control::{Adoption, Control},
        counters::Counter,
        event::{Event, EventKind},
        process::{Process, SlotOfProcess},
    },
};

use crate::{
    atomic::{add, compare_exchange, load, store},
    maps::{CGROUPS, CODE_TABLES, CONTROL, PROCESS_SLOTS, PROCESSES, TRAMPOLINES, UNUSED_SLOTS},
    namespace::{number_of, number_of_current},
    notices::{announce, stop_if_asked},
    target::{Task, count_of_run, first_process, group_of, has_wanted_name, is_own, slot_of},
    threads,
};

/// `CLONE_VM` of `<linux/sched.h>`: the child shares the parent's memory.
const CLONE_VM: u64 = 0x100;
/// `CLONE_THREAD` of `<linux/sched.h>`: the child is a thread of the same process.
const CLONE_THREAD: u64 = 0x1_0000;

/// Where `task_struct` holds the task's id, in bytes: user space has it from the kernel's own type
/// information and sets it at load; 0 where that cannot be told.
#[unsafe(no_mangle)]
static TASK_PID_OFFSET: Global<u32> = Global::new(0);

/// The same for when the task began, by the clock of `bpf_ktime_get_ns`, and for how long it had run on a CPU when the kernel last
/// reckoned that.
#[unsafe(no_mangle)]
static TASK_START_OFFSET: Global<u32> = Global::new(0);
/// See [`TASK_START_OFFSET`].
#[unsafe(no_mangle)]
static TASK_RUNTIME_OFFSET: Global<u32> = Global::new(0);

/// Half of the longest time between two such reckonings of a thread that runs.
#[unsafe(no_mangle)]
static HALF_TICK_NS: Global<u32> = Global::new(0);

/// The current thread ends.
#[inline(always)]
pub(crate) fn end_thread(ctx: &RawTracePointContext) {
    let Task { tgid, tid } = Task::current();
    // Most threads of the host were never seen: that there is nothing to remove is no error.
    threads::end(tid, tgid != tid);
    let Some(slot) = slot_of(tgid) else { return };
    if is_own(slot, tgid) {
        // sched_process_exit(struct task_struct *p, …): include/trace/events/sched.h
        count_cpu_time(slot, cpu_time(ctx.arg(0)));
        note_end(slot);
    } else if tgid == tid {
        // It was in its parent's memory to the end; the book there goes on.
        _ = PROCESS_SLOTS.remove(&tgid);
    }
}

/// For how long a thread that runs now has run on a CPU, in nanoseconds; 0 where that cannot be told. The time after the
/// kernel's last reckoning is taken to be half of the most it can be: a good part of a process that lives for milliseconds.
#[inline(always)]
fn cpu_time(task: *const u8) -> u64 {
    if TASK_RUNTIME_OFFSET.load() == 0 {
        return 0;
    }
    let field = |offset: u32| {
        // SAFETY: the helper checks the kernel address and fails where it is not readable.
        unsafe { bpf_probe_read_kernel(task.wrapping_add(offset as usize).cast::<u64>()) }.unwrap_or(0)
    };
    let age = now_ns().wrapping_sub(field(TASK_START_OFFSET.load()));
    let reckoned = field(TASK_RUNTIME_OFFSET.load()).wrapping_add(HALF_TICK_NS.load() as u64);
    if reckoned < age { reckoned } else { age }
}

/// Adds to what the threads of a target have run on a CPU.
#[inline(always)]
fn count_cpu_time(slot: ProcessSlot, ns: u64) {
    let Some(process) = PROCESSES.get_ptr_mut(slot.0) else { return };
    // SAFETY: an array map's entry lives as long as the map.
    add(unsafe { &raw mut (*process).cpu_ns }, ns);
}

/// A thread of a target has ended, or its program is over.
#[inline(always)]
fn note_end(slot: ProcessSlot) {
    let Some(process) = PROCESSES.get_ptr_mut(slot.0) else { return };
    // SAFETY: an array map's entry lives as long as the map.
    store(unsafe { &raw mut (*process).ended_ns }, now_ns());
}

/// The time by `CLOCK_MONOTONIC`.
#[inline(always)]
fn now_ns() -> u64 {
    // SAFETY: a plain call.
    unsafe { bpf_ktime_get_ns() }
}

/// The current process has become another program, none of whose instructions has run yet.
#[inline(always)]
pub(crate) fn begin_program(ctx: &RawTracePointContext) {
    let Some(control) = CONTROL.get(0) else { return };
    let Task { tgid, tid } = Task::current();
    // sched_process_exec(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm): a thread that calls
    // exec takes on the id of its process (include/trace/events/sched.h).
    let old_tid: u32 = ctx.arg(1);
    threads::end(old_tid, false);
    threads::end(tid, false);
    let before = slot_of(tgid);
    // The memory that it shared with its parent was the parent's.
    let own = before.filter(|slot| is_own(*slot, tgid));
    let cpu_time = cpu_time(ctx.arg(0));
    if let Some(own) = own {
        count_cpu_time(own, cpu_time);
        note_end(own);
    }
    let pid = number_of_current(tgid);
    // Its probes are the same, whatever it runs.
    let group = before.map_or(BudgetGroup::SHARED, group_of);
    // A process that memtrace cannot see has no number that it could be named by.
    let slot = if pid != 0 && is_wanted(control, tgid, before, own) { open(tgid, group) } else { None };
    if let Some(slot) = slot {
        // The thread's time so far was before this program.
        count_cpu_time(slot, 0u64.wrapping_sub(cpu_time));
    }
    if slot.is_none() {
        forget_process(tgid);
    }
    if slot.is_none() && own.is_none() {
        return;
    }
    debug!(ctx, "process {} has called exec", tgid);
    if slot.is_some() {
        stop_if_asked(control);
    }
    let (slot, previous) = (slot.unwrap_or_default(), own.unwrap_or_default());
    // The kernel binds the probes of a process to the thread that was its first, and that is gone.
    let kind = if old_tid == tid { EventKind::Exec } else { EventKind::ExecByThread };
    announce(Event { kind: kind as u32, tgid: pid, slot, previous });
}

/// Whether the program that the current process has just become is a target.
#[inline(always)]
fn is_wanted(control: &Control, tgid: u32, before: Option<ProcessSlot>, own: Option<ProcessSlot>) -> bool {
    let adoption = Adoption(control.adoption);
    if tgid == control.own_tgid {
        false
    } else if adoption.includes(Adoption::COMM) {
        has_wanted_name(control)
    } else if adoption.includes(Adoption::CGROUP) {
        CGROUPS.current_task_under_cgroup(0) == Ok(true)
    } else if adoption.includes(Adoption::EVERYONE) {
        true
    } else {
        own.is_some() || (before.is_some() && adoption.includes(Adoption::CHILDREN))
    }
}

/// The current process has made a thread or a process, which has not run yet.
#[inline(always)]
pub(crate) fn begin_process(ctx: &RawTracePointContext) {
    // task_newtask(struct task_struct *task, unsigned long clone_flags): include/trace/events/task.h
    let (task, flags): (*const u8, u64) = (ctx.arg(0), ctx.arg(1));
    if flags & CLONE_THREAD != 0 || TASK_PID_OFFSET.load() == 0 {
        return;
    }
    // SAFETY: the helper checks the kernel address and fails where it is not readable.
    let child = unsafe { bpf_probe_read_kernel(task.wrapping_add(TASK_PID_OFFSET.load() as usize).cast::<u32>()) };
    let (Ok(child), Some(control)) = (child, CONTROL.get(0)) else { return };
    let Task { tgid, .. } = Task::current();
    let Some(parent) = slot_of(tgid) else {
        // The process that had this id before is gone.
        _ = PROCESS_SLOTS.remove(&child);
        return;
    };
    if flags & CLONE_VM != 0 {
        if PROCESS_SLOTS.insert(&child, &parent, 0).is_err() {
            count_of_run(Counter::ProcessesFull);
        }
    } else if Adoption(control.adoption).includes(Adoption::CHILDREN) {
        let Some(slot) = open(child, group_of(parent)) else { return };
        // It runs the same code at the same addresses.
        copy_word(CODE_TABLES.get_ptr_mut(parent.0), CODE_TABLES.get_ptr_mut(slot.0));
        copy_word(TRAMPOLINES.get_ptr_mut(parent.0), TRAMPOLINES.get_ptr_mut(slot.0));
        debug!(ctx, "process {} has a child {}", tgid, child);
        announce(Event { kind: EventKind::Forked as u32, tgid: number_of(task, child), slot, previous: parent });
    } else {
        _ = PROCESS_SLOTS.remove(&child);
    }
}

#[inline(always)]
fn copy_word<T>(from: Option<*mut T>, to: Option<*mut T>) {
    const { assert!(size_of::<T>() == size_of::<u64>()) };
    if let (Some(from), Some(to)) = (from, to) {
        store(to.cast(), load(from.cast()));
    }
}

/// Makes a process a target, with an empty book.
#[inline(always)]
fn open(tgid: u32, group: BudgetGroup) -> Option<ProcessSlot> {
    let Ok(Some(slot)) = UNUSED_SLOTS.pop() else {
        count_of_run(Counter::ProcessesFull);
        forget_process(tgid);
        return None;
    };
    let process = PROCESSES.get_ptr_mut(slot.0)?;
    // SAFETY: an array map's entry lives as long as the map; this one is nobody else's by now.
    unsafe { *process = Process { tgid, group, began_ns: now_ns(), ..Process::default() } };
    let (first, word) = first_process()?;
    if first.of(tgid).is_some() {
        store(word, SlotOfProcess::new(tgid, slot).0);
    }
    if PROCESS_SLOTS.insert(&tgid, &slot, 0).is_err() {
        count_of_run(Counter::ProcessesFull);
    }
    Some(slot)
}

/// The process is no target, or not any more.
#[inline(always)]
fn forget_process(tgid: u32) {
    _ = PROCESS_SLOTS.remove(&tgid);
    if let Some((first, word)) = first_process()
        && first.of(tgid).is_some()
    {
        _ = compare_exchange(word, first.0, SlotOfProcess::default().0);
    }
}
