//! A report: what was seen of each target, ready to be rendered.

use std::{
    cmp::Reverse,
    time::{Duration, SystemTime},
};

use super::{
    at_exit::AtExit,
    estimate::{Intervals, Uncertainty},
    frame::Stack,
    ledger::Ledger,
    memory::Memory,
    overhead::Overhead,
    resident_change::ResidentChange,
    sizes::SizeHistogram,
    survival::{Amount, Survival},
    teardown::BeforeEnd,
    trend,
    unseen::Outcome,
    verdict::{Judgement, Verdict},
};

/// How closely the targets were looked at, closest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// Every allocation was counted.
    Exact,
    /// One allocation in so many bytes was, in the mean.
    Sampled {
        /// The mean number of bytes between samples.
        sample_bytes: u64,
    },
    /// Every allocation was, at times.
    Windowed,
    /// No allocation was: what makes memory resident was, page by page.
    Growth,
}

/// From when on there was another tier, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TierChange {
    /// After the start.
    pub at: Duration,
    /// The tier from then on.
    pub tier: Tier,
    /// Why.
    pub reason: String,
}

/// What may be spent on tracing, and what came of that.
#[derive(Clone, Debug, PartialEq)]
pub struct Steered {
    /// The part of a target's CPU time, from 0 to 1.
    pub max_overhead: f64,
    /// The tiers, from the first on.
    pub changes: Vec<TierChange>,
    /// How many windows there were.
    pub windows: u32,
}

impl Tier {
    /// The word used on the command line and in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Sampled { .. } => "sampled",
            Self::Windowed => "windowed",
            Self::Growth => "growth",
        }
    }

    /// The mean number of bytes between samples; nothing where every allocation is counted.
    #[must_use]
    pub fn sample_bytes(self) -> Option<u64> {
        match self {
            Self::Exact | Self::Windowed | Self::Growth => None,
            Self::Sampled { sample_bytes } => Some(sample_bytes),
        }
    }
}

/// What kind of memory a site allocates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Category {
    /// From an allocator's functions.
    #[default]
    Heap,
    /// Mapped by the program itself.
    Mmap,
    /// Whatever it was allocated by, from when its pages became resident.
    Pages(PageKind),
    /// The kernel's own.
    Kernel(KernelSource),
}

/// Which of the kernel's allocators memory is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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

/// What pages hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PageKind {
    /// Memory of the process's own.
    Anonymous,
    /// A file's.
    File,
    /// Memory that is shared on purpose.
    Shared,
    /// What was another process's as well until this one wrote to it.
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

    /// What its pages hold, where it is of pages.
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

/// What has been allocated and freed. `live = alloc - freed` holds by construction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Bytes ever allocated.
    pub alloc_bytes: u64,
    /// Objects ever allocated.
    pub alloc_objects: u64,
    /// Bytes ever freed, never more than were allocated.
    pub freed_bytes: u64,
    /// Objects ever freed, never more than were allocated.
    pub freed_objects: u64,
}

impl Totals {
    /// Takes counters that were read one after the other while they moved: a block may have been freed
    /// between the readings of both, never freed without having been allocated.
    #[must_use]
    pub fn new(alloc_bytes: u64, alloc_objects: u64, freed_bytes: u64, freed_objects: u64) -> Self {
        Self {
            alloc_bytes,
            alloc_objects,
            freed_bytes: freed_bytes.min(alloc_bytes),
            freed_objects: freed_objects.min(alloc_objects),
        }
    }

    /// Bytes allocated and not yet freed.
    #[must_use]
    pub fn live_bytes(&self) -> u64 {
        self.alloc_bytes - self.freed_bytes
    }

    /// Objects allocated and not yet freed.
    #[must_use]
    pub fn live_objects(&self) -> u64 {
        self.alloc_objects - self.freed_objects
    }

    /// The same, of which only a part of what is live still is, from 0 to 1.
    #[must_use]
    pub fn with_live(&self, part: f64) -> Self {
        if part >= 1.0 {
            return *self;
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of a count, rounded")]
        let dead = |live: u64| (live as f64 * (1.0 - part.max(0.0))).round() as u64;
        Self::new(
            self.alloc_bytes,
            self.alloc_objects,
            self.freed_bytes + dead(self.live_bytes()),
            self.freed_objects + dead(self.live_objects()),
        )
    }

    /// Both together.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            alloc_bytes: self.alloc_bytes + other.alloc_bytes,
            alloc_objects: self.alloc_objects + other.alloc_objects,
            freed_bytes: self.freed_bytes + other.freed_bytes,
            freed_objects: self.freed_objects + other.freed_objects,
        }
    }
}

/// An allocator that was hooked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allocator {
    /// The family's name.
    pub name: String,
    /// The path of the image that defines it.
    pub image: String,
    /// The functions that were hooked, in the order of the family's table.
    pub functions: Vec<String>,
}

/// What a counter stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthKind {
    /// Something is missing from the figures.
    Loss,
    /// A free of a block that is unknown by nature.
    Unmatched,
    /// A block whose stack lacks its outer frames; its figures are whole.
    CutStack,
}

/// One counter of what was lost, or needs explaining.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCounter {
    /// Its name in reports.
    pub name: &'static str,
    /// How often it happened.
    pub count: u64,
    /// What it stands for.
    pub kind: HealthKind,
}

/// The order of reports: suspects first, which would drown among caches, then what holds most.
pub fn sort(sites: &mut [Site]) {
    sites.sort_by_key(|site| {
        let is_suspect = site.judgement.verdict == Verdict::LeakSuspect;
        (Reverse((is_suspect, site.held_bytes(), site.totals.alloc_bytes)), site.id)
    });
}

/// Where blocks of a site are freed.
#[derive(Clone, Debug)]
pub struct FreedAt {
    /// How many frees were seen there.
    pub samples: u64,
    /// From the freeing function itself outwards.
    pub stack: Stack,
}

/// An allocation site; by default, one of which nothing is known.
#[derive(Clone, Debug, Default)]
pub struct Site {
    /// The same for the same code at the same place in the same images, whatever process or host.
    pub id: u64,
    /// What kind of memory it allocates.
    pub category: Category,
    /// What it has allocated and freed.
    pub totals: Totals,
    /// How sure that is; nothing where it was counted.
    pub uncertainty: Option<Uncertainty>,
    /// The slope of its live bytes.
    pub growth_bytes_per_s: f64,
    /// What is thought of it, how sure that is and why.
    pub judgement: Judgement,
    /// Its holdings before its program freed them on its way out, where they had grown until then: its judgement and its slope are
    /// as of that moment.
    pub before_end: Option<BeforeEnd>,
    /// What of it could not be reached when its program was about to end; nothing where that was not looked at.
    pub unreachable: Option<Amount>,
    /// The suppression that lets it pass although it is a suspect, as its line has it.
    pub suppressed_by: Option<String>,
    /// Whether it was a suspect in the report that this one is compared with, and is one.
    pub in_baseline: bool,
    /// What has become of its blocks by age; nothing where that is not known.
    pub survival: Option<Survival>,
    /// How many of its blocks were freed within seconds of their allocation; nothing where that is not known.
    pub short_lived_objects: Option<u64>,
    /// Its live bytes when its process held most.
    pub at_peak_bytes: u64,
    /// How many of its live blocks are of what size, as far as they are known one by one.
    pub sizes: SizeHistogram,
    /// Where blocks of it are freed, most often first, of those frees that were looked at: only at sites whose old blocks
    /// accumulate.
    pub freed_at: Vec<FreedAt>,
    /// The age of its oldest live block.
    pub oldest_age: Option<Duration>,
    /// Whether its stack was deeper than is kept.
    pub truncated: bool,
    /// Where it allocates.
    pub stack: Stack,
}

/// The most that a process has held. What each site held then is [`Site::at_peak_bytes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peak {
    /// When, after the start.
    pub at: Duration,
    /// Its live bytes.
    pub live_bytes: u64,
}

/// A target; by default, one of which nothing is known.
#[derive(Clone, Debug, Default)]
pub struct Process {
    /// Its thread group id.
    pub pid: u32,
    /// Its own short name.
    pub comm: String,
    /// The program it runs.
    pub exe: String,
    /// What was hooked in it.
    pub allocators: Vec<Allocator>,
    /// How much of the growth of its resident memory no hooked allocator explains, where that is unusual.
    pub unexplained_rss_bytes: Option<u64>,
    /// What its resident memory consists of; nothing where that is not known, or nothing is traced but pages.
    pub ledger: Option<Ledger>,
    /// When it held most, as of readings once a second; nothing where it held nothing.
    pub peak: Option<Peak>,
    /// What memory it has had, and which way that goes: resident memory, or what the kernel holds for itself. Nothing where it
    /// could not be read.
    pub memory: Option<Memory>,
    /// Of all its sites; where nothing but pages is traced, of its resident memory ([`ResidentChange::totals`]).
    pub totals: Totals,
    /// How its resident memory has changed, page by page; nothing unless nothing else is traced.
    pub resident_change: Option<ResidentChange>,
    /// How sure that is; nothing where it was counted.
    pub uncertainty: Option<Uncertainty>,
    /// The slope of its live bytes.
    pub growth_bytes_per_s: f64,
    /// What tracing has cost it; nothing where that cannot be told.
    pub overhead: Option<Overhead>,
    /// What was lost, and what needs explaining.
    pub health: Vec<HealthCounter>,
    /// All of them, in the order of [`sort`].
    pub sites: Vec<Site>,
    /// What was looked at when it was about to end; nothing where that was not asked for, or it has not ended.
    pub at_exit: Option<AtExit>,
    /// Its live blocks when its resident memory was read last before it freed; nothing where it has not ended, or nothing is traced but pages.
    pub before_end: Option<BeforeEnd>,
    /// Whether it had ended when the report was made.
    pub ended: bool,
}

impl Site {
    /// Its live bytes or, where its program freed them on its way out, those from before.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        self.before_end.map_or(self.totals.live_bytes(), |before| before.live_bytes)
    }

    /// Where its true figures lie; nothing where they are known.
    #[must_use]
    pub fn intervals(&self) -> Option<Intervals> {
        self.uncertainty.map(|uncertainty| Intervals::of(&self.totals, &uncertainty))
    }
}

impl Process {
    /// Whether it is the kernel itself.
    #[must_use]
    pub fn is_kernel(&self) -> bool {
        self.pid == 0
    }

    /// Which way its memory goes.
    #[must_use]
    pub fn trend(&self) -> trend::Judgement {
        self.memory.as_ref().map(|memory| memory.judgement).unwrap_or_default()
    }

    /// Where its true figures lie; nothing where they are known.
    #[must_use]
    pub fn intervals(&self) -> Option<Intervals> {
        self.uncertainty.map(|uncertainty| Intervals::of(&self.totals, &uncertainty))
    }
}

/// What was seen.
#[derive(Clone, Debug)]
pub struct Report {
    /// The host's name.
    pub host: String,
    /// The kernel's release.
    pub kernel: String,
    /// When counting began.
    pub started_at: SystemTime,
    /// How long it went on.
    pub duration: Duration,
    /// How closely; the least exact of all tiers that the figures rest on.
    pub tier: Tier,
    /// What was spent on tracing, where memtrace chose the tier.
    pub steered: Option<Steered>,
    /// What was lost of the run as a whole, not of one target.
    pub health: Vec<HealthCounter>,
    /// The memory that was asked about and that nobody could see, in words.
    pub not_seen: Vec<String>,
    /// The targets, most live bytes first.
    pub processes: Vec<Process>,
    /// Targets that have ended and are not among them.
    pub unlisted: Unlisted,
    /// The gate's outcome, in the last report of a run that has one.
    pub gate: Option<Outcome>,
}

/// Targets of which only the sum is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unlisted {
    /// How many.
    pub processes: u64,
    /// What they allocated and freed, all together.
    pub totals: Totals,
    /// Leak suspects of theirs that are at no site of the report either.
    pub suspects: usize,
    /// Those that were not looked at when they ended, although that was asked for.
    pub unchecked: u64,
}

/// What folded stacks and flame graphs weigh by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// Live bytes.
    InuseSpace,
    /// Live objects.
    InuseObjects,
    /// Bytes ever allocated.
    AllocSpace,
    /// Objects ever allocated.
    AllocObjects,
    /// Growth of live bytes in bytes a second; shrinking sites weigh nothing.
    Growth,
}

impl Weight {
    /// What `site` weighs.
    #[must_use]
    pub fn of(self, site: &Site) -> u64 {
        match self {
            Self::InuseSpace => site.totals.live_bytes(),
            Self::InuseObjects => site.totals.live_objects(),
            Self::AllocSpace => site.totals.alloc_bytes,
            Self::AllocObjects => site.totals.alloc_objects,
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a clamped, rounded slope")]
            Self::Growth => site.growth_bytes_per_s.max(0.0).round() as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_what_is_live_may_be_taken_for_freed() {
        let totals = Totals::new(100, 10, 40, 4);
        assert_eq!(totals.with_live(0.5), Totals::new(100, 10, 70, 7));
        assert_eq!((totals.with_live(1.0), totals.with_live(0.0).live_bytes()), (totals, 0));
    }

    #[test]
    fn live_is_alloc_minus_freed_even_where_counters_were_read_in_between() {
        let totals = Totals::new(100, 2, 120, 3);
        assert_eq!((totals.live_bytes(), totals.live_objects()), (0, 0));
        assert_eq!(totals.alloc_bytes - totals.freed_bytes, totals.live_bytes());
    }
}
