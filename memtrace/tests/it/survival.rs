//! The fate of blocks: by generation, to the block; and where those are freed that do not stay.

use std::process::Command;

use serde_json::Value;

use crate::support::{self, FRAME_POINTERS, Target, Tracing, compile, corpus, losses, process, sites_at};

/// Objects of a site's generations, youngest first.
fn objects(site: &Value, figure: &str) -> Vec<u64> {
    let generations = site["survival"]["generations"].as_array().unwrap().iter();
    generations.map(|generation| generation[figure].as_u64().unwrap()).collect()
}

#[test]
fn blocks_of_eight_threads_are_told_by_age_to_the_block() {
    let mut target = Target::start(&mut Command::new(compile("ages.c", &FRAME_POINTERS)));
    assert_eq!(target.line(), "ready");
    let pid = target.pid().to_string();
    let tracing = Tracing::start(&["--pid", &pid, "--tier", "exact", "--format", "json"]);
    target.say("go");
    assert_eq!(target.line(), "done");
    let report = tracing.stop();
    let process = process(&report);
    assert_eq!(losses(process), []);
    let [old] = sites_at(process, "old")[..] else { panic!("{process:#}") };
    // 400 by each, a quarter freed when they were older than is told apart.
    assert_eq!(objects(old, "born_objects"), [0; 8]);
    assert_eq!(old["survival"]["older_live_objects"], 2400);
    assert_eq!(old["survival"]["older_freed_objects"], 800);
    assert_eq!(old["survival"]["older_freed_bytes"], 800 * 64);
    assert_eq!(old["short_lived_objects"], 0);
    // 200 by each, half freed at once.
    let [young] = sites_at(process, "young")[..] else { panic!("{process:#}") };
    assert_eq!(objects(young, "born_objects").iter().sum::<u64>(), 1600);
    assert_eq!(objects(young, "live_objects").iter().sum::<u64>(), 800);
    assert_eq!(objects(young, "born_objects")[2..], [0; 6], "{young:#}");
    assert_eq!(young["survival"]["older_live_objects"], 0);
    // Each site's blocks are of one size, and most was held before the last of the old ones went.
    assert_eq!(young["sizes"], serde_json::json!([{ "up_to_bytes": 64, "objects": 800 }]));
    assert!(process["peak"]["live_bytes"].as_u64().unwrap() >= process["live_bytes"].as_u64().unwrap());
}

#[test]
fn a_suspect_says_where_its_other_blocks_are_freed() {
    let all = corpus::corpus();
    let program = all.iter().find(|program| program.name == "extra_reference.c").unwrap();
    let target = Target::start(&mut program.command());
    let pid = target.pid().to_string();
    let (status, output, messages) =
        support::run(&["--pid", &pid, "--tier", "exact", "--duration", "50s", "--format", "json"]);
    assert_eq!(status, 0, "{messages}");
    let report: Value = serde_json::from_str(&output).unwrap();
    let [leak] = sites_at(process(&report), "message_new")[..] else { panic!("{report:#}") };
    assert_eq!(leak["verdict"], "leak-suspect", "{leak:#}");
    let freed_at = leak["freed_at"].as_array().unwrap();
    let names = |at: &Value| -> Vec<String> {
        at["frames"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|frame| Some(frame["function"].as_str()?.to_owned()))
            .collect()
    };
    let samples: u64 = freed_at.iter().map(|at| at["samples"].as_u64().unwrap()).sum();
    let by_put: u64 = freed_at
        .iter()
        .filter(|at| names(at).iter().any(|name| name == "put"))
        .map(|at| at["samples"].as_u64().unwrap())
        .sum();
    // Sixteen a second, from when old blocks began to accumulate.
    assert!(samples > 100 && by_put == samples, "{freed_at:#?}");
    assert!(freed_at.iter().all(|at| names(at).first().is_some_and(|name| name.contains("free"))), "{freed_at:#?}");
}
