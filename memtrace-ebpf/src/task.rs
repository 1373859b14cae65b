//! Births and ends of tasks, programs and images.

use aya_ebpf::{
    EbpfContext,
    bindings::pt_regs,
    helpers::{bpf_get_current_pid_tgid, bpf_probe_read_kernel, bpf_send_signal},
    programs::RawTracePointContext,
};
use aya_log_ebpf::debug;
use memtrace_common::{
    event::{Event, EventKind},
    process::Counter,
};

use crate::{
    maps::{CONTROL, EVENTS, THREADS},
    target::Target,
};

/// `mmap` in arch/x86/entry/syscalls/syscall_64.tbl.
const SYS_MMAP: u64 = 9;
/// `PROT_EXEC` of `<asm-generic/mman-common.h>`.
const PROT_EXEC: u64 = 4;
/// `MAP_ANONYMOUS` of `<asm-generic/mman-common.h>`.
const MAP_ANONYMOUS: u64 = 0x20;
/// `SIGSTOP` of `<asm-generic/signal.h>`.
const SIGSTOP: u32 = 19;

/// The current thread ends.
#[inline(always)]
pub(crate) fn forget_thread() {
    let tid = bpf_get_current_pid_tgid() as u32;
    // Most threads of the host were never seen: that there is nothing to remove is no error.
    _ = THREADS.remove(&tid);
}

/// The current process has become another program, none of whose instructions has run yet.
#[inline(always)]
pub(crate) fn start_afresh(ctx: &impl EbpfContext) {
    let Some(target) = Target::current() else { return };
    forget_thread();
    target.next_generation();
    debug!(ctx, "process {} has called exec", target.tgid);
    stop_if_asked();
    announce(&target, EventKind::Exec);
}

/// The current process's dynamic linker has changed what is loaded.
#[inline(always)]
pub(crate) fn announce_images(ctx: &impl EbpfContext) {
    let Some(target) = Target::current() else { return };
    debug!(ctx, "the linker of process {} has changed what is loaded", target.tgid);
    announce(&target, EventKind::ImageMapped);
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
    let is_code = regs.orig_rax == SYS_MMAP && regs.rdx & PROT_EXEC != 0 && regs.r10 & MAP_ANONYMOUS == 0;
    if !is_code {
        return;
    }
    debug!(ctx, "process {} has mapped a file as code", target.tgid);
    stop_if_asked();
    announce(&target, EventKind::ImageMapped);
}

/// Stops the current process before it returns to its own code, where user space wants that.
///
/// Always before the announcement: user space answers that with SIGCONT, which also takes back a stop
/// that has not happened yet. The other way round, the answer could come before the question.
#[inline(always)]
fn stop_if_asked() {
    if CONTROL.get(0).is_some_and(|control| control.stop_on_image != 0) {
        // SAFETY: a plain system call on the current task.
        unsafe { bpf_send_signal(SIGSTOP) };
    }
}

#[inline(always)]
fn announce(target: &Target, kind: EventKind) {
    let event = Event { kind: kind as u32, tgid: target.tgid };
    if EVENTS.output::<Event>(event, 0).is_err() {
        target.count(Counter::EventsFull);
    }
}
