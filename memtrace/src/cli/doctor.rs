//! `memtrace doctor`: what this machine offers, and the next step where something is missing.

use std::process::ExitCode;

use super::failure::Failure;
use crate::capture::{
    kernel::{Capacities, Kernel, Settings, Unwind},
    preflight::{self, Outcome},
};

pub(super) fn run() -> Result<ExitCode, Failure> {
    let checks = preflight::checks();
    let mut missing = 0;
    for check in &checks {
        let name = check.name;
        match &check.outcome {
            Outcome::Ok(found) => println!("ok       {name}: {found}"),
            Outcome::Degraded(found, hint) => println!("limited  {name}: {found}\n         hint: {hint}"),
            Outcome::Missing(found, hint) => {
                missing += 1;
                println!("MISSING  {name}: {found}\n         hint: {hint}");
            }
        }
    }
    if missing == 0 {
        missing += try_kernel();
    }
    match missing {
        0 => {
            println!("\nmemtrace can trace processes on this machine.");
            Ok(ExitCode::SUCCESS)
        }
        _ => Err(Failure::machine("this machine is not ready for tracing")),
    }
}

/// The proof: loads every program and attaches those that follow tasks, then lets go.
fn try_kernel() -> u32 {
    let settings = Settings {
        capacities: Capacities { blocks: 1, sites: 1, stacks: 1, threads: 1, rows: 1, processes: 1 },
        unwind: if preflight::can_unwind_by_rows() { Unwind::Rows } else { Unwind::FramePointers },
        debug_lines: false,
        task_pid_offset: 0,
        address_spaces: false,
    };
    match Kernel::load(settings).and_then(|mut kernel| kernel.follow_tasks(true)) {
        Ok(()) => {
            println!("ok       programs: the kernel accepts and attaches them");
            0
        }
        Err(error) => {
            println!("MISSING  programs: {error}\n         hint: is a security module in the way? see `dmesg`");
            1
        }
    }
}
