//! Options for sizes of tables. Only types.

use crate::bpf::Asked;
use clap::Args;
use memtrace_common::ids::ProcessSlot;

/// Memory of these tables is the kernel's, and `-v` shows how much they take. Beside named processes, on Linux 6.1 and later,
/// most take it as it is needed; else all of it is allocated at start. Where two defaults are given, the second is
/// for what can begin by itself: --follow, --comm, --cgroup and --all.
#[derive(Debug, Args)]
#[command(next_help_heading = "Kernel memory")]
pub(crate) struct CapacityArguments {
    /// Blocks that can be live at the same time, about 55 bytes each [default: 1048576]
    #[arg(long, value_name = "N", value_parser = capacity())]
    pub(crate) max_blocks: Option<u32>,

    /// Distinct stacks, about 1 KiB each [default: 16384, or 65536 with --follow, --comm, --cgroup and --all]
    #[arg(long, value_name = "N", value_parser = capacity())]
    pub(crate) max_stacks: Option<u32>,

    /// Allocation sites, each a stack in a process, about 400 bytes each [default: 32768, or 131072 likewise]
    #[arg(long, value_name = "N", value_parser = capacity())]
    pub(crate) max_sites: Option<u32>,

    /// Unwind rows of all images together, 8 bytes each; libc has 20,000, a 100 MB library 2,000,000
    /// [default: 2097152, or 4194304 likewise]
    #[arg(long, value_name = "N", value_parser = capacity())]
    pub(crate) max_rows: Option<u32>,

    /// Targets at the same time, about 700 bytes each [default: 64, or 4096 likewise]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(ProcessSlot::MAX.0)))]
    pub(crate) max_processes: Option<u32>,

    /// Threads that allocate, at the same time, about 4.5 KiB each [default: 8192, or 16384 likewise]
    #[arg(long, value_name = "N", value_parser = capacity())]
    pub(crate) max_threads: Option<u32>,
}

/// The largest map that is asked for: past it the kernel would refuse, or lock away gigabytes.
fn capacity() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=1 << 27)
}

impl CapacityArguments {
    pub(crate) fn asked(&self) -> Asked {
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
