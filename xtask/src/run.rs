//! `cargo xtask run`: memtrace with the given arguments, or a first look at what it does.

use std::{ffi::OsString, process::ExitCode};

use anyhow::{Context, Result};

use crate::{
    build, demo,
    shell::{as_root, say},
};

/// How long the first look takes.
const DEMO_DURATION: &str = "10s";

/// Builds and runs memtrace, as root. Ends with its status.
pub(crate) fn run(arguments: &[OsString]) -> Result<ExitCode> {
    let memtrace = build::build(true)?;
    if arguments.is_empty() {
        return first_look(&memtrace);
    }
    exit_of(as_root(&memtrace).args(arguments))
}

/// Traces the bundled program, which leaks in one place and only looks like it in others.
fn first_look(memtrace: &std::path::Path) -> Result<ExitCode> {
    let program = demo::start()?;
    say(&format!("tracing a small program that leaks for {DEMO_DURATION}; its source is xtask/demo/leaky.c"));
    exit_of(as_root(memtrace).args(["--pid", &program.pid().to_string(), "--duration", DEMO_DURATION]))
}

fn exit_of(command: &mut std::process::Command) -> Result<ExitCode> {
    let status = command.status().context("cannot run memtrace")?;
    let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    Ok(ExitCode::from(code))
}
