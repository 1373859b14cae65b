//! Room for memtrace beside its targets: smaller tables where memory is short, or none at all.
//!
//! Tables are charged to the cgroup that memtrace is in. Inside of a target's container that is the target's own: what it could
//! not have any more, the kernel would end it for.

use std::{collections::BTreeMap, fs, num::NonZeroU32, time::Duration};

use thiserror::Error;

use super::{Look, Options, PipelineError};
use crate::{
    capture::{
        images::Scope,
        kernel::{Asked, Capacities, Extras, Kernel, KernelError, Settings},
        preflight::Outcome,
        selection::Selection,
    },
    model::{
        headroom::{MOST_HALVINGS, Room, halvings},
        report::{Category, Tier},
        units,
    },
    process::{bounded::MAX_READ_BYTES, cgroup, kernel_pages, maps, memory},
};

/// The memory that memtrace takes beside its tables and beside the images of its targets, in bytes: some 28 MiB of its own, and
/// 18 that the kernel's verifier needs for a moment. Both are charged like tables.
const OWN_BYTES: u64 = 48 << 20;

/// How long the kernel takes to give tables back that are not used any more.
const GIVEN_BACK: Duration = Duration::from_millis(200);

/// Where memory is short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Cgroup,
    Machine,
}

/// The limit that keeps tables from being as large as usual.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shortage {
    place: Place,
    room: Room,
}

/// There is no room for memtrace.
#[derive(Debug, Error)]
#[error("cannot trace here: memtrace would take {} at least; {shortage}", units::bytes(*least_bytes))]
pub struct TooLittle {
    least_bytes: u64,
    shortage: Shortage,
    /// Whether the user has asked for tables of some size.
    is_asked: bool,
}

impl TooLittle {
    /// The next step.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self.shortage.place {
            _ if self.is_asked => "leave out --max-blocks and kin, or make them smaller",
            Place::Cgroup => "run memtrace outside of the container, in a cgroup of its own, or raise the limit",
            Place::Machine => "end something else, or try another machine",
        }
    }
}

impl std::fmt::Display for Shortage {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Room { limit, peaks_bytes } = self.room;
        let place = match self.place {
            Place::Cgroup => "its cgroup",
            Place::Machine => "the machine",
        };
        let [max, used, peaks, free] =
            [limit.max_bytes, limit.used_bytes, peaks_bytes, self.room.free_bytes()].map(units::bytes);
        write!(formatter, "{place} has {used} of {max}")?;
        if peaks_bytes > 0 {
            write!(formatter, ", and {peaks} more at its processes' peaks")?;
        }
        write!(formatter, ", which leaves memtrace {free}")
    }
}

/// The further tables of the kernel side, with these options.
fn extras(options: &Options) -> Extras {
    let is_of_kernel = options.categories.iter().any(|category| category.is_kernel());
    Extras {
        address_spaces: options.categories.contains(&Category::Mmap) || options.at_exit,
        pages: options.categories.iter().any(|category| category.is_pages()),
        page_frames: if is_of_kernel { kernel_pages::frames().unwrap_or(0) } else { 0 },
    }
}

/// Where memory is shortest, of what is known.
fn shortest() -> Option<Shortage> {
    let cgroup = cgroup::own_room().map(|room| Shortage { place: Place::Cgroup, room });
    let machine = memory::machine_limit().ok().map(|limit| Room { limit, peaks_bytes: 0 });
    let machine = machine.map(|room| Shortage { place: Place::Machine, room });
    [cgroup, machine].into_iter().flatten().min_by_key(|shortage| shortage.room.free_bytes())
}

/// The options with tables as large as there is room for. Says so where they are smaller than usual.
///
/// # Errors
/// Where even the smallest would take what targets may need.
pub(super) fn fitted(options: &Options) -> Result<Options, PipelineError> {
    let (extras, asked) = (extras(options), options.asked);
    let Some(shortage) = shortest() else { return Ok(options.clone()) };
    let own_bytes = OWN_BYTES.saturating_add(images_bytes(options));
    let tables = |halvings| options.capacities.halved(halvings, &asked);
    let table_bytes = |halvings| tables(halvings).table_bytes(extras);
    log::info!("tables of {} KiB, {} of memtrace's own; {shortage}", table_bytes(0) / 1024, units::bytes(own_bytes));
    let Some(halvings) = halvings(shortage.room.free_bytes(), own_bytes, table_bytes) else {
        let least_bytes = own_bytes.saturating_add(table_bytes(MOST_HALVINGS));
        return Err(TooLittle { least_bytes, shortage, is_asked: asked != Asked::default() }.into());
    };
    if halvings > 0 {
        let [smaller, usual] = [halvings, 0].map(|halvings| units::bytes(table_bytes(halvings)));
        eprintln!("memtrace: tables of {smaller} instead of {usual}: {shortage}");
        tell_sizes(&tables(halvings));
    }
    Ok(Options { capacities: tables(halvings), ..options.clone() })
}

/// The answer of `memtrace doctor` about the room for a run on a few processes.
#[must_use]
pub fn check() -> Outcome {
    let tables =
        |halvings| Capacities::of(Scope::Targets).halved(halvings, &Asked::default()).table_bytes(Extras::default());
    let usual = units::bytes(tables(0));
    let Some(shortage) = shortest() else { return Outcome::Ok(format!("tables take {usual}")) };
    let hint = "the memory of a target's container is the target's first: run memtrace outside of it";
    match halvings(shortage.room.free_bytes(), OWN_BYTES, tables) {
        Some(0) => Outcome::Ok(format!("tables take {usual}; {shortage}")),
        Some(halvings) => Outcome::Degraded(
            format!("tables of {} instead of {usual}: {shortage}", units::bytes(tables(halvings))),
            hint.to_owned(),
        ),
        None => Outcome::Degraded(format!("no room for tables of {usual}: {shortage}"), hint.to_owned()),
    }
}

/// Tells how much smaller tables hold, and where they can be as large as usual.
fn tell_sizes(capacities: &Capacities) {
    let Capacities { blocks, sites, stacks, threads, rows, .. } = *capacities;
    let [blocks, sites, stacks, threads, rows] = [blocks, sites, stacks, threads, rows].map(|n| units::count(n.into()));
    eprintln!(
        "hint: there is room for {blocks} blocks, {sites} sites, {stacks} stacks, {threads} threads and {rows} unwind rows \
         (--max-blocks and kin); run memtrace outside of the container for more"
    );
}

/// Loads the kernel side. A limit that memtrace cannot see, of a group outside of its own namespace, is met here: tables that
/// do not fit are refused without harm. How much would fit is not known then, and what memtrace takes besides would not be refused
/// but end it; so the least is taken.
///
/// # Errors
/// Where the kernel refuses, mostly for want of privileges or of memory.
pub(super) fn load(settings: Settings, asked: &Asked) -> Result<Kernel, KernelError> {
    let error = match Kernel::load(settings) {
        Err(error) if error.is_for_want_of_memory() => error,
        loaded => return loaded,
    };
    let capacities = settings.capacities.halved(MOST_HALVINGS, asked);
    if capacities == settings.capacities {
        return Err(error);
    }
    eprintln!("memtrace: the kernel has no memory for tables of the usual size");
    tell_sizes(&capacities);
    std::thread::sleep(GIVEN_BACK);
    Kernel::load(Settings { capacities, ..settings })
}

/// The files whose code the named processes have mapped, in bytes: symbols and debug information of these are what
/// memtrace keeps more of than of anything else.
fn images_bytes(options: &Options) -> u64 {
    let Selection::Pids(pids) = &options.selection else { return 0 };
    let images: BTreeMap<_, _> = pids.iter().flat_map(|pid| images_of(*pid)).collect();
    let bytes: u64 = images.into_values().fold(0, u64::saturating_add);
    if options.look == Look::Fixed(Tier::Growth) { bytes / 2 } else { bytes }
}

fn images_of(pid: NonZeroU32) -> impl Iterator<Item = (maps::FileId, u64)> {
    let mappings = maps::read(pid.get()).unwrap_or_default();
    mappings.into_iter().filter(|mapping| mapping.executable).filter_map(move |mapping| {
        let path = format!("/proc/{pid}/map_files/{:x}-{:x}", mapping.start, mapping.end);
        Some((mapping.file?, fs::metadata(path).map_or(0, |file| file.len().min(MAX_READ_BYTES))))
    })
}
