//! Faults around memtrace: it ends with an error or a whole report, its target goes on to its own right end,
//! and nothing stays in the kernel. (Signals and readers that go away: the module command_line.)

use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::Command,
    thread,
    time::Duration,
};

use nix::{sys::ptrace, unistd::Pid};

use crate::support::{
    self, FRAME_POINTERS, InTime, Signal, Target, Tracing, assert_nothing_stays_in_the_kernel, compile, eventually,
    run, scaled, scratch, state,
};

/// A program that has work to do once it is told to, and knows what comes of it.
fn worker() -> Target {
    let mut target =
        Target::start(Command::new(compile("truth.c", &FRAME_POINTERS)).args([&scaled(200_000).to_string(), "wait"]));
    assert_eq!(target.line(), "ready");
    target
}

/// Asserts that the target does its work, and that memtrace has left nothing behind.
fn assert_untouched(mut target: Target) {
    target.say("go");
    assert!(target.line().starts_with('{'));
    assert!(target.is_alive());
    assert_nothing_stays_in_the_kernel();
}

/// A file system of 64 KiB that goes with the test.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new() -> Self {
        let folder = scratch();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=64k", "none"]).arg(folder.path());
        assert!(mount.status_in_time().success());
        Self(folder)
    }

    fn fill(&self) {
        let mut file = fs::File::create(self.0.path().join("filling")).unwrap();
        while file.write_all(&[0; 1024]).is_ok() {}
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        _ = Command::new("umount").arg(self.0.path()).status_in_time();
    }
}

#[test]
fn a_full_disk_is_an_error_that_leaves_no_part_of_a_report() {
    let (target, disk) = (worker(), SmallDisk::new());
    let report = disk.0.path().join("report.json");
    let arguments = ["--pid", &target.pid().to_string(), "--format", "json", "-o", report.to_str().unwrap()];
    let tracing = Tracing::start(&arguments);
    disk.fill();
    tracing.signal(Signal::INT);
    let (status, _, messages) = tracing.finish();
    assert_eq!(status, 1, "{messages}");
    assert!(messages.contains("No space left on device") && messages.contains("hint: "), "{messages}");
    let left: Vec<_> = fs::read_dir(disk.0.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["filling"]);
    assert_untouched(target);
}

#[test]
fn a_target_that_is_stopped_is_traced_and_stays_stopped() {
    let target = worker();
    let pid = target.pid().to_string();
    target.signal(Signal::STOP);
    eventually("the target stops", || state(target.pid()) == Some('T'));
    let (status, output, messages) = run(&["--pid", &pid, "--duration", "500ms", "--format", "json"]);
    assert_eq!(status, 0, "{messages}");
    let report: serde_json::Value = serde_json::from_str(&output).unwrap();
    assert_eq!(support::process(&report)["alloc_objects"], 0);
    assert_eq!(state(target.pid()), Some('T'));
    target.signal(Signal::CONT);
    assert_untouched(target);
}

#[test]
fn a_target_that_is_being_debugged_is_traced_exactly() {
    let mut target = worker();
    let tracing = Tracing::start(&["--pid", &target.pid().to_string(), "--format", "json"]);
    // Debian's gdb is large; its kind of attachment is not.
    let pid = Pid::from_raw(i32::try_from(target.pid()).unwrap());
    ptrace::seize(pid, ptrace::Options::empty()).unwrap();
    target.say("go");
    let truth = serde_json::from_str(&target.line()).unwrap();
    let report = tracing.stop();
    support::assert_truth(&report, &truth, false);
    assert_nothing_stays_in_the_kernel();
    assert!(target.is_alive());
}

#[test]
fn a_memtrace_that_gets_no_more_memory_takes_nothing_with_it() {
    let target = worker();
    let tracing = Tracing::start(&["--pid", &target.pid().to_string(), "--format", "json"]);
    // Less than it has already. (The kernel's own killer, for want of memory, sends SIGKILL: the module command_line.)
    let mut limited = Command::new("prlimit");
    limited.args(["--pid", &tracing.pid().to_string(), "--as=1048576"]);
    assert!(limited.status_in_time().success());
    tracing.signal(Signal::INT);
    let (status, output, messages) = tracing.finish();
    if output.is_empty() {
        assert_ne!(status, 0, "{messages}");
    } else {
        // Its tables were enough.
        let report: serde_json::Value = serde_json::from_str(&output).unwrap();
        support::assert_sums(support::process(&report));
    }
    assert_untouched(target);
}

#[test]
fn a_link_in_a_folder_that_everybody_may_write_to_is_not_followed() {
    let folder = scratch();
    let public = folder.path().join("public");
    fs::create_dir(&public).unwrap();
    fs::set_permissions(&public, fs::Permissions::from_mode(0o1777)).unwrap();
    let precious = folder.path().join("precious");
    fs::write(&precious, "precious").unwrap();
    let mut target = Target::start(&mut Command::new("cat"));
    let pid = target.pid().to_string();
    // To a file: the link is replaced. To anything else: it would be written to, so it is refused.
    for (to, status) in [(precious.as_path(), 0), (Path::new("/dev/full"), 1), (Path::new("/dev/null"), 1)] {
        let report = public.join("report");
        _ = fs::remove_file(&report);
        symlink(to, &report).unwrap();
        let (ended, _, messages) = run(&["--pid", &pid, "--duration", "100ms", "-o", report.to_str().unwrap()]);
        assert_eq!(ended, status, "{}: {messages}", to.display());
        assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
        assert!(status == 0 || messages.contains("symbolic link"), "{messages}");
    }
    assert!(target.is_alive());
}

#[test]
fn names_with_control_characters_do_not_reach_the_terminal() {
    let folder = scratch();
    let program = folder.path().join("evil\u{1b}[31m\n\u{9b}name");
    fs::copy(compile("leak.c", &FRAME_POINTERS), &program).unwrap();
    let target = Target::start(&mut Command::new(&program));
    thread::sleep(Duration::from_millis(200));
    for format in ["table", "folded"] {
        let (status, output, messages) =
            run(&["--pid", &target.pid().to_string(), "--duration", "1s", "--format", format]);
        assert_eq!(status, 0, "{messages}");
        for text in [&output, &messages] {
            assert!(text.contains("evil"), "{text}");
            assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
        }
    }
}

#[test]
fn an_image_that_is_no_elf_file_is_passed_over() {
    let folder = scratch();
    let garbage = folder.path().join("garbage.so");
    let mut file = OpenOptions::new().write(true).create_new(true).open(&garbage).unwrap();
    // A file that begins as an ELF file does, and goes on as nothing does.
    file.write_all(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0").unwrap();
    file.write_all(&[0xff; 64 << 10]).unwrap();
    let script = format!(
        "import mmap, sys, time\n\
         f = open({:?}, 'rb')\n\
         m = mmap.mmap(f.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC)\n\
         print('mapped', flush=True)\n\
         kept = []\n\
         while True:\n    kept.append(bytearray(5000)); time.sleep(0.001)\n",
        garbage.to_str().unwrap()
    );
    let mut target = Target::start(Command::new("/usr/bin/python3").args(["-c", &script]));
    assert_eq!(target.line(), "mapped");
    let (status, output, messages) = run(&["--pid", &target.pid().to_string(), "--duration", "1s", "--format", "json"]);
    assert_eq!(status, 0, "{messages}");
    let report: serde_json::Value = serde_json::from_str(&output).unwrap();
    assert!(support::process(&report)["live_bytes"].as_u64().unwrap() > 100_000);
    assert!(target.is_alive());
}

/// The capabilities that a process has, as proc_pid_status(5) has them.
fn capabilities(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap()
}

/// Whether probes are perf events, which this kernel lets only CAP_SYS_ADMIN open.
fn perf_events_are_restricted() -> bool {
    let paranoid: i32 = fs::read_to_string("/proc/sys/kernel/perf_event_paranoid").unwrap().trim().parse().unwrap();
    support::kernel_version() < (6, 6) && paranoid > 2
}

/// A set of capabilities by their numbers in `<linux/capability.h>`.
fn set(numbers: &[u32]) -> u64 {
    numbers.iter().fold(0, |set, number| set | 1 << number)
}

#[test]
fn while_it_traces_memtrace_has_no_more_privileges_than_that_takes() {
    // DAC_READ_SEARCH, KILL, SYS_PTRACE, PERFMON, BPF, CHECKPOINT_RESTORE; SYS_ADMIN where probes are perf events; for a file of
    // a report DAC_OVERRIDE.
    let admin = if support::kernel_version() < (6, 6) { set(&[21]) } else { 0 };
    let (needed, with_file) = (admin | set(&[2, 5, 19, 38, 39, 40]), admin | set(&[1, 2, 5, 19, 38, 39, 40]));
    let folder = scratch();
    let report = folder.path().join("report");
    let report = report.to_str().unwrap();
    for (options, kept) in [(vec![], needed), (vec!["-o", report], with_file)] {
        let target = worker();
        let pid = target.pid().to_string();
        let tracing = Tracing::start(&[&["--pid", &pid, "--format", "json"], options.as_slice()].concat());
        eventually("privileges are given up", || capabilities(tracing.pid()) & !kept == 0);
        tracing.signal(Signal::INT);
        assert_eq!(tracing.finish().0, 0);
        assert_untouched(target);
    }
    // A command keeps what it had.
    let (status, output, _) =
        run(&["-o", "/dev/null", "--", "/bin/sh", "-c", "sleep 1; grep CapEff /proc/self/status"]);
    assert_eq!(status, 0);
    assert!(output.contains(&format!("{:016x}", capabilities(std::process::id()))), "{output}");
}

#[test]
fn four_privileges_are_enough() {
    const ENOUGH: &str = "-all,+bpf,+perfmon,+sys_ptrace,+dac_read_search";
    let mut target = worker();
    // Where a user who is nobody else can run it.
    let folder = scratch();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let memtrace = folder.path().join("memtrace");
    fs::copy(std::env::var_os("MEMTRACE").unwrap(), &memtrace).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    command.args([format!("--inh-caps={ENOUGH}"), format!("--ambient-caps={ENOUGH}")]);
    command.arg(&memtrace).args(["--pid", &target.pid().to_string(), "--tier", "exact"]);
    command.args(["--format", "json"]);
    let mut traced = Tracing::run(&mut command);
    if perf_events_are_restricted() {
        traced.wait_for("perf events: only CAP_SYS_ADMIN may open them here");
        assert_ne!(traced.finish().0, 0);
        return assert_untouched(target);
    }
    traced.wait_for("memtrace: tracing ");
    // Enough as well for the process that reads symbols to give these up, and all else.
    let reader = fs::read_to_string(format!("/proc/{0}/task/{0}/children", traced.pid())).unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", reader.trim())).unwrap();
    assert!(status.contains("CapPrm:\t0000000000000000") && status.contains("Seccomp:\t2"), "{status}");
    // Its root folder takes a privilege that it does not have, or a user namespace.
    let namespace =
        Command::new("setpriv").args(["--reuid=65534", "--clear-groups", "unshare", "--user", "true"]).status_in_time();
    if namespace.success() {
        let root = fs::read_link(format!("/proc/{}/root", reader.trim())).unwrap();
        assert!(root.ends_with("fd"), "{}", root.display());
    }
    target.say("go");
    let truth = serde_json::from_str(&target.line()).unwrap();
    let report = traced.stop();
    support::assert_truth(&report, &truth, false);
}
