//! Pids, where memtrace is not in the machine's first pid namespace: what the kernel side calls the processes of `/proc`.

use std::{fs::File, io, os::fd::AsRawFd};

use aya::{
    Ebpf,
    programs::{ProgramError, RawTracePoint, RawTracePointRunOptions, TestRun},
};
use memtrace_common::namespace::PidLayout;

use super::KernelError;
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
    pub(super) fn layout() -> Result<PidLayout, KernelError> {
        if is_first() { Ok(PidLayout::default()) } else { Ok(task_type::pid_layout()?) }
    }

    /// Loads the program, where it is needed. It also finds the namespace for the others, which must not run before.
    ///
    /// # Errors
    /// Where the kernel refuses, or memtrace's own number cannot be found.
    pub(super) fn load(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        let mut pids = Self { is_first: is_first(), own: std::process::id() };
        if !pids.is_first {
            let program = ebpf.program_mut(PROGRAM).ok_or(KernelError::Missing(PROGRAM))?;
            let program: &mut RawTracePoint = program.try_into().map_err(|_| KernelError::Missing(PROGRAM))?;
            program.load().map_err(failed)?;
            pids.own = pids.first(ebpf, pids.own)?;
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
    pub(super) fn first(&self, ebpf: &Ebpf, pid: u32) -> Result<u32, KernelError> {
        if self.is_first {
            return Ok(pid);
        }
        let gone = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => KernelError::NoSuchProcess { pid },
            _ => KernelError::Namespace { pid, source },
        };
        // The kernel keeps with this whose folder it is.
        let folder = File::open(format!("/proc/{pid}")).map_err(gone)?;
        let program = ebpf.program(PROGRAM).ok_or(KernelError::Missing(PROGRAM))?;
        let program: &RawTracePoint = program.try_into().map_err(|_| KernelError::Missing(PROGRAM))?;
        let mut options = RawTracePointRunOptions::new();
        options.args[..2].copy_from_slice(&[u64::from(folder.as_raw_fd().unsigned_abs()), u64::from(pid)]);
        match program.test_run(options).map_err(failed)?.return_value {
            0 => Err(KernelError::Namespace { pid, source: io::ErrorKind::Unsupported.into() }),
            first => Ok(first),
        }
    }
}

/// Where that cannot be told, `/proc` is not there, which is found elsewhere.
fn is_first() -> bool {
    pid_namespace::is_first().unwrap_or(true)
}

fn failed(source: ProgramError) -> KernelError {
    KernelError::Program { name: PROGRAM, source: Box::new(source) }
}
