//! Exactness: a program that knows its own truth to the byte, with more threads than CPUs.

use std::process::Command;

use serde_json::Value;

use crate::support::{self, FRAME_POINTERS, Target, Tracing, assert_truth, compile, process, scaled, scratch, sum_at};

fn waiting_truth(operations: &str) -> Target {
    let program = compile("truth.c", &FRAME_POINTERS);
    let mut target = Target::start(Command::new(program).args([operations, "wait"]));
    assert_eq!(target.line(), "ready");
    target
}

fn truth_of(target: &mut Target) -> Value {
    serde_json::from_str(&target.line()).unwrap()
}

#[test]
fn five_million_operations_of_eight_threads_are_exact_in_total_and_by_site_ten_times_in_a_row() {
    let operations = scaled(5_000_000);
    for round in 0..10 {
        let mut target = waiting_truth(&operations.to_string());
        let tracing = Tracing::start(&["--pid", &target.pid().to_string(), "--format", "json"]);
        target.say("go");
        let truth = truth_of(&mut target);
        let report = tracing.stop();
        assert_truth(&report, &truth, true);
        assert_eq!(process(&report)["health"]["unmatched_frees"], 0, "round {round}");
        assert!(truth["total"]["alloc_objects"].as_u64().unwrap() > operations / 5);
        assert!(target.is_alive());
    }
}

#[test]
fn every_kind_of_link_is_exact_or_refused_by_a_kernel_that_is_too_old() {
    for (links, since) in [("perf-event", (5, 15)), ("multi", (6, 6)), ("session", (6, 13))] {
        let mut target = waiting_truth("200000");
        let pid = target.pid().to_string();
        let arguments = ["--pid", &pid, "--links", links, "--format", "json"];
        if support::kernel_version() < since {
            let (status, _, messages) = support::run(&arguments);
            assert_eq!(status, 1, "{links}: {messages}");
            assert!(messages.contains("hint: leave out --links"), "{messages}");
            continue;
        }
        let tracing = Tracing::start(&arguments);
        target.say("go");
        let truth = truth_of(&mut target);
        assert_truth(&tracing.stop(), &truth, true);
    }
}

#[test]
fn code_without_frame_pointers_is_exact_by_site_and_its_stacks_are_whole() {
    let program = compile("truth.c", &["-O2", "-fomit-frame-pointer", "-fno-optimize-sibling-calls"]);
    let mut target = Target::start(Command::new(program).args(["1000000", "wait"]));
    assert_eq!(target.line(), "ready");
    let tracing = Tracing::start(&["--pid", &target.pid().to_string(), "--format", "json"]);
    target.say("go");
    let truth = truth_of(&mut target);
    let report = tracing.stop();
    assert_truth(&report, &truth, true);
    for site in process(&report)["sites"].as_array().unwrap() {
        assert_eq!(site["truncated"], false, "{site}");
        let names: Vec<&str> =
            site["frames"].as_array().unwrap().iter().map(|frame| frame["function"].as_str().unwrap_or("?")).collect();
        assert!(names.contains(&"work"), "{names:?}");
        // 21 calls of the same function, none of which a frame pointer leads to.
        let deep = names.iter().filter(|name| **name == "site_deep").count();
        assert!(deep == 0 || deep == 21, "{names:?}");
    }
}

#[test]
fn what_is_allocated_after_an_attach_in_mid_run_is_exact_and_older_blocks_are_unmatched_frees() {
    let program = compile("midrun.c", &FRAME_POINTERS);
    for _ in 0..3 {
        let mut target = Target::start(&mut Command::new(&program));
        assert_eq!(target.line(), "running");
        let pid = target.pid().to_string();
        let tracing = Tracing::start(&["--pid", &pid, "--format", "json", "--unwind", "fp"]);
        target.say("go");
        let truth = truth_of(&mut target);
        let report = tracing.stop();
        assert_truth(&report, &truth["after"], false);
        let process = process(&report);
        // Blocks that came and went while probes were being attached leave no phantom behind.
        assert!(sum_at(process, "churned", "alloc_objects") > 0);
        assert_eq!(sum_at(process, "churned", "live_objects"), 0);
        assert_eq!(sum_at(process, "kept", "alloc_objects"), 0);
        let unmatched = process["health"]["unmatched_frees"].as_u64().unwrap();
        assert!(unmatched >= truth["unmatched"].as_u64().unwrap(), "{unmatched} unmatched frees");
    }
}

#[test]
fn a_command_is_exact_from_its_first_instruction_and_has_symbols_after_its_death() {
    let program = compile("truth.c", &FRAME_POINTERS);
    let folder = scratch();
    let file = folder.path().join("report.json");
    let arguments =
        ["--format", "json", "-o", file.to_str().unwrap(), "--", program.to_str().unwrap(), "200000", "run"];
    let (status, output, messages) = support::run(&arguments);
    assert_eq!(status, 0, "{messages}");
    let truth: Value = serde_json::from_str(output.trim()).unwrap();
    let report = support::report(&file);
    assert_truth(&report, &truth, false);
    let process = process(&report);
    assert_eq!(process["ended"], true);
    assert_eq!(process["health"]["unmatched_frees"], 0);
    // The rest beside the program's own sites are its threads, which libc allocates for it.
    let own: u64 = truth["total"]["alloc_objects"].as_u64().unwrap();
    let all = process["alloc_objects"].as_u64().unwrap();
    assert!((own + 8..own + 64).contains(&all), "{own} of its own, {all} in all");
}

#[test]
fn every_event_that_finds_no_room_is_counted() {
    let mut target = waiting_truth("100000");
    let pid = target.pid().to_string();
    let tracing = Tracing::start(&["--pid", &pid, "--format", "json", "--max-blocks", "64"]);
    target.say("go");
    let truth = truth_of(&mut target);
    let report = tracing.stop();
    let process = process(&report);
    support::assert_sums(process);
    let lost = process["health"]["blocks_full"].as_u64().unwrap();
    assert!(lost > 0);
    let seen = process["alloc_objects"].as_u64().unwrap();
    assert_eq!(seen + lost, truth["total"]["alloc_objects"].as_u64().unwrap());
}

#[test]
fn blocks_are_exact_in_a_table_that_is_as_full_as_it_can_be() {
    // As many as live at the same time: four thousand slots, less than half of which hold a block.
    for max_blocks in ["1750", "2500"] {
        let mut target = waiting_truth(&scaled(2_000_000).to_string());
        let pid = target.pid().to_string();
        let tracing = Tracing::start(&["--pid", &pid, "--format", "json", "--max-blocks", max_blocks]);
        target.say("go");
        let truth = truth_of(&mut target);
        assert_truth(&tracing.stop(), &truth, true);
    }
}

#[test]
fn stacks_and_sites_that_find_no_room_are_counted() {
    for (option, cause) in [("--max-stacks", "stacks_full"), ("--max-sites", "sites_full")] {
        let mut target = waiting_truth("20000");
        let tracing = Tracing::start(&["--pid", &target.pid().to_string(), "--format", "json", option, "4"]);
        target.say("go");
        let truth = truth_of(&mut target);
        let report = tracing.stop();
        let process = process(&report);
        support::assert_sums(process);
        let lost = process["health"][cause].as_u64().unwrap();
        assert!(lost > 0, "{cause}");
        let seen = process["alloc_objects"].as_u64().unwrap();
        assert_eq!(seen + lost, truth["total"]["alloc_objects"].as_u64().unwrap(), "{cause}");
    }
}

#[test]
fn a_thread_that_finds_no_room_is_counted() {
    let mut target = waiting_truth("20000");
    let tracing = Tracing::start(&["--pid", &target.pid().to_string(), "--format", "json", "--max-threads", "2"]);
    target.say("go");
    truth_of(&mut target);
    let report = tracing.stop();
    support::assert_sums(process(&report));
    assert!(process(&report)["health"]["threads_full"].as_u64().unwrap() > 0);
}
