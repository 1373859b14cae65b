//! Targets that outgrow what they were when memtrace looked at them first, and sized its tables.

use std::{process::Command, thread, time::Duration};

use serde_json::Value;

use crate::support::{self, FRAME_POINTERS, Signal, Target, Tracing, compile, process, sum_at};

const LIBRARY: [&str; 4] = ["-shared", "-fPIC", "-O2", "-fomit-frame-pointer"];

fn small_target() -> Target {
    let program = compile("outgrows.c", &FRAME_POINTERS);
    let mut target = Target::start(&mut Command::new(program));
    assert_eq!(target.line(), "ready");
    target
}

fn library() -> String {
    compile("many_rows.c", &LIBRARY).to_str().unwrap().to_owned()
}

impl Target {
    fn does(&mut self, command: &str) {
        self.say(command);
        assert_eq!(self.line(), "ok");
    }
}

fn traced(target: &Target, options: &[&str]) -> Tracing {
    let pid = target.pid().to_string();
    Tracing::start(&[&["--pid", &pid, "--format", "json", "--tier", "exact"], options].concat())
}

/// How many stacks were cut.
fn cut_stacks(process: &Value) -> u64 {
    let health = process["health"].as_object().unwrap();
    health.iter().filter(|(name, _)| name.starts_with("unwind_")).map(|(_, count)| count.as_u64().unwrap()).sum()
}

#[test]
fn a_small_target_that_comes_to_hold_a_million_blocks_is_exact() {
    const BLOCKS: u64 = 1_000_000;
    for drops in [false, true] {
        let mut target = small_target();
        let tracing = traced(&target, &["-v"]);
        target.does(&format!("keep {BLOCKS}"));
        if drops {
            target.does("drop");
        }
        let report = tracing.stop();
        let process = process(&report);
        assert_eq!(support::losses(process), [], "{drops}");
        let at = |figure| sum_at(process, "keep", figure);
        let live = if drops { 0 } else { BLOCKS };
        assert_eq!((at("alloc_objects"), at("live_objects")), (BLOCKS, live));
        assert_eq!((at("alloc_bytes"), at("live_bytes")), (16 * BLOCKS, 16 * live));
        assert_eq!(process["health"]["unmatched_frees"], 0);
    }
}

#[test]
fn a_library_with_more_rows_than_there_was_room_for_is_unwound() {
    let mut target = small_target();
    let mut tracing = traced(&target, &["-v"]);
    target.does(&format!("load {}", library()));
    tracing.wait_for("unwind rows of ");
    // The rows are there by the next reading at the latest.
    thread::sleep(Duration::from_secs(2));
    target.does(&format!("load {}", library()));
    let report = tracing.stop();
    let process = process(&report);
    assert_eq!(sum_at(process, "late", "alloc_objects"), 2);
    let outermost = |site: &Value| site["frames"].as_array().unwrap().last().unwrap()["function"].clone();
    let stacks = support::sites_at(process, "late");
    assert!(stacks.into_iter().any(|site| outermost(site) == "_start"), "{process:#}");
}

#[test]
fn among_twenty_thousand_ranges_of_code_the_programs_own_come_first() {
    let mut target = small_target();
    target.does("areas 20000");
    let tracing = traced(&target, &[]);
    target.does("keep 100");
    let report = tracing.stop();
    let process = process(&report);
    assert_eq!(sum_at(process, "keep", "live_objects"), 100);
    assert_eq!((cut_stacks(process), support::losses(process)), (0, Vec::new()));
}

#[test]
fn a_target_that_maps_code_all_the_time_brings_about_few_warnings_and_is_told_of() {
    let mut target = small_target();
    let tracing = traced(&target, &[]);
    target.does(&format!("churn 30000 {}", library()));
    tracing.signal(Signal::INT);
    let (status, output, messages) = tracing.finish();
    assert_eq!(status, 0, "{messages}");
    let report: Value = serde_json::from_str(&output).unwrap();
    let warnings = messages.lines().filter(|line| line.contains("warning: ")).count();
    assert!(warnings <= 4, "{messages}");
    let process = process(&report);
    let put_off = process["health"]["looks_put_off"].as_u64().unwrap();
    assert!(put_off > 1_000, "{put_off}");
    assert!(messages.contains("maps code more often"), "{messages}");
}

#[test]
fn a_block_of_a_plug_in_is_never_told_as_that_of_another_at_its_address() {
    let plugin = |define: &str| compile("plugin.c", &["-shared", "-fPIC", "-O2", define]).to_str().unwrap().to_owned();
    let [keeping, freeing] = ["-DMAKE=keeping", "-DMAKE=freeing"].map(plugin);
    let mut target = small_target();
    let tracing = traced(&target, &[]);
    target.does(&format!("turns 2000 {keeping} {freeing}"));
    thread::sleep(Duration::from_millis(1100));
    for _ in 0..5 {
        target.does(&format!("turns 1 {keeping} {freeing}"));
        thread::sleep(Duration::from_millis(100));
    }
    let report = tracing.stop();
    let process = process(&report);
    let kept = process["sites"].as_array().unwrap().iter().filter(|site| site["live_bytes"].as_u64() >= Some(500));
    let (mut unsure, mut all) = (0, 0);
    for site in kept {
        let live = site["live_objects"].as_u64().unwrap();
        let innermost = &site["frames"][0];
        assert_ne!(innermost["function"], "freeing", "{site:#}");
        let is_unsure = innermost["unresolved"] == "what is mapped at this address changes";
        (unsure, all) = (unsure + if is_unsure { live } else { 0 }, all + live);
    }
    assert!(all >= 2005 && unsure > 0, "{unsure} of {all}: {process:#}");
}
