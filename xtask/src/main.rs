//! memtrace's build tool. Each task is a module; this file only says which there are.

mod bench;
mod build;
mod corpus;
mod demo;
mod deny;
mod dist;
mod document;
mod fuzz;
mod lint;
mod nginx;
mod run;
mod setup;
mod shell;
mod soak;
mod test;
mod vm;
mod wording;

use std::{ffi::OsString, process::ExitCode};

use clap::{Parser, Subcommand};

/// Builds, runs, tests and measures memtrace; installs what that needs and is missing.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build everything, then run memtrace; with no arguments on a small program that leaks
    Run {
        /// The arguments of memtrace
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Build the BPF object and memtrace
    Build {
        /// With optimisation, to target/release/memtrace
        #[arg(long)]
        release: bool,
    },
    /// Pass the tests, those with real BPF included
    Test {
        /// On Debian's Linux 6.1 in an emulator, those with real BPF only (needs root)
        #[arg(long)]
        vm: bool,
        /// Also the tests that take minutes: statistics, the labelled programs in every tier, packages that are fetched
        #[arg(long)]
        long: bool,
        /// Only tests whose name contains this, or those of these modules of memtrace/tests/it [gate,threads]
        names: Option<String>,
    },
    /// Check format and lints
    Lint,
    /// Feed hostile input to what reads untrusted data
    Fuzz {
        /// For how long, each target
        #[arg(default_value_t = 60)]
        seconds: u32,
        /// Only these targets (files of fuzz/src/targets)
        targets: Vec<String>,
    },
    /// Trace the whole host for a long time, over programs at work; memtrace's memory must stay what it is (needs root)
    Soak {
        /// For how long
        #[arg(long, default_value_t = 60)]
        minutes: u32,
        /// On Debian's Linux 6.1 in an emulator, where nothing else runs
        #[arg(long)]
        vm: bool,
    },
    /// Make what is handed out: a static binary in a tarball, with its checksum
    Dist {
        /// Build the last commit once more in another folder, which must come out the same
        #[arg(long)]
        verify: bool,
    },
    /// Measure how often verdicts on sites are right, on programs of which it is known whether they leak (needs root)
    Corpus {
        /// How closely memtrace looks
        #[arg(long, value_enum, default_value = "auto")]
        tier: corpus::Tier,
        /// Put the tables into docs/VERDICTS.md
        #[arg(long)]
        write: bool,
        /// Only programs whose names contain this (one of these, by commas): runs of others stay for --traced
        #[arg(long, value_name = "NAME", conflicts_with = "write")]
        only: Option<String>,
        /// Judge by the runs that are there, of all programs; runs nothing
        #[arg(long, conflicts_with = "only")]
        traced: bool,
        /// Compare what was said in the tiers exact and sampled when they were last run; runs nothing
        #[arg(long, conflicts_with_all = ["tier", "write", "labels", "only", "traced"])]
        compare: bool,
        /// Check instead that leaks go on, and that innocents do not, for two and a half minutes; of programs whose
        /// names contain this (one of these, by commas), or of all
        #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = "", conflicts_with_all = ["tier", "write", "only", "traced"])]
        labels: Option<String>,
    },
    /// Measure what tracing costs
    Bench {
        /// Only these parts
        parts: Vec<bench::Part>,
        /// Rounds; each measures every column once
        #[arg(long, default_value_t = 5)]
        rounds: u32,
        /// Also write the figures to this file, as JSON
        #[arg(long, value_name = "FILE")]
        json: Option<std::path::PathBuf>,
        /// Put tables and plots into docs/PERFORMANCE.md
        #[arg(long)]
        write: bool,
    },
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().task {
        Task::Run { arguments } => run::run(&arguments),
        Task::Build { release } => build::build(release).map(|_| ExitCode::SUCCESS),
        Task::Test { vm: true, long, names } => vm::test(names.as_deref(), long).map(|()| ExitCode::SUCCESS),
        Task::Test { vm: false, long, names } => test::test(names.as_deref(), long).map(|()| ExitCode::SUCCESS),
        Task::Lint => lint::lint().map(|()| ExitCode::SUCCESS),
        Task::Fuzz { seconds, targets } => {
            fuzz::fuzz(fuzz::Effort::Search(seconds), &targets).map(|()| ExitCode::SUCCESS)
        }
        Task::Soak { vm: true, minutes } => vm::soak(minutes).map(|()| ExitCode::SUCCESS),
        Task::Soak { vm: false, minutes } => soak::soak(minutes).map(|()| ExitCode::SUCCESS),
        Task::Dist { verify } => dist::dist(verify).map(|()| ExitCode::SUCCESS),
        Task::Corpus { compare: true, .. } => corpus::compare().map(|()| ExitCode::SUCCESS),
        Task::Corpus { labels: Some(names), .. } => corpus::check_labels(&names).map(|()| ExitCode::SUCCESS),
        Task::Corpus { tier, write, only, traced, .. } => {
            let otherwise = if traced { corpus::Traced::Before } else { corpus::Traced::All };
            let traced = only.map_or(otherwise, corpus::Traced::Only);
            corpus::judge(tier, &traced, write).map(|()| ExitCode::SUCCESS)
        }
        Task::Bench { parts, rounds, json, write } => {
            bench::bench(&parts, rounds, json.as_deref(), write).map(|()| ExitCode::SUCCESS)
        }
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::FAILURE
    })
}
