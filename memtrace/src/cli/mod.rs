//! The command line: arguments, commands, exit statuses.

mod args;
mod doctor;
mod exit_status;
mod failure;
mod gate;
mod heap;
mod misplaced;
mod output;
mod plan;
mod trace;
mod unwind_table;
mod warnings;
mod watch;

use std::{
    ffi::OsString,
    io::{self, IsTerminal},
    process::ExitCode,
};

use clap::CommandFactory;

use args::{Arguments, Command};
use failure::Failure;
use plan::Facts;
use warnings::Warnings;

use crate::{bpf::features::has_bpf_loop, looking, process::own_memory, symbolize::reader};

/// The next step for a command line that clap does not take.
const SEE_HELP: &str = "`memtrace --help` shows every option, with examples";

/// Runs the command that the process was started as.
#[must_use]
pub fn main() -> ExitCode {
    own_memory::give_back_what_is_freed();
    let words: Vec<OsString> = std::env::args_os().collect();
    let arguments = match Arguments::parse(&words) {
        Ok(arguments) => arguments,
        Err(error) => {
            let misplaced = misplaced::options(&words, &error);
            let (error, hint) = misplaced.unwrap_or_else(|| (error, SEE_HELP.to_owned()));
            return failure::usage(&error, &hint);
        }
    };
    start_log(arguments.verbose);
    let outcome = match &arguments.command {
        Some(Command::Doctor) => doctor::run(),
        Some(Command::Completions { shell }) => {
            clap_complete::generate(*shell, &mut Arguments::command(), "memtrace", &mut io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        Some(Command::Watch(watched)) => plan::watch::plan(watched, facts(arguments.verbose))
            .map_err(Failure::from)
            .and_then(|plan| watch::run(&plan, watched)),
        Some(Command::Heap(heap)) => plan::heap::plan(heap, facts(arguments.verbose))
            .map_err(Failure::from)
            .and_then(|plan| heap::run(&plan, heap)),
        Some(Command::LookAtHeap) => Ok(looking::serve()),
        Some(Command::UnwindTable { files }) => unwind_table::run(files),
        Some(Command::ReadSymbols) => Ok(reader::serve()),
        None => plan::trace::plan(&arguments.trace, facts(arguments.verbose))
            .map_err(Failure::from)
            .and_then(|plan| trace::run(&plan)),
    };
    let status = outcome.unwrap_or_else(Failure::report);
    log::logger().flush();
    status
}

/// The facts that plans depend on.
fn facts(verbose: u8) -> Facts {
    Facts { has_bpf_loop: has_bpf_loop(), has_terminal: io::stdout().is_terminal(), verbose }
}

/// Warnings always, what is done at `-v`, the BPF side's debug lines at `-vv`; all to stderr.
fn start_log(verbose: u8) {
    let level = match verbose {
        0 => log::LevelFilter::Warn,
        1 => log::LevelFilter::Info,
        _ => log::LevelFilter::Debug,
    };
    let log = env_logger::Builder::new()
        .filter_level(log::LevelFilter::Warn)
        .filter_module("memtrace", level)
        .format(|out, record| {
            use io::Write as _;
            let prefix = if record.level() == log::Level::Warn { "warning: " } else { "" };
            writeln!(out, "memtrace: {prefix}{}", record.args())
        })
        .build();
    let most = log.filter();
    // A process has one log, and this is the only place that sets it.
    if log::set_boxed_logger(Box::new(Warnings::new(log))).is_ok() {
        log::set_max_level(most);
    }
}
