//! Subjects: whose memory a profile or a report is of.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::frame::KERNEL_IMAGE;

/// A program in a process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// The thread group id.
    pub pid: u32,
    /// The short name of the process.
    pub comm: String,
    /// The path of the program as the process sees it; empty where that is not known.
    pub exe: String,
}

/// In whose context the kernel has allocated the memory that is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Context {
    /// Anybody's, interrupts and threads of the kernel included.
    Host,
    /// That of processes which were selected, in words.
    Selected(String),
    /// That of one process which was named. A thread of the kernel has no program.
    Process(Program),
}

/// Whose memory is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Subject {
    /// A process, with the memory of its program.
    Process(Program),
    /// The kernel, with its own memory.
    Kernel {
        /// The kernel's release.
        release: String,
        /// In whose context it was allocated.
        context: Context,
    },
}

impl Default for Subject {
    fn default() -> Self {
        Self::Process(Program::default())
    }
}

impl Subject {
    /// The process that it is, or that the kernel has allocated for; nothing where that is no single one.
    #[must_use]
    pub fn program(&self) -> Option<&Program> {
        match self {
            Self::Process(program) | Self::Kernel { context: Context::Process(program), .. } => Some(program),
            Self::Kernel { context: Context::Host | Context::Selected(_), .. } => None,
        }
    }

    /// The thread group id; 0, which no process has, where there is no single process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.program().map_or(0, |program| program.pid)
    }

    /// The short name.
    #[must_use]
    pub fn comm(&self) -> Cow<'_, str> {
        match self {
            Self::Process(program) | Self::Kernel { context: Context::Process(program), .. } => {
                Cow::Borrowed(&program.comm)
            }
            Self::Kernel { context: Context::Host, .. } => Cow::Borrowed(KERNEL_IMAGE),
            Self::Kernel { context: Context::Selected(whose), .. } => Cow::Owned(format!("{KERNEL_IMAGE} ({whose})")),
        }
    }

    /// The program that it runs; of the kernel, where no program is known, its release.
    #[must_use]
    pub fn exe(&self) -> &str {
        match self {
            Self::Process(program) => &program.exe,
            Self::Kernel { context: Context::Process(program), .. } if !program.exe.is_empty() => &program.exe,
            Self::Kernel { release, .. } => release,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(subject: &Subject) -> (u32, Cow<'_, str>, &str) {
        (subject.pid(), subject.comm(), subject.exe())
    }

    #[test]
    fn the_kernel_goes_by_its_release_unless_it_works_for_one_process() {
        let kernel = |context| Subject::Kernel { release: "6.1.0".into(), context };
        let program = |exe: &str| Program { pid: 7, comm: "hold".into(), exe: exe.into() };
        assert_eq!(told(&kernel(Context::Host)), (0, "kernel".into(), "6.1.0"));
        let selected = kernel(Context::Selected("processes called hold".into()));
        assert_eq!(told(&selected), (0, "kernel (processes called hold)".into(), "6.1.0"));
        assert_eq!(told(&kernel(Context::Process(program("/bin/hold")))), (7, "hold".into(), "/bin/hold"));
        assert_eq!(told(&kernel(Context::Process(program("")))), (7, "hold".into(), "6.1.0"));
        assert_eq!(told(&Subject::Process(program(""))), (7, "hold".into(), ""));
    }
}
