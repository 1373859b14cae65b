//! Failures as the command line tells them: what failed, the next step, the exit status.

use std::{fmt::Display, io, path::Path, process::ExitCode};

use crate::{
    capture::{attach::AttachError, kernel::KernelError, target::TargetError},
    pipeline::{KernelMemoryError, PipelineError},
    process::kernel_types::KernelTypesError,
};

/// Exit status for a wrong command line.
const USAGE: u8 = 2;
/// Exit status for everything else that fails.
const FAILURE: u8 = 1;

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

    /// Whether there are suspects is not known.
    pub(super) fn no_verdict() -> Self {
        Self {
            message: "no verdict for --fail-on-leak: whoever read the reports went away before the last".into(),
            hint: "write them to a file, with -o".into(),
            status: FAILURE,
        }
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

/// What clap says, with a next step. Help and version are no failures.
pub(super) fn usage(error: &clap::Error) -> ExitCode {
    // That nobody reads it cannot be told to anybody either.
    _ = error.print();
    if error.use_stderr() {
        eprintln!("hint: `memtrace --help` shows every option, with examples");
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(USAGE))
}

impl From<PipelineError> for Failure {
    fn from(error: PipelineError) -> Self {
        let hint = match &error {
            PipelineError::Preflight(_, hint) => format!("{hint}; `memtrace doctor` shows everything"),
            PipelineError::Selection(_) => {
                "see `ls /sys/fs/cgroup` and /proc/PID/cgroup; groups of cgroup v1 cannot be used".into()
            }
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
        TargetError::Kernel(error) => kernel_hint(error),
        TargetError::NoImage { pid, .. } => {
            format!("`grep r-xp /proc/{pid}/maps` lists its images; give a file name or the end of a path")
        }
        TargetError::Attach(AttachError::Image(_)) => "is the file readable, and an ELF file?".into(),
        TargetError::Attach(AttachError::NoFunction { .. }) => {
            "`nm IMAGE` and `nm -D IMAGE` list the functions that an image defines, under the names to give".into()
        }
        TargetError::Attach(AttachError::Probe { .. }) => {
            "needs CAP_PERFMON, and a file system that lets probes in; run `memtrace doctor`".into()
        }
    }
}

fn kernel_hint(error: &KernelError) -> String {
    match error {
        KernelError::NoSuchProcess { pid } => return format!("has it ended? see `ps -p {pid}`"),
        KernelError::Pids(_) | KernelError::Namespace { .. } => {
            return "run memtrace in the machine's first pid namespace (docker run --pid=host)".into();
        }
        _ => {}
    }
    let text = chain(error);
    if matches!(error, KernelError::NoLinks(_)) {
        "leave out --links: memtrace takes the best that the kernel has; `memtrace doctor` says which".into()
    } else if text.contains("Cannot allocate memory") || text.contains("E2BIG") || text.contains("os error 12") {
        "the kernel has no memory for maps of this size; lower --max-blocks or --max-stacks".into()
    } else if text.contains("not permitted") || text.contains("denied") {
        "needs CAP_BPF and CAP_PERFMON; run with sudo, or see `memtrace doctor`".into()
    } else {
        "run `memtrace doctor`; if it finds nothing wrong, please report this".into()
    }
}

/// An error with its causes.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
