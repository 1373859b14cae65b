//! The harness itself: a wait in vain fails its test, a test that fails leaves nothing behind, and others may trace as well.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use crate::support::{
    Running, Signal, Stream, Target, Tracing, assert_nothing_stays_in_the_kernel, programs_held_by, run,
};

/// The output of a test that fails.
fn failure(test: impl FnOnce()) -> String {
    let failed = catch_unwind(AssertUnwindSafe(test)).expect_err("it has not failed");
    *failed.downcast::<String>().expect("a text")
}

fn is_there(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// A program that says a line and then nothing for a long time.
fn silent() -> Running {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "echo words; read line; exec sleep 1000"]);
    Running::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()))
}

#[test]
fn a_wait_in_vain_fails_and_tells_what_it_was_for_and_what_was_heard() {
    type Wait = fn(Running);
    let waits: [(&str, Wait); 4] = [
        ("a line of its Messages", |mut program| drop(program.line(Stream::Messages))),
        ("its end", |program| drop(program.finish())),
        ("its end", |mut program| _ = program.wait()),
        // It reads the first line, and no more.
        ("room for what it is to read", |mut program| program.say(&format!("\n{}", "word ".repeat(100_000)))),
    ];
    for (what, wait) in waits {
        let mut program = silent();
        assert_eq!(program.line(Stream::Output).as_deref(), Some("words"));
        let (pid, program) = (program.pid(), program.within(Duration::from_millis(300)));
        let told = failure(|| wait(program));
        for text in ["waited 300ms for ", what, "exec sleep 1000", "stdout so far: words"] {
            assert!(told.contains(text), "{text:?}: {told}");
        }
        assert!(!is_there(pid), "it ends with its test");
    }
}

#[test]
fn a_memtrace_whose_test_fails_lets_go_even_if_it_was_stopped() {
    for is_stopped in [false, true] {
        let mut target = Target::start(&mut Command::new("cat"));
        let tracing = Tracing::start(&["--pid", &target.pid().to_string()]);
        let pid = tracing.pid();
        if is_stopped {
            tracing.signal(Signal::STOP);
        }
        let told = failure(move || panic!("a test of {}", tracing.pid()));
        assert_eq!(told, format!("a test of {pid}"));
        assert!(!is_there(pid));
        assert_nothing_stays_in_the_kernel();
        assert!(target.is_alive());
    }
}

#[test]
fn what_another_memtrace_holds_is_not_taken_for_left_over() {
    let mut target = Target::start(&mut Command::new("cat"));
    let pid = target.pid().to_string();
    let other = Tracing::start(&["--pid", &pid, "--format", "json"]);
    let held = programs_held_by(other.pid());
    assert!(!held.is_empty());
    let (status, _, messages) = run(&["--pid", &pid, "--duration", "100ms"]);
    assert_eq!(status, 0, "{messages}");
    assert_nothing_stays_in_the_kernel();
    assert_eq!(programs_held_by(other.pid()), held);
    other.stop();
    assert_nothing_stays_in_the_kernel();
    assert!(target.is_alive());
}
