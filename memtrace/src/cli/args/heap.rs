//! Options of `memtrace heap`. Only types.

use std::{ffi::OsString, num::NonZeroU32, path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};

use super::values::positive_duration;
use crate::capture::selection::Selection;

const EXAMPLES: &str = "\
Examples:
  sudo memtrace heap --pid 1234                   where its memory is now
  sudo memtrace heap --pid 1234 --holders         and who holds it
  sudo memtrace heap --pid 1234 --interval 10s    tells what grew, too
  sudo memtrace heap --comm redis-server --format json
  sudo memtrace heap --pid 1234 --format folded -o heap.folded

The whole heap is told, also what was there before memtrace came. Nothing is
attached, stopped or written to: memory that is resident is read from outside,
by a process of the lowest priority. It needs no BPF; for processes of others
it needs CAP_SYS_PTRACE.

Types are told by what blocks hold: C++ classes by their descriptions, also in
stripped programs; tables of functions; buffers and nodes of containers; text.
Blocks of plain structures have none.

Exit status: 0 success, 1 failure (a heap could not be read), 2 usage. An
allocator whose structures are not recognised is listed with the reason, and is
no failure; neither is a process that ends meanwhile.";

#[derive(Debug, Args)]
#[command(
    after_help = EXAMPLES,
    override_usage = "memtrace heap [OPTIONS] <--pid <N>...|--comm <NAME>|--cgroup <PATH>>"
)]
pub(crate) struct HeapArguments {
    #[command(flatten)]
    pub(crate) target: LookedAtArguments,

    /// Look again so often, and tell the growth since the first look: 1s, 10s or 5min; until Ctrl-C or --duration
    /// [default: one look]
    #[arg(long, value_name = "TIME", value_parser = positive_duration)]
    pub(crate) interval: Option<Duration>,

    /// Look a last time after this time: 30s or 5min; without --interval, that makes two looks and one report
    /// [default: at Ctrl-C with --interval, else one look]
    #[arg(long, value_name = "TIME", value_parser = positive_duration)]
    pub(crate) duration: Option<Duration>,

    /// Tell who holds live blocks: for each, one way to it from a variable, a thread or the kernel
    #[arg(long)]
    pub(crate) holders: bool,

    /// The same, with the bytes that holders retain: those to which no way leads but through them
    #[arg(long)]
    pub(crate) retained: bool,

    /// The longest that a look at one process may take: 10s or 2min
    #[arg(long, value_name = "TIME", default_value = "1min", value_parser = positive_duration)]
    pub(crate) timeout: Duration,

    /// The format of reports
    #[arg(long, value_enum, default_value_t = HeapFormat::Table)]
    pub(crate) format: HeapFormat,

    /// The file that reports go to, which is made whole or not at all [default: stdout]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,

    /// The number of size classes, of types, and of lines on holders, shown of each process, those with most bytes first; sums are
    /// always of all [default: 10 classes, 10 types and 30 lines in the table, all elsewhere]
    #[arg(long, value_name = "N")]
    pub(crate) top: Option<usize>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct LookedAtArguments {
    /// A running process, by its process ID; repeatable
    #[arg(long = "pid", value_name = "N", help_heading = "Target")]
    pids: Vec<NonZeroU32>,

    /// Every process of this short name (as in /proc/PID/comm), one after the other
    #[arg(long, value_name = "NAME", help_heading = "Target")]
    comm: Option<String>,

    /// Every process in this cgroup and below, one after the other: a folder, or a path as in /proc/PID/cgroup
    #[arg(long, value_name = "PATH", help_heading = "Target")]
    cgroup: Option<PathBuf>,

    /// Taken only to say why not
    #[arg(long, hide = true)]
    pub(crate) all: bool,

    /// Taken only to say why not
    #[arg(last = true, hide = true)]
    pub(crate) command_line: Vec<OsString>,
}

impl LookedAtArguments {
    /// The selection they make; clap has seen to it that it is one thing.
    pub(crate) fn selection(&self) -> Selection {
        let named = Selection::named(self.comm.as_deref(), self.cgroup.as_deref(), &self.pids);
        // All else that clap takes is refused.
        named.unwrap_or(Selection::Pids(Vec::new()))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum HeapFormat {
    /// For people; live on a terminal with --interval
    Table,
    /// One object a report (docs/schema-heap.json)
    Json,
    /// Folded lines, for flame graph tools: resident memory by kind, live blocks by size
    Folded,
}
