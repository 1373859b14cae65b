//! A gate that could not look at what it was asked to check: status 4, never 0, and the reason.

use std::{
    fs,
    process::{Command, Stdio},
};

use crate::support::{
    self, Target, Tracing, compile, compile_by,
    gate::{assert_schema, causes, gate, lost},
    process, scratch,
};

#[test]
fn a_program_without_an_allocator_that_can_be_hooked_was_not_checked() {
    let stripped = compile("gate_children.c", &["-O2", "-static", "-s"]);
    let narrow = compile_by("i686-linux-gnu-gcc", "gate_children.c", &["-O2"]);
    for (program, says) in [(&stripped, "linked statically and stripped"), (&narrow, "32-bit program")] {
        for option in ["--fail-on-leak", "--at-exit"] {
            let (status, report, messages) = gate(&[option], &[program.to_str().unwrap(), "lose", "exit", "3"]);
            assert_eq!((status, causes(&report)), (4, vec!["no-allocator"]), "{messages}");
            assert!(messages.contains(says) && messages.contains("hint: "), "{messages}");
            assert_eq!(process(&report)["at_exit"]["cause"], "no-allocator");
        }
        // Without a gate, nobody has asked.
        let (status, report, messages) = gate(&[], &[program.to_str().unwrap(), "lose", "exit", "3"]);
        assert!(status == 0 && report["gate"].is_null(), "{messages}");
    }
}

#[test]
fn a_program_that_was_replaced_by_a_bare_system_call_was_not_checked() {
    let program = compile("gate.c", &["-O2", "-fomit-frame-pointer"]);
    let (status, report, messages) = gate(&["--fail-on-leak"], &[program.to_str().unwrap(), "raw-exec", "3"]);
    assert_eq!((status, causes(&report)), (4, vec!["end-not-seen"]), "{messages}");
    assert!(messages.contains("it became another program without calling its C library's execve"), "{messages}");
}

#[test]
fn an_allocator_that_was_named_and_never_there_was_not_checked() {
    let pool = ["--alloc", "libpool.so:get(size=arg0)->ret", "--free", "libpool.so:put(ptr=arg0)", "--fail-on-leak"];
    let (status, report, messages) = gate(&pool, &["/bin/true"]);
    assert_eq!((status, causes(&report)), (4, vec!["not-hooked", "not-hooked"]), "{messages}");
    assert!(messages.contains("`get` of libpool.so: no program has mapped that image"), "{messages}");
}

#[test]
fn a_command_that_outlives_the_run_was_not_checked() {
    let folder = scratch();
    let file = folder.path().join("report.json");
    let options = ["--fail-on-leak", "--duration", "1s", "--format", "json", "-o", file.to_str().unwrap(), "--", "cat"];
    let mut running = Tracing::run(support::memtrace().args(options).stdin(Stdio::piped()));
    // It goes on until its input ends, which is after the run.
    support::eventually("the last report", || file.exists());
    running.say_no_more();
    let (status, _, messages) = running.finish();
    assert_eq!(status, 4, "{messages}");
    let report = support::report(&file);
    assert_schema(&report);
    assert_eq!(causes(&report), ["stopped"]);
    assert!(messages.contains("the run was stopped before its end") && messages.contains("hint: let the command"));
}

#[test]
fn a_process_that_cannot_be_hooked_was_not_judged() {
    let stripped = compile("static.c", &["-O2", "-static", "-s"]);
    let target = Target::start(&mut Command::new(&stripped));
    let pid = target.pid().to_string();
    let (status, _, messages) = support::run(&["--pid", &pid, "--fail-on-leak", "--duration", "1s"]);
    assert!(status == 4 && messages.contains("cannot trace process") && messages.contains("hint: "), "{messages}");
    let (status, _, _) = support::run(&["--pid", &pid, "--duration", "1s"]);
    assert_eq!(status, 1, "nobody has asked for a gate");
    // Another that can be is judged: one of the two still was not.
    let idle = Target::start(Command::new("/bin/sleep").arg("1000"));
    let both = ["--pid", &pid, "--pid", &idle.pid().to_string(), "--fail-on-leak", "--duration", "1s"];
    let (status, _, messages) = support::run(&both);
    assert!(status == 4 && messages.contains(&format!("(pid {pid}) not judged: ")), "{messages}");
}

#[test]
fn a_run_that_is_too_short_to_judge_what_has_grown_says_so() {
    let program = compile("leak.c", &support::FRAME_POINTERS);
    let target = Target::start(&mut Command::new(program));
    let pid = target.pid().to_string();
    let file = scratch();
    let file = file.path().join("report.json");
    let output = ["--format", "json", "-o", file.to_str().unwrap()];
    let options = [&["--pid", &pid, "--fail-on-leak", "--duration", "2s"], &output[..]].concat();
    let (status, _, messages) = support::run(&options);
    let report: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert_schema(&report);
    assert_eq!((status, causes(&report)), (4, vec!["too-early"]), "{messages}");
    assert!(messages.contains("a leak takes 24 s at least to be told") && messages.contains("--duration 60s"));
}

#[test]
fn junit_has_an_error_for_what_was_not_checked() {
    let program = compile("gate.c", &["-O2", "-fomit-frame-pointer"]);
    let (status, output, _) =
        support::run(&["--fail-on-leak", "--format", "junit", "--", program.to_str().unwrap(), "raw"]);
    assert_eq!(status, 4);
    assert!(output.contains("tests=\"1\" skipped=\"0\" failures=\"0\" errors=\"1\""), "{output}");
    assert!(output.contains("<error message=\"not checked: it ended without calling"), "{output}");
    assert!(output.contains("type=\"end-not-seen\""), "{output}");
}

#[test]
fn suspects_come_before_what_was_not_checked() {
    let lose = compile("gate.c", &["-O2", "-fomit-frame-pointer"]);
    let script = format!("{0} leak 2; {0} raw; true", lose.display());
    let (status, report, messages) = gate(&["--fail-on-leak", "--follow"], &["/bin/sh", "-c", &script]);
    assert_eq!((status, causes(&report)), (3, vec!["end-not-seen"]), "{messages}");
    assert_eq!(lost(&report, "lose"), (vec![2], 0), "{messages}");
    let script = format!("{} raw; exit 9", lose.display());
    let (status, _, messages) = gate(&["--fail-on-leak", "--follow"], &["/bin/sh", "-c", &script]);
    assert_eq!(status, 9, "the command's own status comes first: {messages}");
}
