//! `cargo xtask bench`: what tracing costs, as ratios within one run.
//!
//! Each round measures every column once, so that a machine whose speed drifts drifts under all of them. The
//! figures become the tables and plots of docs/PERFORMANCE.md.

mod budget;
mod children;
mod curves;
mod figures;
mod growth;
mod images;
mod pairs;
mod programs;
mod tracer;
mod user_space;
mod wide;
mod workload;

use std::{fs, path::Path};

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde_json::{Map, Value};

use self::figures::Section;
use crate::{
    build,
    document::{Document, PERFORMANCE},
    setup,
    shell::say,
};

/// The measurements that can be made by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// The cost of a pair of malloc and free, by threads and by depth of the stack
    Pairs,
    /// redis, python and sqlite at work
    Programs,
    /// How costs grow with live blocks, sites and processes
    Curves,
    /// The CPU time that memtrace itself takes to start, to report and to wait
    UserSpace,
    /// Whether memtrace keeps to its budget: redis, and a target that bursts
    Budget,
    /// Children that live for milliseconds: a postgres that forks for each transaction
    Children,
    /// Tier growth over the whole host: redis, nginx, python and gcc
    Growth,
    /// Compiling the call frame information of some images
    Images,
}

impl Part {
    fn measure(self, rounds: u32, memtrace: &Path) -> Result<Vec<Section>> {
        match self {
            Self::Pairs => pairs::measure(rounds, memtrace),
            Self::Programs => programs::measure(rounds, memtrace),
            Self::Curves => curves::measure(rounds, memtrace),
            Self::UserSpace => user_space::measure(rounds, memtrace).map(|section| vec![section]),
            Self::Budget => budget::measure(rounds, memtrace),
            Self::Children => children::measure(rounds, memtrace),
            Self::Growth => growth::measure(rounds, memtrace),
            Self::Images => images::measure(memtrace).map(|section| vec![section]),
        }
    }
}

/// Measures `parts` (all where none is named), prints their tables, and writes the figures where that is asked for.
pub(crate) fn bench(parts: &[Part], rounds: u32, json: Option<&Path>, write: bool) -> Result<()> {
    setup::apt_install(&[
        "gcc",
        "libc6-dev",
        "bpftrace",
        "heaptrack",
        "redis-server",
        "sqlite3",
        "python3",
        "postgresql-15",
    ])?;
    let memtrace = build::build(true)?;
    let parts = if parts.is_empty() { Part::value_variants() } else { parts };
    let mut all = Map::new();
    for part in parts {
        let sections = part.measure(rounds, &memtrace)?;
        for section in &sections {
            println!("{}\n", section.markdown());
            all.insert(section.id.to_owned(), section.json());
        }
        if write {
            // After each part: the next ones may take half an hour.
            let mut document = Document::read(PERFORMANCE)?;
            sections.iter().try_for_each(|section| document.put(section.id, &section.markdown()))?;
            document.write()?;
            say(&format!("wrote {}", document.path.display()));
        }
    }
    if let Some(path) = json {
        let figures = serde_json::json!({ "rounds": rounds, "sections": Value::Object(all) });
        fs::write(path, format!("{figures:#}\n")).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
