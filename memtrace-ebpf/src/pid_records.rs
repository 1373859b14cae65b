//! The kernel's own records of pids: whose folder of `/proc` a descriptor is of, and what tasks are called in namespaces.

use aya_ebpf::Global;
use memtrace_common::wire::namespace::{PidLayout, PidNamespace};

use crate::kernel_fields::{Address, current_task, field, pointer};

/// `MAX_PID_NS_LEVEL` of `<linux/pid_namespace.h>`.
const DEEPEST: u32 = 32;

/// Set at load, in each object that has this file.
#[unsafe(no_mangle)]
pub(crate) static PID_LAYOUT: Global<PidLayout> = Global::new(PidLayout {
    thread_pid: 0,
    files: 0,
    fdt: 0,
    fd: 0,
    f_inode: 0,
    vfs_inode: 0,
    inode_pid: 0,
    level: 0,
    numbers: 0,
    number_bytes: 0,
    number: 0,
    namespace: 0,
});

/// The record of the process whose folder in `/proc` a descriptor of the current process is of. It leads to nonsense
/// where the descriptor is of something else: the number there tells.
#[inline(always)]
pub(crate) fn of_folder(descriptor: u64, layout: &PidLayout) -> Option<Address> {
    let files = pointer(current_task(), layout.files)?;
    let descriptors = pointer(pointer(files, layout.fdt)?, layout.fd)?;
    let file: Address = field(descriptors.wrapping_add((descriptor as usize).wrapping_mul(8)), 0)?;
    let inode = pointer(file, layout.f_inode)?;
    let of_proc = inode.wrapping_sub(layout.vfs_inode as usize);
    pointer(of_proc, layout.inode_pid)
}

/// The namespace that the current thread is in.
#[inline(always)]
pub(crate) fn own_namespace(layout: &PidLayout) -> Option<PidNamespace> {
    let pid = pointer(current_task(), layout.thread_pid)?;
    let level: u32 = field(pid, layout.level)?;
    let own = PidNamespace { level, ..PidNamespace::default() };
    let address = pointer(entry(pid, &own, layout)?, layout.namespace)? as u64;
    Some(PidNamespace { address, ..own })
}

/// A task's number in a namespace; nothing where it has none there.
#[inline(always)]
pub(crate) fn number_in(pid: Address, namespace: &PidNamespace, layout: &PidLayout) -> Option<u32> {
    let level: u32 = field(pid, layout.level)?;
    let is_there = level >= namespace.level
        && pointer(entry(pid, namespace, layout)?, layout.namespace)? as u64 == namespace.address;
    if is_there { number_at(pid, namespace, layout) } else { None }
}

/// A task's number in whatever namespace of its own lies as deep.
#[inline(always)]
pub(crate) fn number_at(pid: Address, namespace: &PidNamespace, layout: &PidLayout) -> Option<u32> {
    field(entry(pid, namespace, layout)?, layout.number)
}

/// The kernel's record of a task in a namespace.
#[inline(always)]
fn entry(pid: Address, namespace: &PidNamespace, layout: &PidLayout) -> Option<Address> {
    if namespace.level > DEEPEST {
        return None;
    }
    let at = layout.numbers as u64 + namespace.level as u64 * layout.number_bytes as u64;
    Some(pid.wrapping_add(at as usize))
}
