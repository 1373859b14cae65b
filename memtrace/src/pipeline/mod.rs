//! The only wiring: from options to a session over a target, and its reports.

mod area_book;
mod at_exit;
mod before_end;
pub mod census;
mod code_copy;
mod cpu_book;
mod cycles;
mod daemons;
mod ended;
mod generation_book;
mod headroom;
mod kernel_book;
mod kernel_memory;
pub mod lookout;
mod memory_book;
mod meter;
mod profile;
mod session;
mod steering;
mod targets;
mod tracked_site;
mod vm_book;
mod watch;
mod window_book;

use std::{io, num::NonZeroU32, process::ExitStatus, time::Duration};

use thiserror::Error;

use crate::{
    capture::{
        allocators::custom::CustomFunction,
        attach::Programs,
        command,
        kernel::{Asked, Capacities, KernelError, Links, Unwind},
        preflight, privileges,
        returns::Returns,
        selection::{Selection, SelectionError},
        target::{Target, TargetError},
    },
    model::{
        budget::{Budget, Closeness},
        report::{Category, Report, Tier},
    },
    process::{oom, task_type::TaskTypeError},
};
pub use headroom::{TooLittle, check as check_headroom};
pub use kernel_memory::KernelMemoryError;
use session::Session;
use watch::{Exit, Signals};

/// How to trace.
#[derive(Clone, Debug)]
pub struct Options {
    /// What to trace.
    pub selection: Selection,
    /// Whether children of targets are targets as well.
    pub follow: bool,
    /// Whether those that have left the session of a command are waited for as well.
    pub waits_for_daemons: bool,
    /// What reports are of.
    pub categories: Vec<Category>,
    /// When to stop; `None`: when the target ends or a signal comes.
    pub duration: Option<Duration>,
    /// How often to report in between; `None`: not at all.
    pub interval: Option<Duration>,
    /// How much the kernel side can hold, and what of it was asked for: all else may have to be less.
    pub capacities: Capacities,
    /// See [`Options::capacities`].
    pub asked: Asked,
    /// How stacks are walked.
    pub unwind: Unwind,
    /// How probes are attached; by the best means that the kernel has where nothing is said.
    pub links: Option<Links>,
    /// How returns of hooked functions are seen.
    pub returns: Returns,
    /// How closely to look.
    pub look: Look,
    /// Whether the BPF side writes debug lines to the log.
    pub debug_lines: bool,
    /// Functions that the user named, besides those of the known allocators.
    pub custom: Vec<CustomFunction>,
    /// What the probes run.
    pub programs: Programs,
    /// Whether it is looked at what can be reached when a command ends.
    pub at_exit: bool,
    /// Whether reports go to a file, which takes a privilege that tracing does not.
    pub writes_a_file: bool,
}

/// How closely to look.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Look {
    /// In one tier throughout, whatever it costs.
    Fixed(Tier),
    /// As closely as a budget allows.
    Within {
        /// The part of a target's CPU time that tracing may take.
        budget: Budget,
        /// But not closer than this.
        closest: Closeness,
        /// The mean number of bytes between samples, where samples are taken.
        sample_bytes: u64,
    },
}

/// Why tracing failed.
#[derive(Debug, Error)]
pub enum PipelineError {
    /// Something that is always needed is missing.
    #[error("{0}")]
    Preflight(String, String),
    /// There is no room for memtrace beside its targets.
    #[error(transparent)]
    Headroom(#[from] TooLittle),
    /// Nothing can be selected.
    #[error(transparent)]
    Selection(#[from] SelectionError),
    /// Children of targets cannot be told.
    #[error(transparent)]
    TaskType(#[from] TaskTypeError),
    /// The target cannot be traced.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The kernel side failed.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The kernel's own memory cannot be traced.
    #[error(transparent)]
    KernelMemory(#[from] KernelMemoryError),
    /// The program cannot be started.
    #[error("cannot run {program}: {source}")]
    Command {
        /// The program as given.
        program: String,
        /// What the system says.
        source: io::Error,
    },
    /// The event loop cannot wait for something.
    #[error("cannot wait for {what}: {source}")]
    Wait {
        /// For what.
        what: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// A report could not be written.
    #[error("cannot write the report: {0}")]
    Write(#[source] io::Error),
}

/// Takes each report as it is made, and may mark what is in it: `true` for the last one.
pub type Sink<'a> = &'a mut dyn FnMut(&mut Report, bool) -> io::Result<()>;

/// Traces as `options` say and hands each report to `sink`. Returns how the command that was traced
/// ended, where there was one.
///
/// # Errors
/// Where tracing cannot begin, or a report cannot be written. Whatever happens, nothing stays attached.
pub async fn run(options: &Options, sink: Sink<'_>) -> Result<Option<ExitStatus>, PipelineError> {
    check_machine()?;
    let options = &headroom::fitted(options)?;
    let mut signals = Signals::new()?;
    if options.categories.iter().any(|category| category.is_kernel()) {
        volunteer();
        kernel_memory::run(options, &mut signals, sink).await?;
        return Ok(None);
    }
    let Selection::Command(command) = &options.selection else {
        // Before anything else: a wrong pid must not cost the loading of programs.
        if let Selection::Pids(pids) = &options.selection {
            pids.iter().try_for_each(|pid| session::find(*pid).map(drop))?;
        }
        volunteer();
        let mut session = Session::start(options)?;
        session.attach()?;
        session.count(false)?;
        give_up_privileges(options, &session);
        session.announce();
        session.follow(options, &mut signals, sink, None).await?;
        return Ok(None);
    };
    let failed = |source| PipelineError::Command { program: command[0].to_string_lossy().into_owned(), source };
    let waiting = command::fork(command).map_err(failed)?;
    let pid = NonZeroU32::new(waiting.pid).ok_or_else(|| failed(io::Error::other("the child has no pid")))?;
    let exit = Exit::of(pid.get()).map_err(failed)?;
    volunteer();
    let mut session = Session::start(options)?;
    session.add(Target::find(pid)?)?;
    session.count(true)?;
    give_up_privileges(options, &session);
    let mut running = waiting.release().map_err(failed)?;
    let child = &mut running.child;
    let outcome = session.follow(options, &mut signals, sink, Some(child)).await;
    // It goes on without us, if it has not ended, and is waited for whatever happened here.
    session.outlive(&mut signals, exit, child.id()).await;
    let status = child.wait().map_err(|source| PipelineError::Wait { what: "the command", source })?;
    outcome.map(|()| Some(status))
}

/// Where memory is short, memtrace goes before its targets do. (The command, where there is one, was forked before.)
fn volunteer() {
    if let Err(error) = oom::volunteer() {
        log::warn!("cannot be the first to go where memory is short: {error}");
    }
}

/// What is left to do takes few. (The command, where there is one, was forked before, and keeps what it had.)
fn give_up_privileges(options: &Options, session: &Session) {
    if let Err(error) = privileges::drop_unneeded(options.writes_a_file, session.opens_perf_events()) {
        log::warn!("cannot give up privileges that are not needed any more: {error}");
    }
}

fn check_machine() -> Result<(), PipelineError> {
    for check in preflight::checks() {
        if let preflight::Outcome::Missing(found, hint) = check.outcome {
            return Err(PipelineError::Preflight(format!("cannot trace: {}: {found}", check.name), hint));
        }
    }
    Ok(())
}
