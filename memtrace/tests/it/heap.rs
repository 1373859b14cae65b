//! `memtrace heap` as users run it: the content of heaps that were filled before it came, against the truth of those who filled
//! them; and what it refuses, survives and leaves behind.

use std::{
    fs,
    num::NonZeroU32,
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        process::CommandExt,
    },
    process::Command,
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::support::{
    self, InTime, Signal, Target, Tracing, cgroup::Cgroup, compile, eventually, gate::assert_keeps_to, load, scratch,
    state, told,
};

/// Blocks of the C library itself (buffers of streams, tables of threads), at most.
const OF_LIBC: u64 = 64;

/// Runs `memtrace heap` to its end. Returns its status, stdout and stderr.
fn heap(arguments: &[&str]) -> (i32, String, String) {
    told(&support::memtrace().arg("heap").args(arguments).output_in_time())
}

/// The one report on a process, which keeps to the published schema.
fn looked_at(pid: u32) -> Value {
    let (status, output, messages) = heap(&["--pid", &pid.to_string(), "--format", "json"]);
    assert_eq!((status, messages.as_str()), (0, ""), "{output}");
    let report: Value = serde_json::from_str(&output).unwrap();
    assert_keeps_to("schema-heap.json", &report);
    report
}

fn number(of: &Value, field: &str) -> u64 {
    of[field].as_u64().unwrap_or_else(|| panic!("{field} of {of:#}"))
}

/// The allocator of a name of the first process. It is recognised.
fn allocator<'a>(report: &'a Value, name: &str) -> &'a Value {
    let allocators = report["processes"][0]["heap"]["allocators"].as_array().unwrap();
    let found = allocators.iter().find(|allocator| allocator["name"] == name);
    let found = found.unwrap_or_else(|| panic!("no {name}: {report:#}"));
    assert_eq!(found["recognised"], true, "{found:#}");
    found
}

/// How many blocks of a size there are.
fn of_size(allocator: &Value, bytes: u64) -> u64 {
    let classes = allocator["size_classes"].as_array().unwrap();
    classes.iter().find(|class| number(class, "size_bytes") == bytes).map_or(0, |class| number(class, "live_objects"))
}

/// Asserts that the parts of resident memory add up to it.
fn assert_resident(process: &Value) {
    let resident = process["heap"]["resident"].as_object().unwrap();
    let parts = resident.iter().filter(|(name, _)| *name != "swap_bytes").map(|(_, bytes)| bytes.as_u64().unwrap());
    let (sum, rss) = (parts.sum::<u64>(), number(process, "rss_bytes"));
    // The kernel tells RSS within some pages a CPU.
    assert!(sum.abs_diff(rss) < 2 << 20, "{sum} of {rss}: {resident:?}");
}

/// A program that knows its heap, with the truth that it has told.
fn known() -> (Target, Value) {
    let mut target = Target::start(&mut Command::new(compile("heap_known.c", &["-O2"])));
    let truth = serde_json::from_str(&target.line()).unwrap();
    (target, truth)
}

/// Asserts that an allocator holds what a program says it does, and of libc's own no more than that has.
fn assert_truth(allocator: &Value, truth: &Value) {
    let (objects, truly) = (number(allocator, "live_objects"), number(truth, "live_objects"));
    assert!((truly..=truly + OF_LIBC).contains(&objects), "{objects} objects, truly {truly}");
    let (bytes, truly) = (number(allocator, "live_bytes"), number(truth, "live_bytes"));
    assert!((truly..=truly + (256 << 10)).contains(&bytes), "{bytes} bytes, truly {truly}");
}

#[test]
fn a_heap_from_before_is_told_to_the_block() {
    let (mut target, truth) = known();
    let report = looked_at(target.pid());
    let glibc = allocator(&report, "glibc");
    assert_truth(glibc, &truth);
    for kind in ["small", "large"] {
        let [bytes, objects] = ["bytes", "objects"].map(|what| number(&truth, &format!("{kind}_{what}")));
        assert_eq!(of_size(glibc, bytes), objects, "of {bytes} bytes: {glibc:#}");
    }
    assert_resident(&report["processes"][0]);
    // A third of the small blocks was freed.
    assert!(number(glibc, "free_bytes") >= 10_000 * 104, "{glibc:#}");
    assert!(target.is_alive());
}

#[test]
fn a_process_that_is_stopped_is_looked_at_as_well() {
    let (target, truth) = known();
    target.signal(Signal::STOP);
    let report = looked_at(target.pid());
    target.signal(Signal::CONT);
    assert_truth(allocator(&report, "glibc"), &truth);
}

#[test]
fn growth_is_told_between_looks() {
    let (mut target, _) = known();
    let pid = target.pid().to_string();
    let mut memtrace = support::memtrace();
    let mut looking = Tracing::run(memtrace.args(["heap", "--pid", &pid, "--interval", "200ms", "--format", "json"]));
    let first = looking.report();
    assert_eq!(allocator(&first, "glibc")["growth_bytes_per_s"], Value::Null);
    target.say("more");
    let truth: Value = serde_json::from_str(&target.line()).unwrap();
    let last = looking.stop_at_last();
    assert_keeps_to("schema-heap.json", &last);
    let glibc = allocator(&last, "glibc");
    assert_truth(glibc, &truth);
    let growth = |bytes: u64| {
        let classes = glibc["size_classes"].as_array().unwrap();
        let class = classes.iter().find(|class| number(class, "size_bytes") == bytes).unwrap();
        class["growth_objects_per_s"].as_f64().unwrap()
    };
    assert!(growth(number(&truth, "more_bytes")) > 0.0);
    assert!(growth(104).abs() < f64::EPSILON, "of these, no block came or went");
    assert!(glibc["growth_bytes_per_s"].as_f64().unwrap() > 0.0);
    assert!(number(&last["processes"][0]["heap"], "looks") >= 2);
}

#[test]
fn a_duration_makes_two_looks_and_one_report() {
    let (target, _) = known();
    let pid = target.pid().to_string();
    let (status, output, messages) = heap(&["--pid", &pid, "--duration", "300ms", "--format", "json"]);
    assert_eq!((status, output.lines().count()), (0, 1), "{messages}");
    let report: Value = serde_json::from_str(&output).unwrap();
    assert!(number(&report["processes"][0]["heap"], "looks") >= 2);
    assert!(number(&report, "duration_ns") >= 300_000_000);
}

#[test]
fn the_table_says_where_memory_is_and_what_fills_it() {
    let (target, truth) = known();
    let pid = target.pid().to_string();
    let (status, output, messages) = heap(&["--pid", &pid, "--top", "2"]);
    assert_eq!(status, 0, "{messages}");
    // The mapped blocks are most of it.
    let large = number(&truth, "large_bytes").to_string();
    let large = format!("20 blocks of {},{},{} bytes", &large[..1], &large[1..4], &large[4..]);
    let says = ["summary    ", &large, "live blocks of allocators", "allocator  glibc", "more sizes holding"];
    for text in says {
        assert!(output.contains(text), "{text:?}: {output}");
    }
    assert!(output.lines().count() < 40, "one screen: {output}");
}

#[test]
fn folded_lines_weigh_live_bytes_by_size() {
    let (target, truth) = known();
    let (status, output, messages) = heap(&["--pid", &target.pid().to_string(), "--format", "folded"]);
    assert_eq!(status, 0, "{messages}");
    let small = number(&truth, "small_bytes");
    let line = format!(";glibc;live;{small} B {}", small * number(&truth, "small_objects"));
    assert!(output.lines().any(|one| one.ends_with(&line)), "{line}: {output}");
}

#[test]
fn a_file_is_whole_and_its_owners_alone() {
    let (target, _) = known();
    let folder = scratch();
    let file = folder.path().join("heap.json");
    let pid = target.pid().to_string();
    let (status, output, messages) = heap(&["--pid", &pid, "--format", "json", "-o", file.to_str().unwrap()]);
    assert_eq!((status, output.as_str()), (0, ""), "{messages}");
    assert_keeps_to("schema-heap.json", &support::report(&file));
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
}

#[test]
fn several_processes_are_looked_at_one_after_the_other() {
    let group = Cgroup::make();
    let (mut one, truth) = known();
    let (mut other, _) = known();
    let pids = [&one, &other].map(|target| target.pid().to_string());
    for pid in &pids {
        fs::write(group.folder.join("cgroup.procs"), pid).unwrap();
    }
    let comm = fs::read_to_string(format!("/proc/{}/comm", pids[0])).unwrap();
    let folder = group.folder.to_str().unwrap();
    let named: [&[&str]; 3] =
        [&["--pid", &pids[0], "--pid", &pids[1]], &["--comm", comm.trim()], &["--cgroup", folder]];
    for arguments in named {
        let (status, output, messages) = heap(&[arguments, &["--format", "json"]].concat());
        assert_eq!(status, 0, "{messages}");
        let report: Value = serde_json::from_str(&output).unwrap();
        let processes = report["processes"].as_array().unwrap();
        let ours = processes.iter().filter(|process| pids.contains(&process["pid"].to_string()));
        let ours: Vec<_> = ours.cloned().collect();
        assert_eq!(ours.len(), 2, "{output}");
        for process in ours {
            let report = serde_json::json!({ "processes": [process] });
            assert_truth(allocator(&report, "glibc"), &truth);
        }
    }
    one.kill();
    other.kill();
}

#[test]
fn a_process_that_ends_meanwhile_is_told_and_no_failure() {
    let (mut target, truth) = known();
    let pid = target.pid().to_string();
    let mut memtrace = support::memtrace();
    let mut looking = Tracing::run(memtrace.args(["heap", "--pid", &pid, "--interval", "100ms", "--format", "json"]));
    assert_eq!(looking.report()["processes"][0]["ended"], false);
    target.kill();
    let (status, output, messages) = looking.finish();
    assert_eq!(status, 0, "{messages}");
    let last: Value = serde_json::from_str(output.lines().last().unwrap()).unwrap();
    let process = &last["processes"][0];
    assert_eq!((&process["ended"], &process["not_read"]["cause"]), (&true.into(), &"gone".into()));
    assert_truth(allocator(&last, "glibc"), &truth);
}

#[test]
fn a_process_that_runs_another_program_begins_afresh() {
    let mut target = Target::start(Command::new("/bin/sh").args(["-c", "read line; exec /usr/bin/tail -f /dev/null"]));
    let pid = target.pid().to_string();
    let mut memtrace = support::memtrace();
    let mut looking = Tracing::run(memtrace.args(["heap", "--pid", &pid, "--interval", "50ms", "--format", "json"]));
    let comm = |report: &Value| report["processes"][0]["comm"].clone();
    let growth = |report: &Value| report["processes"][0]["heap"]["allocators"][0]["growth_bytes_per_s"].clone();
    // Looked at twice, so that there is something to grow from.
    while growth(&looking.report()) == Value::Null {}
    target.say("go");
    let mut report = looking.report();
    for _ in 0..1000 {
        if comm(&report) == "tail" {
            break;
        }
        assert_eq!(comm(&report), "sh");
        report = looking.report();
    }
    // It was never seen before, so nobody knows what it has grown by.
    assert_eq!((comm(&report), growth(&report)), ("tail".into(), Value::Null), "{report:#}");
    looking.signal(Signal::INT);
    let (status, _, messages) = looking.finish();
    assert_eq!(status, 0, "{messages}");
    assert!(messages.contains("now runs /usr/bin/tail (was "), "{messages}");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let (target, _) = known();
    let program = std::env::var("MEMTRACE").unwrap();
    let script = format!("{program} heap --pid {} --interval 50ms --format json | head -n 1", target.pid());
    let output = Command::new("/bin/bash").args(["-o", "pipefail", "-c", &script]).output_in_time();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().count(), 1);
}

/// memtrace in the middle of a look, whose process is held. Returns it with the pid of that process.
fn held_look(target: &Target, more: &[&str]) -> (Tracing, u32) {
    let pid = target.pid().to_string();
    let looking = Tracing::run(support::memtrace().args(["heap", "--pid", &pid, "--interval", "1ms"]).args(more));
    let own = looking.pid();
    let mut held = None;
    eventually("a look is under way", || {
        let helpers = fs::read_to_string(format!("/proc/{own}/task/{own}/children")).unwrap_or_default();
        let helper: Option<u32> = helpers.split_whitespace().next().and_then(|pid| pid.parse().ok());
        let Some(helper) = helper else { return false };
        let process = i32::try_from(helper).ok().and_then(rustix::process::Pid::from_raw).unwrap();
        // It may have ended meanwhile, and does not stop while it waits for a CPU.
        if rustix::process::kill_process(process, Signal::STOP).is_err() {
            return false;
        }
        while state(helper).is_some_and(|state| matches!(state, 'R' | 'S' | 'D')) {
            thread::sleep(Duration::from_millis(1));
        }
        let is_stopped = state(helper) == Some('T');
        // Confined, it ends with memtrace. Before, it is hardly there.
        let status = fs::read_to_string(format!("/proc/{helper}/status")).unwrap_or_default();
        let is_held = is_stopped && status.contains("Seccomp:\t2");
        if !is_held {
            _ = rustix::process::kill_process(process, Signal::CONT);
        }
        held = is_held.then_some(helper);
        is_held
    });
    (looking, held.unwrap())
}

fn is_there(pid: u32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn a_look_that_hangs_ends_at_its_deadline() {
    let (mut target, _) = known();
    let (mut looking, helper) = held_look(&target, &["--timeout", "3s", "--format", "json"]);
    let mut cause = || looking.report()["processes"][0]["not_read"]["cause"].clone();
    while cause() != "late" {}
    assert!(!is_there(helper) && target.is_alive());
    // The next look is another process's.
    while cause() != Value::Null {}
}

#[test]
fn a_look_that_hangs_ends_at_ctrl_c() {
    let (mut target, _) = known();
    let (looking, helper) = held_look(&target, &["--format", "json"]);
    looking.signal(Signal::INT);
    let (status, output, messages) = looking.finish();
    assert_eq!(status, 0, "{messages}");
    let last: Value = serde_json::from_str(output.lines().last().unwrap()).unwrap();
    assert_eq!(last["processes"][0]["not_read"]["cause"], "stopped");
    assert!(!is_there(helper) && target.is_alive());
}

#[test]
fn a_reader_that_takes_nothing_does_not_keep_it_from_ending() {
    let (target, _) = known();
    let pid = target.pid().to_string();
    let (_reader, writer) = std::io::pipe().unwrap();
    let mut memtrace = support::memtrace();
    memtrace.args(["heap", "--pid", &pid, "--interval", "1ms", "--format", "json"]).stdout(writer);
    let looking = Tracing::run_to(&mut memtrace);
    let own = looking.pid();
    // Its pipe is full once it waits for nothing else: it has no child then, and stays so.
    let mut quiet = 0;
    eventually("the pipe is full", || {
        let helpers = fs::read_to_string(format!("/proc/{own}/task/{own}/children")).unwrap_or_default();
        quiet = if helpers.trim().is_empty() { quiet + 1 } else { 0 };
        quiet > 40
    });
    looking.signal(Signal::TERM);
    let (status, _, messages) = looking.finish();
    assert_eq!(status, 0, "{messages}");
}

#[test]
fn nothing_of_a_look_stays() {
    let (mut target, _) = known();
    let (looking, helper) = held_look(&target, &["--format", "json"]);
    looking.signal(Signal::KILL);
    _ = looking.finish();
    // The process that looks ends with memtrace, whatever ends that.
    eventually("the process that looks has ended", || !is_there(helper));
    assert!(target.is_alive());
}

#[test]
fn a_target_that_is_short_of_memory_is_looked_at_with_a_warning() {
    let group = Cgroup::limited(1 << 30);
    let (mut target, truth) = known();
    group.add(target.pid());
    // Memory stays with the group that it was charged to: only now does it grow in this one.
    for _ in 0..20 {
        target.say("more");
        target.line();
    }
    let of =
        |names: [&str; 2]| names.map(|name| group.folder.join(name)).into_iter().find(|file| file.exists()).unwrap();
    let number = |file: std::path::PathBuf| -> u64 { fs::read_to_string(file).unwrap().trim().parse().unwrap() };
    let used = number(of(["memory.current", "memory.usage_in_bytes"]));
    assert!(used > 90 << 20, "{used}");
    fs::write(of(["memory.max", "memory.limit_in_bytes"]), (used + used / 100).to_string()).unwrap();
    let pid = target.pid().to_string();
    let (status, output, messages) = heap(&["--pid", &pid, "--format", "json"]);
    assert_eq!(status, 0, "{messages}");
    assert!(messages.contains(&format!("warning: the cgroup of process {pid} is short of memory")), "{messages}");
    let report: Value = serde_json::from_str(&output).unwrap();
    assert!(
        self::number(allocator(&report, "glibc"), "live_objects") > self::number(&truth, "live_objects") + 100_000 - 1
    );
    assert_eq!(group.ooms(), 0);
    target.kill();
}

/// Asserts that the command refuses, and how.
fn refused(arguments: &[&str], status: i32, says: &[&str]) {
    let (actual, _, messages) = heap(arguments);
    assert_eq!(actual, status, "{arguments:?}: {messages}");
    for text in says.iter().chain(&["hint: "]) {
        assert!(messages.contains(text), "{arguments:?} should say {text:?}: {messages}");
    }
    assert!(messages.lines().count() < 12, "an error is short: {messages}");
}

#[test]
fn refusals_name_the_next_step() {
    refused(&["--all"], 2, &["not at all of a host", "memtrace watch --all"]);
    refused(&["--", "/bin/true"], 2, &["starts none", "memtrace --fail-on-leak -- CMD"]);
    refused(&[], 2, &["required"]);
    refused(&["--pid", "1", "--interval", "0s"], 2, &["longer than nothing"]);
    refused(&["--pid", "4194305"], 1, &["cannot look at process 4194305: no such process"]);
    refused(&["--comm", "no-such-process"], 1, &["cannot look at `no-such-process`"]);
    refused(&["--cgroup", "/no/such/group"], 1, &["/no/such/group", "/proc/PID/cgroup"]);
    refused(&["--pid", "2"], 1, &["cannot look at process 2: it has no memory of its own"]);
    let (target, _) = known();
    let pid = target.pid().to_string();
    refused(&["--pid", &pid, "-o", "/nonexistent/report"], 1, &["cannot write the report to /nonexistent/report"]);
    refused(&["--pid", &pid, "--timeout", "1ns"], 1, &["the look took more than", "--timeout"]);
}

#[test]
fn a_thread_is_no_process() {
    let mut busy = load::python();
    let pid = busy.target.pid();
    let threads = |pid: u32| -> Vec<NonZeroU32> {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        threads.map(|thread| thread.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect()
    };
    assert_eq!(threads(pid).len(), 1, "python has one");
    // This program has several.
    let own = std::process::id();
    let thread = threads(own).into_iter().find(|thread| thread.get() != own).expect("a thread of the test's");
    refused(&["--pid", &thread.to_string()], 1, &["it is a thread of process", "--pid"]);
    assert!(busy.target.is_alive());
}

#[test]
fn a_user_who_may_not_is_told_why() {
    let (target, _) = known();
    let folder = scratch();
    // A copy that the user can reach.
    let program = folder.path().join("memtrace");
    fs::copy(std::env::var_os("MEMTRACE").unwrap(), &program).unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let pid = target.pid().to_string();
    let (status, output, messages) =
        told(&Command::new(&program).args(["heap", "--pid", &pid]).uid(65534).gid(65534).output_in_time());
    assert_eq!(status, 1, "{messages}");
    assert!(messages.contains("its memory may not be read: Permission denied"), "{messages}");
    assert!(messages.contains("hint: needs CAP_SYS_PTRACE"), "{messages}");
    assert!(output.contains("was not looked at"), "{output}");
    let doctor = told(&Command::new(&program).arg("doctor").uid(65534).gid(65534).output_in_time()).1;
    assert!(doctor.contains("limited  heap: "), "{doctor}");
}

#[test]
fn one_capability_is_enough() {
    let (target, truth) = known();
    let mut command = Command::new("/usr/bin/setpriv");
    command.args(["--bounding-set", "-all,+sys_ptrace", "--inh-caps", "-all"]);
    command.arg(std::env::var_os("MEMTRACE").unwrap());
    command.args(["heap", "--pid", &target.pid().to_string(), "--format", "json"]);
    let (status, output, messages) = told(&command.output_in_time());
    assert_eq!(status, 0, "{messages}");
    assert_truth(allocator(&serde_json::from_str(&output).unwrap(), "glibc"), &truth);
}

#[test]
fn software_that_we_did_not_write_is_looked_at_under_load() {
    for (mut busy, name) in [(load::python(), "python3"), (load::nginx(), "nginx"), (load::perl(), "perl")] {
        let report = looked_at(busy.target.pid());
        let process = &report["processes"][0];
        assert!(process["exe"].as_str().unwrap().contains(name), "{report:#}");
        let glibc = allocator(&report, "glibc");
        assert!(number(glibc, "live_objects") > 100, "{glibc:#}");
        let classes = glibc["size_classes"].as_array().unwrap();
        let sum = |what: fn(&Value) -> u64| classes.iter().map(what).sum::<u64>();
        assert_eq!(sum(|class| number(class, "live_objects")), number(glibc, "live_objects"));
        let bytes = sum(|class| number(class, "live_objects") * number(class, "size_bytes"));
        assert_eq!(bytes, number(glibc, "live_bytes"));
        assert_resident(process);
        assert!(busy.target.is_alive());
    }
}

#[test]
fn an_allocator_that_is_not_recognised_is_no_failure() {
    // Nothing is from libc, and mimalloc is not read.
    let mut command = Command::new(compile("heap_known.c", &["-O2"]));
    let mut target = Target::start(command.env("LD_PRELOAD", "/usr/lib/x86_64-linux-gnu/libmimalloc.so.2.0"));
    target.line();
    let report = looked_at(target.pid());
    let process = &report["processes"][0];
    let allocators = process["heap"]["allocators"].as_array().unwrap();
    for allocator in allocators {
        assert_eq!(allocator["recognised"] == false, allocator["reason"].is_string(), "{allocator:#}");
        assert!(number(allocator, "live_objects") < OF_LIBC, "{allocator:#}");
    }
    assert_resident(process);
}
