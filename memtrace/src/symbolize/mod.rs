//! Symbolising: from places in images to functions, files and lines.
//!
//! In: distinct places, in one batch. Out: for each the frames there, inlined ones first. Never touches a
//! process: images are files that are held open, so the dead and the replaced resolve as well. Their content is read by
//! another process (`reader`), which has nothing to lose.

mod debug_files;
mod demangle;
pub mod holders;
mod image;
mod kernel;
mod kernel_allocators;
pub mod names;
mod native;
pub mod reader;
pub mod symbol_table;
mod type_names;

pub use image::{ImageCode, NamedImage};
pub use kernel::{KernelCode, KernelStack};
pub use native::Symbolizer;
pub use type_names::TypeNames;
