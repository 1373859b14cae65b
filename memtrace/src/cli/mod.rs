//! The command line: arguments, commands, exit statuses.

mod args;
mod doctor;
mod failure;
mod gate;
mod output;
mod trace;
mod unwind_table;
mod watch;
mod watch_args;

use std::{io, process::ExitCode};

use clap::CommandFactory;

use args::{Arguments, Command};
use failure::Failure;

use crate::symbolize::reader;

/// Runs the command that the process was started as.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = match Arguments::parse(std::env::args_os()) {
        Ok(arguments) => arguments,
        Err(error) => return failure::usage(&error),
    };
    start_log(arguments.verbose);
    let outcome = match &arguments.command {
        Some(Command::Doctor) => doctor::run(),
        Some(Command::Completions { shell }) => {
            clap_complete::generate(*shell, &mut Arguments::command(), "memtrace", &mut io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        Some(Command::Watch(watched)) => watch::run(watched, arguments.verbose),
        Some(Command::UnwindTable { files }) => unwind_table::run(files),
        Some(Command::ReadSymbols) => Ok(reader::serve()),
        None => trace::run(&arguments.trace, arguments.verbose),
    };
    outcome.unwrap_or_else(Failure::report)
}

/// Warnings always, what is done at `-v`, the BPF side's debug lines at `-vv`; all to stderr.
fn start_log(verbose: u8) {
    let level = match verbose {
        0 => log::LevelFilter::Warn,
        1 => log::LevelFilter::Info,
        _ => log::LevelFilter::Debug,
    };
    env_logger::Builder::new()
        .filter_level(log::LevelFilter::Warn)
        .filter_module("memtrace", level)
        .format(|out, record| {
            use io::Write as _;
            let prefix = if record.level() == log::Level::Warn { "warning: " } else { "" };
            writeln!(out, "memtrace: {prefix}{}", record.args())
        })
        .init();
}
