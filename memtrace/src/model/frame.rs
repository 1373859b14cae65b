//! Frames of a stack, resolved as far as they can be.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// How reports name the kernel's own image.
pub const KERNEL_IMAGE: &str = "kernel";

/// How reports name frames of code that a compiler has made at run time.
pub const JIT: &str = "[jit]";

/// An image, as far as reports name it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ImageName {
    /// Its path as the target sees it.
    pub path: String,
    /// The GNU build id in hexadecimal.
    pub build_id: Option<String>,
}

/// Where a return address lies.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// In an image.
    Image {
        /// Which.
        image: Arc<ImageName>,
        /// The virtual offset in it: what `addr2line -e` takes.
        offset: u64,
    },
    /// In code that a compiler has made at run time: some frames that follow one another.
    Jit,
    /// In no image that is known: a bare virtual address of the process.
    Address(u64),
    /// In the kernel's own code.
    Kernel {
        /// The kernel or one of its modules; nothing where that is not known.
        image: Option<Arc<ImageName>>,
        /// Bytes from the beginning of its code; without an image, the address.
        offset: u64,
    },
}

impl Place {
    /// The word for whose code it is, as reports have it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Image { .. } | Self::Address(_) => "native",
            Self::Kernel { .. } => "kernel",
            Self::Jit => "jit",
        }
    }

    /// The image, where there is one, and the place in it.
    #[must_use]
    pub fn in_image(&self) -> (Option<&Arc<ImageName>>, u64) {
        match self {
            Self::Image { image, offset } => (Some(image), *offset),
            Self::Jit => (None, 0),
            Self::Address(address) => (None, *address),
            Self::Kernel { image, offset } => (image.as_ref(), *offset),
        }
    }
}

/// Why a place has no function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Reason {
    /// The address lay in no executable mapping: the walk went astray, or the mapping was gone before
    /// it was seen.
    Unmapped,
    /// Images come and go there, and it was not seen which of them was there when the stack was walked.
    Replaced,
    /// The code was copied to anonymous memory.
    Anonymous,
    /// A compiler has made the code at run time.
    Jit,
    /// The image could not be read.
    ImageUnreadable,
    /// The image has no symbol there: it is stripped.
    NoSymbol,
    /// The process that reads symbols ended over the image.
    ReaderEnded,
    /// It took too long for the image.
    ReaderLate,
    /// There is no such process.
    NoReader,
    /// The kernel does not tell where its functions are.
    KernelHidden,
    /// The kernel lists no function there: a module or a BPF program that was loaded later.
    KernelUnlisted,
}

/// A function at a place.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Function {
    /// Its demangled name.
    pub name: String,
    /// The source file, where the image has debug information.
    pub file: Option<String>,
    /// The line in it, from 1.
    pub line: Option<u32>,
    /// Whether its code was inlined into the next frame outwards.
    pub inlined: bool,
}

/// One frame of a stack.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Frame {
    /// Where it is.
    pub place: Place,
    /// Its function, or the reason why that is not known.
    pub function: Result<Function, Reason>,
}

/// A stack, from the allocation outwards. A host has many more stacks than places, so that stacks share what is known
/// of a place: the functions there, inlined ones first.
#[derive(Clone, Debug, Default)]
pub struct Stack(Vec<Arc<[Frame]>>);

impl Stack {
    /// From the allocation outwards.
    pub fn frames(&self) -> impl DoubleEndedIterator<Item = &Frame> + Clone {
        self.places().flat_map(|place| place.iter())
    }

    /// The same, place by place; two stacks that share a place share its frames.
    pub fn places(&self) -> impl DoubleEndedIterator<Item = &[Frame]> + Clone {
        self.0.iter().map(|place| &**place)
    }
}

impl FromIterator<Arc<[Frame]>> for Stack {
    fn from_iter<I: IntoIterator<Item = Arc<[Frame]>>>(places: I) -> Self {
        Self(places.into_iter().collect())
    }
}

impl Frame {
    /// One line for a person: the function, or the place where there is none.
    #[must_use]
    pub fn label(&self) -> String {
        if self.place == Place::Jit {
            return JIT.to_owned();
        }
        match (&self.function, self.place.in_image()) {
            (Ok(function), _) => function.name.clone(),
            (Err(_), (Some(image), offset)) => format!("{}+{offset:#x}", base_name(&image.path)),
            (Err(_), (None, address)) => format!("{address:#x}"),
        }
    }

    /// `file:line`, with the last part of the file's path only; `None` without debug information.
    #[must_use]
    pub fn source(&self) -> Option<String> {
        let function = self.function.as_ref().ok()?;
        let file = base_name(function.file.as_ref()?);
        Some(function.line.map_or_else(|| file.to_owned(), |line| format!("{file}:{line}")))
    }
}

/// The last part of a path.
#[must_use]
pub fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}
