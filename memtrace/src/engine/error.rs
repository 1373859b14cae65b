//! The ways in which a run fails.

use std::io;

use thiserror::Error;

use crate::{
    bpf::BpfError,
    capture::{selection::SelectionError, target::TargetError},
    model::headroom::{Place, Shortage},
    process::{kernel_types::KernelTypesError, task_type::TaskTypeError},
    report::words::{self, units},
};

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
    Kernel(#[from] BpfError),
    /// The kernel's own memory cannot be traced.
    #[error(transparent)]
    KernelMemory(#[from] KernelMemoryError),
    /// The program cannot be started.
    #[error("cannot run {program}: {source}")]
    Command {
        /// The program as given.
        program: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The event loop cannot wait for something.
    #[error("cannot wait for {what}: {source}")]
    Wait {
        /// For what.
        what: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// A report could not be written.
    #[error("cannot write the report: {0}")]
    Write(#[source] io::Error),
}

/// There is no room for memtrace.
#[derive(Debug, Error)]
#[error("cannot trace here: memtrace would take {} at least; {}", units::bytes(*least_bytes), words::headroom::shortage(shortage))]
pub struct TooLittle {
    pub(super) least_bytes: u64,
    pub(super) shortage: Shortage,
    /// Whether the user has asked for tables of some size.
    pub(super) is_asked: bool,
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

/// Why the kernel's memory cannot be traced.
#[derive(Debug, Error)]
pub enum KernelMemoryError {
    /// This kernel is not one that memtrace knows.
    #[error("cannot trace the kernel's memory: {0}")]
    Types(#[from] KernelTypesError),
    /// A process that was named is not there.
    #[error("cannot trace process {pid}: no such process")]
    NoSuchProcess {
        /// The pid.
        pid: u32,
    },
}
