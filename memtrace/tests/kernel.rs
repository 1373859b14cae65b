//! The kernel's own memory: what a program makes the kernel hold is found by kernel stack, and goes again.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use support::{FRAME_POINTERS, PATIENCE, Target, compile, eventually, kernel_programs, kernel_version};

/// memtrace over the kernel's memory, with a report each half a second.
struct Watching {
    child: Child,
    reports: BufReader<ChildStdout>,
}

impl Watching {
    fn start(arguments: &[&str]) -> Self {
        let mut child = support::memtrace()
            .args(["--category", "kernel", "--format", "json", "--interval", "500ms"])
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut watching = Self { reports: BufReader::new(child.stdout.take().unwrap()), child };
        // It counts by now.
        watching.next();
        watching
    }

    fn next(&mut self) -> Value {
        let mut line = String::new();
        self.reports.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    /// The first report from now on of which `condition` holds.
    fn until(&mut self, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let report = self.next();
            if condition(&report) {
                return report;
            }
            assert!(begun.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}: {}", summary(&report));
        }
    }

    fn stop(mut self) -> Value {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
        let mut rest = String::new();
        self.reports.read_to_string(&mut rest).unwrap();
        assert!(self.child.wait().unwrap().success());
        serde_json::from_str(rest.lines().last().unwrap()).unwrap()
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// A program that holds what it is told to, and has been told nothing yet.
fn holder() -> Target {
    let mut holder = Target::start(&mut Command::new(compile("hold.c", &FRAME_POINTERS)));
    assert_eq!(holder.line(), "ready");
    holder
}

fn tell(holder: &mut Target, command: &str) {
    holder.say(command);
    assert_eq!(holder.line(), "ok");
}

/// The sum of a figure over the sites of a process with a function of this name in their stack.
fn sum_of(process: &Value, function: &str, figure: &str) -> u64 {
    let has = |site: &&Value| site["frames"].as_array().unwrap().iter().any(|frame| frame["function"] == function);
    process["sites"].as_array().unwrap().iter().filter(has).map(|site| site[figure].as_u64().unwrap()).sum()
}

/// Live objects of which this function has asked the allocator.
fn live(report: &Value, function: &str) -> u64 {
    support::sum_at(&report["processes"][0], function, "live_objects")
}

/// What matters of a report where a test fails.
fn summary(report: &Value) -> String {
    let process = &report["processes"][0];
    let sites = process["sites"].as_array().unwrap().iter().take(12).map(|site| {
        let names =
            site["frames"].as_array().unwrap().iter().take(6).map(|frame| frame["function"].as_str().unwrap_or("?"));
        format!("{} in {}: {}", site["live_bytes"], site["live_objects"], names.collect::<Vec<_>>().join(" < "))
    });
    format!("{}\n{}", process["health"], sites.collect::<Vec<_>>().join("\n"))
}

/// Bytes in objects of caches whose name begins so, by the kernel's own account.
fn slab_bytes(cache: &str) -> u64 {
    let slabinfo = fs::read_to_string("/proc/slabinfo").unwrap();
    let of_cache = slabinfo.lines().filter(|line| line.starts_with(cache)).map(|line| {
        let fields: Vec<u64> = line.split_whitespace().skip(1).take(3).map(|field| field.parse().unwrap()).collect();
        fields[0] * fields[2]
    });
    of_cache.sum()
}

fn within(actual: u64, expected: u64, percent: u64) -> bool {
    actual.abs_diff(expected) * 100 <= expected * percent
}

#[test]
fn pipes_sockets_and_eventfds_are_found_by_kernel_stack_and_go_again() {
    const COUNT: u64 = 2000;
    let mut holder = holder();
    let mut watching = Watching::start(&[]);
    let before = slab_bytes("kmalloc-");
    tell(&mut holder, &format!("pipes {COUNT}"));
    let grown = slab_bytes("kmalloc-").saturating_sub(before);
    tell(&mut holder, &format!("sockets {COUNT}"));
    tell(&mut holder, &format!("eventfds {COUNT}"));
    // A pipe has a description and a ring of buffers. Other programs of the host have pipes as well.
    let report = watching.until("pipes, sockets and eventfds are live", |report| {
        within(live(report, "alloc_pipe_info"), 2 * COUNT, 3)
            && within(live(report, "sock_alloc_inode"), COUNT, 3)
            && within(live(report, "do_eventfd"), COUNT, 3)
    });
    let process = support::process(&report);
    let bytes = support::sum_at(process, "alloc_pipe_info", "live_bytes");
    assert!(within(bytes, grown, 15), "{bytes} bytes are live, /proc/slabinfo has grown by {grown}");
    // Two files of each pipe, and one of each of the others.
    let files = live(&report, "alloc_empty_file") + live(&report, "__alloc_file");
    assert!(within(files, 4 * COUNT, 3), "{}", summary(&report));
    assert_eq!((&process["pid"], &process["comm"]), (&Value::from(0), &Value::from("kernel")));
    support::assert_sums(process);
    let schema: Value = serde_json::from_str(include_str!("../../docs/schema.json")).unwrap();
    assert!(jsonschema::is_valid(&schema, &report), "{}", summary(&report));
    assert!(process["sites"].as_array().unwrap().iter().all(|site| site["frames"][0]["kind"] == "kernel"));
    tell(&mut holder, "close");
    watching.until("they are gone", |report| {
        live(report, "alloc_pipe_info") < COUNT / 10
            && live(report, "sock_alloc_inode") < COUNT / 10
            && live(report, "do_eventfd") < COUNT / 10
    });
    let last = watching.stop();
    support::assert_sums(support::process(&last));
    for full in ["blocks_full", "sites_full", "stacks_full"] {
        assert_eq!(support::process(&last)["health"][full], 0, "{full}");
    }
    eventually("nothing stays in the kernel", || kernel_programs().is_empty());
}

#[test]
fn what_is_allocated_and_freed_leaves_nothing() {
    let mut holder = holder();
    let mut watching = Watching::start(&[]);
    tell(&mut holder, "churn 50000");
    let report = watching.until("all is counted", |report| {
        sum_of(&report["processes"][0], "alloc_pipe_info", "alloc_objects") >= 99_000
    });
    drop(report);
    watching.until("all is freed", |report| live(report, "alloc_pipe_info") < 1000);
}

#[test]
fn pages_of_a_packet_ring_are_counted_by_their_order() {
    let mut holder = holder();
    let mut watching = Watching::start(&[]);
    let (blocks, bytes) = (40, 1 << 16);
    tell(&mut holder, &format!("ring {blocks} {bytes}"));
    let is_there = |report: &Value| {
        let process = &report["processes"][0];
        let ring = |figure| sum_of(process, "packet_set_ring", figure);
        // Lists of the blocks are objects themselves.
        ring("live_bytes") >= blocks * bytes
            && ring("live_bytes") < blocks * bytes + 16_384
            && ring("live_objects") <= blocks + 8
    };
    watching.until("the ring is live", is_there);
    tell(&mut holder, "close");
    watching.until("the ring is gone", |report| live(report, "packet_set_ring") == 0);
}

#[test]
fn pages_that_are_split_after_they_were_allocated_are_given_back_page_by_page() {
    const HUGE: u64 = 2 << 20;
    let mut holder = holder();
    let mut watching = Watching::start(&[]);
    // Sixty-four bytes each (`newary` of ipc/sem.c), so two pages of two mebibytes, which vmalloc splits at once and frees one small page after the other.
    tell(&mut holder, "semaphores 60000");
    let figure = |report: &Value, figure| sum_of(&report["processes"][0], "newary", figure);
    let begun = Instant::now();
    let report = loop {
        let report = watching.next();
        if figure(&report, "live_bytes") >= 2 * HUGE {
            break report;
        }
        if begun.elapsed() > Duration::from_secs(10) {
            eprintln!("skipped: this kernel takes no large pages for them: {}", summary(&report));
            return;
        }
    };
    assert!(figure(&report, "live_objects") < 64, "blocks, not pages: {}", summary(&report));
    tell(&mut holder, "close");
    let last = watching.until("they are gone", |report| figure(report, "live_bytes") < HUGE / 16);
    assert!(figure(&last, "freed_bytes") >= 2 * HUGE - HUGE / 16);
}

#[test]
fn with_a_pid_only_what_is_allocated_in_its_context_counts() {
    let (mut named, mut other) = (holder(), holder());
    let pid = named.pid().to_string();
    let mut watching = Watching::start(&["--pid", &pid]);
    tell(&mut named, "pipes 1000");
    tell(&mut other, "pipes 2000");
    let report = watching.until("its pipes are live", |report| live(report, "alloc_pipe_info") >= 2000);
    let process = support::process(&report);
    assert_eq!((process["pid"].to_string(), &process["exe"].as_str().unwrap().contains("hold")), (pid, &true));
    assert_eq!(live(&report, "alloc_pipe_info"), 2000);
    named.kill();
    let last = watching.until("it has ended", |report| live(report, "alloc_pipe_info") < 100);
    drop(last);
    assert!(watching.child.wait().unwrap().success(), "there is nothing left to trace");
}

#[test]
fn a_name_selects_contexts_as_well() {
    let folder = support::scratch();
    let program = folder.path().join("memtrace-holds");
    fs::copy(compile("hold.c", &FRAME_POINTERS), &program).unwrap();
    let mut watching = Watching::start(&["--comm", "memtrace-holds"]);
    let mut named = Target::start(&mut Command::new(&program));
    assert_eq!(named.line(), "ready");
    let mut other = holder();
    tell(&mut named, "pipes 500");
    tell(&mut other, "pipes 500");
    let report = watching.until("its pipes are live", |report| live(report, "alloc_pipe_info") == 1000);
    let process = support::process(&report);
    assert_eq!(process["comm"], "kernel (processes called memtrace-holds)");
    // What the kernel holds in all is none of their doing.
    assert_eq!((&process["rss_bytes"], &process["kernel_memory"]), (&Value::Null, &Value::Null));
}

#[test]
fn the_tables_sizes_are_limits_that_are_told() {
    let mut holder = holder();
    let mut watching = Watching::start(&["--max-blocks", "1000"]);
    tell(&mut holder, "pipes 2000");
    let report = watching
        .until("the table is full", |report| report["processes"][0]["health"]["blocks_full"].as_u64().unwrap() > 0);
    support::assert_sums(support::process(&report));
    assert!(live(&report, "alloc_pipe_info") < 4000, "what has no room is not added");
}

#[test]
fn frames_of_the_tracer_and_of_the_allocators_are_left_out() {
    let mut holder = holder();
    let mut watching = Watching::start(&[]);
    tell(&mut holder, "pipes 1000");
    tell(&mut holder, "sockets 1000");
    let report = watching.until("something is live", |report| live(report, "alloc_pipe_info") >= 2000);
    let sites = report["processes"][0]["sites"].as_array().unwrap();
    let first: Vec<&str> = sites.iter().filter_map(|site| site["frames"][0]["function"].as_str()).collect();
    for own in [
        "bpf_trace_run",
        "__bpf_trace",
        "__traceiter",
        "__kmalloc",
        "kmem_cache_alloc",
        "allocate_slab",
        "__alloc_pages",
    ] {
        assert!(first.iter().all(|name| !name.starts_with(own)), "{own}: {first:?}");
    }
    let text = report.to_string();
    assert!(text.contains("\"kernel_missed\":"), "{text}");
    if kernel_version() >= (6, 1) {
        assert_eq!(report["processes"][0]["allocators"][0]["name"], "slab");
    }
}
