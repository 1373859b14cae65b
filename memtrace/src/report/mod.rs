//! Renderings of a report: a file a format, each with the same `render`.
//!
//! In: a report. Out: bytes. Knows nothing of BPF or processes.

pub mod baseline;
mod column;
pub mod folded;
pub mod json;
pub mod junit;
mod memory;
mod overview;
mod plumbing;
mod sparkline;
pub mod suspects;
pub mod table;

#[cfg(test)]
pub(crate) mod fixture;
