//! Failures as the command line tells them: what failed, the next step, the exit status.

use std::{fmt::Display, io, path::Path, process::ExitCode};

use super::{exit_status::UNSEEN, plan::Refusal};
use crate::{
    bpf::BpfError,
    capture::{attach::AttachError, selection::SelectionError, survey::SurveyError, target::TargetError},
    engine::error::{KernelMemoryError, PipelineError},
    process::kernel_types::KernelTypesError,
};

/// Exit status for a wrong command line.
const USAGE: u8 = 2;
/// Exit status for everything else that fails.
const FAILURE: u8 = 1;

/// The next step where a selection selects nothing.
const SELECTION_HINT: &str = "see `ls /sys/fs/cgroup` and /proc/PID/cgroup; groups of cgroup v1 cannot be used";

/// A failure that ends the command.
#[derive(Debug)]
pub(super) struct Failure {
    message: String,
    hint: String,
    status: u8,
}

impl Failure {
    /// The command line asks for what there is not.
    pub(super) fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: hint.into(), status: USAGE }
    }

    /// Something that this machine needs is missing.
    pub(super) fn machine(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: "each line above says what to do".into(), status: FAILURE }
    }

    /// A file for the report cannot be written.
    pub(super) fn output(path: &Path, error: &io::Error) -> Self {
        Self {
            message: format!("cannot write the report to {}: {error}", path.display()),
            hint: "choose another place with -o, or leave it out for stdout".into(),
            status: FAILURE,
        }
    }

    /// A list of suppressions cannot be used.
    pub(super) fn suppressions(path: &Path, error: &dyn Display) -> Self {
        Self::usage(
            format!("cannot use the suppressions of {}: {error}", path.display()),
            "lines are `leak:PATTERN`, `# a comment` or empty, as for LeakSanitizer",
        )
    }

    /// An older report cannot be used.
    pub(super) fn baseline(path: &Path, error: &dyn Display) -> Self {
        Self::usage(
            format!("cannot use the baseline {}: {error}", path.display()),
            "record one with `memtrace --format json -o FILE …`",
        )
    }

    /// There is no process to look at.
    pub(super) fn nobody(selected: &str) -> Self {
        Self {
            message: format!("cannot look at {selected}: no such process"),
            hint: "see `ps -e`, which has the names and the process IDs".into(),
            status: FAILURE,
        }
    }

    /// The processes to look at cannot be found.
    pub(super) fn selection(error: &SelectionError) -> Self {
        Self { message: error.to_string(), hint: SELECTION_HINT.into(), status: FAILURE }
    }

    /// A process cannot be looked at.
    pub(super) fn look(pid: u32, reason: &str, hint: impl Into<String>) -> Self {
        Self { message: format!("cannot look at process {pid}: {reason}"), hint: hint.into(), status: FAILURE }
    }

    /// Signals cannot be waited for.
    pub(super) fn signals(error: &io::Error) -> Self {
        Self {
            message: format!("cannot wait for signals: {error}"),
            hint: "are file descriptors short? see `ulimit -n`".into(),
            status: FAILURE,
        }
    }

    /// Whether there are suspects is not known.
    pub(super) fn no_verdict() -> Self {
        Self {
            message: "no verdict for --fail-on-leak: whoever read the reports went away before the last".into(),
            hint: "write them to a file, with -o".into(),
            status: UNSEEN,
        }
    }

    /// The same failure of a run that was asked to check something.
    pub(super) fn of_gate(self) -> Self {
        Self { status: UNSEEN, ..self }
    }

    /// An image cannot be used.
    pub(super) fn image(path: &Path, error: &dyn Display) -> Self {
        Self {
            message: format!("cannot compile the call frame information of {}: {error}", path.display()),
            hint: "is it an ELF file of this machine's kind?".into(),
            status: FAILURE,
        }
    }

    /// Tells it on stderr.
    pub(super) fn report(self) -> ExitCode {
        eprintln!("memtrace: {}", self.message);
        eprintln!("hint: {}", self.hint);
        ExitCode::from(self.status)
    }
}

/// An error of clap, with a next step. Help and version are no failures.
pub(super) fn usage(error: &clap::Error, hint: &str) -> ExitCode {
    // That nobody reads it cannot be told to anybody either.
    _ = error.print();
    if error.use_stderr() {
        eprintln!("hint: {hint}");
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(USAGE))
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::usage(refusal.message, refusal.hint)
    }
}

impl From<PipelineError> for Failure {
    fn from(error: PipelineError) -> Self {
        let hint = match &error {
            PipelineError::Preflight(_, hint) => format!("{hint}; `memtrace doctor` shows everything"),
            PipelineError::Headroom(error) => error.hint().into(),
            PipelineError::Selection(_) => SELECTION_HINT.into(),
            PipelineError::TaskType(_) => "leave out --follow, or use a kernel with CONFIG_DEBUG_INFO_BTF".into(),
            PipelineError::Target(error) => target_hint(error),
            PipelineError::KernelMemory(error) => kernel_memory_hint(error),
            PipelineError::Kernel(error) => kernel_hint(error),
            PipelineError::Command { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                "give its full path, or one that is found in PATH".into()
            }
            PipelineError::Command { .. } => "can it be run without memtrace?".into(),
            PipelineError::Wait { .. } => "are file descriptors short? see `ulimit -n`".into(),
            PipelineError::Write(_) => "is the disk full, or the reader gone?".into(),
        };
        Self { message: error.to_string(), hint, status: FAILURE }
    }
}

fn kernel_memory_hint(error: &KernelMemoryError) -> String {
    match error {
        KernelMemoryError::Types(KernelTypesError::Arguments { .. }) => {
            "--category kernel knows the tracepoints of Linux 6.1 to 6.18; please report a later kernel".into()
        }
        KernelMemoryError::Types(_) => "needs a kernel with CONFIG_DEBUG_INFO_BTF; see `memtrace doctor`".into(),
        KernelMemoryError::NoSuchProcess { pid } => format!("has it ended? see `ps -p {pid}`"),
    }
}

fn target_hint(error: &TargetError) -> String {
    match error {
        TargetError::NoSuchProcess { pid } => format!("has it ended? see `ps -p {pid}`"),
        TargetError::Thread { pid, .. } => format!("--pid {pid} traces the process with all its threads"),
        TargetError::Bits32 { .. } => {
            "--tier growth tells how its memory grows; trace a 64-bit build for its stacks".into()
        }
        TargetError::NoProgram { .. } => "kernel threads and processes that have ended hold no heap".into(),
        TargetError::Closed { .. } => "needs CAP_SYS_PTRACE; run with sudo, or see `memtrace doctor`".into(),
        TargetError::Maps(_) => "please report this line".into(),
        TargetError::NoAllocator { stripped: true, .. } => {
            "it is linked statically and stripped, so its allocator has no name to be found by; \
             trace a build that keeps its symbols"
                .into()
        }
        TargetError::NoAllocator { .. } => {
            "name its functions with --alloc and --free; -v lists the images searched".into()
        }
        TargetError::MovedCode { .. } => {
            "switch that off in the program (it is done to have code in huge pages), or use --tier growth".into()
        }
        TargetError::Kernel(error) => kernel_hint(error),
        TargetError::NoImage { pid, .. } => {
            format!("`grep r-xp /proc/{pid}/maps` lists its images; give a file name or the end of a path")
        }
        TargetError::Attach(AttachError::Survey(SurveyError::Image(_))) => {
            "is the file readable, and an ELF file?".into()
        }
        TargetError::Attach(AttachError::Survey(SurveyError::NoFunction { .. })) => {
            "`nm IMAGE` and `nm -D IMAGE` list the functions that an image defines, under the names to give".into()
        }
        TargetError::Attach(AttachError::Probe { .. }) => {
            "needs CAP_PERFMON, and a file system that lets probes in; run `memtrace doctor`".into()
        }
    }
}

fn kernel_hint(error: &BpfError) -> String {
    match error {
        BpfError::NoSuchProcess { pid } => return format!("has it ended? see `ps -p {pid}`"),
        BpfError::Pids(_) | BpfError::Namespace { .. } => {
            return "run memtrace in the machine's first pid namespace (docker run --pid=host)".into();
        }
        BpfError::NoLinks(_) => {
            return "leave out --links: memtrace takes the best that the kernel has; `memtrace doctor` says which"
                .into();
        }
        _ => {}
    }
    match error.errno() {
        Some(libc::ENOMEM | libc::E2BIG) => {
            "the kernel has no memory for maps of this size; lower --max-blocks or --max-stacks".into()
        }
        Some(libc::EPERM | libc::EACCES) => {
            "needs CAP_BPF and CAP_PERFMON; run with sudo, or see `memtrace doctor`".into()
        }
        _ => "run `memtrace doctor`; if it finds nothing wrong, please report this".into(),
    }
}
