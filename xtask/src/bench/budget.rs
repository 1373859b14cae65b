//! Whether memtrace keeps to its budget: redis under load, and a target that bursts.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, UNIX_EPOCH},
};

use anyhow::{Context, Result, anyhow};
use plotters::{
    chart::ChartBuilder,
    drawing::IntoDrawingArea,
    prelude::SVGBackend,
    series::LineSeries,
    style::{Color, RGBColor, WHITE},
};
use serde_json::Value;

use super::{
    figures::{Figure, Matrix, Section, Wanted},
    programs::Redis,
    tracer::{Column, Tracer},
    workload,
};
use crate::{
    document::{self, Document},
    shell::{root, run, say, target},
};

/// The default of `--max-overhead`.
const BUDGET: f64 = 0.1;

/// The burst target: three threads that do nothing for three seconds, and allocate as fast as they can for six.
const BURST: [&str; 4] = ["3", "3000", "6000", "100"];
const BURST_SECONDS: u64 = 20;

pub(super) fn measure(rounds: u32, memtrace: &Path) -> Result<Vec<Section>> {
    let columns = [Column::Untraced, Column::Auto];
    let mut matrix = Matrix::default();
    workload::measure("redis", Redis::start_for_long, &columns, rounds, memtrace, &mut matrix)?;
    let ratio = |row: &str, wanted| {
        matrix.ratio(&format!("auto / untraced: {row}"), (row, Column::Auto), (row, Column::Untraced), wanted)
    };
    let mut figures = vec![ratio(Redis::SET, Wanted::AtLeast(0.9)), ratio(Redis::SET_P99, Wanted::AtMost(1.3))];
    let bursts: Vec<Burst> = (1..=rounds)
        .map(|round| {
            say(&format!("bursts, round {round} of {rounds}"));
            Burst::trace(memtrace)
        })
        .collect::<Result<_>>()?;
    figures.push(Figure {
        name: "bursts: longest time over the budget, in s".into(),
        rounds: bursts.iter().map(Burst::longest_over).collect(),
        wanted: Wanted::AtMost(1.0),
    });
    let last = bursts.last().context("there is at least one round")?;
    let (path, link) = Document::plot("burst.svg");
    document::write(&path, &last.plot()?)?;
    Ok(vec![Section {
        id: "budget",
        command: format!("cargo xtask bench budget --rounds {rounds}"),
        matrix: Some(("", matrix)),
        figures: Some(("", figures)),
        more: format!("![a target that bursts, under `--tier auto`]({link})\n"),
    }])
}

/// A run of the burst target under `--tier auto`.
struct Burst {
    /// When, in seconds after the start, and the part of the target's CPU time that tracing took since the time before.
    shares: Vec<(f64, f64)>,
    /// When, and how many pairs of malloc and free the target made in a tenth of a second.
    pairs: Vec<(f64, f64)>,
}

impl Burst {
    fn trace(memtrace: &Path) -> Result<Self> {
        let folder = target().join("bench");
        fs::create_dir_all(&folder)?;
        let (program, file) = (folder.join("burst"), folder.join("burst.json"));
        let source = root().join("memtrace/tests/programs/burst.c");
        run(Command::new("cc").args(["-O2", "-g", "-pthread", "-o"]).arg(&program).arg(source))?;
        let mut bursting = Bursting::start(&program)?;
        let (pid, path) = (bursting.0.id().to_string(), file.display().to_string());
        let options = ["--pid", &pid, "--tier", "auto", "--interval", "100ms", "--format", "json", "-o", &path];
        let tracer = Tracer::memtrace(memtrace, &options)?;
        bursting.go()?;
        thread::sleep(Duration::from_secs(BURST_SECONDS));
        tracer.stop()?;
        let slots = bursting.end()?;
        let reports: Vec<Value> =
            fs::read_to_string(file)?.lines().map(serde_json::from_str).collect::<serde_json::Result<_>>()?;
        Ok(Self { shares: shares(&reports)?, pairs: pairs(&slots, &reports)? })
    }

    /// The longest time for which tracing took more than the budget.
    fn longest_over(&self) -> f64 {
        let (mut longest, mut over) = (0.0f64, 0.0);
        for pair in self.shares.windows(2) {
            over = if pair[1].1 > BUDGET { over + pair[1].0 - pair[0].0 } else { 0.0 };
            longest = longest.max(over);
        }
        longest
    }

    fn plot(&self) -> Result<String> {
        let mut svg = String::new();
        let failed = |error: &dyn std::fmt::Display| anyhow!("cannot draw the bursts: {error}");
        let most = self.pairs.iter().fold(1.0, |most: f64, (_, pairs)| most.max(*pairs));
        {
            let area = SVGBackend::with_string(&mut svg, (760, 360)).into_drawing_area();
            area.fill(&WHITE).map_err(|error| failed(&error))?;
            let mut chart = ChartBuilder::on(&area)
                .margin(12)
                .x_label_area_size(40)
                .y_label_area_size(60)
                .build_cartesian_2d(0.0..BURST_SECONDS as f64, 0.0..105.0)
                .map_err(|error| failed(&error))?;
            let mesh = &mut chart.configure_mesh();
            mesh.x_desc("seconds").y_desc("percent").draw().map_err(|error| failed(&error))?;
            let percent = |points: &[(f64, f64)], whole: f64| -> Vec<(f64, f64)> {
                points.iter().map(|(at, part)| (*at, part / whole * 100.0)).collect()
            };
            let budget = [(0.0, BUDGET), (BURST_SECONDS as f64, BUDGET)];
            let lines = [
                (
                    "allocations, of the most in a tenth of a second",
                    percent(&self.pairs, most),
                    RGBColor(170, 170, 170),
                ),
                ("CPU time that went to being traced", percent(&self.shares, 1.0), RGBColor(214, 39, 40)),
                ("--max-overhead", percent(&budget, 1.0), RGBColor(31, 119, 180)),
            ];
            for (label, points, colour) in lines {
                let line = LineSeries::new(points, colour.stroke_width(2));
                let drawn = chart.draw_series(line).map_err(|error| failed(&error))?;
                drawn.label(label).legend(move |at| plotters::element::Circle::new(at, 4, colour.filled()));
            }
            let mut legend = chart.configure_series_labels();
            legend.background_style(WHITE.mix(0.8)).draw().map_err(|error| failed(&error))?;
            area.present().map_err(|error| failed(&error))?;
        }
        Ok(svg)
    }
}

/// The burst target at work.
struct Bursting(Child);

impl Bursting {
    fn start(program: &Path) -> Result<Self> {
        let mut command = Command::new(program);
        let child = command.args(BURST).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        child.map(Self).with_context(|| format!("cannot run {}", program.display()))
    }

    fn go(&mut self) -> Result<()> {
        Ok(writeln!(self.0.stdin.as_mut().context("no pipe to the program")?, "go")?)
    }

    /// The text that it has printed.
    fn end(mut self) -> Result<Vec<String>> {
        let output = self.0.stdout.take().context("no pipe from the program")?;
        drop(self.0.stdin.take());
        Ok(BufReader::new(output).lines().collect::<std::io::Result<_>>()?)
    }
}

impl Drop for Bursting {
    fn drop(&mut self) {
        // It may have ended by itself.
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// The part of CPU time that went to being traced between one report and the next. A target that hardly runs counts as if
/// it used a tenth of a CPU.
fn shares(reports: &[Value]) -> Result<Vec<(f64, f64)>> {
    let reading = |report: &Value| {
        let overhead = &report["processes"][0]["overhead"];
        let seconds = |of: &Value, name: &str| of[name].as_f64().map(|ns| ns / 1e9);
        Some((seconds(report, "duration_ns")?, seconds(overhead, "cost_ns")?, seconds(overhead, "cpu_ns")?))
    };
    let readings: Option<Vec<_>> = reports.iter().map(reading).collect();
    let readings = readings.context("a report without its cost")?;
    let between = |pair: &[(f64, f64, f64)]| {
        let [(then, cost_then, cpu_then), (now, cost, cpu)] = [pair[0], pair[1]];
        (now, (cost - cost_then) / (cpu - cpu_then).max(0.1 * (now - then)).max(1e-3))
    };
    Ok(readings.windows(2).map(between).collect())
}

/// When slots were, after counting began, and how many pairs each had.
fn pairs(slots: &[String], reports: &[Value]) -> Result<Vec<(f64, f64)>> {
    let first = reports.first().context("there was no report")?;
    let written = first["started_at"].as_str().context("a report without its start")?;
    let started = humantime::parse_rfc3339(written)?.duration_since(UNIX_EPOCH)?.as_secs_f64();
    let point = |line: &String| {
        let (at, pairs) = line.split_once(' ')?;
        Some((at.parse::<f64>().ok()? / 1e3 - started, pairs.parse().ok()?))
    };
    Ok(slots.iter().filter_map(point).collect())
}
