//! Where the running kernel keeps what memtrace reads of a task: from the kernel's own type information (BTF),
//! because the layout differs from kernel to kernel.

use btf_rs::{Btf, Type};
use memtrace_common::namespace::PidLayout;
use thiserror::Error;

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
    /// There is no such field.
    #[error("the kernel's types in {VMLINUX} have no {structure} with a field `{field}`")]
    Missing {
        /// The structure.
        structure: &'static str,
        /// The field.
        field: &'static str,
    },
}

/// Where `struct task_struct` holds a task's id, in bytes.
///
/// # Errors
/// Where the kernel does not publish its types (it needs `CONFIG_DEBUG_INFO_BTF`).
pub fn pid_offset() -> Result<u32, TaskTypeError> {
    field(&Btf::from_file(VMLINUX).map_err(TaskTypeError::Read)?, "task_struct", "pid")
}

/// Where the kernel holds what a task is called in each pid namespace.
///
/// # Errors
/// As [`pid_offset`].
pub fn pid_layout() -> Result<PidLayout, TaskTypeError> {
    let types = Btf::from_file(VMLINUX).map_err(TaskTypeError::Read)?;
    let at = |structure, name| field(&types, structure, name);
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
        number_bytes: size(&types, "upid")?,
        number: at("upid", "nr")?,
        namespace: at("upid", "ns")?,
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
    size.ok_or(TaskTypeError::Missing { structure, field: "nr" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_has_an_id_somewhere_inside() {
        let offset = pid_offset().unwrap();
        assert!(offset > 0 && offset < 1 << 16 && offset.is_multiple_of(4), "{offset}");
    }

    #[test]
    fn a_task_has_a_number_for_each_namespace() {
        let layout = pid_layout().unwrap();
        assert!(layout.thread_pid > 0 && layout.files > 0, "{layout:?}");
        assert_eq!((layout.number, layout.namespace, layout.number_bytes), (0, 8, 16));
        assert!(layout.numbers > layout.level && layout.vfs_inode > layout.inode_pid, "{layout:?}");
    }

    #[test]
    fn a_field_that_is_not_there_is_an_error_that_names_it() {
        let types = Btf::from_file(VMLINUX).unwrap();
        let error = field(&types, "upid", "nothing").unwrap_err().to_string();
        assert!(error.contains("no upid with a field `nothing`"), "{error}");
    }
}
