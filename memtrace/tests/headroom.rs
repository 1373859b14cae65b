//! Room for memtrace beside its target: in a cgroup whose memory is the target's first.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod support;

use std::{
    fs,
    io::Read,
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use serde_json::Value;
use support::{FRAME_POINTERS, Target, compile, memtrace, process};

const MIB: u64 = 1 << 20;

/// A cgroup whose memory is limited, of whichever version has the controller here. It goes with the test.
struct MemoryGroup {
    folder: PathBuf,
    is_v2: bool,
    /// Groups below it, which go first.
    below: Vec<PathBuf>,
}

impl MemoryGroup {
    fn make(limit_bytes: u64) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("memtrace-room-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let (root, is_v2) = controller();
        let folder = root.join(name);
        fs::create_dir(&folder).unwrap();
        let group = Self { folder, is_v2, below: Vec::new() };
        let limit = if is_v2 { "memory.max" } else { "memory.limit_in_bytes" };
        fs::write(group.folder.join(limit), limit_bytes.to_string()).unwrap();
        group
    }

    /// A group below it without any limit of its own.
    fn nested(&mut self) -> PathBuf {
        let folder = self.folder.join("nested");
        fs::create_dir(&folder).unwrap();
        self.below.push(folder.clone());
        folder
    }

    /// How often the kernel has ended a process of the group for want of memory.
    fn ooms(&self) -> u64 {
        let file = if self.is_v2 { "memory.events" } else { "memory.oom_control" };
        let text = fs::read_to_string(self.folder.join(file)).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill ")).unwrap();
        line.parse().unwrap()
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // All processes in there have ended; the kernel takes its time to say so.
        for folder in self.below.iter().rev().chain([&self.folder]) {
            support::eventually("a group is empty", || fs::remove_dir(folder).is_ok() || !folder.exists());
        }
    }
}

/// Where groups with a memory controller are made, and whether that is cgroup v2.
fn controller() -> (PathBuf, bool) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mount_of = |kind: &str, option: &str| {
        mounts.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            let is_it = fields[2] == kind && (option.is_empty() || fields[3].split(',').any(|one| one == option));
            is_it.then(|| PathBuf::from(fields[1]))
        })
    };
    if let Some(root) = mount_of("cgroup", "memory") {
        return (root, false);
    }
    let root = mount_of("cgroup2", "").unwrap_or_else(|| {
        let folder = PathBuf::from("/run/memtrace-cgroup2");
        fs::create_dir_all(&folder).unwrap();
        assert!(Command::new("mount").args(["-t", "cgroup2", "none"]).arg(&folder).status().unwrap().success());
        folder
    });
    fs::write(root.join("cgroup.subtree_control"), "+memory").unwrap();
    (root, true)
}

/// Lets a command begin in a group.
fn inside<'a>(command: &'a mut Command, group: &Path) -> &'a mut Command {
    let procs = fs::OpenOptions::new().write(true).open(group.join("cgroup.procs")).unwrap();
    let join = move || std::io::Write::write_all(&mut &procs, b"0");
    // SAFETY: a single write to a file that is open already.
    unsafe { command.pre_exec(join) }
}

/// A process in a group that holds so many MiB, and takes so many more every other moment.
fn breathing(group: &Path, kept: u64, breath: u64) -> Target {
    let program = compile("breathe.c", &FRAME_POINTERS);
    let mut command = Command::new(program);
    let mut target = Target::start(inside(command.args([kept.to_string(), breath.to_string(), "100".into()]), group));
    assert_eq!(target.line(), "breathed");
    target
}

/// Runs memtrace in a group. Returns its status, stdout and stderr.
fn traced(group: &Path, arguments: &[&str]) -> (i32, String, String) {
    let mut command = memtrace();
    let output = inside(command.args(arguments), group).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

/// The target goes on as if nobody had looked.
fn assert_breathing(target: &mut Target) {
    target.say("how often?");
    let breaths: u32 = target.line().parse().unwrap();
    assert!(breaths > 1);
}

/// The same, and that nobody in its group was ended.
fn assert_unharmed(target: &mut Target, group: &MemoryGroup) {
    assert_breathing(target);
    assert_eq!(group.ooms(), 0, "somebody was ended for want of memory");
}

#[test]
fn inside_its_targets_cgroup_memtrace_takes_no_more_than_the_target_can_spare() {
    let group = MemoryGroup::make(330 * MIB);
    let mut target = breathing(&group.folder, 150, 60);
    let pid = target.pid().to_string();
    let (status, output, messages) =
        traced(&group.folder, &["--pid", &pid, "--duration", "3s", "--format", "json", "--tier", "exact"]);
    assert_eq!(status, 0, "{messages}");
    assert!(messages.contains("memtrace: tables of ") && messages.contains(" of 330.0 MiB"), "{messages}");
    assert!(messages.contains("hint: there is room for "), "{messages}");
    let report: Value = serde_json::from_str(&output).unwrap();
    let process = process(&report);
    assert_eq!(support::losses(process), []);
    // The bytes that it has taken since are a whole number of breaths.
    assert_eq!(support::sum_at(process, "batch", "alloc_bytes") % (60 * MIB), 0, "{process:#}");
    assert_unharmed(&mut target, &group);
}

#[test]
fn what_memtrace_takes_in_its_targets_cgroup_is_not_told_as_the_targets() {
    let group = MemoryGroup::make(1000 * MIB);
    let mut target = breathing(&group.folder, 100, 1);
    let pid = target.pid().to_string();
    let (status, output, messages) = traced(&group.folder, &["--pid", &pid, "--duration", "1s", "--format", "json"]);
    assert_eq!(status, 0, "{messages}");
    assert!(!messages.contains("tables of"), "there was room for all of them: {messages}");
    let report: Value = serde_json::from_str(&output).unwrap();
    let memory = &process(&report)["memory"];
    assert_eq!(memory["limit_bytes"], 1000 * MIB);
    let used = memory["limit_used_bytes"].as_u64().unwrap();
    // The target, its files and the kernel's memory for it; memtrace's tables alone take 140 MiB.
    assert!((100 * MIB..130 * MIB).contains(&used), "{used}");
    assert_unharmed(&mut target, &group);
}

#[test]
fn where_there_is_no_room_memtrace_refuses_with_the_figures_and_says_what_to_do() {
    let group = MemoryGroup::make(240 * MIB);
    let mut target = breathing(&group.folder, 150, 60);
    let pid = target.pid().to_string();
    let (status, output, messages) = traced(&group.folder, &["--pid", &pid, "--duration", "1s"]);
    assert_eq!((status, output.as_str()), (1, ""), "{messages}");
    assert!(messages.contains("memtrace: cannot trace here: memtrace would take "), "{messages}");
    assert!(messages.contains(" of 240.0 MiB") && messages.contains("hint: run memtrace outside"), "{messages}");
    assert_unharmed(&mut target, &group);
}

#[test]
fn sizes_that_were_asked_for_are_kept_or_refused() {
    let group = MemoryGroup::make(330 * MIB);
    let mut target = breathing(&group.folder, 150, 60);
    let pid = target.pid().to_string();
    let (status, _, messages) = traced(&group.folder, &["--pid", &pid, "--duration", "1s", "--max-blocks", "1048576"]);
    assert_eq!(status, 1, "{messages}");
    assert!(messages.contains("hint: leave out --max-blocks and kin, or make them smaller"), "{messages}");
    let (status, _, messages) = traced(&group.folder, &["--pid", &pid, "--duration", "1s", "--max-blocks", "40000"]);
    assert_eq!(status, 0, "{messages}");
    assert!(messages.contains("hint: there is room for 40,000 blocks, "), "{messages}");
    assert_unharmed(&mut target, &group);
}

#[test]
fn a_limit_further_up_counts_as_well() {
    let mut group = MemoryGroup::make(330 * MIB);
    let nested = group.nested();
    let mut target = breathing(&nested, 150, 60);
    let pid = target.pid().to_string();
    let (status, _, messages) = traced(&nested, &["--pid", &pid, "--duration", "1s"]);
    assert_eq!(status, 0, "{messages}");
    assert!(messages.contains(" of 330.0 MiB"), "{messages}");
    assert_unharmed(&mut target, &group);
}

#[test]
fn a_limit_that_memtrace_cannot_see_makes_tables_smaller_and_ends_no_target() {
    let group = MemoryGroup::make(330 * MIB);
    let mut target = breathing(&group.folder, 150, 60);
    let pid = target.pid().to_string();
    // From inside of a namespace of its own, the group looks like the root, which has no limit.
    let mut command = Command::new("unshare");
    command.args(["--cgroup", "--"]).arg(memtrace().get_program());
    // Tables of 290 MiB.
    command.args(["--pid", &pid, "--duration", "1s", "--follow"]);
    let output = inside(&mut command, &group.folder).stdin(Stdio::null()).output().unwrap();
    let messages = String::from_utf8(output.stderr).unwrap();
    let has_smaller = messages.contains("memtrace: the kernel has no memory for tables of the usual size");
    // Where the target takes its next breath at the moment when the tables fill the group, the kernel ends memtrace.
    let was_ended = output.status.signal() == Some(9);
    assert!(has_smaller || was_ended, "{}: {messages}", output.status);
    assert_breathing(&mut target);
    assert!(was_ended || group.ooms() == 0, "somebody else was ended for want of memory");
}

/// A process that memtrace traces and that prints its own `oom_score_adj`.
fn adjustment_of_command() -> String {
    let (status, output, messages) = support::run(&["-o", "/dev/null", "--", "/bin/cat", "/proc/self/oom_score_adj"]);
    assert_eq!(status, 0, "{messages}");
    output.trim().to_owned()
}

#[test]
fn memtrace_is_the_first_to_go_and_what_it_starts_is_not() {
    let target = Target::start(&mut Command::new("cat"));
    let tracing = support::Tracing::start(&["--pid", &target.pid().to_string()]);
    let own = fs::read_to_string(format!("/proc/{}/oom_score_adj", tracing.pid())).unwrap();
    assert_eq!(own.trim(), "1000");
    tracing.signal("-INT");
    assert_eq!(tracing.finish().0, 0);
    let usual = fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    assert_eq!(adjustment_of_command(), usual.trim());
}

/// The first figure behind `before` in memtrace's log, in KiB.
fn kib_after(messages: &str, before: &str) -> u64 {
    let at = messages.find(before).unwrap_or_else(|| panic!("no {before:?} in {messages}")) + before.len();
    messages[at..].split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn what_tables_will_take_is_known_before_they_are_made() {
    let target = Target::start(&mut Command::new("cat"));
    let pid = target.pid().to_string();
    for options in [&[][..], &["--follow"], &["--category", "heap,mmap"], &["--tier", "growth"]] {
        let arguments = [&["-v", "--pid", &pid, "--duration", "100ms"], options].concat();
        let (status, _, messages) = support::run(&arguments);
        assert_eq!(status, 0, "{messages}");
        let (expected, made) = (kib_after(&messages, "tables of "), kib_after(&messages, "kernel memory: "));
        println!("{options:?}: {expected} KiB expected, {made} KiB made");
        // Before Linux 6.4 the kernel's own account leaves out what tables need beside their entries.
        let tolerance = if support::kernel_version() >= (6, 4) { 0.02 } else { 0.2 };
        assert!((expected as f64 / made as f64 - 1.0).abs() < tolerance, "{options:?}: {expected} {made}");
    }
}

#[test]
fn doctor_says_what_room_there_is() {
    let group = MemoryGroup::make(100 * MIB);
    let (_, output, _) = traced(&group.folder, &["doctor"]);
    let line = output.lines().find(|line| line.contains("memory: ")).unwrap();
    assert!(line.starts_with("limited ") && line.contains(" of 100.0 MiB"), "{output}");
    let mut child: Child = memtrace().arg("doctor").stdout(Stdio::piped()).spawn().unwrap();
    let mut output = String::new();
    child.stdout.take().unwrap().read_to_string(&mut output).unwrap();
    child.wait().unwrap();
    assert!(output.lines().any(|line| line.contains(" memory: ")), "{output}");
}
