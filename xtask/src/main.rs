//! memtrace's build tool. Each task is a module; this file only says which there are.

mod bench;
mod build;
mod corpus;
mod demo;
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
        /// What memtrace is told
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
        /// Only tests whose name contains this, or those of these files of memtrace/tests [gate,threads]
        filter: Option<String>,
    },
    /// Check format and lints
    Lint,
    /// Feed hostile input to what reads untrusted files (needs rustup's nightly)
    Fuzz {
        /// For how long
        #[arg(long, default_value_t = 60)]
        seconds: u32,
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
        /// Compare what was said in the tiers exact and sampled when they were last run; runs nothing
        #[arg(long, conflicts_with_all = ["tier", "write", "labels"])]
        compare: bool,
        /// Check instead that leaks go on, and that innocents do not, for two and a half minutes; of programs whose
        /// names contain this (one of these, by commas), or of all
        #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = "", conflicts_with_all = ["tier", "write"])]
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
        Task::Test { vm: true, filter } => vm::test(filter.as_deref()).map(|()| ExitCode::SUCCESS),
        Task::Test { vm: false, filter } => test::test(filter.as_deref()).map(|()| ExitCode::SUCCESS),
        Task::Lint => lint::lint().map(|()| ExitCode::SUCCESS),
        Task::Fuzz { seconds } => fuzz::fuzz(seconds).map(|()| ExitCode::SUCCESS),
        Task::Soak { vm: true, minutes } => vm::soak(minutes).map(|()| ExitCode::SUCCESS),
        Task::Soak { vm: false, minutes } => soak::soak(minutes).map(|()| ExitCode::SUCCESS),
        Task::Dist { verify } => dist::dist(verify).map(|()| ExitCode::SUCCESS),
        Task::Corpus { compare: true, .. } => corpus::compare().map(|()| ExitCode::SUCCESS),
        Task::Corpus { labels: Some(names), .. } => corpus::check_labels(&names).map(|()| ExitCode::SUCCESS),
        Task::Corpus { tier, write, .. } => corpus::judge(tier, write).map(|()| ExitCode::SUCCESS),
        Task::Bench { parts, rounds, json, write } => {
            bench::bench(&parts, rounds, json.as_deref(), write).map(|()| ExitCode::SUCCESS)
        }
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::FAILURE
    })
}
