//! `memtrace unwind-table FILE…` (hidden): the cost of compiling an image's call frame information.

use std::{fs, fs::File, path::PathBuf, process::ExitCode, time::Instant};

use memtrace_common::wire::code::{CfaRule, Row};

use super::failure::Failure;
use crate::{process::image::Image, unwind::cfi};

pub(super) fn run(files: &[PathBuf]) -> Result<ExitCode, Failure> {
    println!("| image | MiB | rows | unknown | ms | bytes of image a row | peak RSS, MiB |");
    println!("|---|--:|--:|--:|--:|--:|--:|");
    for path in files {
        let failed = |error: &dyn std::fmt::Display| Failure::image(path, error);
        let file = File::open(path).map_err(|error| failed(&error))?;
        let size_bytes = file.metadata().map_err(|error| failed(&error))?.len();
        let begun = Instant::now();
        let image = Image::parse(file, path.clone()).map_err(|error| failed(&error))?;
        let section = image.frame_section().map_err(|error| failed(&error))?;
        let rows = match &section {
            Some(section) => cfi::compile(section).map_err(|error| failed(&error))?,
            None => Vec::new(),
        };
        let ms = begun.elapsed().as_secs_f64() * 1000.0;
        let unknown = rows.iter().filter(|row| row.rule() == Some(CfaRule::Unknown)).count();
        println!(
            "| {} | {:.1} | {} | {unknown} | {ms:.1} | {:.0} | {:.0} |",
            path.display(),
            size_bytes as f64 / f64::from(1 << 20),
            rows.len(),
            size_bytes as f64 / rows.len().max(1) as f64,
            peak_rss_kib().unwrap_or(0) as f64 / 1024.0,
        );
    }
    println!("\nA row takes {} bytes.", size_of::<Row>());
    Ok(ExitCode::SUCCESS)
}

/// The most memory that this process has had resident: `VmHWM` of proc(5).
fn peak_rss_kib() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.trim().strip_suffix(" kB")?.parse().ok()
}
