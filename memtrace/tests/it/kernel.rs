//! The kernel's own memory: what a program makes the kernel hold is found by kernel stack, and goes again.

use std::{fs, process::Command, time::Instant};

use serde_json::Value;

use crate::support::{
    self, FRAME_POINTERS, Target, Tracing, assert_nothing_stays_in_the_kernel, cgroup::Cgroup, compile,
    gate::assert_schema, kernel_version, patience,
};

/// memtrace over the kernel's memory, with a report each half a second.
struct Watching(Tracing);

impl Watching {
    fn start(arguments: &[&str]) -> Self {
        let mut command = support::memtrace();
        command.args(["--category", "kernel", "--format", "json", "--interval", "500ms"]).args(arguments);
        let mut watching = Self(Tracing::run(&mut command));
        // It counts by now.
        watching.next();
        watching
    }

    fn next(&mut self) -> Value {
        self.0.report()
    }

    /// The first report from now on of which `condition` holds.
    fn until(&mut self, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let report = self.next();
            if condition(&report) {
                return report;
            }
            assert!(begun.elapsed() < patience(), "{what}: not within {:?}: {}", patience(), summary(&report));
        }
    }

    fn stop(self) -> Value {
        self.0.stop_at_last()
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

/// The parts of a report that matter where a test fails.
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

/// The figures of /proc/meminfo, in bytes.
fn meminfo_bytes(of: &str) -> u64 {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap();
    let line = meminfo.lines().find_map(|line| line.strip_prefix(of)?.strip_prefix(':')).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// The first process with the sites of one of the kernel's allocators only.
fn of_source(report: &Value, source: &str) -> Value {
    let mut process = report["processes"][0].clone();
    process["sites"].as_array_mut().unwrap().retain(|site| site["source"] == source);
    process
}

fn within(actual: u64, expected: u64, percent: u64) -> bool {
    actual.abs_diff(expected) * 100 <= expected * percent
}

/// A cache of the kernel, the function that takes objects of it, and the bytes by which it has grown meanwhile.
type Grown = (&'static str, &'static str, u64);

/// Has `count` pipes, sockets and eventfds made. Returns the report in which they are, and what the kernel's own account
/// says of them.
fn make_pipes_sockets_and_eventfds(holder: &mut Target, watching: &mut Watching, count: u64) -> (Value, [Grown; 3]) {
    let slabs = || ["kmalloc-", "sock_inode_cache", "filp"].map(slab_bytes);
    let before = slabs();
    tell(holder, &format!("pipes {count}"));
    let of_pipes = slabs();
    tell(holder, &format!("sockets {count}"));
    tell(holder, &format!("eventfds {count}"));
    let after = slabs();
    // A pipe has a description and a ring of buffers. Other programs of the host have pipes as well.
    let report = watching.until("pipes, sockets and eventfds are live", |report| {
        within(live(report, "alloc_pipe_info"), 2 * count, 3)
            && within(live(report, "sock_alloc_inode"), count, 3)
            && within(live(report, "do_eventfd"), count, 3)
    });
    let file = if live(&report, "alloc_empty_file") > 0 { "alloc_empty_file" } else { "__alloc_file" };
    // Caches of the same size may be one, under the name of the first.
    let of_files = if after[2] > 0 {
        after[2].saturating_sub(before[2])
    } else {
        support::sum_at(support::process(&report), file, "live_bytes")
    };
    let grown = [
        ("kmalloc-", "alloc_pipe_info", of_pipes[0].saturating_sub(before[0])),
        ("sock_inode_cache", "sock_alloc_inode", after[1].saturating_sub(before[1])),
        ("filp", file, of_files),
    ];
    (report, grown)
}

/// Has them closed, and waits for the frees.
fn close_pipes_sockets_and_eventfds(holder: &mut Target, watching: &mut Watching, count: u64) {
    tell(holder, "close");
    watching.until("they are gone", |report| {
        ["alloc_pipe_info", "sock_alloc_inode", "do_eventfd"].iter().all(|function| live(report, function) < count / 10)
    });
}

#[test]
fn pipes_sockets_and_eventfds_are_found_by_kernel_stack_and_go_again() {
    const COUNT: u64 = 2000;
    // Others of the host take and give back objects of the same caches meanwhile.
    const ROUNDS: usize = 4;
    let mut holder = holder();
    let mut watching = Watching::start(&[]);
    let mut differences = Vec::new();
    for round in 1..=ROUNDS {
        let (report, grown) = make_pipes_sockets_and_eventfds(&mut holder, &mut watching, COUNT);
        let process = support::process(&report);
        // Two files of each pipe, and one of each of the others.
        assert!(within(live(&report, grown[2].1), 4 * COUNT, 3), "{}", summary(&report));
        for (_, function, _) in grown {
            assert_eq!(
                sum_of(&of_source(&report, "slab"), function, "live_bytes"),
                sum_of(process, function, "live_bytes")
            );
        }
        assert_eq!((&process["pid"], &process["comm"]), (&Value::from(0), &Value::from("kernel")));
        support::assert_sums(process);
        assert_schema(&report);
        assert!(process["sites"].as_array().unwrap().iter().all(|site| site["frames"][0]["kind"] == "kernel"));
        let different = grown.map(|(cache, function, grown)| {
            let bytes = support::sum_at(process, function, "live_bytes");
            (!within(bytes, grown, 10)).then(|| format!("{cache}: {bytes} bytes are live, it has grown by {grown}"))
        });
        close_pipes_sockets_and_eventfds(&mut holder, &mut watching, COUNT);
        if different.iter().all(Option::is_none) {
            break;
        }
        differences.extend(different.into_iter().flatten());
        assert!(round < ROUNDS, "in none of {ROUNDS} rounds as the kernel says: {differences:?}");
    }
    let last = watching.stop();
    support::assert_sums(support::process(&last));
    for full in ["blocks_full", "sites_full", "stacks_full"] {
        assert_eq!(support::process(&last)["health"][full], 0, "{full}");
    }
    assert_nothing_stays_in_the_kernel();
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
fn stacks_of_threads_are_vmallocs_and_as_many_as_the_kernel_says() {
    const COUNT: u64 = 300;
    let mut holder = holder();
    let mut watching = Watching::start(&[]);
    if !tells_of(&watching.next(), "vmalloc") {
        assert!(kernel_version() < (6, 2), "since then the kernel tells of vmalloc");
        return;
    }
    let before = meminfo_bytes("KernelStack");
    tell(&mut holder, &format!("threads {COUNT}"));
    let grown = meminfo_bytes("KernelStack").saturating_sub(before);
    let stacks = |report: &Value| sum_of(&of_source(report, "vmalloc"), "kernel_clone", "live_bytes");
    // The kernel keeps some of threads that have ended for the next ones.
    let is_there = |report: &Value| within(stacks(report), grown, 5);
    let report = watching.until("the stacks are live", is_there);
    // Pages that vmalloc has taken one by one are not told beside its areas.
    let pages = of_source(&report, "pages");
    for caller in ["copy_process", "dup_task_struct", "alloc_thread_stack_node"] {
        assert_eq!(support::sum_at(&pages, caller, "live_bytes"), 0, "{caller}: {}", summary(&report));
    }
    assert!(grown >= COUNT * 4096, "{grown}");
    tell(&mut holder, "close");
    watching.until("the stacks are gone", |report| stacks(report) < grown / 10);
}

#[test]
fn memory_for_each_cpu_is_counted_for_all_of_them() {
    const COUNT: u64 = 20_000;
    const TIMES: u64 = 8;
    let cpus = fs::read_to_string("/sys/devices/system/cpu/possible").unwrap();
    let cpus = cpus.trim().rsplit(['-', ',']).next().unwrap().parse::<u64>().unwrap() + 1;
    let mut holder = holder();
    let pid = holder.pid().to_string();
    let mut makes_areas = || {
        let before = meminfo_bytes("Percpu");
        tell(&mut holder, &format!("areas {COUNT}"));
        meminfo_bytes("Percpu").saturating_sub(before)
    };
    // Room that earlier ones have left is used first.
    let is_used_up = (0..20).any(|_| within(makes_areas(), COUNT * 64 * cpus, 15));
    // Others of the host make such areas as well.
    let mut watching = Watching::start(&["--pid", &pid]);
    // The kernel takes pages for many at once: over several times that is as much as they need.
    let grown: u64 = (0..TIMES).map(|_| makes_areas()).sum();
    let areas = |report: &Value, figure| sum_of(&of_source(report, "percpu"), "array_map_alloc", figure);
    let report = watching.until("the areas are live", |report| areas(report, "live_objects") >= TIMES * COUNT);
    assert_eq!(areas(&report, "live_bytes"), TIMES * COUNT * 64 * cpus, "{}", summary(&report));
    // Some is made in advance.
    assert!(is_used_up && within(TIMES * COUNT * 64 * cpus, grown, 25), "/proc/meminfo has grown by {grown}");
    tell(&mut holder, "close");
    watching.until("they are gone", |report| areas(report, "live_objects") == 0);
}

#[test]
fn what_interrupts_allocate_has_stacks_that_begin_with_them_and_goes_again() {
    const COUNT: u64 = 500;
    let mut holder = holder();
    let mut watching = Watching::start(&[]);
    tell(&mut holder, &format!("signals {COUNT}"));
    let of_timer = |report: &Value, figure: &str| -> u64 {
        let sites = report["processes"][0]["sites"].as_array().unwrap().iter();
        let name = |frame: &Value| frame["function"].as_str().unwrap_or_default().to_owned();
        let is_wanted = |site: &&Value| {
            let frames = site["frames"].as_array().unwrap();
            frames.last().is_some_and(|frame| name(frame).starts_with("asm_sysvec_"))
                && frames.iter().any(|frame| name(frame) == "it_real_fn")
        };
        sites.filter(is_wanted).map(|site| site[figure].as_u64().unwrap()).sum()
    };
    // The kernel counts what it has passed over, and a timer that is late sends one signal for several.
    watching.until("the signals are counted", |report| of_timer(report, "alloc_objects") >= COUNT / 2);
    watching.until("the signals are gone", |report| of_timer(report, "live_objects") < COUNT / 100);
}

/// Whether one of the kernel's allocators is traced here.
fn tells_of(report: &Value, allocator: &str) -> bool {
    report["processes"][0]["allocators"].as_array().unwrap().iter().any(|known| known["name"] == allocator)
}

#[test]
fn large_pages_of_vmalloc_are_counted_once_and_given_back() {
    const HUGE: u64 = 2 << 20;
    let mut holder = holder();
    let mut watching = Watching::start(&[]);
    // Sixty-four bytes each (`newary` of ipc/sem.c), so two pages of two mebibytes, which vmalloc splits at once and frees one
    // small page after the other: where its areas are not told, each of these must be given back.
    tell(&mut holder, "semaphores 60000");
    let figure = |report: &Value, figure| sum_of(&report["processes"][0], "newary", figure);
    // The kernel had them before the program has answered: what these reports do not have does not come.
    let mut reports: Vec<Value> = (0..4).map(|_| watching.next()).collect();
    let report = reports.pop().unwrap();
    if figure(&report, "live_bytes") < 2 * HUGE {
        println!("skipped: this kernel takes no large pages for them: {}", summary(&report));
        return;
    }
    assert!(figure(&report, "live_objects") < 64, "blocks, not pages: {}", summary(&report));
    assert!(figure(&report, "live_bytes") < 2 * HUGE + HUGE / 2, "once: {}", summary(&report));
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
    assert_eq!(watching.0.finish().0, 0, "there is nothing left to trace");
}

#[test]
fn what_a_process_leaves_behind_is_still_its_own_while_others_are_traced() {
    let (mut first, mut other) = (holder(), holder());
    let pids = [&first, &other].map(Target::pid);
    let [one, two] = pids.map(|pid| pid.to_string());
    // Named twice, it is one.
    let mut watching = Watching::start(&["--pid", &one, "--pid", &two, "--pid", &one]);
    tell(&mut first, "pipes 700");
    first.kill();
    tell(&mut other, "pipes 300");
    let of = |report: &Value, pid: u32| {
        let processes = report["processes"].as_array().unwrap();
        assert_eq!(processes.len(), 2);
        processes.iter().find(|process| process["pid"] == pid).unwrap().clone()
    };
    let report = watching.until("the first has ended", |report| of(report, pids[0])["ended"] == true);
    let pipes = |report: &Value, pid, figure| support::sum_at(&of(report, pid), "alloc_pipe_info", figure);
    assert_eq!(pipes(&report, pids[0], "alloc_objects"), 1400);
    watching.until("only the other's pipes are live", |report| {
        pipes(report, pids[0], "live_objects") == 0 && pipes(report, pids[1], "live_objects") == 600
    });
}

#[test]
fn a_cgroup_selects_contexts_as_well() {
    let group = Cgroup::make();
    let (mut inside, mut outside) = (holder(), holder());
    fs::write(group.folder.join("cgroup.procs"), inside.pid().to_string()).unwrap();
    let mut watching = Watching::start(&["--cgroup", group.folder.to_str().unwrap()]);
    tell(&mut inside, "pipes 500");
    tell(&mut outside, "pipes 500");
    watching.until("its pipes are live", |report| live(report, "alloc_pipe_info") == 1000);
    inside.kill();
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
    // The memory that the kernel holds in all is none of their doing.
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
    assert!(report["health"]["kernel_missed"].is_u64(), "{}", report["health"]);
    assert!(!report["not_seen"].as_array().unwrap().is_empty(), "no kernel tells of all pages");
    if kernel_version() >= (6, 1) {
        assert_eq!(report["processes"][0]["allocators"][0]["name"], "slab");
    }
}
