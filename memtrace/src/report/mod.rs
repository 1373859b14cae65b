//! Renderings of a report: a file a format, each with the same `render`.
//!
//! In: a report. Out: bytes. Knows nothing of BPF or processes.

mod allocator_frames;
pub mod baseline;
mod column;
pub mod folded;
pub mod heap;
pub mod json;
pub mod junit;
mod memory;
mod overview;
mod sparkline;
pub mod suspects;
pub mod table;
pub mod weight;
pub mod words;

#[cfg(test)]
pub(crate) mod fixture;
