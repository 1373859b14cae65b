//! Memory from before attach, in the reports of runs: by what it is, against the truth of those who hold it; and the cases in which it
//! is not told, with the reason.

use std::{fs, process::Command, thread, time::Duration};

use serde_json::Value;

use crate::support::{
    Signal, Target, Tracing,
    cgroup::Cgroup,
    compile, eventually,
    gate::assert_keeps_to,
    load::{self, RedisClient, redis_idle},
    process, run,
};

/// Bytes of the C library itself in a program with one thread: its cache, buffers.
const OF_LIBC_BYTES: u64 = 8 << 10;

fn number(of: &Value, field: &str) -> u64 {
    of[field].as_u64().unwrap_or_else(|| panic!("{field} of {of:#}"))
}

fn signed(of: &Value, field: &str) -> i64 {
    of[field].as_i64().unwrap_or_else(|| panic!("{field} of {of:#}"))
}

/// A program that knows its heap, with the truth that it has told.
fn known() -> (Target, Value) {
    let mut target = Target::start(&mut Command::new(compile("heap_known.c", &["-O2"])));
    let truth = serde_json::from_str(&target.line()).unwrap();
    (target, truth)
}

/// memtrace over a process, in the exact tier, with these options besides.
fn traced(target: &Target, options: &[&str]) -> Tracing {
    let pid = target.pid().to_string();
    Tracing::start(&[&["--format", "json", "--pid", &pid], options].concat())
}

/// The same, once it has looked at the heap.
fn looked_at(target: &Target) -> Tracing {
    let mut tracing = traced(target, &["--interval", "200ms"]);
    while process(&tracing.report())["heap"].is_null() {}
    tracing
}

/// The last report, which keeps to the published schema.
fn stopped(tracing: Tracing) -> Value {
    let report = tracing.stop_at_last();
    assert_keeps_to("schema.json", &report);
    report
}

/// The parts of what was resident at attach, which add up to it.
fn parts(process: &Value) -> &Value {
    let ledger = &process["ledger"];
    let before = &ledger["before_attach"];
    assert!(before.is_object(), "{ledger:#} {:#}", process["heap_not_read"]);
    let parts = before.as_object().unwrap().values().map(|bytes| bytes.as_u64().unwrap());
    assert_eq!(parts.sum::<u64>(), number(ledger, "rss_at_attach_bytes"), "{ledger:#}");
    before
}

/// The resident bytes of the program's live blocks: usable ones with their headers, of which mapped blocks have two words.
fn resident_bytes(truth: &Value) -> u64 {
    let large = number(truth, "large_objects");
    number(truth, "live_bytes") + 8 * number(truth, "live_objects") + 8 * large
}

#[test]
fn memory_from_before_is_told_to_the_byte_and_what_comes_since_is_told_apart() {
    let (mut target, truth) = known();
    let tracing = looked_at(&target);
    target.say("more");
    let since: Value = serde_json::from_str(&target.line()).unwrap();
    let report = stopped(tracing);
    let process = process(&report);
    let before = parts(process);
    let (told, truly) = (number(before, "live_bytes"), resident_bytes(&truth));
    assert!((truly..=truly + OF_LIBC_BYTES).contains(&told), "{told}, truly {truly}");
    // A third of the small blocks was freed.
    assert!(number(before, "free_bytes") + number(before, "returnable_bytes") >= 10_000 * 104, "{before:#}");
    // The last look has all of it: from before and since.
    let glibc = &process["heap"]["allocators"][0];
    assert_eq!((&glibc["name"], &process["heap_not_read"]), (&"glibc".into(), &Value::Null));
    let objects = number(glibc, "live_objects") - number(&since, "live_objects");
    assert!(objects < 64, "{objects} blocks too many");
    let bytes = number(glibc, "live_bytes") - number(&since, "live_bytes");
    assert!(bytes < OF_LIBC_BYTES, "{bytes} bytes too many");
    assert!(number(&process["heap"], "looks") >= 2 && glibc["growth_bytes_per_s"].as_f64().unwrap() > 0.0);
    let ledger = &process["ledger"];
    assert_eq!(number(ledger, "live_heap_bytes"), 5_000_000);
    // Eight bytes of header each, and as requested none to round up.
    let around = signed(&ledger["explained"], "blocks_bytes");
    assert!((around - 5000 * 8).abs() < 16 << 10, "{ledger:#}");
    assert!(signed(ledger, "unexplained_bytes").abs() < 512 << 10, "{ledger:#}");
    assert!(target.is_alive());
}

#[test]
fn growth_that_is_free_in_an_allocator_is_explained() {
    let (mut target, _) = known();
    let tracing = looked_at(&target);
    target.say("burst");
    target.line();
    let report = stopped(tracing);
    let process = process(&report);
    parts(process);
    let ledger = &process["ledger"];
    let grown = signed(ledger, "rss_bytes") - signed(ledger, "rss_at_attach_bytes");
    let free = signed(&ledger["explained"], "free_bytes");
    // Some of it lies where memory was free before.
    assert!(grown > 6 << 20 && (grown - free).abs() < 1 << 20, "{ledger:#}");
    assert!(signed(ledger, "unexplained_bytes").abs() < 512 << 10, "{ledger:#}");
    assert_eq!(process["unexplained_rss_bytes"], Value::Null);
}

#[test]
fn the_table_tells_the_parts_in_a_line() {
    let (target, _) = known();
    let pid = target.pid().to_string();
    // A report whose time is known does not wait for a look for long.
    eventually("a look is over in time", || {
        let (status, output, messages) = run(&["--pid", &pid, "--duration", "2s"]);
        assert_eq!(status, 0, "{messages}");
        let line = output.lines().find(|line| line.starts_with("before     ")).unwrap_or_else(|| panic!("{output}"));
        [" in live blocks, ", " free in allocators (", " of that returnable), ", " other"]
            .iter()
            .all(|text| line.contains(text))
    });
}

/// The cause for which a heap was not looked at, where no part from before is told.
fn cause(process: &Value) -> &str {
    assert_eq!((&process["heap"], &process["ledger"]["before_attach"]), (&Value::Null, &Value::Null), "{process:#}");
    assert!(process["heap_not_read"]["reason"].is_string());
    process["heap_not_read"]["cause"].as_str().unwrap()
}

#[test]
fn nobody_looks_where_that_is_not_wanted_or_nothing_is_from_before() {
    let (target, _) = known();
    assert_eq!(cause(process(&stopped(traced(&target, &["--no-seed"])))), "not-wanted");
    assert_eq!(cause(process(&stopped(traced(&target, &["--tier", "growth"])))), "no-blocks");
    let (status, output, messages) = run(&["--format", "json", "--", "/bin/true"]);
    assert_eq!(status, 0, "{messages}");
    let report: Value = serde_json::from_str(&output).unwrap();
    assert_keeps_to("schema.json", &report);
    assert_eq!(cause(process(&report)), "begun-traced");
}

#[test]
fn a_process_that_is_short_of_memory_is_not_looked_at() {
    let group = Cgroup::limited(1 << 30);
    let (mut target, _) = known();
    group.add(target.pid());
    // Memory stays with the group that it was charged to: only now does it grow in this one.
    for _ in 0..20 {
        target.say("more");
        target.line();
    }
    let of =
        |names: [&str; 2]| names.map(|name| group.folder.join(name)).into_iter().find(|file| file.exists()).unwrap();
    let used: u64 =
        fs::read_to_string(of(["memory.current", "memory.usage_in_bytes"])).unwrap().trim().parse().unwrap();
    fs::write(of(["memory.max", "memory.limit_in_bytes"]), (used + used / 100).to_string()).unwrap();
    let report = stopped(traced(&target, &[]));
    assert_eq!(cause(process(&report)), "pressure");
    let (_, output, _) = run(&["--pid", &target.pid().to_string(), "--duration", "1s"]);
    assert!(output.contains("\nbefore     not looked at: its cgroup is short of memory: it has "), "{output}");
    assert_eq!(group.ooms(), 0);
    target.kill();
}

#[test]
fn many_processes_are_not_looked_at_and_few_are_one_after_the_other() {
    for (count, is_looked_at) in [(3, true), (9, false)] {
        let group = Cgroup::make();
        let mut targets: Vec<(Target, Value)> = (0..count).map(|_| known()).collect();
        targets.iter().for_each(|(target, _)| group.add(target.pid()));
        let path = group.folder.to_str().unwrap();
        let tracing = Tracing::start(&["--tier", "exact", "--format", "json", "--interval", "500ms", "--cgroup", path]);
        let report = stopped(tracing);
        let processes = report["processes"].as_array().unwrap();
        assert_eq!(processes.len(), count);
        for process in processes {
            if is_looked_at {
                let (told, truly) = (number(parts(process), "live_bytes"), resident_bytes(&targets[0].1));
                assert!((truly..=truly + OF_LIBC_BYTES).contains(&told), "{told}, truly {truly}");
            } else {
                assert_eq!(cause(process), "too-many");
            }
        }
        targets.iter_mut().for_each(|(target, _)| target.kill());
    }
}

/// The process that looks at a heap for this memtrace, if there is one.
fn looking(memtrace: u32) -> Option<u32> {
    let tasks = fs::read_dir(format!("/proc/{memtrace}/task")).ok()?;
    let children = tasks.flatten().filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let pids: Vec<u32> =
        children.flat_map(|pids| pids.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>()).collect();
    let name = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    pids.into_iter().find(|pid| name(pid).trim() == "memtrace-heap")
}

/// Holds a process that looks, while it does.
fn hold(memtrace: u32) -> u32 {
    let mut held = None;
    eventually("a look is held", || {
        let Some(pid) = looking(memtrace) else { return false };
        let process = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).unwrap();
        held = rustix::process::kill_process(process, Signal::STOP).is_ok().then_some(pid);
        held.is_some_and(|pid| fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") T ")))
    });
    held.unwrap()
}

#[test]
fn a_look_that_hangs_holds_up_neither_reports_nor_the_end() {
    // A heap that takes a moment to read.
    let (mut target, _) = known();
    for _ in 0..40 {
        target.say("more");
        target.line();
    }
    let pid = target.pid().to_string();
    let command = ["--tier", "exact", "--format", "json", "--interval", "200ms", "--pid", &pid];
    let mut tracing = Tracing::run(crate::support::memtrace().args(command));
    let helper = hold(tracing.pid());
    for _ in 0..5 {
        let report = tracing.report();
        assert_eq!(cause(process(&report)), "under-way");
    }
    tracing.signal(Signal::INT);
    let (status, output, messages) = tracing.finish();
    assert_eq!(status, 0, "{messages}");
    let last: Value = serde_json::from_str(output.lines().last().unwrap()).unwrap();
    assert_keeps_to("schema.json", &last);
    assert_eq!(cause(process(&last)), "too-slow");
    eventually("the process that looks has ended", || !std::path::Path::new(&format!("/proc/{helper}")).exists());
    assert!(target.is_alive());
}

#[test]
fn a_process_that_ends_is_told_with_the_heap_that_it_had() {
    let (mut target, truth) = known();
    let tracing = looked_at(&target);
    target.kill();
    let (status, output, messages) = tracing.finish();
    assert_eq!(status, 0, "{messages}");
    let last: Value = serde_json::from_str(output.lines().last().unwrap()).unwrap();
    assert_keeps_to("schema.json", &last);
    let process = process(&last);
    assert_eq!(process["ended"], true);
    let (told, truly) = (number(parts(process), "live_bytes"), resident_bytes(&truth));
    assert!((truly..=truly + OF_LIBC_BYTES).contains(&told), "{told}, truly {truly}");
}

#[test]
fn keys_that_redis_has_from_before_are_told() {
    let redis = redis_idle();
    let mut client = RedisClient::connect(redis.port);
    client.all((0..100_000).map(|key| format!("SET key:{key} {}", "v".repeat(10 + key % 90))));
    // Its clients' buffers are given back when they are idle, and its figures are taken ten times a second.
    thread::sleep(Duration::from_secs(3));
    let allocated = client.memory("allocator_allocated");
    let report = stopped(traced(&redis.target, &[]));
    let process = process(&report);
    let jemalloc = process["heap"]["allocators"].as_array().unwrap().iter().find(|one| one["name"] == "jemalloc");
    let jemalloc = jemalloc.unwrap_or_else(|| panic!("{process:#}"));
    let cached = jemalloc["free"].as_array().unwrap().iter().find(|free| free["kind"] == "thread-cache");
    let told = number(jemalloc, "live_bytes") + cached.map_or(0, |free| number(free, "bytes"));
    println!("redis: {told} bytes live and in caches, {allocated} by its own statistics");
    assert!(told.abs_diff(allocated) < 256 << 10, "{told} of {allocated}");
    // Resident: pages of blocks that were touched, with the records of the allocator.
    let live = number(parts(process), "live_bytes");
    assert!(live > allocated / 10 * 9 && live < allocated / 10 * 13, "{live} of {allocated}");
}

#[test]
fn software_under_load_is_told_in_parts() {
    for mut busy in [load::python(), load::nginx(), load::perl()] {
        let report = stopped(traced(&busy.target, &[]));
        let process = process(&report);
        let before = parts(process);
        assert!(number(before, "live_bytes") > 100 << 10, "{before:#}");
        assert_eq!(process["heap_not_read"], Value::Null);
        let ledger = &process["ledger"];
        // Nothing else of it changes by much.
        assert!(signed(ledger, "unexplained_bytes").abs() < 8 << 20, "{ledger:#}");
        assert!(busy.target.is_alive());
    }
}
