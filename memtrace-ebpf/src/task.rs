//! Births and ends of tasks, programs and images.

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_get_current_pid_tgid, bpf_send_signal},
    programs::FExitContext,
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

/// `PROT_EXEC` of `<asm-generic/mman-common.h>`.
const PROT_EXEC: u64 = 4;
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
    announce(&target, EventKind::Exec);
}

/// The current process has returned from mapping a file (or anonymous memory).
#[inline(always)]
pub(crate) fn announce_image(ctx: &FExitContext) {
    // vm_mmap_pgoff(struct file *file, unsigned long addr, unsigned long len, unsigned long prot, …):
    // mm/util.c, the same since 3.4.
    let (file, prot): (u64, u64) = (ctx.arg(0), ctx.arg(3));
    if file == 0 || prot & PROT_EXEC == 0 {
        return;
    }
    let Some(target) = Target::current() else { return };
    // The signal first: user space answers the event with SIGCONT, which also takes back a stop that
    // has not happened yet. The other way round, the answer could come before the question.
    if CONTROL.get(0).is_some_and(|control| control.stop_on_image != 0) {
        // SAFETY: a plain system call on the current task.
        unsafe { bpf_send_signal(SIGSTOP) };
    }
    debug!(ctx, "process {} has mapped an image", target.tgid);
    announce(&target, EventKind::ImageMapped);
}

#[inline(always)]
fn announce(target: &Target, kind: EventKind) {
    let event = Event { kind: kind as u32, tgid: target.tgid };
    if EVENTS.output::<Event>(event, 0).is_err() {
        target.count(Counter::EventsFull);
    }
}
