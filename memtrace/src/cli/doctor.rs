//! `memtrace doctor`: checks of this machine, and the next step where something is missing.

use std::{process::ExitCode, time::Duration};

use memtrace_common::{
    steps::sampling::MIN_MEAN_BYTES,
    wire::{address_space::AddressSpaceLayout, kernel_memory::Scope},
};

use super::failure::Failure;
use crate::{
    bpf::{
        AttachMethod, Bpf, Capacities, Extras, KernelMemory, MemorySettings, Settings, Unwind, features::has_bpf_loop,
        registers,
    },
    capture::preflight::{self, Check, Outcome},
    engine::check_headroom,
    looking::{self, Limits},
    model::not_seen::NotSeen,
    process::{kallsyms::Kallsyms, kernel_types::KernelTypes, task_type::TaskOffsets},
    report::words,
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
    println!("{}", look());
    if missing == 0 {
        missing += try_kernel();
        println!("{}", kernel_memory());
        println!("{}", registers());
    }
    match missing {
        0 => {
            println!("\nmemtrace can trace processes on this machine.");
            Ok(ExitCode::SUCCESS)
        }
        _ => Err(Failure::machine("this machine is not ready for tracing")),
    }
}

/// Whether a heap can be looked at: looks at this process's own.
fn look() -> String {
    const LIMITS: Limits = Limits { time: Duration::from_secs(10), bytes: 1 << 30 };
    match looking::look(std::process::id(), LIMITS, None) {
        Ok(_) => "ok       look: a confined process reads the heap of another".to_owned(),
        Err(why) => format!(
            "limited  look: {}\n         hint: only `memtrace heap` needs it; the line `heap` says whose memory may be read",
            words::heap::not_read(&why)
        ),
    }
}

/// Whether the kernel tells registers of threads: reads those of this process's own.
fn registers() -> String {
    match registers::read(std::process::id()) {
        Ok(_) => "ok       registers: the kernel tells those of threads that do not run".to_owned(),
        Err(why) => format!(
            "limited  registers: {}\n         hint: blocks to which only a register points may be taken for lost",
            words::registers::not_read(&why)
        ),
    }
}

/// How probes are attached here, and what that costs.
fn links(links: AttachMethod) -> String {
    let what = match links {
        AttachMethod::Session => return format!("ok       probes: {links}"),
        AttachMethod::Multi => "nested calls pay for a return probe; Linux 6.13 or later has uprobe sessions",
        AttachMethod::PerfEvent => "letting go takes some 90 ms a probe; Linux 6.6 or later has uprobe_multi links",
    };
    format!("limited  probes: {links}\n         hint: {what}")
}

/// Whether it can be told what makes pages resident.
fn pages(kernel: &mut Bpf) -> String {
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
        capacities: Capacities { blocks: 1, sites: 1, stacks: 1, threads: 1, rows: 1, processes: 1, spare: None },
        scope: Scope::Host,
        types,
        page_frames: Some(1),
        interrupts: None,
    };
    let attached = KernelMemory::load(settings).and_then(|mut memory| memory.attach().map(|()| memory));
    let (not_seen, why) = match attached {
        Ok(memory) => (memory.not_seen().into_iter().map(NotSeen::OfKernel).collect::<Vec<_>>(), refusal(&memory)),
        Err(error) => {
            return limited(
                error.to_string(),
                "only --category kernel needs it; is a security module in the way? see `dmesg`",
            );
        }
    };
    match Kallsyms::read() {
        Ok(_) if !not_seen.is_empty() => limited(
            format!("not seen: {}", words::not_seen::all(&not_seen)),
            &format!("only --category kernel needs it, and tells all else exactly; {why}"),
        ),
        Ok(_) => "ok       kernel memory: the kernel accepts and attaches its programs, and lists its symbols".into(),
        Err(error) => limited(
            error.to_string(),
            "--category kernel names no functions, and leaves pages out; sysctl kernel.kptr_restrict=1",
        ),
    }
}

/// The reason why the kernel does not tell all.
fn refusal(memory: &KernelMemory) -> String {
    match memory.refusal() {
        Some(why) => format!("this kernel takes no programs on its functions: {why}"),
        None => "this kernel has no tracepoints for it".to_owned(),
    }
}

/// The proof: loads every program and attaches those that follow tasks, then lets go.
fn try_kernel() -> u32 {
    let settings = Settings {
        capacities: Capacities { blocks: 1, sites: 1, stacks: 1, threads: 1, rows: 1, processes: 1, spare: None },
        unwind: if has_bpf_loop() { Unwind::Rows } else { Unwind::FramePointers },
        debug_lines: false,
        task: TaskOffsets::default(),
        address_space: AddressSpaceLayout::default(),
        extras: Extras { pages: true, ..Extras::default() },
        hooks: true,
        links: None,
        // The most that programs can be asked for.
        sample_bytes: Some(MIN_MEAN_BYTES),
        is_adaptive: true,
        verified_at_once: 1,
    };
    let kernel = Bpf::load(settings)
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
