//! `memtrace --holders`: who holds the blocks of the sites of a run.

use std::process::Command;

use serde_json::Value;

use crate::support::{Target, Tracing, compile, gate::assert_keeps_to, process, run};

const SESSIONS: u64 = 5_000;
const REQUESTS: u64 = 300;

fn server() -> Target {
    let mut target = Target::start(&mut Command::new(compile("sessions.c", &["-O1"])));
    assert_eq!(target.line(), "ready");
    target
}

/// The last report on a server that keeps sessions and loses requests, with these options.
fn report(tier: &str, options: &[&str]) -> Value {
    let mut target = server();
    let pid = target.pid().to_string();
    let fixed = ["--tier", tier, "--format", "json", "--interval", "200ms", "--pid", &pid];
    let mut tracing = Tracing::start(&[&fixed[..], options].concat());
    // The first look tells memory from before; the last one tells holders.
    while process(&tracing.report())["heap"].is_null() {}
    for command in [format!("keep {SESSIONS}"), format!("lose {REQUESTS}")] {
        target.say(&command);
        assert_eq!(target.line(), "done");
    }
    let report = tracing.stop_at_last();
    assert_keeps_to("schema.json", &report);
    report
}

/// The site whose stack has this function.
fn site<'a>(report: &'a Value, function: &str) -> &'a Value {
    let sites = process(report)["sites"].as_array().unwrap();
    let has = |site: &&Value| site["frames"].as_array().unwrap().iter().any(|frame| frame["function"] == function);
    sites.iter().find(has).unwrap_or_else(|| panic!("{function}: {report:#}"))
}

fn labels(holder: &Value) -> Vec<&str> {
    holder["path"].as_array().unwrap().iter().map(|step| step["label"].as_str().unwrap()).collect()
}

#[test]
fn blocks_of_a_site_are_under_the_variable_that_holds_them_and_lost_ones_under_none() {
    let report = report("exact", &["--holders"]);
    let kept = site(&report, "keep_session");
    let way = &kept["holders"][0];
    let path = labels(way);
    assert_eq!((path[0], path.len(), path[path.len() - 1]), ("g_sessions", 4, "104 B"), "{kept:#}");
    // All but those that somebody was seen to point to on another way: a stale copy in a buffer, say.
    let (objects, held) = (way["objects"].as_u64().unwrap(), &kept["held"]);
    assert!((SESSIONS - 2..=SESSIONS).contains(&objects), "{kept:#}");
    assert_eq!((held["reached_objects"].as_u64(), held["unreached_objects"].as_u64()), (Some(SESSIONS), Some(0)));
    assert!(way["retained_bytes"].is_null());
    let lost = &site(&report, "lose_request")["held"];
    let unreached = lost["unreached_objects"].as_u64().unwrap();
    assert!((REQUESTS - 3..=REQUESTS).contains(&unreached), "{lost:#}");
    assert_eq!(lost["reached_objects"].as_u64().unwrap() + unreached, REQUESTS);
    // Memory from before is told beside.
    assert!(process(&report)["ledger"]["before_attach"].is_object());
}

#[test]
fn retained_bytes_of_sites_are_those_of_their_blocks() {
    let report = report("exact", &["--retained"]);
    let way = &site(&report, "keep_session")["holders"][0];
    assert_eq!((way["retained_bytes"].as_u64(), way["bytes"].as_u64()), (Some(104 * SESSIONS), Some(104 * SESSIONS)));
}

#[test]
fn samples_have_holders_as_all_blocks_have() {
    let report = report("sampled", &["--holders", "--sample-bytes", "1KiB"]);
    let kept = site(&report, "keep_session");
    assert_eq!(labels(&kept["holders"][0])[0], "g_sessions", "{kept:#}");
    let held = kept["held"]["reached_objects"].as_u64().unwrap();
    // About one in ten.
    assert!((100..SESSIONS / 2).contains(&held), "{kept:#}");
}

#[test]
fn without_being_asked_nobody_looks_for_holders() {
    let report = report("exact", &[]);
    let kept = site(&report, "keep_session");
    assert!(kept["holders"].is_null() && kept["held"].is_null(), "{kept:#}");
}

#[test]
fn a_command_and_pages_have_no_holders_and_that_is_said() {
    for arguments in [&["--holders", "--", "true"][..], &["--holders", "--tier", "growth", "--pid", "1"]] {
        let (status, _, messages) = run(arguments);
        assert_eq!(status, 2, "{messages}");
        assert!(messages.contains("--holders looks"), "{messages}");
    }
}
