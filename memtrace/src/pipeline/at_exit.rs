//! The look at a target that is about to end: which of its live blocks nothing points to any more.
//!
//! It is stopped by the kernel side where its C library ends it, all its threads are held, and its memory is read: roots first
//! come from what it has mapped, without what its allocators have (`process::roots`), and what they reach is followed
//! (`model::reach`).

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use memtrace_common::{process::Counter, site::SiteIndex};
use nix::{
    sys::wait::{Id, WaitPidFlag, WaitStatus, waitid},
    unistd::Pid,
};
use thiserror::Error;

use super::{area_book::AreaBook, profile::health};
use crate::{
    capture::{
        images::Images,
        kernel::{FoundBlock, Kernel, KernelError},
        target::Target,
    },
    model::{
        at_exit::Checked,
        reach::{Extent, Layout, Reach, TooManyPointers},
        report::HealthKind,
        survival::Amount,
        units,
        unseen::{Cause, Unchecked},
    },
    process::{
        contents::{Bounds, Contents, ContentsError},
        maps::{self, MapsError},
        roots,
        threads::{Held, HoldError},
    },
};

/// How much of a target's memory is read, and for how long it is held at most. Both are chosen by the target.
const BOUNDS: Bounds = Bounds { bytes: 16 << 30, time: Duration::from_secs(30) };

/// What a site holds at exit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Left {
    /// Its live blocks.
    pub(super) live: Amount,
    /// Those that cannot be reached.
    pub(super) unreachable: Amount,
}

impl Left {
    /// Both together.
    pub(super) fn plus(&self, other: &Self) -> Self {
        Self { live: self.live.plus(other.live), unreachable: self.unreachable.plus(other.unreachable) }
    }
}

/// What a look has shown: of each site that holds anything, and in total.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) sites: HashMap<SiteIndex, Left>,
    pub(super) checked: Checked,
}

/// Why there was no look: it follows `not checked for reachability: `.
#[derive(Debug, Error)]
pub(super) enum LookError {
    #[error("this tier does not record every block; use --tier exact")]
    Tier,
    #[error("what was lost ({0}) may have pointed to what is left")]
    Losses(String),
    #[error("it became another program before it could be looked at")]
    Replaced,
    #[error("it was forked, and {0} keeps addresses of its blocks in tables that it has inherited")]
    Forked(String),
    #[error(transparent)]
    Hold(#[from] HoldError),
    #[error(transparent)]
    Maps(#[from] MapsError),
    #[error(transparent)]
    Contents(#[from] ContentsError),
    #[error(transparent)]
    TooManyPointers(#[from] TooManyPointers),
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

/// Looks at a target that `ending`, one of its threads, is about to end; 0 where that may yet go on. A program that holds no block
/// has lost none.
pub(super) fn look(
    target: &Target,
    ending: u32,
    holds_any: bool,
    areas: &AreaBook,
    kernel: &Kernel,
) -> Result<Findings, LookError> {
    let begun = Instant::now();
    let pid = target.pid.get();
    if kernel.sample_bytes().is_some() || kernel.is_adaptive() {
        return Err(LookError::Tier);
    }
    no_losses(target, kernel)?;
    if !holds_any {
        return Ok(Findings::default());
    }
    let held = Held::hold(pid, ending)?;
    // Others may have let it go on; from here on nobody can.
    if !kernel.still_runs(target.slot)? {
        return Err(LookError::Replaced);
    }
    let mut blocks = kernel.blocks(target.slot);
    blocks.sort_unstable_by_key(|block| block.address);
    let mut reach =
        Reach::new(blocks.iter().map(|block| Extent::new(block.address, block.size_bytes)).collect(), layout(target));
    held.threads().iter().flat_map(|thread| &thread.words).for_each(|word| reach.root(*word));
    let stack_pointers: Vec<u64> = held.threads().iter().map(|thread| thread.stack_pointer).collect();
    let mappings = maps::read(pid)?;
    let mut contents = Contents::open(pid, BOUNDS)?;
    for stretch in roots::stretches(&mappings, &areas.areas(), &stack_pointers) {
        contents.read(stretch.start, stretch.end, stretch.shared, |start, memory| {
            reach.scan(start, memory, stretch.source).map_err(LookError::from)
        })?;
    }
    let mut findings = sum(&blocks, &reach.reached());
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
            LookError::Tier => Cause::Tier,
            LookError::Losses(_) => Cause::Losses,
            LookError::Hold(HoldError::Gone) => Cause::Killed,
            LookError::Replaced => Cause::EndNotSeen,
            LookError::Forked(_) => Cause::Forked,
            LookError::Contents(ContentsError::TooSlow(_) | ContentsError::TooMuch(_))
            | LookError::TooManyPointers(_) => Cause::TooMuch,
            LookError::Hold(_) | LookError::Maps(_) | LookError::Contents(_) | LookError::Kernel(_) => Cause::Refused,
        };
        Self { cause, reason: error.to_string() }
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
            Err(LookError::Forked(allocator.name.clone()))
        }
        _ => Ok(findings),
    }
}

/// Why a target was not looked at that has ended; `refused` is what kept memtrace from hooking it.
pub(super) fn why_unchecked(target: &Target, images: &Images, refused: Option<String>) -> Unchecked {
    if let Some(reason) = refused {
        return Unchecked { cause: Cause::NotHooked, reason };
    }
    if target.allocators.is_empty() {
        return Unchecked { cause: Cause::NoAllocator, reason: target.why_nothing_is_hooked(images) };
    }
    let pid = Pid::from_raw(target.pid.get().cast_signed());
    // It stays there for whoever waits for it. Of others than our own children nobody tells us.
    match waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT) {
        Ok(WaitStatus::Signaled(_, signal, _)) => {
            Unchecked { cause: Cause::Killed, reason: format!("killed by signal {}", signal as i32) }
        }
        _ => {
            let reason = "it ended without calling its C library's _exit, or was killed".to_owned();
            Unchecked { cause: Cause::EndNotSeen, reason }
        }
    }
}

/// What is not recorded cannot be followed: every block behind it would look lost.
fn no_losses(target: &Target, kernel: &Kernel) -> Result<(), LookError> {
    // Where blocks are freed, and which of two stacks they are charged to, changes nothing of what is reached.
    let matters = |counter: Counter| !matches!(counter, Counter::FreeSidesFull | Counter::SiteCollisions);
    let counters = health(&kernel.process(target.slot)?, |counter| counter.is_of_process() && matters(counter));
    let lost = counters.iter().filter(|counter| counter.kind == HealthKind::Loss && counter.count > 0);
    let lost: Vec<String> = lost.map(|counter| format!("{} {}", counter.name, units::count(counter.count))).collect();
    if lost.is_empty() { Ok(()) } else { Err(LookError::Losses(lost.join(", "))) }
}

/// How the blocks of a target are placed.
fn layout(target: &Target) -> Layout {
    if target.allocators.iter().any(|allocator| allocator.name == "glibc") { Layout::Glibc } else { Layout::Other }
}

fn sum(blocks: &[FoundBlock], reached: &[bool]) -> Findings {
    let mut findings = Findings::default();
    for (block, reached) in blocks.iter().zip(reached) {
        let amount = Amount { bytes: block.size_bytes, objects: 1 };
        let site = findings.sites.entry(block.site).or_default();
        let unreachable = if *reached { Amount::default() } else { amount };
        site.live = site.live.plus(amount);
        site.unreachable = site.unreachable.plus(unreachable);
        findings.checked.live = findings.checked.live.plus(amount);
        findings.checked.unreachable = findings.checked.unreachable.plus(unreachable);
    }
    findings
}
