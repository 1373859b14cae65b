//! Processes as `/proc` shows them, and the images they have mapped.
//!
//! In: a pid. Out: mappings, identities of images, memory figures. All of it is untrusted input: a
//! target chooses its name, its paths and the contents of its files.

pub mod cgroup;
pub mod contents;
pub mod image;
pub mod kallsyms;
pub mod kernel_pages;
pub mod kernel_types;
pub mod leader;
pub mod mapping_log;
pub mod maps;
pub mod memory;
pub mod pid_namespace;
pub mod roots;
pub mod status;
pub mod task_type;
pub mod threads;
