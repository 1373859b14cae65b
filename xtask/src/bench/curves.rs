//! How costs grow with live blocks, sites and processes: curves of the exact and the sampled tier.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use plotters::{
    chart::ChartBuilder,
    drawing::IntoDrawingArea,
    element::{Circle, ErrorBar},
    prelude::{IntoLogRange, SVGBackend},
    series::LineSeries,
    style::{Color, RGBColor, WHITE},
};

use super::{
    figures::{Matrix, Section, Spread},
    pairs::Pairs,
    tracer::{Column, Tracer},
    workload::Workload,
};
use crate::{
    document::{self, Document},
    shell::say,
};

/// Room for the largest point of each curve.
const ROOM: [&str; 4] = ["--max-sites", "150000", "--max-stacks", "150000"];

/// How long a point is measured, in milliseconds.
const TIME_MS: u32 = 400;

/// Figures, each with its unit.
type Measured = Vec<(&'static str, f64)>;

/// One curve's axis: what grows, and in which steps.
struct Axis {
    name: &'static str,
    file: &'static str,
    steps: &'static [u32],
    /// Further facts of each step.
    measure: fn(u32, Column, &Path) -> Result<Measured>,
}

const PAIR: &str = "ns a pair";
const ATTACH: &str = "ms to attach";

const AXES: [Axis; 3] = [
    Axis { name: "live blocks", file: "blocks.svg", steps: &[1_000, 10_000, 100_000, 1_000_000], measure: with_blocks },
    Axis { name: "sites", file: "sites.svg", steps: &[100, 1_000, 10_000, 100_000], measure: with_sites },
    Axis { name: "processes", file: "processes.svg", steps: &[1, 10, 100, 500], measure: with_processes },
];

const COLUMNS: [Column; 2] = [Column::Sampled, Column::Exact];

pub(super) fn measure(rounds: u32, memtrace: &Path) -> Result<Vec<Section>> {
    let mut matrix = Matrix::default();
    let mut plots = String::new();
    for axis in AXES {
        for round in 1..=rounds {
            for step in axis.steps {
                say(&format!("{step} {}, round {round} of {rounds}", axis.name));
                for column in COLUMNS {
                    for (unit, figure) in (axis.measure)(*step, column, memtrace)? {
                        matrix.push(&row(&axis, *step, unit), column, figure);
                    }
                }
            }
        }
        let (path, link) = Document::plot(axis.file);
        document::write(&path, &plot(&axis, &matrix)?)?;
        plots += &format!("![{PAIR} by {}]({link})\n", axis.name);
    }
    Ok(vec![Section {
        id: "curves",
        command: format!("cargo xtask bench curves --rounds {rounds}"),
        matrix: Some(("", matrix)),
        figures: None,
        more: plots,
    }])
}

fn row(axis: &Axis, step: u32, unit: &str) -> String {
    format!("{step} {}: {unit}", axis.name)
}

fn tier(column: Column) -> &'static str {
    if column == Column::Sampled { "sampled" } else { "exact" }
}

fn with_blocks(count: u32, column: Column, memtrace: &Path) -> Result<Measured> {
    let mut pairs = Pairs::start(&[])?;
    let tracer = traced(&pairs, column, memtrace)?;
    pairs.ask(&format!("hold {count} 1"))?;
    let figure = pairs.ask(&format!("pairs bare 5 1 {TIME_MS}"))?;
    tracer.stop()?;
    pairs.stop()?;
    Ok(vec![(PAIR, figure)])
}

fn with_sites(count: u32, column: Column, memtrace: &Path) -> Result<Measured> {
    let mut pairs = Pairs::start(&[])?;
    let tracer = traced(&pairs, column, memtrace)?;
    let figure = pairs.ask(&format!("sites {count} {TIME_MS}"))?;
    tracer.stop()?;
    pairs.stop()?;
    Ok(vec![(PAIR, figure)])
}

/// One process works, the others wait.
fn with_processes(count: u32, column: Column, memtrace: &Path) -> Result<Measured> {
    let mut all = (0..count).map(|_| Pairs::start(&[])).collect::<Result<Vec<_>>>()?;
    let options = [&["--comm", Pairs::NAME, "--tier", tier(column), "--format", "json"], ROOM.as_slice()].concat();
    let tracer = Tracer::memtrace(memtrace, &options)?;
    let attach_ms = tracer.attach.as_secs_f64() * 1e3;
    let worker = all.first_mut().context("there is at least one process")?;
    let figure = worker.ask(&format!("pairs bare 5 1 {TIME_MS}"))?;
    tracer.stop()?;
    all.into_iter().try_for_each(Workload::stop)?;
    Ok(vec![(PAIR, figure), (ATTACH, attach_ms)])
}

fn traced(pairs: &Pairs, column: Column, memtrace: &Path) -> Result<Tracer> {
    let pid = pairs.pid().to_string();
    Tracer::memtrace(memtrace, &[&["--pid", &pid, "--tier", tier(column)], ROOM.as_slice()].concat())
}

/// Medians with their ranges, as an SVG file.
fn plot(axis: &Axis, matrix: &Matrix) -> Result<String> {
    let points = |column: Column| -> Vec<(f64, Spread)> {
        let point = |step: &u32| (f64::from(*step), Spread::of(matrix.cell(&row(axis, *step, PAIR), column)));
        axis.steps.iter().map(point).collect()
    };
    let top = COLUMNS.into_iter().flat_map(points).fold(0.0, |top: f64, (_, spread)| top.max(spread.max)) * 1.1;
    let first = f64::from(*axis.steps.first().context("a curve has steps")?);
    let last = f64::from(*axis.steps.last().context("a curve has steps")?);
    let mut svg = String::new();
    {
        let failed = |error: &dyn std::fmt::Display| anyhow!("cannot draw {}: {error}", axis.file);
        let area = SVGBackend::with_string(&mut svg, (640, 360)).into_drawing_area();
        area.fill(&WHITE).map_err(|error| failed(&error))?;
        let mut chart = ChartBuilder::on(&area)
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(60)
            .build_cartesian_2d((first / 1.5..last * 1.5).log_scale(), 0.0..top)
            .map_err(|error| failed(&error))?;
        chart
            .configure_mesh()
            .x_desc(axis.name)
            .y_desc(PAIR)
            .x_label_formatter(&|x| format!("{x:.0}"))
            .draw()
            .map_err(|error| failed(&error))?;
        for (column, colour) in COLUMNS.into_iter().zip([RGBColor(31, 119, 180), RGBColor(214, 39, 40)]) {
            let points = points(column);
            let line = LineSeries::new(points.iter().map(|(x, spread)| (*x, spread.median)), colour.stroke_width(2));
            let bars = points.iter().map(|(x, spread)| {
                ErrorBar::new_vertical(*x, spread.min, spread.median, spread.max, colour.filled(), 8)
            });
            chart
                .draw_series(line)
                .map_err(|error| failed(&error))?
                .label(tier(column))
                .legend(move |at| Circle::new(at, 4, colour.filled()));
            chart.draw_series(bars).map_err(|error| failed(&error))?;
        }
        let mut legend = chart.configure_series_labels();
        legend.background_style(WHITE.mix(0.8)).draw().map_err(|error| failed(&error))?;
        area.present().map_err(|error| failed(&error))?;
    }
    Ok(svg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_has_its_axes_and_both_tiers() {
        let mut matrix = Matrix::default();
        for axis in &AXES {
            for (step, column) in axis.steps.iter().flat_map(|step| COLUMNS.map(|column| (*step, column))) {
                matrix.push(&row(axis, step, PAIR), column, f64::from(step));
            }
            let svg = plot(axis, &matrix).unwrap();
            for word in [axis.name, PAIR, "sampled", "exact"] {
                assert!(svg.contains(word), "{word} is not in {svg}");
            }
        }
    }
}
