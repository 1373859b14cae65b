//! memtrace as a gate of a command.

use std::fs;

use serde_json::Value;

use super::{InTime, memtrace, programs, scratch};

/// Runs memtrace as a gate of a command. Returns its status, the report, which is as the schema says, and its messages.
pub(crate) fn gate(options: &[&str], command: &[&str]) -> (i32, Value, String) {
    let folder = scratch();
    let file = folder.path().join("report.json");
    let all = [&["--format", "json", "-o", file.to_str().unwrap()], options, &["--"], command].concat();
    let output = memtrace().args(all).output_in_time();
    let messages = String::from_utf8_lossy(&output.stderr).into_owned();
    let report = fs::read(&file).ok().map_or(Value::Null, |report| serde_json::from_slice(&report).unwrap());
    if !report.is_null() {
        assert_schema(&report);
    }
    (output.status.code().unwrap(), report, messages)
}

include!("strict_schema.rs");

/// Asserts that a report is as docs/schema.json says.
pub(crate) fn assert_schema(report: &Value) {
    assert_keeps_to("schema.json", report);
}

/// Asserts that a report is as a page of docs says.
pub(crate) fn assert_keeps_to(schema: &str, report: &Value) {
    let schema = fs::read_to_string(programs().join("../../../docs").join(schema)).unwrap();
    let schema = strict_schema(&schema);
    if let Err(error) = jsonschema::validate(&schema, report) {
        panic!("{error} at {}", error.instance_path());
    }
}

/// The suspects of a process: the function, how many objects are unreachable and live, and the reason.
pub(crate) fn suspects(process: &Value) -> Vec<(String, u64, u64, String)> {
    let sites = process["sites"].as_array().unwrap().iter();
    let told = |site: &Value| {
        let objects = |name: &str| site[name].as_u64().unwrap();
        let function = site["frames"][0]["function"].as_str().unwrap_or("?").to_owned();
        let reason = site["reason"].as_str().unwrap().to_owned();
        (function, objects("unreachable_objects"), objects("live_objects"), reason)
    };
    sites.filter(|site| site["verdict"] == "leak-suspect").map(told).collect()
}

/// Of every process: how many blocks of `function` are lost; and the number of those of other functions.
pub(crate) fn lost(report: &Value, function: &str) -> (Vec<u64>, usize) {
    let all: Vec<Vec<_>> = report["processes"].as_array().unwrap().iter().map(suspects).collect();
    let is_its = |suspect: &&(String, u64, u64, String)| suspect.0 == function;
    let sum = |suspects: &Vec<_>| suspects.iter().filter(is_its).map(|(_, lost, ..)| lost).sum::<u64>();
    let others = all.iter().flatten().filter(|suspect| !is_its(suspect)).count();
    (all.iter().map(sum).filter(|lost| *lost > 0).collect(), others)
}

/// The causes of the checks that the gate could not make.
pub(crate) fn causes(report: &Value) -> Vec<&str> {
    report["gate"]["not_checked"].as_array().unwrap().iter().map(|unseen| unseen["cause"].as_str().unwrap()).collect()
}
