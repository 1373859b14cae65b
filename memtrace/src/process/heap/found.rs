//! Hints for the readers of allocators, and the result of reading one: its figures, its areas, and its live blocks.

use std::fmt::Debug;

use crate::model::heap::{Allocator, Consistency};

/// Facts that files tell of images: a label, and which way to try first. Structures prove themselves without.
#[derive(Clone, Debug, Default)]
pub struct Hints {
    /// glibc's version, by the banner in its file.
    pub glibc_version: Option<(u32, u32)>,
}

/// A live block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Block {
    /// The address that the program has.
    pub address: u64,
    /// Bytes that the program may use of it.
    pub usable_bytes: u64,
    /// The arena it is from, as an index into those of the allocator; nothing for a block with a mapping of its own.
    pub arena: Option<u32>,
}

/// The live blocks of an allocator, in the allocator's own compact form.
pub trait Blocks: Debug + Send {
    /// Hands over every live block. Addresses rise within each area, and areas are in the order of their addresses.
    fn visit(&self, with: &mut dyn FnMut(Block));
}

/// Bytes of the resident pages of an allocator's areas. The parts add up to `area_bytes`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResidentPart {
    /// All of them.
    pub area_bytes: u64,
    /// Free, on pages that cannot be given back one by one.
    pub free_bytes: u64,
    /// Free, on whole pages that could be given back.
    pub returnable_bytes: u64,
}

/// An allocator that was recognised and read.
#[derive(Debug)]
pub struct Found {
    /// Its figures.
    pub allocator: Allocator,
    /// The effort.
    pub consistency: Consistency,
    /// The resident part of it.
    pub resident: ResidentPart,
    /// Ranges of addresses (start, end) that are the allocator's, in order and disjoint: blocks lie in them, and roots do not.
    pub areas: Vec<(u64, u64)>,
    /// The live blocks.
    pub blocks: Box<dyn Blocks>,
}

/// The outcome of one family of allocators in one process.
#[derive(Debug)]
pub enum Outcome {
    /// Recognised and read.
    Found(Box<Found>),
    /// It is there, but its structures prove nothing: its name, its image and the reason stand here, without figures.
    Refused(Box<Allocator>),
}
