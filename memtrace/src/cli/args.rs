//! What can be said on the command line. Only types.

use std::{collections::BTreeSet, ffi::OsString, num::NonZeroU32, path::PathBuf, time::Duration};

use bytesize::ByteSize;
use clap::{
    ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum, error::ErrorKind,
    parser::ValueSource,
};
use memtrace_common::{
    process::ProcessSlot,
    sampling::{MAX_MEAN_BYTES, MIN_MEAN_BYTES},
};

use super::watch_args::WatchArguments;
use crate::{
    capture::{allocators::custom::CustomFunction, kernel::Asked, selection::Selection},
    model::report::{Category, KernelSource, PageKind, Weight},
};

const EXAMPLES: &str = "\
Examples:
  sudo memtrace --pid 1234                         watch a running process; Ctrl-C for the report
  sudo memtrace --pid 1234 --duration 30s          stop by itself
  sudo memtrace --pid 1234 --duration 30s --format folded -o out.folded
  sudo memtrace --comm redis-server                every process of that name, now or later
  sudo memtrace --all --duration 1min              every process of the host
  sudo memtrace --category kernel --duration 30s   the kernel's own memory, by kernel stack
  sudo memtrace -- ./server --port 8080            from the first instruction to the end
  sudo memtrace --pid 1234 --alloc 'app:get(size=arg0)->ret' --free 'app:put(ptr=arg0)'
                                                   an allocator of one's own
  sudo memtrace --fail-on-leak -- ./tests          status 3 if it leaks: for CI
  sudo memtrace watch --all --threshold slope:1MiB/min
                                                   nothing is attached until a process grows like that
  sudo memtrace doctor                             what this machine lacks, and the next step

The report names the stacks that hold live memory: allocated since memtrace attached, and not freed yet.
It goes to stdout, everything else to stderr.
Exit status: 0 success, 1 failure, 2 usage, 3 leak suspects (--fail-on-leak), 4 could not check
(--fail-on-leak, --at-exit; stderr says why); with -- CMD that of CMD, unless CMD succeeds and
leaks under --fail-on-leak, or could not be checked.";

/// Who holds a live process's memory, and is it growing.
///
/// Attaches to a running process, changes nothing in it, restarts nothing, and leaves nothing behind.
#[derive(Debug, Parser)]
#[command(
    name = "memtrace",
    version,
    after_help = EXAMPLES,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    arg_required_else_help = true,
    override_usage = "memtrace [OPTIONS] <--pid <N>...|--comm <NAME>|--cgroup <PATH>|--all|--category kernel>\n       memtrace [OPTIONS] -- <CMD>...\n       memtrace <COMMAND>"
)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) trace: TraceArguments,

    /// Say what is done (-v), with the BPF side's debug lines (-vv)
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub(super) verbose: u8,

    #[command(subcommand)]
    pub(super) command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Watch processes' memory for nearly nothing; look closely at those that reach a threshold
    Watch(Box<WatchArguments>),
    /// Check what this machine offers: capabilities, kernel features, mounts
    Doctor,
    /// Tell what compiling images' call frame information takes
    #[command(hide = true)]
    UnwindTable {
        /// ELF files
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Read symbols for another memtrace, which sends open files through stdin
    #[command(hide = true)]
    ReadSymbols,
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
pub(super) struct TraceArguments {
    #[command(flatten)]
    pub(super) target: TargetArguments,

    /// Trace children of --pid or -- CMD as well, from their first instruction; after CMD's end as long as any of its session
    /// lives, with `=daemons` also as long as those do that have left it
    #[arg(
        long,
        value_enum,
        value_name = "UNTIL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "session",
        help_heading = "Target",
        conflicts_with_all = ["comm", "cgroup", "all"]
    )]
    pub(super) follow: Option<FollowArgument>,

    /// Stop after this time [30s, 5min, 1h30m]
    #[arg(long, value_name = "TIME", value_parser = positive_duration)]
    pub(super) duration: Option<Duration>,

    /// Report this often; on a terminal, how often the live table changes [default there: 1s]
    #[arg(long, value_name = "TIME", value_parser = positive_duration)]
    pub(super) interval: Option<Duration>,

    /// How closely to look
    #[arg(long, value_enum, default_value_t = TierArgument::Auto)]
    pub(super) tier: TierArgument,

    /// The part of a target's CPU time that tracing may take, for --tier auto and windowed [1%..100%]
    #[arg(long, value_name = "PERCENT", default_value = "10%", value_parser = percent)]
    pub(super) max_overhead: f64,

    /// The mean number of bytes between samples, for --tier sampled
    #[arg(long, value_name = "SIZE", default_value = "512KiB", value_parser = sample_bytes)]
    pub(super) sample_bytes: u64,

    /// How to walk stacks
    #[arg(long, value_enum, default_value_t = UnwindArgument::Auto)]
    pub(super) unwind: UnwindArgument,

    /// How to attach probes
    #[arg(long, value_enum, default_value_t = LinksArgument::Auto, hide_short_help = true)]
    pub(super) links: LinksArgument,

    /// How to see functions return
    ///
    /// While a call with a return probe is under way, its return address is the kernel's, and that is what the program's own
    /// stack traces show there: jemalloc's heap profiles and the reports of sanitizers lose the callers. A program whose
    /// allocator switches stacks (coroutines) crashes.
    #[arg(long, value_enum, default_value_t = ReturnsArgument::Auto)]
    pub(super) returns: ReturnsArgument,

    /// Which memory [default: heap, or pages with --tier growth]
    #[arg(long = "category", value_enum, value_name = "CATEGORY", value_delimiter = ',')]
    pub(super) categories: Vec<CategoryArgument>,

    #[command(flatten)]
    pub(super) report: ReportArguments,

    #[command(flatten)]
    pub(super) gate: GateArguments,

    /// A function that hands out blocks, of an allocator of one's own: 'libpool.so:get(size=arg1)->ret'
    ///
    /// IMAGE is a file name or the end of a path, FUNC a symbol (see nm). Arguments count from arg0 to arg5.
    /// With count=argN there are that many elements of the size; with ptr=argN that block is resized; with
    /// out=argN in place of ->ret the block's address is stored there and 0 returned. Repeatable; needs --free.
    #[arg(
        long,
        value_name = "IMAGE:FUNC(size=argN)->ret",
        value_parser = CustomFunction::alloc,
        requires = "free",
        help_heading = "Allocators"
    )]
    pub(super) alloc: Vec<CustomFunction>,

    /// A function that frees such blocks: 'libpool.so:put(ptr=arg0)'. Repeatable; needs --alloc
    #[arg(
        long,
        value_name = "IMAGE:FUNC(ptr=argN)",
        value_parser = CustomFunction::free,
        requires = "alloc",
        help_heading = "Allocators"
    )]
    pub(super) free: Vec<CustomFunction>,

    #[command(flatten)]
    pub(super) capacities: CapacityArguments,

    /// Attach empty programs instead: what the probes alone cost
    #[arg(long, hide = true)]
    pub(super) empty_probes: bool,
}

/// What CI relies on.
#[derive(Debug, Args)]
#[command(next_help_heading = "Gate")]
pub(super) struct GateArguments {
    /// End with status 3 if the last report has leak suspects, and tell them on stderr; of -- CMD, what nothing points to
    /// any more at its end (--at-exit) is one too. With status 4 if that could not be checked, and tell why
    ///
    /// A command that fails by itself keeps its own status. With -- CMD and no --tier, every allocation is traced (--tier
    /// exact), so that the outcome is the same each time.
    #[arg(long)]
    pub(super) fail_on_leak: bool,

    /// When -- CMD ends, look which of its blocks nothing points to any more: those are leak suspects
    ///
    /// Its end is put off for as long as that takes: about a second for a GiB of heap, half a minute at most. It
    /// takes every allocation (--tier exact). Blocks that can still be reached are none, however long they were kept. Where it
    /// cannot be looked, the status is 4.
    #[arg(long)]
    pub(super) at_exit: bool,

    /// Leak suspects to let pass: lines `leak:PATTERN`, as LeakSanitizer has them
    ///
    /// A pattern is a part of a function's name, a source file's or an image's, of any frame of the stack; `*` stands for
    /// anything, `^` and `$` for the ends. Empty lines and those that begin with # are passed over.
    #[arg(long, value_name = "FILE")]
    pub(super) suppressions: Option<PathBuf>,

    /// A report of before (--format json): what was a leak suspect there may be one again
    #[arg(long, value_name = "FILE")]
    pub(super) baseline: Option<PathBuf>,
}

impl GateArguments {
    /// Whether what is left at the end of a command is looked at, if there is one.
    pub(super) fn looks_at_exit(&self) -> bool {
        self.fail_on_leak || self.at_exit
    }
}

#[derive(Debug, Args)]
pub(super) struct ReportArguments {
    /// What to print
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub(super) format: Format,

    /// Where to [default: stdout]
    #[arg(short, long, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,

    /// What folded stacks weigh by
    #[arg(long, value_enum, default_value_t = WeightArgument::InuseSpace)]
    pub(super) weight: WeightArgument,

    /// Sites that a process shows [default: 10 in the table, all elsewhere; in JSON of several processes in tier growth
    /// 100, with how many are left out]; totals are always of all
    #[arg(long, value_name = "N")]
    pub(super) top: Option<usize>,
}

#[derive(Debug, Args)]
#[group(multiple = false)]
pub(super) struct TargetArguments {
    /// A running process; may be given several times
    #[arg(long = "pid", value_name = "N", help_heading = "Target")]
    pub(super) pids: Vec<NonZeroU32>,

    /// Every process of this short name, those that start later included
    #[arg(long, value_name = "NAME", help_heading = "Target")]
    pub(super) comm: Option<String>,

    /// Every process in this cgroup and below: a folder, or a path as /proc/PID/cgroup has it
    #[arg(long, value_name = "PATH", help_heading = "Target")]
    pub(super) cgroup: Option<PathBuf>,

    /// Every process of the host, those that start later included
    #[arg(long, help_heading = "Target")]
    pub(super) all: bool,

    /// A program to run and trace from its first instruction; memtrace exits with its status
    #[arg(last = true, value_name = "CMD", help_heading = "Target")]
    pub(super) command_line: Vec<OsString>,
}

impl Arguments {
    /// Takes a command line apart.
    ///
    /// # Errors
    /// Where it asks for what there is not, or for help.
    pub(super) fn parse<T: Into<OsString> + Clone>(words: impl IntoIterator<Item = T>) -> Result<Self, clap::Error> {
        let matches = Self::command().try_get_matches_from(words)?;
        let arguments = Self::from_arg_matches(&matches)?;
        let TraceArguments { target, categories, .. } = &arguments.trace;
        let is_of_kernel = categories.contains(&CategoryArgument::Kernel);
        if let Some((_, option)) = NOT_OF_KERNEL.iter().find(|(id, _)| is_of_kernel && is_given(&matches, id)) {
            let what = format!("--category kernel does not go with {option}, which is about probes in programs");
            return Err(Self::command().error(ErrorKind::ArgumentConflict, what));
        }
        let needs_target = arguments.command.is_none() && !is_of_kernel;
        if needs_target && target.is_empty() {
            let what = "a target is required: --pid <N>, --comm <NAME>, --cgroup <PATH>, --all or -- <CMD>...";
            return Err(Self::command().error(ErrorKind::MissingRequiredArgument, what));
        }
        Ok(arguments)
    }
}

/// What has no meaning for the kernel's own memory, and must not look as if it had: as it is called here, and by users.
const NOT_OF_KERNEL: [(&str, &str); 8] = [
    ("max_overhead", "--max-overhead"),
    ("sample_bytes", "--sample-bytes"),
    ("unwind", "--unwind"),
    ("links", "--links"),
    ("returns", "--returns"),
    ("max_rows", "--max-rows"),
    ("max_threads", "--max-threads"),
    ("empty_probes", "--empty-probes"),
];

/// Whether somebody has asked for it: it may have a default.
fn is_given(matches: &ArgMatches, id: &str) -> bool {
    matches.value_source(id) == Some(ValueSource::CommandLine)
}

impl TargetArguments {
    fn is_empty(&self) -> bool {
        let Self { pids, comm, cgroup, all, command_line } = self;
        pids.is_empty() && comm.is_none() && cgroup.is_none() && !all && command_line.is_empty()
    }

    /// What they select; clap has seen to it that it is one thing.
    pub(super) fn selection(&self) -> Selection {
        if let Some(name) = &self.comm {
            Selection::Comm(name.clone())
        } else if let Some(path) = &self.cgroup {
            Selection::Cgroup(path.clone())
        } else if self.all {
            Selection::All
        } else if self.pids.is_empty() && self.command_line.is_empty() {
            // Only the kernel's own memory needs no target.
            Selection::All
        } else if self.pids.is_empty() {
            Selection::Command(self.command_line.clone())
        } else {
            // Named twice, it is one.
            Selection::Pids(self.pids.iter().copied().collect::<BTreeSet<_>>().into_iter().collect())
        }
    }
}

/// All of a map is allocated at start; `-v` shows what they take. Where two defaults are given, the second is
/// for what can begin by itself: --follow, --comm, --cgroup and --all.
#[derive(Debug, Args)]
#[command(next_help_heading = "Kernel memory")]
pub(super) struct CapacityArguments {
    /// Blocks that can be live at the same time, about 90 bytes each [default: 1048576]
    #[arg(long, value_name = "N", value_parser = capacity())]
    pub(super) max_blocks: Option<u32>,

    /// Distinct stacks, about 1 KiB each [default: 16384, or 65536 with --follow, --comm, --cgroup, --all]
    #[arg(long, value_name = "N", value_parser = capacity())]
    pub(super) max_stacks: Option<u32>,

    /// Allocation sites, each a stack in a process, about 400 bytes each [default: 32768, or 131072]
    #[arg(long, value_name = "N", value_parser = capacity())]
    pub(super) max_sites: Option<u32>,

    /// Unwind rows of all images together, 8 bytes each; libc has 20,000, a 100 MB library 2,000,000
    /// [default: 2097152, or 4194304]
    #[arg(long, value_name = "N", value_parser = capacity())]
    pub(super) max_rows: Option<u32>,

    /// Targets at the same time, about 200 bytes each [default: 64, or 4096]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(ProcessSlot::MAX.0)))]
    pub(super) max_processes: Option<u32>,

    /// Threads that allocate, at the same time, about 2 KiB each [default: 8192, or 16384]
    #[arg(long, value_name = "N", value_parser = capacity())]
    pub(super) max_threads: Option<u32>,
}

/// The largest map that is asked for: past it the kernel would refuse, or lock away gigabytes.
fn capacity() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=1 << 27)
}

impl CapacityArguments {
    pub(super) fn asked(&self) -> Asked {
        Asked {
            blocks: self.max_blocks,
            sites: self.max_sites,
            stacks: self.max_stacks,
            threads: self.max_threads,
            rows: self.max_rows,
            processes: self.max_processes,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum TierArgument {
    /// The most exact of the others that keeps to --max-overhead; changes as the load does, and says so
    Auto,
    /// No probes in any program: which stacks make memory resident, page by page, told by the kernel's own tracepoints;
    /// names growth, convicts nobody
    Growth,
    /// Every allocation, in random windows of some milliseconds whose blocks are then followed: an estimate with its
    /// 95 % interval that keeps to --max-overhead
    Windowed,
    /// An estimate with its 95 % interval, from one allocation in --sample-bytes, for two thirds of what exact costs
    Sampled,
    /// Every allocation, whatever that costs
    Exact,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum UnwindArgument {
    /// By call frame information where the kernel can (Linux 5.17), else by frame pointers
    Auto,
    /// By frame pointers: cheaper, for code that was built with them throughout
    Fp,
    /// By call frame information, as exceptions and debuggers do
    Dwarf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum FollowArgument {
    /// While a followed process of the command's session lives
    Session,
    /// While any followed process lives
    Daemons,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum LinksArgument {
    /// The last of these that the kernel has (`memtrace doctor` says which)
    Auto,
    /// A perf event for each probe
    PerfEvent,
    /// One link for many probes (Linux 6.6)
    Multi,
    /// The same, and one probe for a call's entry and return (Linux 6.13)
    Session,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ReturnsArgument {
    /// At instructions of allocators that memtrace does not know and of functions that may throw, else by return probes
    Auto,
    /// By return probes, but of functions that may throw
    Trampoline,
    /// At `ret` instructions: return addresses stay what they are, and a pair of calls costs about four times as much
    Instruction,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For a person; live on a terminal
    Table,
    /// One object a report, see docs/schema.json
    Json,
    /// Folded stacks, for flame graph tools
    Folded,
    /// JUnit XML, which CI shows: a test case a leak suspect. Of the last report only
    Junit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum CategoryArgument {
    /// From an allocator's functions
    Heap,
    /// By mmap, mremap and brk; what an allocator maps for itself is not counted twice
    Mmap,
    /// Whatever it was allocated by, from when its pages became resident: what --tier growth tells
    Pages,
    /// The kernel's own: slab objects, pages, per-CPU memory, vmalloc; of the whole host, or what is allocated in the context of
    /// --pid, --comm or --cgroup (Linux 6.1). Every allocation, whatever --tier says
    Kernel,
}

impl CategoryArgument {
    /// What reports call so.
    pub(super) fn categories(self) -> Vec<Category> {
        match self {
            Self::Heap => vec![Category::Heap],
            Self::Mmap => vec![Category::Mmap],
            Self::Pages => PageKind::ALL.map(Category::Pages).to_vec(),
            Self::Kernel => KernelSource::ALL.map(Category::Kernel).to_vec(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum WeightArgument {
    /// Live bytes
    InuseSpace,
    /// Live objects
    InuseObjects,
    /// Bytes ever allocated
    AllocSpace,
    /// Objects ever allocated
    AllocObjects,
    /// Growth of live bytes, in bytes a second
    Growth,
}

impl From<WeightArgument> for Weight {
    fn from(argument: WeightArgument) -> Self {
        match argument {
            WeightArgument::InuseSpace => Self::InuseSpace,
            WeightArgument::InuseObjects => Self::InuseObjects,
            WeightArgument::AllocSpace => Self::AllocSpace,
            WeightArgument::AllocObjects => Self::AllocObjects,
            WeightArgument::Growth => Self::Growth,
        }
    }
}

pub(super) fn positive_duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration.is_zero() => Err("must be longer than nothing".into()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(format!("{error}; write 30s, 5min or 1h30m")),
    }
}

/// A percentage, as a part from 0 to 1.
pub(super) fn percent(text: &str) -> Result<f64, String> {
    match text.trim_end_matches('%').trim().parse::<f64>() {
        Ok(percent) if (1.0..=100.0).contains(&percent) => Ok(percent / 100.0),
        Ok(_) => Err("must be from 1% to 100%".into()),
        Err(error) => Err(format!("{error}; write 5% or 12.5%")),
    }
}

fn sample_bytes(text: &str) -> Result<u64, String> {
    let range = MIN_MEAN_BYTES..=MAX_MEAN_BYTES;
    match text.parse::<ByteSize>() {
        Ok(size) if range.contains(&size.0) => Ok(size.0),
        Ok(_) => Err("must be from 1KiB to 16MiB".into()),
        Err(error) => Err(format!("{error}; write 64KiB, 512KiB or 1MiB")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(arguments: &[&str]) -> ErrorKind {
        Arguments::parse([&["memtrace"], arguments].concat()).unwrap_err().kind()
    }

    #[test]
    fn sizes_have_units_and_bounds() {
        assert_eq!(sample_bytes("512KiB"), Ok(512 << 10));
        assert_eq!(sample_bytes("4096"), Ok(4096));
        assert!(sample_bytes("1GiB").is_err() && sample_bytes("1").is_err() && sample_bytes("many").is_err());
    }

    #[test]
    fn percentages_have_bounds() {
        assert_eq!((percent("10%"), percent("12.5")), (Ok(0.1), Ok(0.125)));
        assert!(percent("0").is_err() && percent("101%").is_err() && percent("much").is_err());
    }

    #[test]
    fn the_definitions_hold_together() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_target_is_needed_and_only_one() {
        assert_eq!(refused(&["--duration", "1s"]), ErrorKind::MissingRequiredArgument);
        assert_eq!(refused(&["--pid", "1", "--", "true"]), ErrorKind::ArgumentConflict);
        assert_eq!(refused(&["--category", "heap"]), ErrorKind::MissingRequiredArgument);
        assert!(Arguments::parse(["memtrace", "--category", "kernel"]).is_ok());
        assert!(Arguments::parse(["memtrace", "doctor"]).is_ok());
    }

    #[test]
    fn what_is_about_probes_does_not_go_with_the_kernels_memory() {
        for given in [
            "--max-overhead=10%",
            "--sample-bytes=1MiB",
            "--unwind=fp",
            "--links=auto",
            "--returns=auto",
            "--max-rows=1",
            "--max-threads=1",
        ] {
            assert_eq!(refused(&["--category", "kernel", given]), ErrorKind::ArgumentConflict, "{given}");
            assert!(Arguments::parse(["memtrace", "--pid", "1", given]).is_ok(), "{given}");
        }
        assert_eq!(refused(&["--category", "kernel", "--empty-probes"]), ErrorKind::ArgumentConflict);
        assert!(Arguments::parse(["memtrace", "--category", "kernel", "--max-blocks", "1"]).is_ok());
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(refused(&["--pid", "0"]), ErrorKind::ValueValidation);
        assert_eq!(refused(&["--pid", "1", "--duration", "abc"]), ErrorKind::ValueValidation);
        assert_eq!(refused(&["--pid", "1", "--duration", "0s"]), ErrorKind::ValueValidation);
        assert_eq!(refused(&["--pid", "1", "--max-blocks", "0"]), ErrorKind::ValueValidation);
    }

    #[test]
    fn allocators_of_ones_own_come_in_pairs() {
        let alloc = ["--pid", "1", "--alloc", "app:get(size=arg0)->ret"];
        let free = ["--free", "app:put(ptr=arg0)"];
        assert_eq!(refused(&alloc), ErrorKind::MissingRequiredArgument);
        assert_eq!(refused(&[&["--pid", "1"], &free[..]].concat()), ErrorKind::MissingRequiredArgument);
        assert_eq!(refused(&["--pid", "1", "--alloc", "app"]), ErrorKind::ValueValidation);
        let both = [&["memtrace"], &alloc[..], &free, &["--free", "app:drop(ptr=arg0)"]].concat();
        let arguments = Arguments::try_parse_from(both).unwrap();
        assert_eq!((arguments.trace.alloc.len(), arguments.trace.free.len()), (1, 2));
    }

    #[test]
    fn a_command_keeps_its_own_options() {
        let arguments = Arguments::try_parse_from(["memtrace", "--top", "3", "--", "ls", "-l", "--top"]).unwrap();
        assert_eq!(arguments.trace.target.command_line, ["ls", "-l", "--top"]);
        assert_eq!(arguments.trace.report.top, Some(3));
    }
}
