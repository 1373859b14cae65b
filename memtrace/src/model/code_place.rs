//! Places in code that outlive their process, and the names that stand for them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::frame::{Frame, Reason};

/// A return address, normalised: the form in which it outlives its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CodePlace {
    /// In the image of this index, this many bytes into its file.
    File {
        /// The index into the images of the run.
        image: usize,
        /// The return address's place in the file.
        file_offset: u64,
    },
    /// In the kernel's own code.
    Kernel {
        /// The kernel or one of its modules, by the index into the images of the run.
        image: usize,
        /// Bytes from the beginning of its code.
        offset: u64,
    },
    /// In code that a compiler has made at run time: all frames of such code that follow one another in a stack. Such code
    /// moves with each compilation, and which of it is compiled changes while a program runs, so that neither addresses nor
    /// their number say who allocates.
    Jit,
    /// In no image that is known.
    Address(u64, Reason),
}

/// A source of the names of places.
pub trait Symbols {
    /// The frames at a place, inlined ones first; none where it is not known.
    fn frames(&self, place: CodePlace) -> Arc<[Frame]>;
}
