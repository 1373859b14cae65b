//! Options of the gate. Only types.

use clap::Args;
use std::path::PathBuf;

/// The options that CI relies on.
#[derive(Debug, Args)]
#[command(next_help_heading = "Gate")]
pub(crate) struct GateArguments {
    /// Exit with status 3 if the last report has leak suspects, with 4 if that could not be checked; stderr tells both
    ///
    /// With -- CMD, blocks that nothing points to any more at its end (--at-exit) are suspects too. A command that fails keeps its
    /// own status. With -- CMD and no --tier, every allocation is traced (--tier exact), so that the outcome is the same
    /// each time.
    #[arg(long)]
    pub(crate) fail_on_leak: bool,

    /// Find the blocks that nothing points to any more when -- CMD ends: they are leak suspects
    ///
    /// The end of CMD is put off meanwhile: about a second for a GiB of heap, half a minute at most. Every allocation is traced
    /// (--tier exact). A block that can still be reached is no suspect, however long it was kept. The exit status is 4
    /// if the look fails.
    #[arg(long)]
    pub(crate) at_exit: bool,

    /// A list of leak suspects to let pass: lines `leak:PATTERN`, as for LeakSanitizer [default: none]
    ///
    /// A pattern is a part of the name of a function, a source file or an image, of any frame of the stack; `*` stands for
    /// anything, `^` and `$` for the ends. Empty lines and lines that begin with # are passed over.
    #[arg(long, value_name = "FILE")]
    pub(crate) suppressions: Option<PathBuf>,

    /// An earlier report (--format json), whose leak suspects are let pass [default: none]
    #[arg(long, value_name = "FILE")]
    pub(crate) baseline: Option<PathBuf>,
}

impl GateArguments {
    /// Whether a gate is asked for. At the end of a command, either option looks for blocks that are lost.
    pub(crate) fn is_asked_for(&self) -> bool {
        self.fail_on_leak || self.at_exit
    }
}
