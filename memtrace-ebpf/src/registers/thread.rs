//! The registers of one thread that is in the kernel.
//!
//! A thread that runs on no CPU has entered the kernel, by a system call or by an interrupt, and has left its registers at the top
//! of its kernel stack. It cannot change them before it gets a CPU, and gives that up again only with one of two counters.

use aya_ebpf::helpers::generated::{bpf_get_current_task_btf, bpf_probe_read_kernel, bpf_task_pt_regs};
use memtrace_common::wire::registers::{ThreadLayout, ThreadRegisters, ThreadState};

use crate::kernel_fields::{Address, current_task, field, pointer};

/// Where on its kernel stack a task has its registers, in bytes from the stack's beginning: the same for every task, by the size of
/// stacks and by what the kernel keeps free above. The kernel tells it of the current task, which is in a system call.
#[inline(always)]
pub(crate) fn place_of_registers(layout: &ThreadLayout) -> Option<u64> {
    // SAFETY: a plain helper about the current task.
    let task = unsafe { bpf_get_current_task_btf() };
    // SAFETY: a plain helper about the task that another has just told.
    let registers = unsafe { bpf_task_pt_regs(task) } as u64;
    let distance = distance(task as u64, registers);
    let registers = (current_task() as u64).wrapping_add(distance);
    let stack = pointer(current_task(), layout.stack)? as u64;
    Some(registers.wrapping_sub(stack))
}

/// How far a place lies behind a task. In assembly: the verifier knows both as pointers, between which it allows this alone.
#[inline(always)]
fn distance(task: u64, place: u64) -> u64 {
    let mut distance = place;
    // SAFETY: an operation on registers.
    unsafe {
        core::arch::asm!(
            "{distance} -= {task}",
            distance = inout(reg) distance,
            task = in(reg) task,
            options(pure, nomem, nostack),
        );
    }
    distance
}

/// The words that tell whether a thread has run.
struct Moment {
    exit_state: u32,
    on_cpu: u32,
    switches: u64,
}

impl Moment {
    /// How it stands with a thread now. The CPU comes before the counters: a thread that gives it up counts first.
    #[inline(always)]
    fn of(task: Address, layout: &ThreadLayout) -> Option<Self> {
        let exit_state = field(task, layout.exit_state)?;
        let on_cpu = field(task, layout.on_cpu)?;
        let given_up: u64 = field(task, layout.given_up)?;
        let preempted: u64 = field(task, layout.preempted)?;
        Some(Self { exit_state, on_cpu, switches: given_up.wrapping_add(preempted) })
    }
}

/// Copies the registers of a thread into a record, as far as it does not run.
#[inline(always)]
pub(crate) fn copy(task: Address, record: &mut ThreadRegisters, tid: u32, registers: u64, layout: &ThreadLayout) {
    record.tid = tid;
    record.state = copy_state(task, record, registers, layout) as u32;
}

#[inline(always)]
fn copy_state(task: Address, record: &mut ThreadRegisters, registers: u64, layout: &ThreadLayout) -> ThreadState {
    let Some(before) = Moment::of(task, layout) else { return ThreadState::Unreadable };
    if before.exit_state != 0 {
        return ThreadState::Ended;
    }
    if before.on_cpu != 0 {
        return ThreadState::Running;
    }
    let is_copied = copy_words(task, record, registers, layout).is_some();
    let Some(after) = Moment::of(task, layout) else { return ThreadState::Unreadable };
    // Its stack may have become another's before it was read.
    if after.exit_state != 0 {
        return ThreadState::Ended;
    }
    if after.on_cpu != 0 || after.switches != before.switches {
        return ThreadState::Running;
    }
    if is_copied { ThreadState::Copied } else { ThreadState::Unreadable }
}

/// Copies all words of a thread; nothing where one cannot be read.
#[inline(always)]
fn copy_words(task: Address, record: &mut ThreadRegisters, registers: u64, layout: &ThreadLayout) -> Option<()> {
    let stack = pointer(task, layout.stack)?;
    fill(&mut record.saved, stack.wrapping_add(registers as usize))?;
    for (base, offset) in record.bases.iter_mut().zip(layout.bases) {
        *base = field(task, offset)?;
    }
    record.vectors_in_use = 0;
    if layout.vector_state != 0 {
        let state = pointer(task, layout.vector_state)?;
        fill(&mut record.vectors, state.wrapping_add(layout.vectors as usize))?;
        record.vectors_in_use = field(state, layout.vectors_in_use)?;
    }
    Some(())
}

/// Fills words from the kernel's memory.
#[inline(always)]
fn fill<const N: usize>(words: &mut [u64; N], from: Address) -> Option<()> {
    // SAFETY: the helper checks the kernel address, fails where it is not readable, and writes as much as there is room for.
    let result = unsafe { bpf_probe_read_kernel(words.as_mut_ptr().cast(), size_of_val(words) as u32, from.cast()) };
    if result == 0 { Some(()) } else { None }
}
