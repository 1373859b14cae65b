//! Options that name targets and kinds of memory. Only types.

use std::{ffi::OsString, num::NonZeroU32, path::PathBuf};

use clap::{Args, ValueEnum};

use crate::{
    capture::selection::Selection,
    model::category::{Category, KernelSource, PageKind},
};

#[derive(Debug, Args)]
#[group(multiple = false)]
pub(crate) struct TargetArguments {
    /// A running process, by its process ID; repeatable
    #[arg(long = "pid", value_name = "N", help_heading = "Target")]
    pub(crate) pids: Vec<NonZeroU32>,

    /// Every process of this short name (as in /proc/PID/comm), those that start later included
    #[arg(long, value_name = "NAME", help_heading = "Target")]
    pub(crate) comm: Option<String>,

    /// Every process in this cgroup and below, those that start later included: a folder, or a path as in /proc/PID/cgroup
    #[arg(long, value_name = "PATH", help_heading = "Target")]
    pub(crate) cgroup: Option<PathBuf>,

    /// Every process of the host, those that start later included
    #[arg(long, help_heading = "Target")]
    pub(crate) all: bool,

    /// A program to run and trace from its first instruction to its end; memtrace exits with its status
    #[arg(last = true, value_name = "CMD", help_heading = "Target")]
    pub(crate) command_line: Vec<OsString>,
}

impl TargetArguments {
    /// The selection they make; clap has seen to it that it is one thing.
    pub(crate) fn selection(&self) -> Selection {
        let named = Selection::named(self.comm.as_deref(), self.cgroup.as_deref(), &self.pids);
        named.unwrap_or_else(|| {
            if self.all || self.command_line.is_empty() {
                // Only the kernel's own memory needs no target.
                Selection::All
            } else {
                Selection::Command(self.command_line.clone())
            }
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CategoryArgument {
    /// Blocks from an allocator's functions
    Heap,
    /// Mappings that the program makes by itself (mmap, mremap, brk); an allocator's own are not counted twice
    Mmap,
    /// Pages as they become resident, from any allocator, as in --tier growth
    Pages,
    /// The kernel's own memory: slab objects, pages, per-CPU memory, vmalloc; of the whole host, or allocated in the context of
    /// --pid, --comm or --cgroup. Needs Linux 6.1, and takes every allocation
    Kernel,
}

impl CategoryArgument {
    /// The categories that reports call so.
    pub(crate) fn categories(self) -> Vec<Category> {
        match self {
            Self::Heap => vec![Category::Heap],
            Self::Mmap => vec![Category::Mmap],
            Self::Pages => PageKind::ALL.map(Category::Pages).to_vec(),
            Self::Kernel => KernelSource::ALL.map(Category::Kernel).to_vec(),
        }
    }
}
