//! Categories: what kind of memory a site allocates.

use serde::{Deserialize, Serialize};

/// The kind of memory that a site allocates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Category {
    /// From an allocator's functions.
    #[default]
    Heap,
    /// Mapped by the program itself.
    Mmap,
    /// By pages as they become resident, from any allocator.
    Pages(PageKind),
    /// The kernel's own.
    Kernel(KernelSource),
}

/// Which of the kernel's allocators memory is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum KernelSource {
    /// Objects of slabs, as /proc/slabinfo has them.
    Slab,
    /// Whole pages.
    Pages,
    /// Areas of per-CPU memory, with their parts of all CPUs.
    PerCpu,
    /// Areas of pages that follow one another in the kernel's addresses only.
    Vmalloc,
}

impl KernelSource {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Slab, Self::Pages, Self::PerCpu, Self::Vmalloc];

    /// The word used in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Slab => "slab",
            Self::Pages => "pages",
            Self::PerCpu => "percpu",
            Self::Vmalloc => "vmalloc",
        }
    }
}

/// The content of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PageKind {
    /// Memory of the process's own.
    Anonymous,
    /// A file's.
    File,
    /// Memory that is shared on purpose.
    Shared,
    /// Memory that was another process's as well until this one wrote to it.
    Copied,
}

impl PageKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Anonymous, Self::File, Self::Shared, Self::Copied];

    /// The word used in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Anonymous => "anonymous",
            Self::File => "file",
            Self::Shared => "shared",
            Self::Copied => "copied",
        }
    }
}

impl Category {
    /// Whether it is of pages. They hold what other categories count as well, so that no sum has both.
    #[must_use]
    pub fn is_pages(self) -> bool {
        self.page_kind().is_some()
    }

    /// Whether it is the kernel's own.
    #[must_use]
    pub fn is_kernel(self) -> bool {
        self.kernel_source().is_some()
    }

    /// The content of its pages, where it is of pages.
    #[must_use]
    pub fn page_kind(self) -> Option<PageKind> {
        match self {
            Self::Pages(kind) => Some(kind),
            Self::Heap | Self::Mmap | Self::Kernel(_) => None,
        }
    }

    /// Which of the kernel's allocators it is from, where it is the kernel's own.
    #[must_use]
    pub fn kernel_source(self) -> Option<KernelSource> {
        match self {
            Self::Kernel(source) => Some(source),
            Self::Heap | Self::Mmap | Self::Pages(_) => None,
        }
    }

    /// The word used on the command line and in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Heap => "heap",
            Self::Mmap => "mmap",
            Self::Pages(_) => "pages",
            Self::Kernel(_) => "kernel",
        }
    }
}
