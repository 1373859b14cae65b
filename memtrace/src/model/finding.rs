//! Findings about a process, beside its figures.

use super::{at_exit::AtExit, stats::teardown::BeforeEnd};

/// A kind of resident memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResidentKind {
    /// Of the process's own.
    Anonymous,
    /// Pages of files.
    Files,
    /// Shared memory.
    Shared,
}

/// An allocator of which a process is seen to call one side only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OneSided {
    /// The allocator's name.
    pub allocator: String,
    /// The path of the image that defines it.
    pub image: String,
    /// The side that is seen.
    pub seen: Side,
    /// How many of its frees were seen, or how many of its blocks were handed out again of which no free was seen.
    pub events: u64,
}

/// One side of an allocator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The functions that hand out blocks.
    Allocations,
    /// The functions that take them back.
    Frees,
}

impl Side {
    /// Its name in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allocations => "allocations",
            Self::Frees => "frees",
        }
    }
}

/// Something that is worth telling of a process. There is one of a kind at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Its resident memory has grown by much more than its live blocks.
    UnexplainedGrowth {
        /// The growth that no block explains.
        bytes: u64,
        /// The kind of memory that most of the growth is.
        kind: ResidentKind,
        /// Whether memory that the program maps by itself was looked at.
        with_mappings: bool,
    },
    /// It was to be looked at when it was about to end, and this came of it.
    AtExit(AtExit),
    /// Of these allocators only one side is seen: their figures are not to be relied on.
    OneSided(Vec<OneSided>),
    /// It has ended, and this was live when its resident memory was read last before it freed.
    BeforeEnd(BeforeEnd),
}
