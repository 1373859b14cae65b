//! Numbers of tasks in memtrace's own pid namespace. Everything here and in the tables names a process by its number in the
//! machine's first namespace, as the kernel answers it; what user space is told or says is translated at the edge.

use aya_ebpf::programs::RawTracePointContext;
use memtrace_common::wire::namespace::{PidLayout, PidNamespace};

use crate::{
    kernel_fields::{Address, current_task, pointer},
    maps::OWN_NAMESPACE,
    pid_records::{PID_LAYOUT, number_at, number_in, of_folder, own_namespace},
};

/// The number of the current thread, which is `tid` in the first namespace.
#[inline(always)]
pub(crate) fn number_of_current(tid: u32) -> u32 {
    number_of(current_task(), tid)
}

/// A task's number in memtrace's namespace, which is `tid` in the first one; 0 where it has none: memtrace cannot see it.
#[inline(always)]
pub(crate) fn number_of(task: Address, tid: u32) -> u32 {
    let layout = PID_LAYOUT.load();
    if layout.thread_pid == 0 {
        return tid;
    }
    let number = || number_in(pointer(task, layout.thread_pid)?, OWN_NAMESPACE.get(0)?, &layout);
    number().unwrap_or(0)
}

/// A process's number in the first namespace. User space runs this itself, with a descriptor of the process's folder in
/// `/proc` and its number there; 0 where that is not what they are.
#[inline(always)]
pub(crate) fn first_number(ctx: &RawTracePointContext) -> u32 {
    let (descriptor, number): (u64, u32) = (ctx.arg(0), ctx.arg(1));
    let layout = PID_LAYOUT.load();
    if layout.thread_pid == 0 {
        return number;
    }
    let find = || {
        let own = note_own_namespace(&layout)?;
        let pid = of_folder(descriptor, &layout)?;
        let first = PidNamespace { level: 0, ..PidNamespace::default() };
        if number_in(pid, &own, &layout)? == number { number_at(pid, &first, &layout) } else { None }
    };
    find().unwrap_or(0)
}

/// Finds memtrace's own namespace, in which the current thread is, and notes it.
#[inline(always)]
fn note_own_namespace(layout: &PidLayout) -> Option<PidNamespace> {
    let own = own_namespace(layout)?;
    let noted = OWN_NAMESPACE.get_ptr_mut(0)?;
    // SAFETY: an array map's entry lives as long as the map; user space runs this before anything is attached, and its namespace
    // never changes.
    unsafe { *noted = own };
    Some(own)
}
