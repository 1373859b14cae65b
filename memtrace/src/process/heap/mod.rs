//! The heap of a live process, read from outside: without a probe, without stopping it, from before memtrace came.
//!
//! In: a pid and bounds. Out: what each allocator holds ([`Look`]). Parsing is pure: it reads bytes through
//! [`bytes::Memory`], takes no number of the target on trust, and draws on one [`budget::Budget`]. [`live`] alone makes system
//! calls. docs/design/heap.md has the decisions.

pub mod budget;
pub mod bytes;
pub mod found;
pub mod glibc;
mod image;
pub mod jemalloc;
pub mod live;
mod residency;
pub mod resident;
mod share;
pub mod smaps;
pub mod types;

use std::{
    io,
    time::{Duration, Instant},
};

use thiserror::Error;

pub use self::{budget::Bounds, found::Hints};
use self::{
    budget::Exhausted,
    bytes::{Memory, Reader, Stop},
    found::{Found, Outcome},
    live::Live,
    smaps::MappedMemory,
    types::Types,
};
use super::{maps::MapsError, status};
use crate::model::{
    heap::Heap,
    heap_types::{self, NotTold},
};

/// How often a program that runs is looked at, at most.
const MAX_LOOKS: usize = 9;
/// A program is idle that runs no longer than one part in so many of the time that the look takes of a CPU.
const IDLE_OF: u32 = 100;
/// CPU time that all these looks together may take.
const CHEAP: Duration = Duration::from_millis(1300);

/// Why there is no look at a heap.
#[derive(Debug, Error)]
pub enum LookError {
    /// Its mappings cannot be told.
    #[error(transparent)]
    Mappings(#[from] MapsError),
    /// Its memory may not be read.
    #[error("cannot read the memory of process {pid}: {source}")]
    Memory {
        /// The process.
        pid: u32,
        /// The system's error.
        source: io::Error,
    },
    /// A bound was reached.
    #[error("the heap of process {pid} cannot be read whole: {source}")]
    Exhausted {
        /// The process.
        pid: u32,
        /// The bound.
        source: Exhausted,
    },
    /// It has ended meanwhile.
    #[error("process {0} has ended")]
    Gone(u32),
}

/// One look: figures, and what holders and leaks are built on.
#[derive(Debug)]
pub struct Look {
    /// The figures.
    pub heap: Heap,
    /// The allocators that were recognised, as they were read last: blocks of a program that runs come and go.
    pub found: Vec<Found>,
    /// The mappings as they were at the beginning of that reading.
    pub mappings: Vec<MappedMemory>,
    /// The types of live blocks, once they were told.
    pub types: Types,
}

impl Look {
    /// Tells the types of its blocks, of a process that may have gone on since. The figures say which bound has kept it from that.
    pub fn tell_types(&mut self, pid: u32, bounds: Bounds) {
        let read = |live: &mut Live| types::read(&mut Reader::new(live, bounds), &self.mappings, &self.found);
        match Live::open(pid).map_err(|_| NotTold::Gone).and_then(|mut live| read(&mut live)) {
            Ok(types) => {
                self.heap.types = types.figures.clone();
                self.types = types;
            }
            Err(why) => self.heap.types = heap_types::Types::not_told(why),
        }
    }
}

/// A family of allocators: looks for itself in a process. Nothing where it is not there at all.
type Read = fn(&mut Reader<'_>, &[MappedMemory], &Hints) -> Result<Vec<Outcome>, Stop>;

/// The families that are known, in the order of reports.
const FAMILIES: &[Read] = &[glibc::read, jemalloc::read];

/// Looks once at the heap of a process.
///
/// # Errors
/// Where the process is gone or may not be read, or there is more than `bounds` allow.
pub fn look(pid: u32, bounds: Bounds) -> Result<Heap, LookError> {
    Ok(look_closely(pid, bounds)?.heap)
}

/// The same, with the live blocks and the areas of each allocator.
///
/// While a program runs, blocks go from arenas that were read already to others, and back. So a program that runs is looked at
/// several times where that is cheap, and the figures of the look with the middle count of blocks stand. Blocks and areas are of the
/// last look.
///
/// # Errors
/// As [`look`].
pub fn look_closely(pid: u32, bounds: Bounds) -> Result<Look, LookError> {
    let (begun, own, target) = (Instant::now(), status::own_cpu_time(), status::cpu_time(pid));
    let mappings = smaps::read(pid)?;
    let hints = Hints { glibc_version: glibc::version::told_by_file(pid, &mappings) };
    let mut looks = vec![look_once(pid, mappings, &hints, bounds)?];
    let took = status::own_cpu_time().saturating_sub(own);
    let ran = status::cpu_time(pid).zip(target).map(|(after, before)| after.saturating_sub(before));
    let is_idle = ran.is_some_and(|ran| ran <= took / IDLE_OF);
    while !is_idle && looks.len() < MAX_LOOKS && status::own_cpu_time().saturating_sub(own) + took <= CHEAP {
        let time = bounds.time.saturating_sub(begun.elapsed());
        let again = smaps::read(pid).map_err(LookError::from);
        // Those so far count, if the process has ended or time is up.
        match again.and_then(|mappings| look_once(pid, mappings, &hints, Bounds { time, ..bounds })) {
            Ok(look) => looks.push(look),
            Err(_) => break,
        }
    }
    let taken = looks.len();
    let objects = |heap: &Heap| heap.allocators.iter().map(|allocator| allocator.live_objects).sum::<u64>();
    let Some(mut look) = looks.pop() else { return Err(LookError::Gone(pid)) };
    let mut heaps: Vec<Heap> =
        looks.into_iter().map(|look| look.heap).chain([std::mem::take(&mut look.heap)]).collect();
    heaps.sort_by_key(objects);
    look.heap = heaps.swap_remove(taken / 2);
    look.heap.looks = u32::try_from(taken).unwrap_or(u32::MAX);
    look.heap.duration = begun.elapsed();
    Ok(look)
}

fn look_once(pid: u32, mappings: Vec<MappedMemory>, hints: &Hints, bounds: Bounds) -> Result<Look, LookError> {
    let mut live = Live::open(pid).map_err(|source| LookError::Memory { pid, source })?;
    read(&mut live, mappings, hints, bounds).map_err(|stop| match stop {
        Stop::Exhausted(source) => LookError::Exhausted { pid, source },
        Stop::Gone => LookError::Gone(pid),
    })
}

/// Reads every known allocator from a memory and its mappings.
///
/// # Errors
/// Where the process is gone, or a bound is reached.
pub fn read(memory: &mut dyn Memory, mappings: Vec<MappedMemory>, hints: &Hints, bounds: Bounds) -> Result<Look, Stop> {
    let mut reader = Reader::new(memory, bounds);
    let (mut heap, mut found) = (Heap { looks: 1, ..Heap::default() }, Vec::new());
    for family in FAMILIES {
        for outcome in family(&mut reader, &mappings, hints)? {
            match outcome {
                Outcome::Found(one) => {
                    heap.allocators.push(one.allocator.clone());
                    heap.consistency += one.consistency;
                    found.push(*one);
                }
                Outcome::Refused(allocator) => heap.allocators.push(*allocator),
            }
        }
    }
    heap.resident = share::shares(&mappings, &found);
    heap.duration = reader.budget().elapsed();
    Ok(Look { heap, found, mappings, types: Types::default() })
}

#[cfg(test)]
mod tests;
