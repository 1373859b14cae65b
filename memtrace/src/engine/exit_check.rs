//! The look at a target that is about to end: which of its live blocks nothing points to any more.
//!
//! It is stopped by the kernel side where its C library ends it, all its threads are held, and its memory is read: roots first
//! come from what it has mapped, without what its allocators have (`process::roots`), and what they reach is followed
//! (`reach::marking`).

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use memtrace_common::{ids::SiteIndex, wire::counters::Counter};
use nix::{
    sys::wait::{Id, WaitPidFlag, WaitStatus, waitid},
    unistd::Pid,
};
use thiserror::Error;

use crate::{
    analysis::health::health,
    bpf::{Bpf, BpfError, FoundBlock},
    capture::{allocator_mappings::AllocatorMappings, images::Images, target::Target},
    model::{
        at_exit::Checked,
        health::HealthKind,
        survival::Amount,
        unchecked::{Cause, Lost, Unchecked},
    },
    process::{
        maps::{self, MapsError},
        memory_reader::{Bounds, Contents, ContentsError},
        ptrace_hold::{Held, HoldError},
        roots,
    },
    profile::left_blocks::LeftBlocks,
    reach::{
        Extent,
        marking::{Layout, MarkingError, Rank, Reach, Reached},
    },
    report::words::{self, units},
};

/// How much of a target's memory is read, and for how long it is held at most. Both are chosen by the target.
const BOUNDS: Bounds = Bounds { bytes: 16 << 30, time: Duration::from_secs(30) };

/// The findings of a look: of each site that holds anything, and in total.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) sites: HashMap<SiteIndex, LeftBlocks>,
    pub(super) checked: Checked,
}

/// Why there was no look: it follows `not checked for reachability: `.
#[derive(Debug, Error)]
pub(super) enum LookError {
    #[error("{}", words::unchecked::reason(.0))]
    Futile(Unchecked),
    #[error(transparent)]
    Hold(#[from] HoldError),
    #[error(transparent)]
    Maps(#[from] MapsError),
    #[error(transparent)]
    Contents(#[from] ContentsError),
    #[error(transparent)]
    Marking(#[from] MarkingError),
    #[error(transparent)]
    Kernel(#[from] BpfError),
}

/// The blocks of a target that is held, and where its allocators have them.
pub(super) struct Recorded {
    blocks: Vec<FoundBlock>,
    areas: Vec<(u64, u64)>,
    layout: Layout,
}

/// Whether a target that holds something, or nothing, is to be looked at. A program that holds no block has lost none.
///
/// # Errors
/// Where a look could not tell anything.
pub(super) fn is_worth_a_look(target: &Target, holds_any: bool, bpf: &Bpf) -> Result<bool, LookError> {
    if bpf.sample_bytes().is_some() || bpf.is_adaptive() {
        return Err(LookError::Futile(Unchecked::Tier));
    }
    no_losses(target, bpf)?;
    Ok(holds_any)
}

/// The blocks of a target whose threads are held.
///
/// # Errors
/// Where it runs another program by now, or the BPF side does not tell.
pub(super) fn recorded(target: &Target, areas: &AllocatorMappings, bpf: &Bpf) -> Result<Recorded, LookError> {
    // Others may have let it go on before it was held; from then on nobody can.
    if !bpf.still_runs(target.slot)? {
        return Err(LookError::Futile(Unchecked::Replaced));
    }
    Ok(Recorded { blocks: bpf.blocks(target.slot), areas: areas.areas(), layout: layout(target) })
}

/// Holds the process `pid`, which `ending`, one of its threads, is about to end (0 where that may yet go on), asks for its
/// blocks, and looks for pointers to them.
pub(super) fn scan(
    pid: u32,
    ending: u32,
    ask: impl FnOnce() -> Result<Recorded, LookError>,
) -> Result<Findings, LookError> {
    let begun = Instant::now();
    let held = Held::hold(pid, ending)?;
    let Recorded { mut blocks, areas, layout } = ask()?;
    blocks.sort_unstable_by_key(|block| block.address);
    let extents = blocks.iter().map(|block| Extent::new(block.address, block.size_bytes)).collect();
    let mut reach = Reach::new(extents, layout);
    held.threads().iter().flat_map(|thread| &thread.words).for_each(|word| reach.root(*word, Rank::Outside, 0));
    let stack_pointers: Vec<u64> = held.threads().iter().map(|thread| thread.stack_pointer).collect();
    let mappings = maps::read(pid)?;
    let mut contents = Contents::open(pid, BOUNDS)?;
    for stretch in roots::stretches(&mappings, &areas, &stack_pointers) {
        contents.read(stretch.start, stretch.end, stretch.shared, |start, memory| {
            reach.scan(start, memory, stretch.source, Rank::Memory).map_err(LookError::from)
        })?;
    }
    let mut findings = sum(&blocks, &reach.follow(&mut || true)?);
    drop(held);
    findings.checked.read_bytes = contents.bytes();
    findings.checked.held = begun.elapsed();
    log::info!(
        "process {pid}: {} of {} live blocks are unreachable at exit; read {} in {:?}",
        findings.checked.unreachable.objects,
        findings.checked.live.objects,
        units::bytes(contents.bytes()),
        begun.elapsed()
    );
    Ok(findings)
}

impl From<LookError> for Unchecked {
    fn from(error: LookError) -> Self {
        let cause = match &error {
            LookError::Futile(why) => return why.clone(),
            LookError::Hold(HoldError::Gone) => Cause::Killed,
            LookError::Contents(ContentsError::TooSlow(_) | ContentsError::TooMuch(_)) | LookError::Marking(_) => {
                Cause::TooMuch
            }
            LookError::Hold(_) | LookError::Maps(_) | LookError::Contents(_) | LookError::Kernel(_) => Cause::Refused,
        };
        Self::Failed { cause, error: error.to_string() }
    }
}

/// The allocators that keep the addresses of live blocks nowhere: in memory that a child has inherited, where an allocator's own
/// cannot be told from its blocks, nothing of theirs hides a leak. (jemalloc leaves each address in its cache when it hands it out.)
const WITHOUT_ADDRESSES: [&str; 4] = ["glibc", "musl", "tcmalloc", "mimalloc"];

/// The findings in a forked child that holds something. Where an allocator of its own may have hidden lost blocks, their absence
/// says nothing.
pub(super) fn of_forked(target: &Target, findings: Findings) -> Result<Findings, LookError> {
    let hides = target.allocators.iter().find(|allocator| !WITHOUT_ADDRESSES.contains(&allocator.name.as_str()));
    match hides {
        Some(allocator) if findings.checked.live.objects > 0 && findings.checked.unreachable.objects == 0 => {
            Err(LookError::Futile(Unchecked::Forked { allocator: allocator.name.clone() }))
        }
        _ => Ok(findings),
    }
}

/// Why a target was not looked at that has ended; `refused` is what kept memtrace from hooking it.
pub(super) fn why_unchecked(target: &Target, images: &Images, refused: Option<String>) -> Unchecked {
    if let Some(error) = refused {
        return Unchecked::Failed { cause: Cause::NotHooked, error };
    }
    if target.allocators.is_empty() {
        return Unchecked::NothingHooked(target.why_nothing_is_hooked(images));
    }
    let pid = Pid::from_raw(target.pid.get().cast_signed());
    // It stays there for whoever waits for it. Of others than our own children nobody tells us.
    match waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT) {
        Ok(WaitStatus::Signaled(_, signal, _)) => Unchecked::Killed { signal: signal as i32 },
        _ => Unchecked::EndNotSeen,
    }
}

/// A block that is not recorded cannot be followed: every block behind it would look lost.
fn no_losses(target: &Target, bpf: &Bpf) -> Result<(), LookError> {
    // Where blocks are freed, and which of two stacks they are charged to, changes nothing of what is reached.
    let matters = |counter: Counter| !matches!(counter, Counter::FreeSitesFull | Counter::SiteCollisions);
    let counters = health(&bpf.process(target.slot)?.counters, |counter| counter.is_of_process() && matters(counter));
    let lost = counters.iter().filter(|counter| counter.kind == HealthKind::Loss && counter.count > 0);
    let lost: Vec<Lost> = lost.map(Lost::from).collect();
    if lost.is_empty() { Ok(()) } else { Err(LookError::Futile(Unchecked::LostBlocks(lost))) }
}

/// How the blocks of a target are placed.
fn layout(target: &Target) -> Layout {
    if target.allocators.iter().any(|allocator| allocator.name == "glibc") { Layout::Glibc } else { Layout::Other }
}

fn sum(blocks: &[FoundBlock], reached: &Reached) -> Findings {
    let mut findings = Findings::default();
    for (index, block) in blocks.iter().enumerate() {
        let amount = Amount { bytes: block.size_bytes, objects: 1 };
        let site = findings.sites.entry(block.site).or_default();
        let unreachable = if reached.is_reached(index) { Amount::default() } else { amount };
        site.live = site.live.plus(amount);
        site.unreachable = site.unreachable.plus(unreachable);
        findings.checked.live = findings.checked.live.plus(amount);
        findings.checked.unreachable = findings.checked.unreachable.plus(unreachable);
    }
    findings
}
