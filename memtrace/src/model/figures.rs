//! The figures of a process, by what was looked at: each kind has just those that it can have.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    category::Category,
    ledger::Ledger,
    overhead::Overhead,
    resident_change::ResidentChange,
    stats::estimate::{Intervals, Uncertainty},
    totals::Totals,
};

/// An allocator that was hooked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allocator {
    /// The family's name.
    pub name: String,
    /// Its number among those of the run; of the kernel's, 0.
    pub number: u32,
    /// The path of the image that defines it.
    pub image: String,
    /// The functions that were hooked, in the order of the family's table.
    pub functions: Vec<String>,
}

/// The most that a process has held. The holding of each site then is [`super::report::Site::at_peak_bytes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peak {
    /// When, after the start.
    pub at: Duration,
    /// Its live bytes; where pages are looked at, how much more was resident than at first.
    pub live_bytes: u64,
}

/// The kind of figures that a run has of its subjects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FigureKind {
    /// [`BlockFigures`]. Pages may be looked at besides; they count the same memory again.
    #[default]
    Blocks,
    /// [`PageFigures`].
    Pages,
    /// [`KernelFigures`].
    Kernel,
}

impl FigureKind {
    /// The kind of a run that looks at these categories.
    #[must_use]
    pub fn of(categories: &[Category]) -> Self {
        // The kernel's own memory is looked at alone.
        if categories.iter().any(|category| category.is_kernel()) {
            Self::Kernel
        } else if categories.iter().all(|category| category.is_pages()) {
            Self::Pages
        } else {
            Self::Blocks
        }
    }
}

/// The figures of a process.
#[derive(Clone, Debug, Default)]
pub enum Figures {
    /// None: nothing but its memory over time was read.
    #[default]
    Unread,
    /// Of the blocks that its program allocates or maps.
    Blocks(Box<BlockFigures>),
    /// Of the pages that it makes resident.
    Pages(PageFigures),
    /// Of the memory that the kernel takes for itself.
    Kernel(KernelFigures),
}

/// The figures of blocks that a program allocates or maps.
#[derive(Clone, Debug, Default)]
pub struct BlockFigures {
    /// The allocators that were hooked.
    pub allocators: Vec<Allocator>,
    /// The sums of all sites but those of pages, which count the same memory again.
    pub totals: Totals,
    /// How sure that is; nothing where it was counted.
    pub uncertainty: Option<Uncertainty>,
    /// The slope of its live bytes.
    pub growth_bytes_per_s: f64,
    /// When it held most, as of readings once a second; nothing where it held nothing.
    pub peak: Option<Peak>,
    /// The parts of its resident memory; nothing where that could not be read.
    pub ledger: Option<Ledger>,
    /// The cost of tracing to it; nothing where that cannot be told.
    pub overhead: Option<Overhead>,
}

/// The figures of pages that a process makes resident.
#[derive(Clone, Copy, Debug, Default)]
pub struct PageFigures {
    /// How its resident memory has changed, page by page.
    pub change: ResidentChange,
    /// The slope of that.
    pub growth_bytes_per_s: f64,
    /// When most was resident, as of readings once a second; nothing where never more was than at first.
    pub peak: Option<Peak>,
}

/// The figures of memory that the kernel takes for itself.
#[derive(Clone, Debug, Default)]
pub struct KernelFigures {
    /// Its allocators that are traced.
    pub allocators: Vec<Allocator>,
    /// The sums of all sites.
    pub totals: Totals,
    /// The slope of their live bytes.
    pub growth_bytes_per_s: f64,
}

impl Figures {
    /// The sums that were allocated and freed or, of pages, that became resident and were given back.
    #[must_use]
    pub fn totals(&self) -> Totals {
        match self {
            Self::Unread => Totals::default(),
            Self::Blocks(figures) => figures.totals,
            Self::Pages(figures) => figures.change.totals(),
            Self::Kernel(figures) => figures.totals,
        }
    }

    /// The slope of what is live or, of pages, of what is resident.
    #[must_use]
    pub fn growth_bytes_per_s(&self) -> f64 {
        match self {
            Self::Unread => 0.0,
            Self::Blocks(figures) => figures.growth_bytes_per_s,
            Self::Pages(figures) => figures.growth_bytes_per_s,
            Self::Kernel(figures) => figures.growth_bytes_per_s,
        }
    }

    /// The allocators that are traced.
    #[must_use]
    pub fn allocators(&self) -> &[Allocator] {
        match self {
            Self::Unread | Self::Pages(_) => &[],
            Self::Blocks(figures) => &figures.allocators,
            Self::Kernel(figures) => &figures.allocators,
        }
    }

    /// When most was held.
    #[must_use]
    pub fn peak(&self) -> Option<Peak> {
        match self {
            Self::Unread | Self::Kernel(_) => None,
            Self::Blocks(figures) => figures.peak,
            Self::Pages(figures) => figures.peak,
        }
    }

    /// Those of blocks, where it has them.
    #[must_use]
    pub fn blocks(&self) -> Option<&BlockFigures> {
        match self {
            Self::Blocks(figures) => Some(figures),
            Self::Unread | Self::Pages(_) | Self::Kernel(_) => None,
        }
    }

    /// Those of pages, where it has them.
    #[must_use]
    pub fn pages(&self) -> Option<&PageFigures> {
        match self {
            Self::Pages(figures) => Some(figures),
            Self::Unread | Self::Blocks(_) | Self::Kernel(_) => None,
        }
    }
}

impl BlockFigures {
    /// Where the true figures lie; nothing where they are known.
    #[must_use]
    pub fn intervals(&self) -> Option<Intervals> {
        self.uncertainty.map(|uncertainty| Intervals::of(&self.totals, &uncertainty))
    }
}
