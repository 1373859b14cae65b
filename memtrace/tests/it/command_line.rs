//! The command line as scripts rely on it: errors with a next step, statuses, nothing left behind.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    process::Command,
    time::Duration,
};

use crate::support::{
    self, FRAME_POINTERS, InTime, Signal, Target, Tracing, assert_nothing_stays_in_the_kernel, compile,
    programs_held_by, run, scratch,
};

/// Asserts that memtrace refuses, how, and that nothing stays attached.
fn refused(arguments: &[&str], status: i32, says: &[&str]) {
    let (actual, output, messages) = run(arguments);
    assert_eq!(actual, status, "{arguments:?}: {messages}");
    assert_eq!(output, "", "nothing on stdout");
    for text in says {
        assert!(messages.contains(text), "{arguments:?} should say {text:?}: {messages}");
    }
    assert!(messages.lines().any(|line| line.starts_with("hint: ")), "{messages}");
    assert!(messages.lines().count() < 12, "an error is short: {messages}");
    assert_nothing_stays_in_the_kernel();
}

fn sleeper() -> Target {
    Target::start(Command::new("/bin/sleep").arg("1000"))
}

#[test]
fn a_pid_that_is_not_there() {
    // One past the largest that Linux gives out.
    refused(&["--pid", "4194305"], 1, &["cannot trace process 4194305: no such process"]);
}

#[test]
fn a_kernel_thread() {
    refused(&["--pid", "2"], 1, &["cannot trace process 2", "it runs no program"]);
}

#[test]
fn a_user_who_may_not() {
    let target = sleeper();
    let folder = scratch();
    // A copy that the user can reach.
    let program = folder.path().join("memtrace");
    fs::copy(std::env::var_os("MEMTRACE").unwrap(), &program).unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let output = Command::new(&program)
        .args(["--pid", &target.pid().to_string(), "--duration", "1s"])
        .uid(65534)
        .gid(65534)
        .output_in_time();
    let messages = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{messages}");
    assert!(messages.contains("not permitted"), "{messages}");
    assert!(messages.contains("hint: run with sudo"), "{messages}");
    let doctor = Command::new(&program).arg("doctor").uid(65534).gid(65534).output_in_time();
    assert_eq!(doctor.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&doctor.stdout).contains("MISSING  CAP_BPF"));
}

#[test]
fn targets_without_an_allocator_that_is_known() {
    let stripped = compile("static.c", &["-static", "-s"]);
    let target = Target::start(&mut Command::new(stripped));
    refused(&["--pid", &target.pid().to_string()], 1, &["allocator that memtrace knows", "statically and stripped"]);
    let own = compile("static.c", &["-nostdlib", "-static", "-DNO_LIBC"]);
    let target = Target::start(&mut Command::new(own));
    refused(&["--pid", &target.pid().to_string()], 1, &["allocator that memtrace knows"]);
}

#[test]
fn a_static_binary_with_symbols_can_be_traced() {
    let program = compile("static.c", &["-static"]);
    let mut target = Target::start(&mut Command::new(program));
    assert_eq!(target.line(), "running");
    let pid = target.pid().to_string();
    let (status, output, messages) = run(&["--pid", &pid, "--duration", "1s", "--format", "json"]);
    assert_eq!(status, 0, "{messages}");
    let report: serde_json::Value = serde_json::from_str(&output).unwrap();
    assert!(support::process(&report)["live_objects"].as_u64().unwrap() > 0, "{output}");
}

#[test]
fn a_process_that_ends_while_it_is_attached_to() {
    for delay_ms in [0, 5, 10, 20, 40] {
        let mut target = sleeper();
        let pid = target.pid().to_string();
        let tracing = Tracing::run(support::memtrace().args(["--pid", &pid, "--format", "json"]));
        std::thread::sleep(Duration::from_millis(delay_ms));
        target.kill();
        let (status, output, messages) = tracing.finish();
        match status {
            // It ended after the attach: that is the end of a run like any other.
            0 => drop(serde_json::from_str::<serde_json::Value>(&output).unwrap()),
            1 => assert!(messages.contains("no such process") && messages.contains("hint: "), "{messages}"),
            other => panic!("{other}: {messages}"),
        }
    }
    assert_nothing_stays_in_the_kernel();
}

#[test]
fn nonsense_on_the_command_line() {
    refused(&["--pid", "1", "--duration", "abc"], 2, &["abc", "write 30s, 5min or 1h30m"]);
    refused(&["--pid", "x"], 2, &["x"]);
    refused(&["--duration", "1s"], 2, &["required"]);
    refused(&["--pid", "1", "--tier", "growth", "--category", "heap"], 2, &["tier `growth` sees pages", "leave out"]);
    refused(&["--pid", "1", "--tier", "exact", "--category", "pages"], 2, &["--category pages alone", "heap,pages"]);
    refused(&["--pid", "1", "--sample-bytes", "1GiB"], 2, &["from 1KiB to 16MiB"]);
    refused(&["--pid", "1", "--tier", "wild"], 2, &["wild"]);
    refused(&["--frobnicate"], 2, &["--frobnicate"]);
    refused(&["--category", "heap,kernel", "--pid", "1"], 2, &["does not go with other categories"]);
    refused(&["--category", "kernel", "--tier", "sampled"], 2, &["does not go with this --tier"]);
    refused(&["--category", "kernel", "--", "/bin/true"], 2, &["does not go with -- CMD"]);
    refused(&["--category", "kernel", "--pid", "1", "--follow"], 2, &["does not go with --follow"]);
    refused(&["--category", "mmap", "--tier", "windowed", "--all"], 2, &["which tier `windowed` does not see"]);
    refused(&["--at-exit", "--pid", "1"], 2, &["only of -- CMD"]);
    refused(&["--fail-on-leak", "--tier", "growth", "--all"], 2, &["--fail-on-leak would never fail"]);
    refused(&["--category", "kernel", "--pid", "4194305"], 1, &["cannot trace process 4194305: no such process"]);
}

#[test]
fn options_before_a_sub_command() {
    let says =
        ["before the sub-command `watch`", "hint: put the options behind the sub-command: memtrace watch --pid 5 …"];
    refused(&["--pid", "5", "watch", "--threshold", "1MiB"], 2, &says);
    refused(&["--top", "3", "doctor"], 2, &["before the sub-command `doctor`", "`memtrace doctor` has no --top"]);
}

#[test]
fn allocators_of_ones_own_that_are_not_there() {
    let target = sleeper();
    let pid = target.pid().to_string();
    let free = ["--free", "libc.so.6:free(ptr=arg0)"];
    let alloc = |text| ["--pid", &pid, "--alloc", text, free[0], free[1]];
    refused(&alloc("libc.so.6:no_such(size=arg0)->ret"), 1, &["defines no function of that name", "no_such", "nm -D"]);
    refused(&alloc("nowhere.so:get(size=arg0)->ret"), 1, &["nowhere.so", "no such image mapped", "/maps"]);
    refused(&alloc("libc.so.6"), 2, &["write 'IMAGE:FUNC(size=arg1)->ret'"]);
    refused(&alloc("libc.so.6:malloc(size=arg7)->ret"), 2, &["`arg7` is none of arg0 to arg5"]);
    refused(&["--pid", &pid, free[0], free[1]], 2, &["--alloc"]);
}

#[test]
fn an_output_that_cannot_be_written() {
    let target = sleeper();
    let pid = target.pid().to_string();
    refused(&["--pid", &pid, "-o", "/nonexistent/report"], 1, &["cannot write the report to /nonexistent/report"]);
    refused(&["--pid", &pid, "-o", "/proc/report"], 1, &["cannot write the report to /proc/report"]);
    refused(&["--pid", &pid, "--duration", "1s", "-o", "/dev/full"], 1, &["cannot write the report to /dev/full"]);
}

#[test]
fn a_command_that_cannot_be_run() {
    refused(&["--", "/nonexistent/command"], 1, &["cannot run /nonexistent/command: No such file"]);
    refused(&["--", "/etc/passwd"], 1, &["cannot run /etc/passwd: Permission denied"]);
}

#[test]
fn a_command_keeps_its_status_and_its_streams() {
    let folder = scratch();
    let file = folder.path().join("report");
    let file = file.to_str().unwrap();
    let (status, output, _) = run(&["-o", file, "--", "/bin/sh", "-c", "echo out; exit 7"]);
    assert_eq!((status, output.as_str()), (7, "out\n"));
    let (status, _, _) = run(&["-o", file, "--", "/bin/sh", "-c", "kill -9 $$"]);
    assert_eq!(status, 137);
}

#[test]
fn a_command_that_calls_exec_is_followed_into_its_new_program() {
    let program = compile("truth.c", &FRAME_POINTERS);
    let folder = scratch();
    let file = folder.path().join("report.json");
    let script = format!("exec {} 20000 run", program.display());
    let (status, output, messages) =
        run(&["--format", "json", "-o", file.to_str().unwrap(), "--", "/bin/sh", "-c", &script]);
    assert_eq!(status, 0, "{messages}");
    let truth = serde_json::from_str(output.trim()).unwrap();
    let report = support::report(&file);
    support::assert_truth(&report, &truth, false);
    assert!(support::process(&report)["exe"].as_str().unwrap().contains("truth"));
}

#[test]
fn every_way_to_end_leaves_the_target_alive_and_nothing_in_the_kernel() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP, Signal::KILL] {
        let program = compile("truth.c", &FRAME_POINTERS);
        let mut target = Target::start(Command::new(program).args(["400000", "wait"]));
        assert_eq!(target.line(), "ready");
        let tracing = Tracing::start(&["--pid", &target.pid().to_string(), "--format", "json"]);
        assert!(!programs_held_by(tracing.pid()).is_empty());
        target.say("go");
        std::thread::sleep(Duration::from_millis(300));
        tracing.signal(signal);
        let (status, output, _) = tracing.finish();
        if signal == Signal::KILL {
            assert_eq!(output, "");
        } else {
            assert_eq!(status, 0, "{signal:?}");
            let report: serde_json::Value = serde_json::from_str(&output).unwrap();
            support::assert_sums(support::process(&report));
        }
        assert_nothing_stays_in_the_kernel();
        // The target goes on to its own right end: probes have not disturbed it.
        assert!(target.line().starts_with('{'), "{signal:?}");
        assert!(target.is_alive());
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let target = sleeper();
    let program = std::env::var("MEMTRACE").unwrap();
    let script = format!("{program} --pid {} --interval 200ms --duration 3s --format json | head -n 1", target.pid());
    let output = Command::new("/bin/bash").args(["-o", "pipefail", "-c", &script]).output_in_time();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().count(), 1);
}

#[test]
fn intervals_give_a_report_each() {
    let target = sleeper();
    let pid = target.pid().to_string();
    let mut tracing = Tracing::start(&["--pid", &pid, "--interval", "200ms", "--format", "json"]);
    let elapsed_ns: Vec<u64> = (0..4).map(|_| tracing.report()["duration_ns"].as_u64().unwrap()).collect();
    assert!(
        elapsed_ns[0] >= 200_000_000 && elapsed_ns.is_sorted_by(|earlier, later| earlier < later),
        "{elapsed_ns:?}"
    );
    // The last one is of the end.
    assert!(tracing.stop_at_last()["duration_ns"].as_u64() > Some(elapsed_ns[3]));
}

#[test]
fn doctor_and_debug_lines() {
    let (status, output, _) = run(&["doctor"]);
    assert_eq!(status, 0, "{output}");
    assert!(output.contains("memtrace can trace processes on this machine."));
    let (_, _, messages) = run(&["-vv", "--", "/bin/true"]);
    assert!(messages.contains("has mapped a file as code"), "the BPF side's lines: {messages}");
    assert!(messages.contains("kernel memory: "), "{messages}");
}
