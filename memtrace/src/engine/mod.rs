//! The engine: a thread that owns the BPF side and the targets of a run.
//!
//! In: options, and commands while it runs. Out: snapshots, of which its client makes reports. Judges nothing.

pub(crate) mod attached;
mod closing;
mod code_copy;
mod commands;
mod counts;
mod daemons;
mod ended;
pub mod error;
mod exit_check;
mod follow;
mod govern;
mod growth;
mod growth_looks;
mod headroom;
mod kernel_memory;
mod lifecycle;
mod loaded;
mod look_budget;
mod looks;
mod mailbox;
mod notices;
pub mod options;
pub(crate) mod process_handle;
pub mod process_scan;
mod reading;
mod run;
mod run_meter;
mod schedule;
pub(crate) mod session;
mod snapshot;
pub(crate) mod targets;
mod thread;
mod unfollowed;
pub(crate) mod wait;
#[cfg(test)]
mod window_simulation;

use std::process::ExitStatus;

pub use self::{
    error::{KernelMemoryError, PipelineError, TooLittle},
    headroom::check as check_headroom,
    options::{BudgetOptions, Options, Sink},
    thread::Engine,
};
use crate::capture::preflight;

/// Traces as `options` say and hands each report to `sink`. Returns how the command that was traced
/// ended, where there was one.
///
/// # Errors
/// Where tracing cannot begin, or a report cannot be written. Nothing stays attached in any case.
pub async fn run(options: &Options, sink: Sink<'_>) -> Result<Option<ExitStatus>, PipelineError> {
    check_machine()?;
    Engine::start(options, false)?.trace(options.selection.clone(), sink).await
}

pub(crate) fn check_machine() -> Result<(), PipelineError> {
    for check in preflight::checks() {
        if let preflight::Outcome::Missing(found, hint) = check.outcome {
            return Err(PipelineError::Preflight(format!("cannot trace: {}: {found}", check.name), hint));
        }
    }
    Ok(())
}
