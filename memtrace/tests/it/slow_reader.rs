//! A reader of the output who takes his time: it costs him reports, and the figures nothing.

use std::{
    fs::File,
    io::Read,
    os::fd::OwnedFd,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::{
    mmap::assert_mapped,
    support::{self, FRAME_POINTERS, Signal, Target, Tracing, compile, losses, process},
};

/// The bytes that a pipe holds.
fn fill(pipe: &File) -> u64 {
    rustix::io::ioctl_fionread(pipe).unwrap()
}

/// Traces a program that maps and unmaps, while nobody reads the output for so long.
fn stopped_for(time: Duration) {
    let mut target = Target::start(Command::new(compile("mappings.c", &FRAME_POINTERS)).args(["20000", "wait"]));
    assert_eq!(target.line(), "ready");
    let (reader, writer) = std::io::pipe().unwrap();
    let mut command = support::memtrace();
    let pid = target.pid().to_string();
    command.args(["--tier", "exact", "--category", "mmap", "--interval", "100ms", "--format", "json", "--pid", &pid]);
    let mut tracing = Tracing::run_to(command.stdout(Stdio::from(writer)));
    drop(command);
    tracing.wait_for("memtrace: tracing ");
    let reader = File::from(OwnedFd::from(reader));
    // Two looks at a full pipe find the same.
    support::eventually("the pipe is full", || {
        let before = fill(&reader);
        thread::sleep(Duration::from_secs(1));
        before > 0 && fill(&reader) == before
    });
    target.say("go");
    let truth: Value = serde_json::from_str(&target.line()).unwrap();
    thread::sleep(time);
    tracing.signal(Signal::INT);
    let mut output = String::new();
    (&reader).read_to_string(&mut output).unwrap();
    let (status, _, messages) = tracing.finish();
    assert_eq!(status, 0, "{messages}");
    let reports: Vec<Value> = output.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let left_out =
        messages.lines().find_map(|line| line.strip_prefix(LEFT_OUT)).unwrap_or_else(|| panic!("{messages}"));
    let left_out: u64 = left_out.replace(',', "").parse().unwrap();
    let tenths = u64::try_from(time.as_millis() / 100).unwrap();
    // A snapshot may take longer than the interval on a busy machine.
    assert!(left_out > tenths / 10, "{left_out} in {time:?}");
    let last = reports.last().unwrap();
    assert_eq!(losses(process(last)), []);
    assert_mapped(process(last), &truth);
    assert_eq!(last["health"]["events_full"], 0);
}

const LEFT_OUT: &str = "memtrace: reports left out because the output was not read in time: ";

#[test]
fn a_reader_who_stops_costs_reports_and_no_event() {
    stopped_for(Duration::from_secs(2));
}

#[test]
#[ignore = "long: half a minute in which nothing is read"]
fn a_reader_who_stops_for_half_a_minute_costs_reports_and_no_event() {
    stopped_for(Duration::from_secs(30));
}
