//! Renderings of a report on heaps: a file a format, each with `render`.
//!
//! In: heaps, as looks from outside have seen them. Out: bytes.

pub mod folded;
mod holders;
pub mod json;
mod sections;
pub mod table;
mod types;

#[cfg(test)]
pub(crate) mod fixture;

use std::cmp::Reverse;

use crate::model::heap::{Allocator, SizeClass};

/// The size classes of an allocator that hold most bytes, most first. Those that have gone come last.
fn largest(allocator: &Allocator, top: usize) -> Vec<&SizeClass> {
    let mut classes: Vec<&SizeClass> = allocator.size_classes.iter().collect();
    classes.sort_by_key(|class| Reverse(class.live_bytes()));
    classes.truncate(top);
    classes
}
