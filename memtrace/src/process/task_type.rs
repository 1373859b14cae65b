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
    #[error("the kernel's types in {VMLINUX} have no task_struct with a field `pid`")]
    Missing,
}

/// Where `struct task_struct` holds a task's id, in bytes.
///
/// # Errors
/// Where the kernel does not publish its types (it needs `CONFIG_DEBUG_INFO_BTF`).
pub fn pid_offset() -> Result<u32, TaskTypeError> {
    let types = Btf::from_file(VMLINUX).map_err(TaskTypeError::Read)?;
    for task in types.resolve_types_by_name("task_struct").map_err(TaskTypeError::Read)? {
        let Type::Struct(task) = task else { continue };
        let is_pid = |member: &&btf_rs::Member| types.resolve_name(*member).is_ok_and(|name| name == "pid");
        if let Some(pid) = task.members.iter().find(is_pid) {
            return Ok(pid.bit_offset() / 8);
        }
    }
    Err(TaskTypeError::Missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_has_an_id_somewhere_inside() {
        let offset = pid_offset().unwrap();
        assert!(offset > 0 && offset < 1 << 16 && offset.is_multiple_of(4), "{offset}");
    }
}
