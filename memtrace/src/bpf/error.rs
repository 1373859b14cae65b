//! Failures of the kernel side, each with the number that the kernel gave for it (errno).

use std::{error::Error, io, iter::successors};

use aya::{EbpfError, maps::MapError, programs::ProgramError};
use thiserror::Error;

use super::probe_kind::AttachMethod;
use crate::process::{task_type::TaskTypeError, tracefs::TracefsError};

/// An operation on the kernel side that failed.
#[derive(Debug, Error)]
pub enum BpfError {
    /// Loading the object was refused.
    #[error("cannot load the BPF object: {0}")]
    Load(#[source] io::Error),
    /// A map was refused.
    #[error("cannot create the BPF map `{name}`: {source}")]
    CreateMap {
        /// The map's name.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// A program was refused.
    #[error("cannot load the BPF program `{name}`: {source}")]
    Program {
        /// The program's name.
        name: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The kernel does not have what was asked for.
    #[error("this kernel does not have {0}")]
    NoLinks(AttachMethod),
    /// A probe was refused.
    #[error("cannot attach the BPF program `{name}`: {source}")]
    Attach {
        /// The program's name.
        name: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A tracepoint is not there, or not as it is known.
    #[error(transparent)]
    Tracefs(#[from] TracefsError),
    /// A tracepoint was refused.
    #[error("cannot attach the BPF program `{name}` to its tracepoint: {source}")]
    Tracepoint {
        /// The program's name.
        name: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The kernel does not tell what processes are called elsewhere.
    #[error("cannot tell pid namespaces apart: {0}")]
    Pids(#[from] TaskTypeError),
    /// A process has ended before it was a target.
    #[error("cannot trace process {pid}: no such process")]
    NoSuchProcess {
        /// The pid.
        pid: u32,
    },
    /// It is not known what the kernel calls a process.
    #[error("cannot find process {pid} outside of memtrace's pid namespace: {source}")]
    Namespace {
        /// The pid.
        pid: u32,
        /// Why.
        source: io::Error,
    },
    /// The object is not the one this binary was made with.
    #[error("the BPF object has no `{0}` of the expected kind")]
    Missing(&'static str),
    /// There is no such place for a target.
    #[error("the BPF maps have no slot {0}")]
    NoSlot(u32),
    /// Opening, reading or writing a map failed.
    #[error("cannot {action} the BPF map `{name}`: {source}")]
    Map {
        /// The action that was tried.
        action: &'static str,
        /// The map's name.
        name: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl BpfError {
    /// The kernel's number for what went wrong, where the kernel gave one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        errno(self)
    }

    /// Whether the kernel had no memory for what was asked for: of its own, or where memtrace's is charged.
    #[must_use]
    pub fn is_for_want_of_memory(&self) -> bool {
        self.errno() == Some(libc::ENOMEM)
    }

    /// Whether a probe was refused because its process has ended.
    pub(super) fn is_of_no_process(&self) -> bool {
        matches!(self, Self::Attach { .. }) && self.errno() == Some(libc::ESRCH)
    }
}

impl From<EbpfError> for BpfError {
    fn from(error: EbpfError) -> Self {
        Self::Load(match error {
            EbpfError::MapError(MapError::CreateError { name, io_error }) => {
                return Self::CreateMap { name, source: io_error };
            }
            EbpfError::MapError(error) => of_map(error),
            EbpfError::ProgramError(error) => of_program(error),
            error => by_errno(error),
        })
    }
}

/// The kernel's answer about a program. The verifier's account of it runs to hundreds of lines and goes to the log.
pub(super) fn of_program(error: ProgramError) -> io::Error {
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            log::info!("a BPF program was refused ({io_error}): {verifier_log}");
            io_error
        }
        ProgramError::IOError(error) => error,
        ProgramError::MapError(error) => of_map(error),
        error => by_errno(error),
    }
}

/// The kernel's answer about a map.
pub(super) fn of_map(error: MapError) -> io::Error {
    match error {
        MapError::IoError(error) => error,
        error => by_errno(error),
    }
}

/// The kernel's answer, where it lies at the bottom of an error; the error itself where there is none.
fn by_errno(error: impl Error + Send + Sync + 'static) -> io::Error {
    errno(&error).map_or_else(|| io::Error::other(error), io::Error::from_raw_os_error)
}

fn errno(error: &(dyn Error + 'static)) -> Option<i32> {
    successors(Some(error), |error| (*error).source())
        .find_map(|error| error.downcast_ref::<io::Error>()?.raw_os_error())
}

#[cfg(test)]
mod tests {
    use aya::sys::SyscallError;

    use super::*;

    fn refused(code: i32) -> io::Error {
        io::Error::from_raw_os_error(code)
    }

    #[test]
    fn the_number_of_a_refusal_survives_however_deep_it_lies() {
        let call = |code| SyscallError { call: "bpf", io_error: refused(code) };
        let errors = [
            of_map(MapError::IoError(refused(libc::EPERM))),
            of_map(MapError::SyscallError(call(libc::EPERM))),
            of_program(ProgramError::IOError(refused(libc::EPERM))),
            of_program(ProgramError::SyscallError(call(libc::EPERM))),
            of_program(ProgramError::MapError(MapError::SyscallError(call(libc::EPERM)))),
        ];
        assert!(errors.iter().all(|error| error.raw_os_error() == Some(libc::EPERM)), "{errors:?}");
        let attached = BpfError::Attach { name: "free_entry", source: of_program(call(libc::ESRCH).into()) };
        assert!(attached.is_of_no_process() && attached.errno() == Some(libc::ESRCH));
        let text = of_map(MapError::OutOfBounds { index: 7, max_entries: 3 }).to_string();
        assert!(text.contains('7') && text.contains('3'), "{text}");
    }

    #[test]
    fn a_map_that_found_no_memory_is_named() {
        let created = MapError::CreateError { name: "BLOCKS".into(), io_error: refused(libc::ENOMEM) };
        let error = BpfError::from(EbpfError::MapError(created));
        assert!(error.is_for_want_of_memory() && error.to_string().contains("`BLOCKS`"), "{error}");
        assert!(!BpfError::Load(refused(libc::EPERM)).is_for_want_of_memory());
    }
}
