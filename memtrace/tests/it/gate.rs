//! The gate, what CI relies on: what a command leaves behind at its end, what lets a suspect pass, and exit statuses.

use std::{fs, path::Path, process::Command};

use serde_json::Value;

use crate::support::{
    self, Signal, Target, Tracing, compile,
    gate::{causes, gate, lost},
    process, scratch,
};

const FLAGS: [&str; 2] = ["-O2", "-fomit-frame-pointer"];

/// Runs memtrace with `--fail-on-leak`, of the program that leaves blocks behind.
fn of_program(arguments: &[&str]) -> (i32, Value, String) {
    gate(&["--fail-on-leak"], &[&[program().as_str()], arguments].concat())
}

fn program() -> String {
    compile("gate.c", &FLAGS).to_str().unwrap().to_owned()
}

/// The suspects of the one process of a report.
fn suspects(report: &Value) -> Vec<(String, u64, u64, String)> {
    support::gate::suspects(process(report))
}

fn write(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn what_nothing_points_to_at_exit_fails_the_gate_and_is_told() {
    let (status, report, messages) = of_program(&["leak", "12"]);
    assert_eq!(status, 3, "{messages}");
    let reason = "12 of 12 live blocks are unreachable at exit (3.20 KiB)";
    assert_eq!(suspects(&report), [("lose".to_owned(), 12, 12, reason.to_owned())]);
    assert!(messages.contains("memtrace: 1 leak suspect:\n"), "{messages}");
    assert!(messages.contains(&format!("  lose gate.c:48: 3.20 KiB, 99 %: {reason}")), "{messages}");
    assert!(messages.contains("hint: ") && messages.contains("`leak:^lose$`"), "{messages}");
    assert_eq!(process(&report)["at_exit"]["unreachable_bytes"], 12 * 273);
}

#[test]
fn what_can_be_reached_in_any_way_is_no_suspect() {
    for flags in [&FLAGS[..], &["-O0"], &["-O2", "-static"]] {
        let program = compile("gate.c", flags);
        for _ in 0..3 {
            let (status, report, messages) = gate(&["--fail-on-leak"], &[program.to_str().unwrap(), "held"]);
            assert_eq!((status, suspects(&report)), (0, Vec::new()), "{flags:?}: {messages}");
            let process = process(&report);
            assert_eq!(process["at_exit"]["checked"], true, "{messages}");
            assert!(process["live_objects"].as_u64().unwrap() >= 12, "{flags:?}");
            let kept = process["sites"].as_array().unwrap().iter().filter(|site| site["live_objects"] != 0);
            for site in kept {
                assert_eq!((&site["verdict"], &site["unreachable_objects"]), (&Value::from("stable"), &Value::from(0)));
            }
        }
    }
}

#[test]
fn every_kind_of_loss_is_found_to_the_block() {
    for (arguments, function, count) in [
        (["leak", "1"], "lose", 1),
        (["list", "30"], "lose_ring", 30),
        (["large", "3"], "lose_large", 3),
        (["vfork", ""], "lose", 1),
    ] {
        let (status, report, messages) = of_program(&arguments);
        assert_eq!(status, 3, "{arguments:?}: {messages}");
        let suspects = suspects(&report);
        assert!(suspects.iter().all(|(name, ..)| name == function), "{arguments:?}: {suspects:?}");
        assert_eq!(suspects.iter().map(|(_, objects, ..)| objects).sum::<u64>(), count, "{arguments:?}");
    }
}

#[test]
fn what_a_thread_has_lost_is_found_in_an_arena_of_its_own() {
    let (status, report, messages) = of_program(&["thread", "7"]);
    assert_eq!(status, 3, "{messages}");
    let [(function, lost, 7, _)] = &suspects(&report)[..] else { panic!("{report}") };
    // One may still be in a register that the thread has not used since: conservative.
    assert!(function == "lose" && *lost >= 6, "{lost}");
}

#[test]
fn a_static_program_is_looked_at_as_well() {
    let program = compile("gate.c", &["-O2", "-static"]);
    let (status, report, messages) = gate(&["--fail-on-leak"], &[program.to_str().unwrap(), "leak", "20"]);
    assert_eq!(status, 3, "{messages}");
    let [(function, lost, 20, _)] = &suspects(&report)[..] else { panic!("{report}") };
    // One may still be in a vector register: conservative.
    assert!(function == "lose" && *lost >= 19, "{lost}");
}

#[test]
fn a_command_that_fails_keeps_its_own_status() {
    let (status, report, messages) = of_program(&["exit", "4"]);
    assert_eq!(status, 4, "{messages}");
    assert!(messages.contains("1 leak suspect"), "it is told all the same: {messages}");
    assert_eq!(suspects(&report).len(), 1);
    for (how, status, signal) in [("kill", 137, 9), ("abort", 134, 6)] {
        let (actual, report, messages) = of_program(&[how]);
        assert_eq!(actual, status, "{messages}");
        let reason = format!("killed by signal {signal}");
        assert!(messages.contains(&format!("not checked for reachability: {reason}")), "{messages}");
        assert_eq!(process(&report)["at_exit"]["reason"], reason.as_str());
        assert!(suspects(&report).is_empty());
    }
}

#[test]
fn an_end_that_nobody_could_stop_is_told() {
    let (status, report, messages) = of_program(&["raw"]);
    assert_eq!((status, &process(&report)["at_exit"]["checked"]), (4, &Value::from(false)), "{messages}");
    assert_eq!(causes(&report), ["end-not-seen"]);
    assert!(
        messages.contains("not checked for reachability: it ended without calling its C library's _exit"),
        "{messages}"
    );
}

#[test]
fn an_exec_begins_anew_and_what_the_program_before_it_has_lost_is_told() {
    let (status, report, messages) = of_program(&["exec", "5"]);
    let (lost, others) = lost(&report, "lose");
    // One may still be in a register, which all count: the call may yet fail.
    assert!(status == 3 && matches!(lost[..], [4 | 5]) && others == 0, "{messages}");
    let processes = report["processes"].as_array().unwrap();
    assert!(processes.iter().all(|process| process["at_exit"]["checked"] == true), "{messages}");
    assert_eq!((processes.len(), &processes[0]["pid"]), (2, &processes[1]["pid"]));
    let script = format!("exec {} leak 2", program());
    let (status, report, messages) = gate(&["--fail-on-leak"], &["/bin/sh", "-c", &script]);
    assert_eq!((status, suspects(&report).len()), (3, 1), "{messages}");
}

#[test]
fn children_that_are_followed_are_looked_at_where_they_run_a_program_of_their_own() {
    let script = format!("{} leak 2; true", program());
    let (status, report, messages) = gate(&["--fail-on-leak", "--follow"], &["/bin/bash", "-c", &script]);
    assert_eq!(status, 3, "{messages}");
    let checked = |process: &&Value| process["at_exit"]["checked"] == true;
    let processes = report["processes"].as_array().unwrap();
    assert_eq!(processes.iter().filter(checked).count(), 2, "{messages}");
    assert!(messages.contains("  lose gate.c"), "{messages}");
}

#[test]
fn programs_that_we_did_not_write_leave_nothing_behind() {
    for command in [
        &["/usr/bin/python3", "-c", "import json, threading; print(json.dumps({'a': [1, 2]}))"][..],
        &["sqlite3", ":memory:", "create table t(a); insert into t values (1), (2); select sum(a) from t"],
        &["/bin/bash", "-c", "for i in 1 2 3; do echo $i | cat; done"],
        // It frees what it holds only if it is told to, but the root of it always.
        &["env", "PERL_DESTRUCT_LEVEL=2", "perl", "-e", "my %h = map { $_ => [$_] } 1..100; print scalar keys %h"],
    ] {
        let (status, report, messages) = gate(&["--fail-on-leak"], command);
        assert_eq!((status, suspects(&report)), (0, Vec::new()), "{command:?}: {messages}");
        assert_eq!(process(&report)["at_exit"]["checked"], true, "{command:?}: {messages}");
    }
}

#[test]
fn a_suppression_lets_a_suspect_pass_and_marks_it() {
    let folder = scratch();
    let list = write(folder.path(), "list", "# known\nleak:^lose$\nrace:Foo\nleak:nobody\n");
    let options = ["--fail-on-leak", "-v", "--suppressions", &list];
    let (status, report, messages) = gate(&options, &[&program(), "leak", "3"]);
    assert_eq!(status, 0, "{messages}");
    let sites = process(&report)["sites"].as_array().unwrap();
    let suspect = sites.iter().find(|site| site["verdict"] == "leak-suspect").unwrap();
    assert_eq!(suspect["suppressed_by"], "leak:^lose$");
    assert!(messages.contains("line 3 of") && messages.contains("`race:` is not about leaks"), "{messages}");
    assert!(messages.contains("leak:nobody has let no suspect pass"), "{messages}");
    let (status, _, messages) = gate(&options, &[&program(), "leak-more", "3"]);
    assert_eq!(status, 3, "{messages}");
    assert!(messages.contains("1 leak suspect (1 suppressed):"), "{messages}");
    let (status, output, _) = support::run(&["--at-exit", "--suppressions", &list, "--", &program(), "leak", "3"]);
    assert_eq!(status, 0);
    assert!(output.contains("suppressed by leak:^lose$") && output.contains("surest 99 %; 1 suppressed"), "{output}");
}

#[test]
fn a_baseline_lets_pass_what_was_there_before_and_nothing_else() {
    let folder = scratch();
    let (_, before, _) = of_program(&["leak", "3"]);
    let list = write(folder.path(), "before.json", &before.to_string());
    let options = ["--fail-on-leak", "--baseline", &list];
    let (status, report, messages) = gate(&options, &[&program(), "leak", "8"]);
    assert_eq!(status, 0, "{messages}");
    let sites = process(&report)["sites"].as_array().unwrap();
    assert!(sites.iter().all(|site| site["in_baseline"] == (site["verdict"] == "leak-suspect")));
    // Another build has other offsets, and the same names.
    let other = compile("gate.c", &["-O2", "-fomit-frame-pointer", "-falign-functions=64"]);
    let (status, _, messages) = gate(&options, &[other.to_str().unwrap(), "leak", "8"]);
    assert_eq!(status, 0, "{messages}");
    let (status, _, messages) = gate(&options, &[&program(), "leak-more", "8"]);
    assert_eq!(status, 3, "{messages}");
    assert!(
        messages.contains("lose_elsewhere") && messages.contains("1 leak suspect (1 in the baseline)"),
        "{messages}"
    );
}

#[test]
fn without_the_gate_suspects_are_told_and_the_status_is_the_commands() {
    let (status, report, _) = gate(&["--at-exit"], &[&program(), "leak", "3"]);
    assert_eq!((status, suspects(&report).len()), (0, 1));
    let (status, report, _) = gate(&[], &[&program(), "leak", "3"]);
    assert_eq!((status, &process(&report)["at_exit"]), (0, &Value::Null));
}

#[test]
fn junit_has_a_failure_for_each_suspect() {
    let (status, output, _) =
        support::run(&["--fail-on-leak", "--interval", "1s", "--format", "junit", "--", &program(), "leak-more", "3"]);
    assert_eq!(status, 3);
    assert!(output.contains("tests=\"2\" skipped=\"0\" failures=\"2\""), "{output}");
    assert!(output.contains("lose gate.c:48 (site ") && output.contains("gate.c\" line=\"48\""), "{output}");
    assert_eq!(output.matches("<?xml").count(), 1, "{output}");
}

#[test]
fn a_run_that_is_stopped_is_judged_by_growth() {
    let target = Target::start(Command::new("/bin/sleep").arg("1000"));
    let pid = target.pid().to_string();
    let tracing = Tracing::start(&["--pid", &pid, "--fail-on-leak", "--format", "json"]);
    tracing.signal(Signal::INT);
    let (status, _, messages) = tracing.finish();
    assert_eq!(status, 0, "{messages}");
    let (status, _, messages) = support::run(&["--pid", &pid, "--fail-on-leak", "--duration", "1s"]);
    assert_eq!(status, 0, "{messages}");
}

#[test]
fn files_that_are_none_are_told() {
    let folder = scratch();
    let bad_list = write(folder.path(), "list", "leak:fine\n\nnonsense\n");
    let bad_report = write(folder.path(), "report.json", "{\"schema\": \"memtrace/1\"}");
    for (options, says) in [
        (["--suppressions", &bad_list], "line 3: `nonsense` is not of the form `leak:PATTERN`"),
        (["--suppressions", "/nonexistent"], "cannot use the suppressions of /nonexistent: No such file"),
        (["--baseline", &bad_report], "it is no report: missing field"),
        (["--baseline", "/nonexistent"], "cannot use the baseline /nonexistent: No such file"),
    ] {
        let (status, report, messages) = gate(&options, &["/bin/true"]);
        assert_eq!((status, report), (2, Value::Null), "{messages}");
        assert!(messages.contains(says) && messages.contains("hint: "), "{messages}");
    }
    let (status, _, messages) = support::run(&["--at-exit", "--pid", "1"]);
    assert!(status == 2 && messages.contains("only of -- CMD"), "{messages}");
    let (status, _, messages) = support::run(&["--fail-on-leak", "--tier", "growth", "--pid", "1"]);
    assert!(status == 2 && messages.contains("nobody is convicted"), "{messages}");
}

#[test]
fn a_tier_that_does_not_see_every_block_says_that_it_was_not_looked() {
    let (status, report, messages) = gate(&["--fail-on-leak", "--tier", "sampled"], &[&program(), "leak", "12"]);
    assert_eq!((status, causes(&report)), (4, vec!["tier"]), "{messages}");
    assert!(messages.contains("not checked for reachability: this tier does not record every block"), "{messages}");
    assert_eq!(process(&report)["at_exit"]["checked"], false);
    let few = ["--fail-on-leak", "--max-blocks", "1"];
    let (status, report, messages) = gate(&few, &[&program(), "heap", "10000"]);
    assert_eq!((status, causes(&report)), (4, vec!["losses"]), "{messages}");
    assert_eq!(process(&report)["at_exit"]["checked"], false, "{messages}");
    assert!(messages.contains("blocks_full"), "{messages}");
}

#[test]
fn a_gibibyte_is_looked_through_before_memtrace_gives_up() {
    let blocks = support::scaled(1_000_000);
    let (status, report, messages) = of_program(&["heap", &blocks.to_string()]);
    assert_eq!(status, 0, "{messages}");
    let at_exit = &process(&report)["at_exit"];
    let held_s = at_exit["held_ns"].as_u64().unwrap() as f64 / 1e9;
    println!("{} bytes in {held_s} s", at_exit["read_bytes"]);
    assert_eq!(at_exit["checked"], true, "{at_exit}");
    assert!(at_exit["read_bytes"].as_u64() >= Some(blocks * 1000), "{at_exit}");
}
