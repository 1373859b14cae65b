//! Events for user space, and stops until it has answered.

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_send_signal, generated::bpf_get_attach_cookie},
    programs::RawTracePointContext,
};
use aya_log_ebpf::debug;
use memtrace_common::wire::{
    control::{Control, HOOKED_CODE as HOOKED_CODE_COUNT, VERDICTS_FROM_MS},
    counters::Counter,
    event::{Event, EventKind},
};

use crate::{
    arch::{system_call_arguments, system_call_number, system_call_numbers},
    heap::nesting::is_within_call,
    maps::{CONTROL, EVENTS, HOOKED_CODE},
    namespace::number_of_current,
    system_calls::{MAP_ANONYMOUS, PROT_EXEC, registers},
    target::{Target, count_of_run, is_own},
};

/// `SIGSTOP` of `<asm-generic/signal.h>`.
const SIGSTOP: u32 = 19;

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
    let Some(regs) = registers(ctx) else { return };
    let is_mapping = system_call_number(&regs) == system_call_numbers::MMAP;
    // mmap(addr, length, prot, flags, fd, offset)
    let [_, length, protection, flags, ..] = system_call_arguments(&regs);
    let is_anonymous = flags & MAP_ANONYMOUS != 0;
    if is_mapping && is_anonymous && is_as_long_as_hooked_code(length) {
        // Not where its allocator happens to need as much.
        if !is_within_call(&target, &regs) {
            stop_and_announce(&target, EventKind::CodeCopy);
        }
        return;
    }
    let is_code = is_mapping && protection & PROT_EXEC != 0 && !is_anonymous;
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
pub(crate) fn stop_if_asked(control: &Control) {
    if control.stop_on_image != 0 {
        // SAFETY: a plain system call on the current task.
        unsafe { bpf_send_signal(SIGSTOP) };
    }
}

/// Every notice has a stop of its own: the answer to one without would take back the stop of the next.
#[inline(always)]
fn stop_and_announce_mapping(target: &Target) {
    target.note_code_change();
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
pub(crate) fn announce(event: Event) {
    if EVENTS.output::<Event>(event, 0).is_err() {
        count_of_run(Counter::EventsFull);
    }
}
