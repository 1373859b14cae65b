//! The pace of a look at a GiB in two million blocks: beside a program that leaves no CPU free, and beside one that does.

use std::{
    process::Command,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    heap_reader::{Live, Truth},
    support::{self, InTime, compile, eventually, scaled, told},
};

/// How long the program is left alone before each look and after it, and how often it is looked at.
const ALONE: Duration = Duration::from_secs(8);
const ROUNDS: usize = 5;

/// The program, idle.
fn two_million_blocks() -> Truth {
    let blocks = scaled(2_000_000).to_string();
    Truth::start(&[&compile("heap.c", &["-O2"])], None, &[&blocks, "6000", "0"])
}

/// The operations a second between two moments.
fn rate(before: Live, after: Live, took: Duration) -> f64 {
    (after.operations - before.operations) as f64 / took.as_secs_f64()
}

/// Looks at a program as users do. Returns the allocator's figures, and how long it took.
fn look(truth: &Truth) -> (Value, Duration) {
    let begun = Instant::now();
    let pid = truth.target.pid().to_string();
    let output = support::memtrace().args(["heap", "--pid", &pid, "--format", "json"]).output_in_time();
    let (status, output, messages) = told(&output);
    assert_eq!(status, 0, "{messages}");
    let report: Value = serde_json::from_str(&output).unwrap();
    (report["processes"][0]["heap"]["allocators"][0].clone(), begun.elapsed())
}

#[test]
#[ignore = "long: a heap of a GiB, beside a program that saturates the machine"]
fn a_program_that_saturates_the_machine_keeps_its_pace_while_it_is_looked_at() {
    let mut truth = two_million_blocks();
    truth.say("run", "running");
    let slots = truth.live().objects;
    eventually("exchanges", || truth.live().operations > 4 * slots);
    let mut kept: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let before = truth.live();
            thread::sleep(ALONE);
            let between = truth.live();
            let (glibc, took) = look(&truth);
            let after = truth.live();
            thread::sleep(ALONE);
            // The machine is another's as well: its pace before and after.
            let alone = f64::midpoint(rate(before, between, ALONE), rate(after, truth.live(), ALONE));
            let kept = rate(between, after, took) / alone;
            let objects = glibc["live_objects"].as_u64().unwrap();
            let (least, most) = (between.objects.min(after.objects), between.objects.max(after.objects));
            let off = least.saturating_sub(objects).max(objects.saturating_sub(most + 22)) as f64 / most as f64;
            println!("keeps {kept:.3} while it is looked at for {took:?}; {off:.5} off");
            assert!(took < Duration::from_secs(40), "{took:?}");
            assert!(off < 0.006, "{off}");
            kept
        })
        .collect();
    kept.sort_by(f64::total_cmp);
    assert!(kept[ROUNDS / 2] >= 0.95, "{kept:?}");
}

#[test]
#[ignore = "long: a heap of a GiB"]
fn a_look_does_not_rest_where_a_cpu_is_free() {
    let truth = two_million_blocks();
    // It takes one of the CPUs.
    let mut busy = support::Running::start(Command::new("/bin/sh").args(["-c", "while :; do :; done"]));
    let (glibc, took) = look(&truth);
    busy.kill();
    println!("{} objects in {took:?}", glibc["live_objects"]);
    assert!(took < Duration::from_secs(3), "{took:?}");
}
