//! Pids, where memtrace is not in the machine's first pid namespace: what the kernel side calls the processes of `/proc`.

use std::{fs::File, io, os::fd::AsRawFd};

use aya::programs::{RawTracePoint, RawTracePointRunOptions, TestRun};
use memtrace_common::wire::namespace::PidLayout;

use super::{
    error::{BpfError, of_program},
    object::Object,
};
use crate::process::{pid_namespace, task_type};

/// The program that knows.
const PROGRAM: &str = "first_pid";

/// How pids are told to the kernel side.
pub(super) struct Pids {
    /// Whether both sides call processes the same.
    is_first: bool,
    /// memtrace itself.
    own: u32,
}

impl Pids {
    /// The layout of the kernel's structures that the programs must know: nothing in the machine's first namespace.
    ///
    /// # Errors
    /// Where the kernel does not tell.
    pub(super) fn layout() -> Result<PidLayout, BpfError> {
        if is_first() { Ok(PidLayout::default()) } else { Ok(task_type::pid_layout()?) }
    }

    /// Loads the program, where it is needed. It also finds the namespace for the others, which must not run before.
    ///
    /// # Errors
    /// Where the kernel refuses, or memtrace's own number cannot be found.
    pub(super) fn load(object: &mut Object) -> Result<Self, BpfError> {
        let mut pids = Self { is_first: is_first(), own: std::process::id() };
        if !pids.is_first {
            object.load_tracepoint(PROGRAM)?;
            pids.own = pids.first(object, pids.own)?;
        }
        Ok(pids)
    }

    /// The kernel side's number for memtrace.
    pub(super) fn own(&self) -> u32 {
        self.own
    }

    /// The kernel side's number for the process that memtrace calls `pid`.
    ///
    /// # Errors
    /// Where there is none.
    pub(super) fn first(&self, object: &mut Object, pid: u32) -> Result<u32, BpfError> {
        if self.is_first {
            return Ok(pid);
        }
        let gone = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => BpfError::NoSuchProcess { pid },
            _ => BpfError::Namespace { pid, source },
        };
        // The kernel keeps with this whose folder it is.
        let folder = File::open(format!("/proc/{pid}")).map_err(gone)?;
        let program: &mut RawTracePoint = object.program(PROGRAM)?;
        let mut options = RawTracePointRunOptions::new();
        options.args[..2].copy_from_slice(&[u64::from(folder.as_raw_fd().unsigned_abs()), u64::from(pid)]);
        let answer = program.test_run(options);
        match answer.map_err(|error| BpfError::Program { name: PROGRAM, source: of_program(error) })?.return_value {
            0 => Err(BpfError::Namespace { pid, source: io::ErrorKind::Unsupported.into() }),
            first => Ok(first),
        }
    }
}

/// Where that cannot be told, `/proc` is not there, which is found elsewhere.
fn is_first() -> bool {
    pid_namespace::is_first().unwrap_or(true)
}
