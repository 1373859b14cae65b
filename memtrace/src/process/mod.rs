//! Processes as `/proc` shows them, and the images they have mapped.
//!
//! In: a pid. Out: mappings, identities of images, memory figures. All of it is untrusted input: a
//! target chooses its name, its paths and the contents of its files.

pub(crate) mod arch;
pub mod bounded;
pub mod cgroup;
pub mod children;
pub mod code_map;
pub(crate) mod code_step;
pub mod confinement;
pub mod heap;
pub mod helper;
pub mod host;
pub mod image;
pub mod jit_code;
pub mod kallsyms;
pub mod kernel_pages;
pub mod kernel_release;
pub mod kernel_types;
pub mod kernel_words;
pub mod leader;
pub mod mapping_log;
pub mod maps;
pub mod memory;
pub mod memory_reader;
pub mod moved_code;
pub mod oom;
pub mod open;
pub mod own_memory;
mod pagemap;
pub mod pid_namespace;
pub mod ptrace_hold;
pub mod root_places;
pub mod roots;
pub mod status;
pub mod task_type;
pub mod thread_words;
pub mod tracefs;
