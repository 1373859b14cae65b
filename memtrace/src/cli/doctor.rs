//! `memtrace doctor`: what this machine offers, and the next step where something is missing.

use std::process::ExitCode;

use memtrace_common::{kernel_memory::Scope, sampling::MIN_MEAN_BYTES};

use super::failure::Failure;
use crate::{
    capture::{
        kernel::{Capacities, Kernel, KernelMemory, Links, MemorySettings, Settings, Unwind},
        preflight::{self, Check, Outcome},
    },
    pipeline::check_headroom,
    process::{kallsyms::Kallsyms, kernel_types::KernelTypes, task_type::TaskOffsets},
};

pub(super) fn run() -> Result<ExitCode, Failure> {
    let mut checks = preflight::checks();
    checks.push(Check { name: "memory", outcome: check_headroom() });
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
        println!("{}", kernel_memory());
    }
    match missing {
        0 => {
            println!("\nmemtrace can trace processes on this machine.");
            Ok(ExitCode::SUCCESS)
        }
        _ => Err(Failure::machine("this machine is not ready for tracing")),
    }
}

/// How probes are attached here, and what that costs.
fn links(links: Links) -> String {
    let what = match links {
        Links::Session => return format!("ok       probes: {links}"),
        Links::Multi => "nested calls pay for a return probe; Linux 6.13 or later has uprobe sessions",
        Links::PerfEvent => "letting go takes some 90 ms a probe; Linux 6.6 or later has uprobe_multi links",
    };
    format!("limited  probes: {links}\n         hint: {what}")
}

/// Whether it can be told what makes pages resident.
fn pages(kernel: &mut Kernel) -> String {
    match kernel.follow_pages() {
        Ok(()) => "ok       growth: the kernel tells what makes pages resident".into(),
        Err(error) => format!(
            "limited  growth: {error}\n         hint: --tier growth needs the tracepoint kmem:rss_stat and tracefs"
        ),
    }
}

/// Whether the kernel's own memory can be traced: loads and attaches those programs, then lets go.
fn kernel_memory() -> String {
    let limited = |what: String, hint: &str| format!("limited  kernel memory: {what}\n         hint: {hint}");
    let types = match KernelTypes::read() {
        Ok(types) => types,
        Err(error) => return limited(error.to_string(), "only --category kernel needs it, and Linux 6.1 or later"),
    };
    let settings = MemorySettings {
        capacities: Capacities { blocks: 1, sites: 1, stacks: 1, threads: 1, rows: 1, processes: 1 },
        scope: Scope::Host,
        types,
        page_frames: Some(1),
        interrupts: None,
    };
    let attached = KernelMemory::load(settings).and_then(|mut memory| memory.attach().map(|()| memory));
    let (not_seen, why) = match attached {
        Ok(memory) => (memory.not_seen(), refusal(&memory)),
        Err(error) => {
            return limited(
                error.to_string(),
                "only --category kernel needs it; is a security module in the way? see `dmesg`",
            );
        }
    };
    match Kallsyms::read() {
        Ok(_) if !not_seen.is_empty() => limited(
            format!("not seen: {}", not_seen.join("; ")),
            &format!("only --category kernel needs it, and tells all else exactly; {why}"),
        ),
        Ok(_) => "ok       kernel memory: the kernel accepts and attaches its programs, and lists its symbols".into(),
        Err(error) => limited(
            error.to_string(),
            "--category kernel names no functions, and leaves pages out; sysctl kernel.kptr_restrict=1",
        ),
    }
}

/// What keeps the kernel from telling all.
fn refusal(memory: &KernelMemory) -> String {
    match memory.refusal() {
        Some(why) => format!("this kernel takes no programs on its functions: {why}"),
        None => "this kernel has no tracepoints for it".to_owned(),
    }
}

/// The proof: loads every program and attaches those that follow tasks, then lets go.
fn try_kernel() -> u32 {
    let settings = Settings {
        capacities: Capacities { blocks: 1, sites: 1, stacks: 1, threads: 1, rows: 1, processes: 1 },
        unwind: if preflight::has_bpf_loop() { Unwind::Rows } else { Unwind::FramePointers },
        debug_lines: false,
        task: TaskOffsets::default(),
        address_spaces: false,
        pages: true,
        hooks: true,
        links: None,
        // The most that programs can be asked for.
        sample_bytes: Some(MIN_MEAN_BYTES),
        is_adaptive: true,
    };
    let kernel = Kernel::load(settings)
        .and_then(|mut kernel| kernel.load_every_program().and_then(|()| kernel.follow_tasks(true)).map(|()| kernel));
    match kernel {
        Ok(mut kernel) => {
            println!("ok       programs: the kernel accepts and attaches them");
            println!("{}", links(kernel.links()));
            println!("{}", pages(&mut kernel));
            0
        }
        Err(error) => {
            println!("MISSING  programs: {error}\n         hint: is a security module in the way? see `dmesg`");
            1
        }
    }
}
