//! The command line. Only types.

pub(super) mod capacity;
pub(super) mod gate;
pub(super) mod heap;
#[cfg(test)]
mod help;
pub(super) mod report;
pub(super) mod target;
pub(super) mod tracing;
pub(super) mod values;
pub(super) mod watch;

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{
    ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, builder::Resettable, error::ErrorKind,
    parser::ValueSource,
};

use self::{
    capacity::CapacityArguments,
    gate::GateArguments,
    heap::HeapArguments,
    report::ReportArguments,
    target::{CategoryArgument, TargetArguments},
    tracing::{FollowArgument, LinksArgument, ReturnsArgument, TierArgument, UnwindArgument},
    values::{percent, positive_duration, sample_gap},
    watch::WatchArguments,
};
use crate::{capture::allocators::custom::CustomFunction, model::sample_gap::SampleGap};

const EXAMPLES: &str = "\
Examples:
  sudo memtrace --pid 1234                        live; Ctrl-C for the report
  sudo memtrace --pid 1234 --duration 30s         one report, after 30 s
  sudo memtrace --pid 1234 --duration 30s --format folded -o out.folded
  sudo memtrace --comm redis-server               all of that name, now or later
  sudo memtrace --all --duration 1min             every process of the host
  sudo memtrace --category kernel --duration 30s  the kernel's own memory
  sudo memtrace -- ./server --port 8080           from its first instruction on
  sudo memtrace --pid 1234 --alloc 'app:get(size=arg0)->ret' \\
        --free 'app:put(ptr=arg0)'                an allocator of one's own
  sudo memtrace --fail-on-leak -- ./tests         status 3 if it leaks: for CI
  sudo memtrace watch --all --threshold slope:1MiB/min
                                                  traces processes that grow so
  sudo memtrace heap --pid 1234                   its heap as of now, also from
                                                  before: no probe
  sudo memtrace doctor                            checks this machine

The report names the stacks that hold live memory: allocated since memtrace
attached, and not freed yet. It goes to stdout, everything else to stderr.

Exit status: 0 success, 1 failure, 2 usage, 3 leak suspects (--fail-on-leak),
4 could not check (--fail-on-leak, --at-exit; stderr says why). With -- CMD it
is CMD's own, unless CMD succeeds and leaks under --fail-on-leak, or could not
be checked.";

const DOCTOR_EXAMPLES: &str = "\
Examples:
  sudo memtrace doctor      a line for each check, with a hint where one fails

Exit status: 0 if processes can be traced here, else 1.";

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  memtrace completions bash | sudo tee /etc/bash_completion.d/memtrace
  memtrace completions fish > ~/.config/fish/completions/memtrace.fish";

/// Tells who holds a live process's memory, and whether it grows.
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
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) trace: TraceArguments,

    /// Tell each step (-v), with the BPF side's debug lines (-vv) [default: warnings alone]
    #[arg(short, long, action = clap::ArgAction::Count, global = true, help_heading = Resettable::Reset)]
    pub(crate) verbose: u8,

    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Watch processes' memory at nearly no cost; trace those that reach a threshold
    Watch(Box<WatchArguments>),
    /// Tell the content of processes' heaps as of now, also from before memtrace came
    Heap(Box<HeapArguments>),
    /// Check this machine: capabilities, kernel features, mounts
    #[command(after_help = DOCTOR_EXAMPLES)]
    Doctor,
    /// Measure the cost of compiling images' call frame information
    #[command(hide = true)]
    UnwindTable {
        /// ELF files
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Read symbols for another memtrace, which sends open files through stdin
    #[command(hide = true)]
    ReadSymbols,
    /// Look at a heap for another memtrace, which asks through stdin
    #[command(hide = true)]
    LookAtHeap,
    /// Print completions for a shell
    #[command(after_help = COMPLETIONS_EXAMPLES)]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
pub(crate) struct TraceArguments {
    #[command(flatten)]
    pub(crate) target: TargetArguments,

    /// Trace children of --pid or -- CMD as well, from their first instruction [default: no children]
    ///
    /// After the end of CMD, tracing goes on while a followed process of its session lives; with `=daemons`, while any followed
    /// process lives. --comm, --cgroup and --all have children anyway.
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
    pub(crate) follow: Option<FollowArgument>,

    /// Stop after this time: 30s, 5min or 1h30m [default: at Ctrl-C, or at the target's end]
    #[arg(long, value_name = "TIME", value_parser = positive_duration)]
    pub(crate) duration: Option<Duration>,

    /// Report every so often, or redraw the live table: 500ms, 5s or 1min [default: 1s for the live table; elsewhere one
    /// report, at the end]
    #[arg(long, value_name = "TIME", value_parser = positive_duration)]
    pub(crate) interval: Option<Duration>,

    /// How closely allocations are recorded
    #[arg(long, value_enum, default_value_t = TierArgument::Auto)]
    pub(crate) tier: TierArgument,

    /// The part of a target's CPU time that tracing may take, 1% to 100%, in --tier auto and windowed, and where
    /// --sample-bytes is auto
    #[arg(long, value_name = "PERCENT", default_value = "10%", value_parser = percent)]
    pub(crate) max_overhead: f64,

    /// The mean number of bytes between samples, 1KiB to 16MiB, where the tier is sampled; auto: as few as --max-overhead
    /// allows
    #[arg(long, value_name = "SIZE", default_value = "auto", value_parser = sample_gap)]
    pub(crate) sample_bytes: SampleGap,

    /// How stacks are walked
    #[arg(long, value_enum, default_value_t = UnwindArgument::Auto)]
    pub(crate) unwind: UnwindArgument,

    /// How probes are attached
    #[arg(long, value_enum, default_value_t = LinksArgument::Auto, hide_short_help = true)]
    pub(crate) links: LinksArgument,

    /// How returns of hooked functions are seen
    ///
    /// While a call with a return probe is under way, its return address is the kernel's, and the program's own stack traces show
    /// that one: jemalloc's heap profiles and the reports of sanitizers lose the callers. A program whose allocator switches
    /// stacks (coroutines) crashes.
    #[arg(long, value_enum, default_value_t = ReturnsArgument::Auto)]
    pub(crate) returns: ReturnsArgument,

    /// The kinds of memory to trace, with commas between them [default: heap, or pages with --tier growth]
    #[arg(long = "category", value_enum, value_name = "CATEGORY", value_delimiter = ',')]
    pub(crate) categories: Vec<CategoryArgument>,

    #[command(flatten)]
    pub(crate) report: ReportArguments,

    #[command(flatten)]
    pub(crate) gate: GateArguments,

    /// A function that allocates, of an allocator that memtrace does not know: 'libpool.so:get(size=arg1)->ret' [default: none]
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
    pub(crate) alloc: Vec<CustomFunction>,

    /// A function that frees such blocks: 'libpool.so:put(ptr=arg0)'. Repeatable; needs --alloc [default: none]
    #[arg(
        long,
        value_name = "IMAGE:FUNC(ptr=argN)",
        value_parser = CustomFunction::free,
        requires = "alloc",
        help_heading = "Allocators"
    )]
    pub(crate) free: Vec<CustomFunction>,

    #[command(flatten)]
    pub(crate) capacities: CapacityArguments,

    /// Attach empty programs instead, to measure the cost of the probes alone
    #[arg(long, hide = true)]
    pub(crate) empty_probes: bool,
}

impl Arguments {
    /// Takes a command line apart.
    ///
    /// # Errors
    /// Where it asks for what there is not, or for help.
    pub(crate) fn parse<T: Into<OsString> + Clone>(words: impl IntoIterator<Item = T>) -> Result<Self, clap::Error> {
        let matches = Self::command().try_get_matches_from(words)?;
        let arguments = Self::from_arg_matches(&matches)?;
        let is_of_kernel = arguments.trace.categories.contains(&CategoryArgument::Kernel);
        if let Some((_, option)) = NOT_OF_KERNEL.iter().find(|(id, _)| is_of_kernel && is_given(&matches, id)) {
            let what = format!("--category kernel does not go with {option}, which is about probes in programs");
            return Err(Self::command().error(ErrorKind::ArgumentConflict, what));
        }
        Ok(arguments)
    }
}

/// Options without a meaning for the kernel's own memory, which must not look as if they had one: as they are called here, and
/// by users.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(arguments: &[&str]) -> ErrorKind {
        Arguments::parse([&["memtrace"], arguments].concat()).unwrap_err().kind()
    }

    #[test]
    fn sizes_have_units_and_bounds() {
        assert_eq!(sample_gap("512KiB"), Ok(SampleGap::Bytes(512 << 10)));
        assert_eq!(sample_gap("4096"), Ok(SampleGap::Bytes(4096)));
        assert_eq!(sample_gap("auto"), Ok(SampleGap::Chosen));
        assert!(sample_gap("1GiB").is_err() && sample_gap("1").is_err() && sample_gap("many").is_err());
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
    fn targets_of_one_kind_only() {
        assert_eq!(refused(&["--pid", "1", "--", "true"]), ErrorKind::ArgumentConflict);
        assert!(Arguments::parse(["memtrace", "--pid", "1", "--pid", "2"]).is_ok());
        assert!(Arguments::parse(["memtrace", "doctor"]).is_ok());
    }

    #[test]
    fn options_about_probes_do_not_go_with_the_kernels_memory() {
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
