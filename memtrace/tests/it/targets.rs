//! Every kind of target: several, children, programs that begin later, cgroups, containers, the whole host.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::support::{
    self, EXACT_TIERS, FIGURES, FRAME_POINTERS, InTime, Target, Tracing, cgroup::Cgroup, compile, load, losses,
    scratch, sum_at,
};

/// The processes of a report that have this pid.
fn of_pid(report: &Value, pid: u64) -> Vec<&Value> {
    let processes = report["processes"].as_array().unwrap().iter();
    processes.filter(|process| process["pid"] == pid).collect()
}

/// Whether a process's book says what the process says of itself.
fn agrees(process: &Value, truth: &Value) -> bool {
    let inherited = truth["inherited"].as_u64().unwrap();
    losses(process).is_empty()
        && process["health"]["unmatched_frees"].as_u64().unwrap() >= inherited
        && FIGURES.iter().all(|figure| sum_at(process, "work", figure) == truth["work"][figure].as_u64().unwrap())
}

/// Asserts that each process has said the truth, and that the run as a whole has lost nothing.
fn assert_family(report: &Value, truths: &[Value]) {
    assert_family_agrees(report, truths);
    let lost = report["health"].as_object().unwrap().values().filter(|count| **count != 0).count();
    assert_eq!(lost, 0, "{}", report["health"]);
}

/// The first of these: where memtrace traces others' processes as well.
fn assert_family_agrees(report: &Value, truths: &[Value]) {
    for truth in truths {
        let books = of_pid(report, truth["pid"].as_u64().unwrap());
        assert!(books.iter().any(|book| agrees(book, truth)), "{truth}: {books:#?}");
    }
    for process in report["processes"].as_array().unwrap() {
        support::assert_sums(process);
    }
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A program of the tests under a name of its own.
fn named(folder: &Path, name: &str, source: &str) -> PathBuf {
    let program = folder.join(name);
    fs::copy(compile(source, &FRAME_POINTERS), &program).unwrap();
    program
}

#[test]
fn several_processes_have_a_book_each() {
    let program = compile("truth.c", &FRAME_POINTERS);
    let mut targets: Vec<Target> =
        (0..3).map(|_| Target::start(Command::new(&program).args(["50000", "wait"]))).collect();
    let mut arguments = vec!["--format".to_owned(), "json".to_owned()];
    for target in &mut targets {
        assert_eq!(target.line(), "ready");
        arguments.extend(["--pid".to_owned(), target.pid().to_string()]);
    }
    let tracing = Tracing::start(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    targets.iter_mut().for_each(|target| target.say("go"));
    let truths: Vec<Value> = targets.iter_mut().map(|target| serde_json::from_str(&target.line()).unwrap()).collect();
    let report = tracing.stop();
    for (target, truth) in targets.iter().zip(&truths) {
        let books = of_pid(&report, target.pid().into());
        assert_eq!(books.len(), 1);
        support::assert_truth_of(books[0], truth, true);
    }
}

#[test]
fn one_of_several_that_has_no_allocator_is_told_and_the_others_are_traced() {
    let plain = compile("static.c", &["-nostdlib", "-static", "-DNO_LIBC"]);
    let without = Target::start(&mut Command::new(plain));
    let mut with = Target::start(Command::new(compile("truth.c", &FRAME_POINTERS)).args(["20000", "wait"]));
    assert_eq!(with.line(), "ready");
    let (one, other) = (without.pid().to_string(), with.pid().to_string());
    let (status, output, messages) =
        support::run(&["--format", "json", "--duration", "1s", "--pid", &one, "--pid", &other]);
    assert_eq!(status, 0, "{messages}");
    assert!(messages.contains("allocator that memtrace knows"), "{messages}");
    let report: Value = serde_json::from_str(&output).unwrap();
    assert_eq!(of_pid(&report, with.pid().into()).len(), 1);
}

#[test]
fn one_of_several_that_ends_leaves_its_book_and_the_others_go_on() {
    let program = compile("truth.c", &FRAME_POINTERS);
    let start = || {
        let mut target = Target::start(Command::new(&program).args(["20000", "wait"]));
        assert_eq!(target.line(), "ready");
        target
    };
    let (mut first, mut second) = (start(), start());
    let (one, other) = (first.pid().to_string(), second.pid().to_string());
    let tracing = Tracing::start(&["--format", "json", "--pid", &one, "--pid", &other]);
    first.say("go");
    let truth_of_first: Value = serde_json::from_str(&first.line()).unwrap();
    first.kill();
    thread::sleep(Duration::from_millis(500));
    second.say("go");
    let truth_of_second: Value = serde_json::from_str(&second.line()).unwrap();
    let report = tracing.stop();
    for (target, truth, ended) in [(&first, &truth_of_first, true), (&second, &truth_of_second, false)] {
        let books = of_pid(&report, target.pid().into());
        assert_eq!(books[0]["ended"], ended);
        support::assert_truth_of(books[0], truth, true);
    }
}

#[test]
fn children_are_exact_from_their_first_instruction_whether_they_fork_or_call_exec() {
    let program = compile("family.c", &FRAME_POINTERS);
    let mut parent = Target::start(Command::new(program).args(["12", "wait"]));
    assert_eq!(parent.line(), "ready");
    let tracing = Tracing::start(&["--pid", &parent.pid().to_string(), "--follow", "--format", "json"]);
    parent.say("go");
    // Four of each kind, of which one kind has a child of its own, and the parent.
    let truths: Vec<Value> = (0..17).map(|_| serde_json::from_str(&parent.line()).unwrap()).collect();
    let report = tracing.stop();
    assert_family(&report, &truths);
    for role in ["child", "grandchild", "program", "parent"] {
        assert!(truths.iter().any(|truth| truth["role"] == role), "{role}");
    }
    assert_eq!(report["processes"].as_array().unwrap().len(), 17);
}

#[test]
fn a_command_and_its_children_are_exact() {
    let program = compile("family.c", &FRAME_POINTERS);
    let folder = scratch();
    let file = folder.path().join("report.json");
    let arguments =
        ["--follow", "--format", "json", "-o", file.to_str().unwrap(), "--", program.to_str().unwrap(), "9"];
    for tier in EXACT_TIERS {
        let (status, output, messages) = support::run(&[tier, &arguments].concat());
        assert_eq!(status, 0, "{messages}");
        let truths = json_lines(&output);
        assert_eq!(truths.len(), 13);
        assert_family(&support::report(&file), &truths);
    }
}

#[test]
fn without_follow_children_are_left_alone() {
    let program = compile("family.c", &FRAME_POINTERS);
    let mut parent = Target::start(Command::new(program).args(["6", "wait"]));
    assert_eq!(parent.line(), "ready");
    let tracing = Tracing::start(&["--pid", &parent.pid().to_string(), "--format", "json"]);
    parent.say("go");
    let truths: Vec<Value> = (0..9).map(|_| serde_json::from_str(&parent.line()).unwrap()).collect();
    let report = tracing.stop();
    assert_eq!(report["processes"].as_array().unwrap().len(), 1);
    assert_family(&report, &truths[8..]);
    assert_eq!(truths[8]["role"], "parent");
}

#[test]
fn a_pid_that_is_used_again_is_another_process() {
    let program = compile("family.c", &FRAME_POINTERS);
    // Others may take the pid in between.
    for _ in 0..20 {
        let mut parent = Target::start(Command::new(&program).args(["again", "wait"]));
        assert_eq!(parent.line(), "ready");
        let tracing = Tracing::start(&["--pid", &parent.pid().to_string(), "--follow", "--format", "json"]);
        parent.say("go");
        let truths: Vec<Value> = (0..3).map(|_| serde_json::from_str(&parent.line()).unwrap()).collect();
        let report = tracing.stop();
        assert_family(&report, &truths);
        if truths[2]["role"] == "parent" {
            assert_eq!(of_pid(&report, truths[0]["pid"].as_u64().unwrap()).len(), 2);
            return;
        }
    }
    panic!("the pid was taken by others each time");
}

#[test]
fn programs_of_a_name_are_targets_from_their_first_instruction() {
    let folder = scratch();
    let program = named(folder.path(), "memtrace-kin", "family.c");
    let other = named(folder.path(), "memtrace-other", "family.c");
    for tier in EXACT_TIERS {
        let tracing = Tracing::start(&[tier, &["--comm", "memtrace-kin", "--format", "json"]].concat());
        let output = Command::new(&program).arg("3").output_in_time();
        // Another name is not asked for.
        let others = Command::new(&other).arg("0").output_in_time();
        let others = json_lines(&String::from_utf8(others.stdout).unwrap());
        let report = tracing.stop();
        assert_family(&report, &json_lines(&String::from_utf8(output.stdout).unwrap()));
        assert!(of_pid(&report, others[0]["pid"].as_u64().unwrap()).is_empty());
    }
}

#[test]
fn programs_in_a_cgroup_are_targets() {
    let group = Cgroup::make();
    let program = compile("family.c", &FRAME_POINTERS);
    let mut tracing = Tracing::start(&["-v", "--cgroup", group.folder.to_str().unwrap(), "--format", "json"]);
    let script = format!("echo $$ > {}/cgroup.procs; exec {} 3", group.folder.display(), program.display());
    let inside = Command::new("/bin/sh").args(["-c", &script]).output_in_time();
    let outside = Command::new(&program).arg("0").output_in_time();
    // A process that is moved there while it runs is found soon.
    let mut moved = Target::start(Command::new(compile("truth.c", &FRAME_POINTERS)).args(["20000", "wait"]));
    assert_eq!(moved.line(), "ready");
    fs::write(group.folder.join("cgroup.procs"), moved.pid().to_string()).unwrap();
    tracing.wait_for(&format!("process {}: hooked ", moved.pid()));
    moved.say("go");
    let truth: Value = serde_json::from_str(&moved.line()).unwrap();
    let report = tracing.stop();
    assert_family(&report, &json_lines(&String::from_utf8(inside.stdout).unwrap()));
    let outside = json_lines(&String::from_utf8(outside.stdout).unwrap());
    assert!(of_pid(&report, outside[0]["pid"].as_u64().unwrap()).is_empty());
    support::assert_truth_of(of_pid(&report, moved.pid().into())[0], &truth, true);
    moved.kill();
}

#[test]
fn a_cgroup_that_is_not_there_is_refused() {
    let (status, _, messages) = support::run(&["--cgroup", "/no/such/group"]);
    assert_eq!(status, 1);
    assert!(messages.contains("cannot trace the cgroup /no/such/group") && messages.contains("hint: "), "{messages}");
}

/// Copies a program and the libraries that it needs below another root.
fn container(root: &Path, program: &Path) {
    let libraries = Command::new("ldd").arg(program).output_in_time();
    let text = String::from_utf8(libraries.stdout).unwrap();
    let paths = text.split_whitespace().filter(|word| word.starts_with('/'));
    for path in paths {
        let inside = root.join(path.trim_start_matches('/'));
        fs::create_dir_all(inside.parent().unwrap()).unwrap();
        fs::copy(path, inside).unwrap();
    }
    fs::copy(program, root.join("program")).unwrap();
}

/// A program that runs below another root, in mount and pid namespaces of its own, and its pid.
fn contained(root: &Path) -> (Target, String) {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child", "chroot"]).arg(root);
    let mut target = Target::start(command.args(["/program", "50000", "wait"]));
    assert_eq!(target.line(), "ready");
    let children = format!("/proc/{0}/task/{0}/children", target.pid());
    let pid = fs::read_to_string(children).unwrap().trim().to_owned();
    (target, pid)
}

#[test]
fn call_frame_information_is_compiled_once_for_all_processes_and_copies_of_a_file() {
    let root = scratch();
    let program = compile("truth.c", &FRAME_POINTERS);
    container(root.path(), &program);
    let (_inside, inner) = contained(root.path());
    let mut outside = Target::start(Command::new(&program).args(["1000", "wait"]));
    assert_eq!(outside.line(), "ready");
    let outer = outside.pid().to_string();
    let (status, _, messages) = support::run(&["-v", "--pid", &inner, "--pid", &outer, "--duration", "1s"]);
    assert_eq!(status, 0, "{messages}");
    let hooked = messages.lines().filter(|line| line.contains("hooked glibc")).count();
    assert_eq!(hooked, 2, "{messages}");
    for image in ["libc.so.6", "ld-linux"] {
        let compiled = messages.lines().filter(|line| line.contains("unwind rows of") && line.contains(image)).count();
        assert_eq!(compiled, 1, "{image}: {messages}");
    }
}

#[test]
fn a_container_with_libraries_of_its_own_is_exact_and_resolves_after_they_were_replaced() {
    let root = scratch();
    container(root.path(), &compile("truth.c", &FRAME_POINTERS));
    let (mut target, pid) = contained(root.path());
    let libc = root.path().join("lib/x86_64-linux-gnu/libc.so.6");
    let libc = if libc.exists() { libc } else { root.path().join("usr/lib/x86_64-linux-gnu/libc.so.6") };
    fs::remove_file(&libc).unwrap();
    fs::copy("/bin/true", &libc).unwrap();
    let tracing = Tracing::start(&["--pid", &pid, "--format", "json"]);
    target.say("go");
    let truth: Value = serde_json::from_str(&target.line()).unwrap();
    let report = tracing.stop();
    support::assert_truth(&report, &truth, true);
}

/// Resident memory of a process, in bytes.
fn rss(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn a_whole_host_with_two_thousand_short_processes_is_traced_in_bounded_memory() {
    let busy = [load::redis(), load::nginx(), load::postgres(), load::python()];
    let program = compile("truth.c", &FRAME_POINTERS);
    let mut truth_teller = Target::start(Command::new(program).args(["50000", "wait"]));
    assert_eq!(truth_teller.line(), "ready");
    let tracing = Tracing::start(&["--all", "--format", "json"]);
    truth_teller.say("go");
    let truth: Value = serde_json::from_str(&truth_teller.line()).unwrap();
    let loop_of = |count: u32| {
        let script = format!("i=0; while [ $i -lt {count} ]; do /bin/true; i=$((i+1)); done; echo done");
        let mut shell = Target::start(Command::new("/bin/sh").args(["-c", &script]).process_group(0));
        assert_eq!(shell.line(), "done");
    };
    let many = u32::try_from(support::scaled(2000)).unwrap();
    loop_of(many / 4);
    let early = rss(tracing.pid());
    loop_of(many / 4 * 3);
    let late = rss(tracing.pid());
    // Programs that tell the truth in the middle of it all.
    let family = Command::new(compile("family.c", &FRAME_POINTERS)).arg("6").stdin(Stdio::null()).output_in_time();
    let report = tracing.stop();
    println!(
        "memtrace's resident memory: {} KiB after a quarter of {many}, {} KiB after all",
        early / 1024,
        late / 1024
    );
    assert!(late < early + (24 << 20), "{early} {late}");
    support::assert_truth_of(of_pid(&report, truth_teller.pid().into())[0], &truth, true);
    assert_family_agrees(&report, &json_lines(&String::from_utf8(family.stdout).unwrap()));
    for busy in &busy {
        let book = of_pid(&report, busy.target.pid().into());
        assert_eq!(losses(book[0]), [], "{}", book[0]["comm"]);
        // postgres allocates in large pieces, and seldom.
        assert!(book[0]["alloc_objects"].as_u64().unwrap() > 0 || book[0]["comm"] == "postgres");
    }
    let listed = report["processes"].as_array().unwrap().iter().filter(|process| process["ended"] == true).count();
    let unlisted = report["unlisted"]["processes"].as_u64().unwrap();
    assert!(listed as u64 + unlisted >= u64::from(many), "{listed} listed, {unlisted} not");
}
