//! Symbolising: from places in images to functions, files and lines.
//!
//! In: distinct places, in one batch. Out: for each the frames there, inlined ones first. Never touches a
//! process: images are files that are held open, so the dead and the replaced resolve as well. What is in them is read by
//! another process (`reader`), which has nothing to lose.

mod debug_files;
mod kernel;
mod kernel_allocators;
pub mod names;
mod native;
pub mod reader;

pub use kernel::{KernelStack, KernelSymbolizer};
pub use native::{CodePlace, NamedImage, Symbolizer};
