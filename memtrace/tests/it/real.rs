//! Software that we did not write, under load, attached to while it runs.

use std::{fs, path::Path, process::Command, thread, time::Duration};

use serde_json::Value;

use crate::support::{self, Signal, Target, Tracing, assert_sums, load, losses, process, scratch};

/// Traces a process for some seconds, in JSON and then folded, and holds the two against each other and
/// against what every report must satisfy. Returns both.
fn traced(pid: u32) -> (Value, String) {
    let pid = pid.to_string();
    let (status, output, messages) = support::run(&["--pid", &pid, "--duration", "3s", "--format", "json"]);
    assert_eq!(status, 0, "{messages}");
    let report: Value = serde_json::from_str(&output).unwrap();
    let of = process(&report);
    assert_eq!(losses(of), []);
    assert_sums(of);
    assert!(of["alloc_objects"].as_u64().unwrap() > 0, "nothing was seen");

    let folder = scratch();
    let file = folder.path().join("folded");
    let file = file.to_str().unwrap();
    let arguments = ["--pid", &pid, "--duration", "3s", "--format", "folded", "--weight", "alloc-space", "-o", file];
    let (status, _, messages) = support::run(&arguments);
    assert_eq!(status, 0, "{messages}");
    let folded = fs::read_to_string(file).unwrap();
    assert!(!folded.is_empty());
    let mut graph = Vec::new();
    let mut options = inferno::flamegraph::Options::default();
    inferno::flamegraph::from_lines(&mut options, folded.lines(), &mut graph).unwrap();
    assert!(String::from_utf8(graph).unwrap().contains("<svg"));
    (report, folded)
}

/// The share of allocated bytes whose stack contains a function.
fn share(report: &Value, function: &str) -> f64 {
    let sites = process(report)["sites"].as_array().unwrap();
    let bytes = |site: &Value| site["alloc_bytes"].as_u64().unwrap() as f64;
    let all: f64 = sites.iter().map(bytes).sum();
    let contains = |site: &&Value| {
        site["frames"].as_array().unwrap().iter().any(|frame| {
            frame["function"].as_str().is_some_and(|name| name.contains(function))
                || frame["image"].as_str().is_some_and(|image| image.contains(function))
        })
    };
    sites.iter().filter(contains).map(bytes).sum::<f64>() / all
}

#[test]
fn python_under_load() {
    let mut busy = load::python();
    let (report, folded) = traced(busy.target.pid());
    // Debian's interpreter is stripped, but its exported functions have names.
    assert!(share(&report, "_PyEval_EvalFrameDefault") > 0.99);
    assert!(share(&report, "python3") > 0.99, "{}", share(&report, "python3"));
    assert!(folded.lines().all(|line| line.starts_with("python3;")), "{folded}");
    // Three of four bytes or more are the 50 temporary objects of a round, made at one place.
    let first = process(&report)["sites"].as_array().unwrap().iter();
    let most = first.map(|site| site["alloc_bytes"].as_u64().unwrap()).max().unwrap() as f64;
    assert!(most > 0.75 * process(&report)["alloc_bytes"].as_u64().unwrap() as f64);
    assert!(busy.target.is_alive());
}

#[test]
fn sqlite_under_load() {
    let mut busy = load::sqlite();
    let (report, _) = traced(busy.target.pid());
    assert!(share(&report, "sqlite3_step") > 0.9, "{}", share(&report, "sqlite3_step"));
    assert!(busy.target.is_alive());
}

#[test]
fn nginx_under_load() {
    let mut busy = load::nginx();
    let (report, _) = traced(busy.target.pid());
    // nginx allocates through its own pools, whose blocks come from its two wrappers.
    assert!(share(&report, "nginx") > 0.99, "{}", share(&report, "nginx"));
    let process = process(&report);
    // A request's memory goes with the request: hardly anything that came stays.
    let live = process["live_bytes"].as_u64().unwrap() as f64;
    assert!(live < 0.05 * process["alloc_bytes"].as_u64().unwrap() as f64);
    assert!(busy.target.is_alive());
}

#[test]
fn the_sum_of_folded_lines_is_the_live_bytes() {
    let program = support::compile("truth.c", &support::FRAME_POINTERS);
    let mut target = Target::start(Command::new(program).args(["50000", "wait"]));
    assert_eq!(target.line(), "ready");
    let tracing = Tracing::start(&["--pid", &target.pid().to_string(), "--format", "folded"]);
    target.say("go");
    let truth: Value = serde_json::from_str(&target.line()).unwrap();
    tracing.signal(Signal::INT);
    let (status, folded, _) = tracing.finish();
    assert_eq!(status, 0);
    let sum: u64 = folded.lines().map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum();
    assert_eq!(sum, truth["total"]["live_bytes"].as_u64().unwrap());
    assert!(folded.lines().all(|line| line.starts_with("truth_c_")));
}

#[test]
fn a_known_leak_on_top_of_library_code_comes_first() {
    let program = support::compile("leak.c", &[&support::FRAME_POINTERS[..], &["-ldl"]].concat());
    let mut target = Target::start(&mut Command::new(program));
    assert_eq!(target.line(), "running");
    let (status, output, messages) =
        support::run(&["--pid", &target.pid().to_string(), "--duration", "3s", "--format", "json"]);
    assert_eq!(status, 0, "{messages}");
    let report: Value = serde_json::from_str(&output).unwrap();
    let first = &process(&report)["sites"][0];
    let names: Vec<&str> =
        first["frames"].as_array().unwrap().iter().map(|frame| frame["function"].as_str().unwrap_or("?")).collect();
    assert!(names.contains(&"forget_line"), "{names:?}");
    let frame = &first["frames"][names.iter().position(|name| *name == "forget_line").unwrap()];
    assert!(frame["file"].as_str().unwrap().ends_with("leak.c"));
    assert!(frame["line"].as_u64().unwrap() > 0);
    assert!(first["growth_bytes_per_s"].as_f64().unwrap() > 0.0);
    let (_, table, _) = support::run(&["--pid", &target.pid().to_string(), "--duration", "1s"]);
    let site_lines: Vec<&str> = table.lines().skip_while(|line| !line.contains("VERDICT")).collect();
    assert!(site_lines[1..4].iter().any(|line| line.contains("forget_line")), "{table}");
}

#[test]
fn a_replaced_binary_still_resolves() {
    let folder = scratch();
    let program = folder.path().join("leak");
    let source = support::compile("leak.c", &[&support::FRAME_POINTERS[..], &["-ldl"]].concat());
    fs::copy(&source, &program).unwrap();
    let mut target = Target::start(&mut Command::new(&program));
    assert_eq!(target.line(), "running");
    for replace in [true, false] {
        fs::remove_file(&program).unwrap();
        if replace {
            // Another program under the same path: its symbols would be wrong.
            fs::copy("/bin/true", &program).unwrap();
        }
        let (status, output, messages) =
            support::run(&["--pid", &target.pid().to_string(), "--duration", "1s", "--format", "json"]);
        assert_eq!(status, 0, "{messages}");
        assert!(output.contains("\"forget_line\""), "{output}");
    }
    assert!(target.is_alive());
}

#[test]
fn a_library_that_is_loaded_later_is_noticed() {
    // The program is static but for the linker: what it loads by itself is in another image.
    assert!(Path::new("/usr/bin/python3").exists());
    let script = "
import sys, time
print('running', flush=True)
sys.stdin.readline()
import sqlite3
db = sqlite3.connect(':memory:')
db.execute('create table t(a)')
print('loaded', flush=True)
while True:
    db.executemany('insert into t values (?)', [('x' * 1000,) for _ in range(100)])
    time.sleep(0.01)
";
    let mut target = Target::start(Command::new("/usr/bin/python3").args(["-c", script]));
    assert_eq!(target.line(), "running");
    let tracing = Tracing::start(&["--pid", &target.pid().to_string(), "--format", "json"]);
    target.say("go");
    assert_eq!(target.line(), "loaded");
    thread::sleep(Duration::from_secs(2));
    let report = tracing.stop();
    // Frames in the new library are known by name, not as addresses in nowhere.
    assert!(share(&report, "libsqlite3") > 0.3, "{}", share(&report, "libsqlite3"));
}
