//! Frames of a stack, resolved as far as they can be.

use std::sync::Arc;

/// How reports name the kernel's own image.
pub const KERNEL_IMAGE: &str = "kernel";

/// An image, as far as reports name it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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
        }
    }

    /// The image, where there is one, and the place in it.
    #[must_use]
    pub fn in_image(&self) -> (Option<&Arc<ImageName>>, u64) {
        match self {
            Self::Image { image, offset } => (Some(image), *offset),
            Self::Address(address) => (None, *address),
            Self::Kernel { image, offset } => (image.as_ref(), *offset),
        }
    }
}

/// Why a place has no function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The address lay in no executable mapping: the walk went astray, or the mapping was gone before
    /// it was seen.
    Unmapped,
    /// The code is in anonymous memory, as a just-in-time compiler makes it.
    Anonymous,
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

impl Reason {
    /// The reason in words, for a person.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Unmapped => "no mapping holds this address",
            Self::Anonymous => "code in anonymous memory",
            Self::ImageUnreadable => "the image cannot be read",
            Self::NoSymbol => "the image has no symbol here",
            Self::ReaderEnded => "the process that reads symbols ended over this image",
            Self::ReaderLate => "the process that reads symbols took too long for this image",
            Self::NoReader => "the process that reads symbols does not run",
            Self::KernelHidden => "the kernel hides its symbols (kernel.kptr_restrict)",
            Self::KernelUnlisted => "/proc/kallsyms listed no function here when tracing began",
        }
    }
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
    /// What it is, or why that is not known.
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
