//! The CPU time that memtrace itself takes: to start, to report, to wait.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::{
    figures::{Figure, Section, Wanted},
    pairs::Pairs,
    tracer::Tracer,
    wide,
    workload::{Talker, Workload},
};
use crate::shell::say;

/// Room for a hundred thousand sites.
const ROOM: [&str; 4] = ["--max-sites", "150000", "--max-stacks", "150000"];

/// For how long an idle memtrace is watched.
const IDLE: Duration = Duration::from_secs(10);

pub(super) fn measure(rounds: u32, memtrace: &Path) -> Result<Section> {
    let wide = wide::program()?;
    let mut figures: Vec<Figure> = Vec::new();
    for round in 1..=rounds {
        say(&format!("memtrace itself, round {round} of {rounds}"));
        let all = [
            starting(memtrace)?,
            idle(memtrace)?,
            large_report("table", &["--format", "table"], memtrace)?,
            large_report("JSON of all sites", &["--format", "json"], memtrace)?,
            symbols(&wide, memtrace)?,
        ];
        for (name, figure, wanted) in all.into_iter().flatten() {
            match figures.iter_mut().find(|known| known.name == name) {
                Some(known) => known.rounds.push(figure),
                None => figures.push(Figure { name, rounds: vec![figure], wanted }),
            }
        }
    }
    Ok(Section {
        id: "user-space",
        command: format!("cargo xtask bench user-space --rounds {rounds}"),
        matrix: None,
        figures: Some(("", figures)),
        more: String::new(),
    })
}

type Measured = Vec<(String, f64, Wanted)>;

/// Until it runs, until it traces, and from there to the first report.
fn starting(memtrace: &Path) -> Result<Measured> {
    let begun = Instant::now();
    Command::new(memtrace).arg("--version").stdout(Stdio::null()).status().context("cannot run memtrace")?;
    let version = begun.elapsed();
    let pairs = Pairs::start(&[])?;
    let tracer = Tracer::memtrace(memtrace, &["--pid", &pairs.pid().to_string()])?;
    let attach = tracer.attach;
    let report = tracer.stop()?.report;
    pairs.stop()?;
    Ok(vec![
        ("`memtrace --version`, ms".into(), milliseconds(version), Wanted::AtMost(100.0)),
        ("`memtrace --pid N` until it traces, ms".into(), milliseconds(attach), Wanted::Nothing),
        ("first report when asked at once, ms".into(), milliseconds(report), Wanted::AtMost(1000.0)),
    ])
}

/// The share of a core that it takes while its target does nothing.
fn idle(memtrace: &Path) -> Result<Measured> {
    let mut pairs = Pairs::start(&[])?;
    let tracer = Tracer::memtrace(memtrace, &["--pid", &pairs.pid().to_string()])?;
    pairs.ask("hold 1000 10")?;
    thread::sleep(Duration::from_secs(1));
    let before = cpu_time(tracer.pid())?;
    thread::sleep(IDLE);
    let percent = (cpu_time(tracer.pid())? - before).as_secs_f64() / IDLE.as_secs_f64() * 100.0;
    tracer.stop()?;
    pairs.stop()?;
    Ok(vec![("idle, % of a core".into(), percent, Wanted::AtMost(0.5))])
}

/// Of all threads, to the nanosecond: schedstat of Documentation/scheduler/sched-stats.rst.
fn cpu_time(pid: u32) -> Result<Duration> {
    let mut total = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(thread?.path().join("schedstat"))?;
        total += text.split(' ').next().context("schedstat is empty")?.parse::<u64>()?;
    }
    Ok(Duration::from_nanos(total))
}

/// A report over a million live blocks of a hundred thousand sites.
fn large_report(name: &str, options: &[&str], memtrace: &Path) -> Result<Measured> {
    let mut pairs = Pairs::start(&[])?;
    let pid = pairs.pid().to_string();
    let tracer = Tracer::memtrace(memtrace, &[&["--pid", &pid, "--tier", "exact"], ROOM.as_slice(), options].concat())?;
    pairs.ask("hold 1000000 100000")?;
    let ended = tracer.stop()?;
    pairs.stop()?;
    let of = format!("1,000,000 blocks, 100,000 sites, {name}");
    Ok(vec![
        (format!("{of}: s"), ended.report.as_secs_f64(), Wanted::AtMost(1.0)),
        (format!("{of}: MB written"), ended.report_bytes as f64 / 1e6, Wanted::Nothing),
        (format!("{of}: peak RSS, MiB"), ended.peak_rss_kib as f64 / 1024.0, Wanted::Nothing),
    ])
}

/// Ten thousand distinct stacks of a program of more than 50 MB with debug information.
fn symbols(program: &Path, memtrace: &Path) -> Result<Measured> {
    let mut wide = Talker::start(&mut Command::new(program))?;
    wide.ask("0")?;
    let tracer =
        Tracer::memtrace(memtrace, &["--pid", &wide.pid().to_string(), "--tier", "exact", "--format", "json"])?;
    wide.ask("10000")?;
    let ended = tracer.stop()?;
    wide.stop()?;
    let megabytes = fs::metadata(program)?.len() / 1_000_000;
    let of = format!("10,000 stacks of a program of {megabytes} MB with debug information");
    Ok(vec![
        (format!("{of}: s"), ended.report.as_secs_f64(), Wanted::AtMost(2.0)),
        (format!("{of}: peak RSS, MiB"), ended.peak_rss_kib as f64 / 1024.0, Wanted::Nothing),
    ])
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
