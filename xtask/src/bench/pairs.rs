//! The cost of a pair of malloc and free, by threads and by depth of the stack.

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
};

use anyhow::Result;

use super::{
    figures::{Figure, Matrix, Section, Wanted},
    tracer::Column,
    workload::{self, Talker, Workload},
};
use crate::shell::{root, run, target};

/// How long each setting is measured, in milliseconds.
const TIME_MS: u32 = 400;

/// A setting: code with or without frame pointers, frames of the stack, threads.
type Setting = (&'static str, u32, u32);

/// Shallow stacks, on one thread.
const SHALLOW: Setting = ("bare", 5, 1);
/// The same in code with frame pointers, which bpftrace needs.
const SHALLOW_FP: Setting = ("fp", 5, 1);
const TWENTY: Setting = ("bare", 20, 1);
const DEEP: Setting = ("bare", 60, 1);

const SETTINGS: [Setting; 8] =
    [SHALLOW, ("bare", 5, 4), ("bare", 5, 16), TWENTY, DEEP, SHALLOW_FP, ("fp", 20, 1), ("fp", 60, 1)];

fn row((kind, depth, threads): Setting) -> String {
    let code = if kind == "fp" { "with frame pointers" } else { "without frame pointers" };
    let threads = if threads == 1 { "1 thread".to_owned() } else { format!("{threads} threads") };
    format!("{depth} frames {code}, {threads}")
}

pub(super) fn measure(rounds: u32, memtrace: &Path) -> Result<Vec<Section>> {
    let mut matrix = Matrix::default();
    workload::measure("pairs", Pairs::start, &Column::OF_PAIRS, rounds, memtrace, &mut matrix)?;
    Ok(vec![section(matrix, rounds)])
}

fn section(matrix: Matrix, rounds: u32) -> Section {
    let (shallow, shallow_fp) = (row(SHALLOW), row(SHALLOW_FP));
    let ratio = |name: &str, row: &str, over, under, wanted| matrix.ratio(name, (row, over), (row, under), wanted);
    let figures = vec![
        ratio("exact / floor, 5 frames", &shallow, Column::Exact, Column::Floor, Wanted::AtMost(1.25)),
        ratio("exact / floor, 20 frames", &row(TWENTY), Column::Exact, Column::Floor, Wanted::AtMost(1.7)),
        ratio(
            "exact, `--returns instruction` / floor, 5 frames",
            &shallow,
            Column::AtInstructions,
            Column::Floor,
            Wanted::Nothing,
        ),
        ratio("exact / bpftrace", &shallow_fp, Column::Exact, Column::Bpftrace, Wanted::AtMost(0.35)),
        ratio("sampled / floor", &shallow, Column::Sampled, Column::Floor, Wanted::AtMost(0.75)),
        Figure { name: "ns a frame walked, by rows".into(), rounds: ns_a_frame(&matrix), wanted: Wanted::AtMost(50.0) },
    ];
    Section {
        id: "pairs",
        command: format!("cargo xtask bench pairs --rounds {rounds}"),
        matrix: Some(("ns a pair", matrix)),
        figures: Some(("ratio, round by round", figures)),
        more: String::new(),
    }
}

/// The cost of a frame more, round by round.
fn ns_a_frame(matrix: &Matrix) -> Vec<f64> {
    let more = f64::from(DEEP.1 - SHALLOW.1);
    let (deep, shallow) = (matrix.cell(&row(DEEP), Column::Exact), matrix.cell(&row(SHALLOW), Column::Exact));
    deep.iter().zip(shallow).map(|(deep, shallow)| (deep - shallow) / more).collect()
}

/// The program that allocates and frees; see xtask/bench/pairs.c.
pub(super) struct Pairs(Talker);

impl Pairs {
    /// Starts it, by way of a command that runs it where `wrapper` is one.
    pub(super) fn start(wrapper: &[String]) -> Result<Self> {
        let mut talker = Talker::start(&mut workload::command(wrapper, Self::program()?))?;
        // It has begun once it answers.
        talker.ask("hold 0 1")?;
        Ok(Self(talker))
    }

    pub(super) fn ask(&mut self, line: &str) -> Result<f64> {
        self.0.ask(line)
    }

    /// Where it is; compiled once in each run.
    fn program() -> Result<&'static Path> {
        static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
        if let Some(program) = PROGRAM.get() {
            return Ok(program);
        }
        let compiled = Self::compile()?;
        Ok(PROGRAM.get_or_init(|| compiled))
    }

    fn compile() -> Result<PathBuf> {
        let (source, built) = (root().join("xtask/bench"), target().join("bench"));
        std::fs::create_dir_all(&built)?;
        let object = |file: &str, name: &str, options: &[&str]| -> Result<PathBuf> {
            let object = built.join(name);
            let mut command = std::process::Command::new("cc");
            command.args(["-O2", "-g", "-fno-optimize-sibling-calls", "-c"]).args(options);
            run(command.arg("-o").arg(&object).arg(source.join(file)))?;
            Ok(object)
        };
        let objects = [
            object("pairs.c", "pairs.o", &["-fno-omit-frame-pointer"])?,
            object("descend.c", "descend_fp.o", &["-DDESCEND=descend_fp", "-fno-omit-frame-pointer"])?,
            object("descend.c", "descend_bare.o", &["-DDESCEND=descend_bare", "-fomit-frame-pointer"])?,
        ];
        let program = built.join(Self::NAME);
        run(std::process::Command::new("cc").arg("-o").arg(&program).args(objects).arg("-lpthread"))?;
        Ok(program)
    }

    /// Its short name, by which all of them are found.
    pub(super) const NAME: &'static str = "bench-pairs";
}

impl Workload for Pairs {
    fn pid(&self) -> u32 {
        self.0.pid()
    }

    fn library(&self) -> Result<PathBuf> {
        // Of a wrapper, which needs none, this process's own would do.
        workload::mapped_library(self.pid(), "libc.so")
    }

    fn measure(&mut self) -> Result<Vec<(String, f64)>> {
        // Once to warm up: first calls make threads, sites, stacks and breakpoints.
        self.ask("pairs bare 5 1 50")?;
        let ask = |setting: Setting| {
            let (kind, depth, threads) = setting;
            Ok((row(setting), self.0.ask(&format!("pairs {kind} {depth} {threads} {TIME_MS}"))?))
        };
        SETTINGS.into_iter().map(ask).collect()
    }

    fn stop(self) -> Result<()> {
        self.0.stop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_costs_what_deeper_stacks_cost_more() {
        let mut matrix = Matrix::default();
        matrix.push(&row(SHALLOW), Column::Exact, 2000.0);
        matrix.push(&row(DEEP), Column::Exact, 3100.0);
        assert_eq!(ns_a_frame(&matrix), [20.0]);
    }
}
