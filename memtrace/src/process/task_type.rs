//! Where the running kernel keeps what memtrace reads of a task: from the kernel's own type information (BTF),
//! because the layout differs from kernel to kernel.

use btf_rs::{Btf, Type};
use thiserror::Error;

/// The kernel's type information.
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Why the layout cannot be told.
#[derive(Debug, Error)]
pub enum TaskTypeError {
    /// The type information cannot be read.
    #[error("cannot read the kernel's types from {VMLINUX}: {0}")]
    Read(#[source] btf_rs::Error),
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
    /// Those of the running kernel.
    ///
    /// # Errors
    /// Where the kernel does not publish its types (it needs `CONFIG_DEBUG_INFO_BTF`).
    pub fn read() -> Result<Self, TaskTypeError> {
        let types = Btf::from_file(VMLINUX).map_err(TaskTypeError::Read)?;
        let entity = offset(&types, "task_struct", "se")?;
        Ok(Self {
            pid: offset(&types, "task_struct", "pid")?,
            start: offset(&types, "task_struct", "start_time")?,
            runtime: entity + offset(&types, "sched_entity", "sum_exec_runtime")?,
        })
    }
}

fn offset(types: &Btf, structure: &'static str, field: &'static str) -> Result<u32, TaskTypeError> {
    for found in types.resolve_types_by_name(structure).map_err(TaskTypeError::Read)? {
        let Type::Struct(found) = found else { continue };
        let is_field = |member: &&btf_rs::Member| types.resolve_name(*member).is_ok_and(|name| name == field);
        if let Some(member) = found.members.iter().find(is_field) {
            return Ok(member.bit_offset() / 8);
        }
    }
    Err(TaskTypeError::Missing { structure, field })
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
}
