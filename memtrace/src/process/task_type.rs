//! Where the running kernel keeps what memtrace reads of a task: from the kernel's own type information (BTF),
//! because the layout differs from kernel to kernel.

use btf_rs::{Btf, Type};
use memtrace_common::{
    arch::THREAD_BASES,
    wire::{address_space::AddressSpaceLayout, namespace::PidLayout, registers::ThreadLayout},
};
use thiserror::Error;

use super::arch;

/// The kernel's type information.
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// How deep structures without a name of their own lie in one another at most.
const MAX_DEPTH: u32 = 8;

/// Why the layout cannot be told.
#[derive(Debug, Error)]
pub enum TaskTypeError {
    /// The type information cannot be read.
    #[error("cannot read the kernel's types from {VMLINUX}: {0}")]
    Read(#[source] btf_rs::Error),
    /// There is no such structure.
    #[error("the kernel's types in {VMLINUX} have no {0}")]
    NoStructure(&'static str),
    /// There is no such field.
    #[error("the kernel's types in {VMLINUX} have no {structure} with a field `{field}`")]
    Missing {
        /// The structure.
        structure: &'static str,
        /// The field.
        field: &'static str,
    },
}

/// Where `struct task_struct` holds what is read of a task, in bytes; 0 each where nothing is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskOffsets {
    /// Its id.
    pub pid: u32,
    /// When it began, by the monotonic clock, in nanoseconds.
    pub start: u32,
    /// For how long it has run on a CPU, in nanoseconds, as of the scheduler's last reckoning.
    pub runtime: u32,
}

impl TaskOffsets {
    /// The offsets of the running kernel.
    ///
    /// # Errors
    /// Where the kernel does not publish its types (it needs `CONFIG_DEBUG_INFO_BTF`).
    pub fn read() -> Result<Self, TaskTypeError> {
        let types = Btf::from_file(VMLINUX).map_err(TaskTypeError::Read)?;
        let entity = field(&types, "task_struct", "se")?;
        Ok(Self {
            pid: field(&types, "task_struct", "pid")?,
            start: field(&types, "task_struct", "start_time")?,
            runtime: entity + field(&types, "sched_entity", "sum_exec_runtime")?,
        })
    }
}

/// Where the kernel holds what a task is called in each pid namespace.
///
/// # Errors
/// As [`TaskOffsets::read`].
pub fn pid_layout() -> Result<PidLayout, TaskTypeError> {
    pid_layout_of(&Btf::from_file(VMLINUX).map_err(TaskTypeError::Read)?)
}

fn pid_layout_of(types: &Btf) -> Result<PidLayout, TaskTypeError> {
    let at = |structure, name| field(types, structure, name);
    Ok(PidLayout {
        thread_pid: at("task_struct", "thread_pid")?,
        files: at("task_struct", "files")?,
        fdt: at("files_struct", "fdt")?,
        fd: at("fdtable", "fd")?,
        f_inode: at("file", "f_inode")?,
        vfs_inode: at("proc_inode", "vfs_inode")?,
        inode_pid: at("proc_inode", "pid")?,
        level: at("pid", "level")?,
        numbers: at("pid", "numbers")?,
        number_bytes: size(types, "upid")?,
        number: at("upid", "nr")?,
        namespace: at("upid", "ns")?,
    })
}

/// `PIDTYPE_TGID` of `<linux/pid.h>`: of the lists that a pid has, the one of the process that is called so.
const OF_PROCESS: u32 = 1;

/// Where the kernel holds threads and their registers, and what threads are called in each pid namespace.
///
/// # Errors
/// As [`TaskOffsets::read`].
pub fn thread_layout() -> Result<(ThreadLayout, PidLayout), TaskTypeError> {
    let types = Btf::from_file(VMLINUX).map_err(TaskTypeError::Read)?;
    let at = |structure, name| field(&types, structure, name);
    let own = at("task_struct", "thread")?;
    let mut bases = [0; THREAD_BASES];
    for (base, name) in bases.iter_mut().zip(arch::BASES) {
        *base = own + at("thread_struct", name)?;
    }
    let vectors = arch::vectors(&at, &|structure| size(&types, structure))
        .inspect_err(|error| log::info!("vector registers of threads are not read: {error}"))
        .unwrap_or_default();
    let layout = ThreadLayout {
        leader: at("pid", "tasks")? + OF_PROCESS * size(&types, "hlist_head")?,
        leader_entry: at("task_struct", "pid_links")? + OF_PROCESS * size(&types, "hlist_node")?,
        signal: at("task_struct", "signal")?,
        threads: at("signal_struct", "thread_head")?,
        thread_entry: at("task_struct", "thread_node")?,
        exit_state: at("task_struct", "exit_state")?,
        on_cpu: at("task_struct", "on_cpu")?,
        given_up: at("task_struct", "nvcsw")?,
        preempted: at("task_struct", "nivcsw")?,
        stack: at("task_struct", "stack")?,
        bases,
        vector_state: vectors.state,
        vectors: vectors.vectors,
        vectors_in_use: vectors.in_use,
    };
    Ok((layout, pid_layout_of(&types)?))
}

/// `IPC_SHM_IDS` of the kernel's ipc/util.h: System V segments are the third kind of objects of their namespace.
const SEGMENTS: u32 = 2;

/// Where the kernel holds what is read of an address space.
///
/// # Errors
/// As [`TaskOffsets::read`].
pub fn address_space_layout() -> Result<AddressSpaceLayout, TaskTypeError> {
    let types = Btf::from_file(VMLINUX).map_err(TaskTypeError::Read)?;
    let at = |structure, name| field(&types, structure, name);
    let of_kind = at("ipc_namespace", "ids")? + SEGMENTS * size(&types, "ipc_ids")?;
    Ok(AddressSpaceLayout {
        nsproxy: at("task_struct", "nsproxy")?,
        ipc_namespace: at("nsproxy", "ipc_ns")?,
        segments: of_kind + at("ipc_ids", "ipcs_idr")? + at("idr", "idr_rt")? + at("xarray", "xa_head")?,
        node_shift: at("xa_node", "shift")?,
        node_slots: at("xa_node", "slots")?,
        segment_id: at("kern_ipc_perm", "id")?,
        segment_permissions: at("shmid_kernel", "shm_perm")?,
        segment_file: at("shmid_kernel", "shm_file")?,
        file_inode: at("file", "f_inode")?,
        inode_bytes: at("inode", "i_size")?,
        mm: at("task_struct", "mm")?,
        data_end: at("mm_struct", "brk")?,
    })
}

/// Where a structure holds a field, in bytes.
fn field(types: &Btf, structure: &'static str, field: &'static str) -> Result<u32, TaskTypeError> {
    let named = types.resolve_types_by_name(structure).map_err(TaskTypeError::Read)?;
    let offset = named.iter().find_map(|named| offset_in(types, named, field, MAX_DEPTH));
    offset.map(|bits| bits / 8).ok_or(TaskTypeError::Missing { structure, field })
}

/// The same of a type, in bits, also where the field lies in structures without a name.
fn offset_in(types: &Btf, of: &Type, field: &str, depth: u32) -> Option<u32> {
    let (Type::Struct(structure) | Type::Union(structure)) = of else { return None };
    structure.members.iter().find_map(|member| {
        let name = types.resolve_name(member).unwrap_or_default();
        if name == field {
            return Some(member.bit_offset());
        }
        let inner = if name.is_empty() && depth > 0 { types.resolve_chained_type(member).ok()? } else { return None };
        Some(member.bit_offset() + offset_in(types, &inner, field, depth - 1)?)
    })
}

/// The size of a structure, in bytes.
fn size(types: &Btf, structure: &'static str) -> Result<u32, TaskTypeError> {
    let named = types.resolve_types_by_name(structure).map_err(TaskTypeError::Read)?.into_iter();
    let mut sizes = named.filter_map(|named| if let Type::Struct(named) = named { Some(named.size()) } else { None });
    let size = sizes.next().and_then(|size| u32::try_from(size).ok());
    size.ok_or(TaskTypeError::NoStructure(structure))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_has_an_id_and_times_somewhere_inside() {
        let TaskOffsets { pid, start, runtime } = TaskOffsets::read().unwrap();
        for (offset, size) in [(pid, 4), (start, 8), (runtime, 8)] {
            assert!(offset > 0 && offset < 1 << 16 && offset.is_multiple_of(size), "{offset}");
        }
    }

    #[test]
    fn a_task_has_a_number_for_each_namespace() {
        let layout = pid_layout().unwrap();
        assert!(layout.thread_pid > 0 && layout.files > 0, "{layout:?}");
        assert_eq!((layout.number, layout.namespace, layout.number_bytes), (0, 8, 16));
        assert!(layout.numbers > layout.level && layout.vfs_inode > layout.inode_pid, "{layout:?}");
    }

    #[test]
    fn threads_and_their_registers_lie_somewhere() {
        let (threads, pids) = thread_layout().unwrap();
        assert_eq!(pids, pid_layout().unwrap());
        // The list of processes is the second of four, each a pointer; in a task each entry has two.
        assert!(threads.leader > pids.level && threads.leader.is_multiple_of(8), "{threads:?}");
        assert!(threads.leader_entry > 16 && threads.leader_entry.is_multiple_of(8), "{threads:?}");
        assert_eq!(threads.preempted, threads.given_up + 8);
        assert_eq!(threads.bases[1], threads.bases[0] + 8);
        assert!(threads.on_cpu > 0 && threads.exit_state > 0 && threads.stack > 0, "{threads:?}");
        assert!(threads.vectors_in_use > threads.vectors && threads.vector_state > 0, "{threads:?}");
    }

    #[test]
    fn segments_and_the_end_of_the_data_segment_lie_somewhere() {
        let layout = address_space_layout().unwrap();
        assert!(layout.is_known() && layout.ipc_namespace > 0 && layout.data_end > 0, "{layout:?}");
        // Of three kinds of objects, each with a lock and a tree.
        assert!(layout.segments > 2 * 64 && layout.segments.is_multiple_of(8), "{layout:?}");
        assert!(layout.node_slots > layout.node_shift && layout.node_slots.is_multiple_of(8), "{layout:?}");
    }

    #[test]
    fn a_field_that_is_not_there_is_an_error_that_names_it() {
        let types = Btf::from_file(VMLINUX).unwrap();
        let error = field(&types, "upid", "nothing").unwrap_err().to_string();
        assert!(error.contains("no upid with a field `nothing`"), "{error}");
        let error = size(&types, "no_such_structure").unwrap_err().to_string();
        assert!(error.ends_with("have no no_such_structure"), "{error}");
    }
}
