//! Unwinding without frame pointers: call frame information, compiled once per image to rows that the
//! kernel side can search.
//!
//! In: an image. Out: sorted rows. The step that uses them is `memtrace_common::steps::cfi::step`, the same
//! code in the kernel and here.

pub mod cfi;
pub mod image_rows;
pub mod inferred;
pub mod stack_ends;
