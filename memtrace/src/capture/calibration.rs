//! The cost of a probe on this machine: measured on memtrace itself, which calls three functions that do nothing.

use std::{arch::naked_asm, num::NonZeroU32, path::Path, time::Instant};

use thiserror::Error;

use crate::{
    bpf::{Bpf, BpfError, Point, ProbeKind},
    model::overhead::TrapCost,
    process::maps::{self, MapsError},
};

/// How often each function is called: the quickest batch counts, in which nothing else ran.
const BATCHES: u32 = 32;
/// How many calls are a batch: long enough for the clock, short enough not to be interrupted.
const CALLS: u32 = 25;

/// Why probes could not be tried.
#[derive(Debug, Error)]
pub enum CalibrationError {
    /// Our own mappings cannot be read.
    #[error(transparent)]
    Maps(#[from] MapsError),
    /// A probe was refused.
    #[error(transparent)]
    Kernel(#[from] BpfError),
    /// Our own code lies in no mapping.
    #[error("memtrace's own code is in none of its mappings")]
    Nowhere,
}

// Both begin with an instruction that the kernel emulates, as the places of real probes do where that can be had.

/// Probed at its entry.
#[unsafe(naked)]
extern "C" fn entered() {
    naked_asm!("nop", "ret")
}

/// Probed at its `ret`, which the kernel does not emulate.
#[unsafe(naked)]
extern "C" fn returning() {
    naked_asm!("ret")
}

/// Probed at its entry and at its return.
#[unsafe(naked)]
extern "C" fn entered_and_left() {
    naked_asm!("nop", "nop", "ret")
}

/// Tries the probes that `bpf` attaches, on this process. They stay: nobody else calls what they are on.
///
/// # Errors
/// Where a probe is refused.
pub fn calibrate(bpf: &mut Bpf) -> Result<TrapCost, CalibrationError> {
    Ok(TrapCost {
        entry_ns: cost(bpf, ProbeKind::EmptyEntry, entered)?,
        call_ns: cost(bpf, ProbeKind::EmptyCall, entered_and_left)?,
        ret_ns: cost(bpf, ProbeKind::EmptyEntry, returning)?,
    })
}

/// The extra cost of a call with a probe, in nanoseconds.
fn cost(bpf: &mut Bpf, handler: ProbeKind, function: extern "C" fn()) -> Result<f64, CalibrationError> {
    let before = ns_a_call(function);
    let address = function as usize as u64;
    let mappings = maps::read(std::process::id())?;
    let mapping = mappings.iter().find(|mapping| (mapping.start..mapping.end).contains(&address));
    let mapping = mapping.ok_or(CalibrationError::Nowhere)?;
    let point = Point { file_offset: address - mapping.start + mapping.file_offset, cookie: 0 };
    bpf.attach(handler, NonZeroU32::new(std::process::id()), Path::new("/proc/self/exe"), &[point])?;
    Ok((ns_a_call(function) - before).max(0.0))
}

/// The time of a call, in the quickest batch.
fn ns_a_call(function: extern "C" fn()) -> f64 {
    let batch = |_| {
        let begun = Instant::now();
        (0..CALLS).for_each(|_| function());
        begun.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS)
    };
    (0..BATCHES).map(batch).fold(f64::INFINITY, f64::min)
}
