//! Births and ends of tasks, programs and images.

use aya_ebpf::{
    EbpfContext, Global,
    bindings::pt_regs,
    helpers::{
        bpf_get_current_comm, bpf_ktime_get_ns, bpf_probe_read_kernel, bpf_send_signal,
        generated::bpf_get_attach_cookie,
    },
    programs::RawTracePointContext,
};
use aya_log_ebpf::debug;
use memtrace_common::{
    control::{Adoption, Control, HOOKED_CODE as HOOKED_CODE_COUNT, VERDICTS_FROM_MS},
    event::{Event, EventKind},
    process::{Counter, Process, ProcessSlot, SlotOfProcess},
};

use crate::{
    alloc::is_within_call,
    atomic::add,
    maps::{
        CGROUPS, CODE_TABLES, CONTROL, EVENTS, FIRST_PROCESS, FREE_SLOTS, HOOKED_CODE, PROCESS_SLOTS, PROCESSES,
        TRAMPOLINES,
    },
    namespace::{number_of, number_of_current},
    target::{Target, Task, count_of_run, slot_of},
    threads,
};

/// `mmap` in arch/x86/entry/syscalls/syscall_64.tbl.
const SYS_MMAP: u64 = 9;
/// `PROT_EXEC` of `<asm-generic/mman-common.h>`.
const PROT_EXEC: u64 = 4;
/// `MAP_ANONYMOUS` of `<asm-generic/mman-common.h>`.
const MAP_ANONYMOUS: u64 = 0x20;
/// `SIGSTOP` of `<asm-generic/signal.h>`.
const SIGSTOP: u32 = 19;
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
    threads::end(tid);
    let Some(slot) = slot_of(tgid) else { return };
    if is_own(slot, tgid) {
        // sched_process_exit(struct task_struct *p, …): include/trace/events/sched.h
        count_cpu_time(slot, cpu_time(ctx.arg(0)));
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
    // SAFETY: a plain call.
    let now = unsafe { bpf_ktime_get_ns() };
    let age = now.wrapping_sub(field(TASK_START_OFFSET.load()));
    let reckoned = field(TASK_RUNTIME_OFFSET.load()).wrapping_add(HALF_TICK_NS.load() as u64);
    if reckoned < age { reckoned } else { age }
}

/// Adds to what the threads of a target have run on a CPU.
#[inline(always)]
fn count_cpu_time(slot: ProcessSlot, ns: u64) {
    let Some(process) = PROCESSES.get_ptr_mut(slot.0) else { return };
    // SAFETY: an array map's entry lives as long as the map; this is touched atomically only.
    add(unsafe { &raw mut (*process).cpu_ns }, ns);
}

/// The current process has become another program, none of whose instructions has run yet.
#[inline(always)]
pub(crate) fn begin_program(ctx: &RawTracePointContext) {
    let Some(control) = CONTROL.get(0) else { return };
    let Task { tgid, tid } = Task::current();
    // sched_process_exec(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm): a thread that calls
    // exec takes on the id of its process (include/trace/events/sched.h).
    let old_tid: u32 = ctx.arg(1);
    threads::end(old_tid);
    threads::end(tid);
    let before = slot_of(tgid);
    // What it shared with its parent was the parent's.
    let own = before.filter(|slot| is_own(*slot, tgid));
    let cpu_time = cpu_time(ctx.arg(0));
    if let Some(own) = own {
        count_cpu_time(own, cpu_time);
    }
    let pid = number_of_current(tgid);
    // A process that memtrace cannot see has no number that it could be named by.
    let slot = if pid != 0 && is_wanted(control, tgid, before, own) { open(tgid) } else { None };
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
        bpf_get_current_comm().is_ok_and(|comm| words(&comm) == control.comm)
    } else if adoption.includes(Adoption::CGROUP) {
        CGROUPS.current_task_under_cgroup(0) == Ok(true)
    } else if adoption.includes(Adoption::EVERYONE) {
        true
    } else {
        own.is_some() || (before.is_some() && adoption.includes(Adoption::CHILDREN))
    }
}

#[inline(always)]
pub(crate) fn words(comm: &[u8; 16]) -> [u64; 2] {
    // SAFETY: sixteen bytes, read as two words of any alignment.
    unsafe { comm.as_ptr().cast::<[u64; 2]>().read_unaligned() }
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
        // Whoever had this id before is gone.
        _ = PROCESS_SLOTS.remove(&child);
        return;
    };
    if flags & CLONE_VM != 0 {
        if PROCESS_SLOTS.insert(&child, &parent, 0).is_err() {
            count_of_run(Counter::ProcessesFull);
        }
    } else if Adoption(control.adoption).includes(Adoption::CHILDREN) {
        let Some(slot) = open(child) else { return };
        // It runs the same code at the same addresses.
        copy_place(CODE_TABLES.get_ptr_mut(parent.0), CODE_TABLES.get_ptr_mut(slot.0));
        copy_place(TRAMPOLINES.get_ptr_mut(parent.0), TRAMPOLINES.get_ptr_mut(slot.0));
        debug!(ctx, "process {} has a child {}", tgid, child);
        announce(Event { kind: EventKind::Forked as u32, tgid: number_of(task, child), slot, previous: parent });
    } else {
        _ = PROCESS_SLOTS.remove(&child);
    }
}

#[inline(always)]
fn copy_place<T: Copy>(from: Option<*mut T>, to: Option<*mut T>) {
    if let (Some(from), Some(to)) = (from, to) {
        // SAFETY: an array map's entries live as long as the map; each is one word.
        unsafe { *to = *from };
    }
}

/// Makes a process a target, with an empty book.
#[inline(always)]
fn open(tgid: u32) -> Option<ProcessSlot> {
    let Ok(Some(slot)) = FREE_SLOTS.pop() else {
        count_of_run(Counter::ProcessesFull);
        forget_process(tgid);
        return None;
    };
    let process = PROCESSES.get_ptr_mut(slot.0)?;
    // SAFETY: an array map's entry lives as long as the map; this one is nobody else's by now.
    unsafe { *process = Process { tgid, ..Process::default() } };
    if FIRST_PROCESS.get(0)?.of(tgid).is_some() {
        let first = FIRST_PROCESS.get_ptr_mut(0)?;
        // SAFETY: as above; one word.
        unsafe { *first = SlotOfProcess::new(tgid, slot) };
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
    if let Some(first) = FIRST_PROCESS.get_ptr_mut(0) {
        // SAFETY: an array map's entry lives as long as the map; one word.
        let first = unsafe { &mut *first };
        if first.of(tgid).is_some() {
            *first = SlotOfProcess::default();
        }
    }
}

/// The current process's dynamic linker has changed what is loaded.
#[inline(always)]
pub(crate) fn announce_images(ctx: &impl EbpfContext) {
    let Some(target) = Target::current() else { return };
    debug!(ctx, "the linker of process {} has changed what is loaded", target.tgid);
    stop_and_announce_mapping(&target);
}

/// The current process returns from a system call: if that has mapped a file as code, it is stopped
/// before it can run any of it.
#[inline(always)]
pub(crate) fn stop_after_mapping_code(ctx: &RawTracePointContext) {
    let Some(target) = Target::current() else { return };
    // sys_exit(struct pt_regs *regs, long ret): include/trace/events/syscalls.h
    let regs: *const pt_regs = ctx.arg(0);
    // SAFETY: the helper checks the kernel address and fails where it is not readable.
    let Ok(regs) = (unsafe { bpf_probe_read_kernel(regs) }) else { return };
    // mmap(addr, length, prot, flags, fd, offset)
    let is_anonymous = regs.r10 & MAP_ANONYMOUS != 0;
    if regs.orig_rax == SYS_MMAP && is_anonymous && is_as_long_as_hooked_code(regs.rsi) {
        // Not where its allocator happens to need as much.
        if !is_within_call(&target, &regs) {
            stop_and_announce(&target, EventKind::CodeCopy);
        }
        return;
    }
    let is_code = regs.orig_rax == SYS_MMAP && regs.rdx & PROT_EXEC != 0 && !is_anonymous;
    if !is_code {
        return;
    }
    debug!(ctx, "process {} has mapped a file as code", target.tgid);
    stop_and_announce_mapping(&target);
}

#[inline(always)]
fn is_as_long_as_hooked_code(length: u64) -> bool {
    for index in 0..HOOKED_CODE_COUNT {
        match HOOKED_CODE.get(index) {
            Some(0) | None => return false,
            Some(hooked) if *hooked == length => return true,
            Some(_) => {}
        }
    }
    false
}

/// The current process is about to end, or to become another program: it is stopped before it does, until user space has looked
/// at its memory.
#[inline(always)]
pub(crate) fn stop_before_end(ctx: &impl EbpfContext, kind: EventKind) {
    let Some(target) = Target::current() else { return };
    // A child that is in its parent's memory (vfork) ends alone; and nobody would answer where nobody counts.
    let Some(control) = CONTROL.get(0).filter(|control| control.stop_on_image != 0) else { return };
    if !is_own(target.slot, target.tgid) {
        return;
    }
    debug!(ctx, "process {} is about to end", target.tgid);
    stop_if_asked(control);
    let thread = number_of_current(target.tid);
    announce(Event { kind: kind as u32, tgid: thread, slot: target.slot, previous: target.slot });
}

/// The current process begins to end. Where the probe's cookie says so, it is stopped until user space has read what it holds.
#[inline(always)]
pub(crate) fn announce_way_out(ctx: &impl EbpfContext) {
    let Some(target) = Target::current() else { return };
    let Some(control) = CONTROL.get(0).filter(|control| control.now_ms >= VERDICTS_FROM_MS) else { return };
    if !is_own(target.slot, target.tgid) {
        return;
    }
    debug!(ctx, "process {} begins to end", target.tgid);
    // SAFETY: the helper reads the running program's own attachment.
    if unsafe { bpf_get_attach_cookie(ctx.as_ptr()) } != 0 {
        stop_if_asked(control);
    }
    announce(Event { kind: EventKind::Leaving as u32, tgid: target.tid, slot: target.slot, previous: target.slot });
}

/// Stops the current process before it returns to its own code, where user space wants that.
///
/// Always before the announcement: user space answers that with SIGCONT, which also takes back a stop
/// that has not happened yet. The other way round, the answer could come before the question.
#[inline(always)]
fn stop_if_asked(control: &Control) {
    if control.stop_on_image != 0 {
        // SAFETY: a plain system call on the current task.
        unsafe { bpf_send_signal(SIGSTOP) };
    }
}

/// Every notice has a stop of its own: the answer to one without would take back the stop of the next.
#[inline(always)]
fn stop_and_announce_mapping(target: &Target) {
    stop_and_announce(target, EventKind::ImageMapped);
}

#[inline(always)]
fn stop_and_announce(target: &Target, kind: EventKind) {
    if let Some(control) = CONTROL.get(0) {
        stop_if_asked(control);
    }
    let &Target { slot, .. } = target;
    announce(Event { kind: kind as u32, tgid: 0, slot, previous: slot });
}

#[inline(always)]
fn announce(event: Event) {
    if EVENTS.output::<Event>(event, 0).is_err() {
        count_of_run(Counter::EventsFull);
    }
}

/// Whether the book at `slot` is the process's own, not that of a parent whose memory it shares.
#[inline(always)]
fn is_own(slot: ProcessSlot, tgid: u32) -> bool {
    PROCESSES.get(slot.0).is_some_and(|process| process.tgid == tgid)
}
