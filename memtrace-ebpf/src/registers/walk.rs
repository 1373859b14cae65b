//! The way over the threads of a process.
//!
//! The program runs as a reader of RCU (`__bpf_prog_test_run_raw_tp` of net/bpf/test_run.c): no task that was on the list when it
//! began is freed before it ends, and an entry that is taken off the list meanwhile still leads onwards.

use aya_ebpf::{
    Global, cty::c_void, helpers::generated::bpf_loop, macros::map, maps::Array, programs::RawTracePointContext,
};
use memtrace_common::wire::{
    namespace::PidNamespace,
    registers::{MAX_THREADS, PIECE, PieceAnswer, PieceEnd, ThreadLayout, ThreadRegisters},
};

use crate::{
    kernel_fields::{Address, field, pointer},
    pid_records::{PID_LAYOUT, number_in, of_folder, own_namespace},
    thread,
};

/// `BPF_F_MMAPABLE` of `<linux/bpf.h>`: user space reads entries as memory.
const MMAPABLE: u32 = 1 << 10;

/// The threads of the piece.
#[map]
static REGISTERS: Array<ThreadRegisters> = Array::with_max_entries(PIECE, MMAPABLE);

/// Set at load.
#[unsafe(no_mangle)]
static THREAD_LAYOUT: Global<ThreadLayout> = Global::new(ThreadLayout {
    leader: 0,
    leader_entry: 0,
    signal: 0,
    threads: 0,
    thread_entry: 0,
    exit_state: 0,
    on_cpu: 0,
    given_up: 0,
    preempted: 0,
    stack: 0,
    bases: [0; 2],
    vector_state: 0,
    vectors: 0,
    vectors_in_use: 0,
});

/// The way so far.
struct Walk {
    /// The list itself, at which the way ends.
    list: u64,
    /// The entry of the next thread.
    entry: u64,
    /// How many threads are passed over.
    to_pass: u64,
    /// How many records were written.
    written: u64,
    /// Where on its kernel stack a task has its registers, in bytes.
    registers: u64,
    /// memtrace's.
    namespace: PidNamespace,
    /// A [`PieceEnd`] code.
    end: u64,
}

/// Copies the threads of a piece.
#[inline(always)]
pub(crate) fn read(ctx: &RawTracePointContext) -> PieceAnswer {
    let (descriptor, number, to_pass): (u64, u32, u32) = (ctx.arg(0), ctx.arg(1), ctx.arg(2));
    let Some(mut walk) = begin(descriptor, number) else { return PieceAnswer::new(0, PieceEnd::NoProcess) };
    let to_pass = if to_pass > MAX_THREADS { MAX_THREADS } else { to_pass };
    walk.to_pass = to_pass as u64;
    // One step more than there are threads, for the end of the list.
    // SAFETY: the callback has the signature that the helper calls, and the context outlives the call.
    unsafe { bpf_loop(to_pass + PIECE + 1, next_thread as *mut c_void, (&raw mut walk).cast(), 0) };
    let end = match walk.end {
        1 => PieceEnd::Last,
        3 => PieceEnd::Broken,
        _ => PieceEnd::More,
    };
    PieceAnswer::new(walk.written as u32, end)
}

/// Finds the list of a process's threads.
#[inline(always)]
fn begin(descriptor: u64, number: u32) -> Option<Walk> {
    let (pids, layout) = (PID_LAYOUT.load(), THREAD_LAYOUT.load());
    let namespace = own_namespace(&pids)?;
    let pid = of_folder(descriptor, &pids)?;
    if number_in(pid, &namespace, &pids)? != number {
        return None;
    }
    let leader = pointer(pid, layout.leader)?.wrapping_sub(layout.leader_entry as usize);
    let list = pointer(leader, layout.signal)?.wrapping_add(layout.threads as usize);
    let entry = pointer(list, 0)? as u64;
    let registers = thread::place_of_registers(&layout)?;
    let end = PieceEnd::More as u64;
    Some(Walk { list: list as u64, entry, to_pass: 0, written: 0, registers, namespace, end })
}

/// Copies the thread number `index`, or passes it over. Returns 1 where the piece ends.
#[inline(never)]
extern "C" fn next_thread(index: u64, walk: *mut Walk) -> i64 {
    // SAFETY: `read` passes its own `Walk`, which nobody else uses meanwhile.
    let walk = unsafe { &mut *walk };
    if walk.entry == walk.list {
        walk.end = PieceEnd::Last as u64;
        return 1;
    }
    let entry = walk.entry as Address;
    let Some(next) = pointer(entry, 0) else {
        walk.end = PieceEnd::Broken as u64;
        return 1;
    };
    // No counter of our own, whose every value the verifier would follow.
    if index >= walk.to_pass {
        let place = index - walk.to_pass;
        let Some(record) = REGISTERS.get_ptr_mut(place as u32) else { return 1 };
        // SAFETY: an array map's entry lives as long as the map; user space runs one program at a time, and reads none meanwhile.
        let record = unsafe { &mut *record };
        let layout = THREAD_LAYOUT.load();
        let task = entry.wrapping_sub(layout.thread_entry as usize);
        thread::copy(task, record, number(task, &walk.namespace), walk.registers, &layout);
        walk.written = place + 1;
    }
    walk.entry = next as u64;
    0
}

/// A thread's number in memtrace's namespace; 0 where it has none any more.
#[inline(always)]
fn number(task: Address, namespace: &PidNamespace) -> u32 {
    let pids = PID_LAYOUT.load();
    let number = || number_in(field(task, pids.thread_pid)?, namespace, &pids);
    number().unwrap_or(0)
}
