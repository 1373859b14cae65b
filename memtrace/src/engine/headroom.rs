//! Room for memtrace beside its targets: smaller tables where memory is short, or none at all.
//!
//! Tables are charged to the cgroup that memtrace is in. Inside of a target's container that is the target's own: what it could
//! not have any more, the kernel would end it for.

use std::{collections::BTreeMap, fs, num::NonZeroU32, time::Duration};

use super::{
    error::{PipelineError, TooLittle},
    options::Options,
};
use crate::{
    bpf::{
        Asked, Bpf, BpfError, Capacities, Extras, Settings, TargetSize, features::has_memory_on_demand, point::Scope,
    },
    capture::{preflight::Outcome, selection::Selection},
    model::{
        figures::FigureKind,
        headroom::{MOST_HALVINGS, Place, Room, Shortage, halvings},
        tier::Tier,
    },
    process::{bounded::MAX_READ_BYTES, cgroup, maps, memory, status},
    report::words::{headroom::shortage as in_words, units},
};

/// The memory that memtrace takes beside its tables and beside the images of its targets, in bytes: some 28 MiB of its own, and
/// 18 that the kernel's verifier needs for a moment. Both are charged like tables.
const OWN_BYTES: u64 = 48 << 20;

/// The memory that the verifier needs for each further program that it verifies at once, in bytes.
const VERIFIER_BYTES: u64 = 18 << 20;
/// The most programs that are verified at once: three are large.
const MOST_VERIFIED: u64 = 3;

/// How long the kernel takes to give tables back that are not used any more.
const GIVEN_BACK: Duration = Duration::from_millis(200);

/// Where memory is shortest, of what is known.
fn shortest() -> Option<Shortage> {
    let cgroup = cgroup::own_room().map(|room| Shortage { place: Place::Cgroup, room });
    let machine = memory::machine_limit().ok().map(|limit| Room { limit, peaks_bytes: 0 });
    let machine = machine.map(|room| Shortage { place: Place::Machine, room });
    [cgroup, machine].into_iter().flatten().min_by_key(|shortage| shortage.room.free_bytes())
}

/// The tables that there is room for.
pub(super) struct Fitted {
    /// How large tables are.
    pub(super) capacities: Capacities,
    /// How many programs may be verified at once beside them: one where memory is short.
    pub(super) verified_at_once: usize,
}

/// Tables as large as there is room for beside `extras`. Says so where they are smaller than usual.
///
/// # Errors
/// Where even the smallest would take what targets may need.
pub(super) fn fitted(options: &Options, extras: Extras) -> Result<Fitted, PipelineError> {
    let Some(shortage) = shortest() else {
        return Ok(Fitted { capacities: options.capacities, verified_at_once: 1 });
    };
    let size = size(options);
    let capacities = fitting(options, extras, &size, shortage)?;
    let taken = OWN_BYTES.saturating_add(size.image_bytes).saturating_add(capacities.most_bytes(extras));
    let more = shortage.room.free_bytes().saturating_sub(taken) / VERIFIER_BYTES;
    let verified_at_once = usize::try_from(more.saturating_add(1).min(MOST_VERIFIED)).unwrap_or(1);
    Ok(Fitted { capacities, verified_at_once })
}

/// The capacities of [`fitted`], where memory is as short as this.
fn fitting(
    options: &Options,
    extras: Extras,
    size: &TargetSize,
    shortage: Shortage,
) -> Result<Capacities, PipelineError> {
    let asked = options.asked;
    let image_bytes = if options.tier == Tier::Growth { size.image_bytes / 2 } else { size.image_bytes };
    let own_bytes = OWN_BYTES.saturating_add(image_bytes);
    if let Some(capacities) = sized(options, size)
        && own_bytes.saturating_add(capacities.most_bytes(extras)) <= shortage.room.free_bytes()
    {
        let (bytes, own) = (capacities.table_bytes(extras) / 1024, units::bytes(own_bytes));
        log::info!("tables of {bytes} KiB, {own} of memtrace's own; {}", in_words(&shortage));
        return Ok(capacities);
    }
    let tables = |halvings| options.capacities.halved(halvings, &asked);
    let table_bytes = |halvings| tables(halvings).table_bytes(extras);
    let short = in_words(&shortage);
    log::info!("tables of {} KiB, {} of memtrace's own; {short}", table_bytes(0) / 1024, units::bytes(own_bytes));
    let Some(halvings) = halvings(shortage.room.free_bytes(), own_bytes, table_bytes) else {
        let least_bytes = own_bytes.saturating_add(table_bytes(MOST_HALVINGS));
        return Err(TooLittle { least_bytes, shortage, is_asked: asked != Asked::default() }.into());
    };
    if halvings > 0 {
        let [smaller, usual] = [halvings, 0].map(|halvings| units::bytes(table_bytes(halvings)));
        eprintln!("memtrace: tables of {smaller} instead of {usual}: {short}");
        tell_sizes(&tables(halvings));
    }
    Ok(tables(halvings))
}

/// The answer of `memtrace doctor` about the room for a run on a few processes.
#[must_use]
pub fn check() -> Outcome {
    let tables =
        |halvings| Capacities::of(Scope::Targets).halved(halvings, &Asked::default()).table_bytes(Extras::default());
    let usual = units::bytes(tables(0));
    let Some(shortage) = shortest() else { return Outcome::Ok(format!("tables take {usual}")) };
    let short = in_words(&shortage);
    let hint = "the memory of a target's container is the target's first: run memtrace outside of it";
    match halvings(shortage.room.free_bytes(), OWN_BYTES, tables) {
        Some(0) => Outcome::Ok(format!("tables take {usual}; {short}")),
        Some(halvings) => Outcome::Degraded(
            format!("tables of {} instead of {usual}: {short}", units::bytes(tables(halvings))),
            hint.to_owned(),
        ),
        None => Outcome::Degraded(format!("no room for tables of {usual}: {short}"), hint.to_owned()),
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
pub(super) fn load(settings: Settings, asked: &Asked) -> Result<Bpf, BpfError> {
    let error = match Bpf::load(settings) {
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
    Bpf::load(Settings { capacities, ..settings })
}

/// Capacities for the named processes, which take as little as these need, and more as they need it; `None` where others may
/// become targets, and where the kernel cannot do that. Not of the kernel's own memory: programs on its allocators would take
/// memory within the very calls that they count, and stacks found no room then.
fn sized(options: &Options, size: &TargetSize) -> Option<Capacities> {
    let is_named = matches!(options.selection, Selection::Pids(_)) && !options.follow && options.tier != Tier::Growth;
    let is_of_programs = FigureKind::of(&options.categories) != FigureKind::Kernel;
    (is_named && is_of_programs && has_memory_on_demand()).then(|| options.capacities.sized_to(size, &options.asked))
}

/// The size of the named processes. Symbols and debug information of their images are what memtrace keeps more of than of
/// anything else.
fn size(options: &Options) -> TargetSize {
    let Selection::Pids(pids) = &options.selection else { return TargetSize::default() };
    let images: BTreeMap<_, _> = pids.iter().flat_map(|pid| images_of(*pid)).collect();
    let usages = pids.iter().filter_map(|pid| memory::usage(pid.get()));
    let threads = pids.iter().filter_map(|pid| status::thread_count(pid.get()));
    TargetSize {
        threads: threads.fold(0, u32::saturating_add),
        resident_bytes: usages.map(|usage| usage.rss_bytes()).fold(0, u64::saturating_add),
        image_bytes: images.into_values().fold(0, u64::saturating_add),
    }
}

fn images_of(pid: NonZeroU32) -> impl Iterator<Item = (maps::FileId, u64)> {
    let mappings = maps::read(pid.get()).unwrap_or_default();
    mappings.into_iter().filter(|mapping| mapping.executable).filter_map(move |mapping| {
        let path = format!("/proc/{pid}/map_files/{:x}-{:x}", mapping.start, mapping.end);
        Some((mapping.file?, fs::metadata(path).map_or(0, |file| file.len().min(MAX_READ_BYTES))))
    })
}
