//! What the table says of a process's memory: which way it goes, of what kind it is, and where it ends.

use std::io::{self, Write};

use super::sparkline;
use crate::model::{memory::Memory, report::Process, trend::MIN_POINTS, units};

/// Writes the lines.
///
/// # Errors
/// Where `out` refuses.
pub(super) fn render(process: &Process, out: &mut dyn Write) -> io::Result<()> {
    let rss = process.rss_bytes.map_or_else(|| "unknown".to_owned(), units::bytes);
    let slope = units::bytes_per_s(process.rss_growth_bytes_per_s);
    let label = if process.is_kernel() { "held" } else { "RSS" };
    write!(out, "{label:<10} {rss}, {slope}, {}", trend(process))?;
    if process.is_kernel() {
        write!(out, " (slabs, stacks of threads, page tables, per-CPU memory, also from before)")?;
    }
    let Some(memory) = &process.memory else { return writeln!(out) };
    let series: Vec<_> = memory.series.iter().map(|(at, usage)| (*at, usage.rss_bytes())).collect();
    if let [(_, first), .., (_, last)] = series.as_slice() {
        write!(out, "   {} {} {}", units::bytes(*first), sparkline::render(&series), units::bytes(*last))?;
    }
    writeln!(out)?;
    kinds(memory, out)?;
    limit(memory, out)
}

/// The word for a process's trend, with how sure that is.
pub(super) fn trend(process: &Process) -> String {
    let name = process.trend.name();
    let readings = process.memory.as_ref().map_or(0, |memory| memory.series.len());
    let percent = process.trend_confidence * 100.0;
    match percent {
        // What would be rounded up to certainty.
        99.95.. => format!("{name} (> 99.9 %)"),
        99.0.. => format!("{name} ({percent:.1} %)"),
        50.0.. => format!("{name} ({percent:.0} %)"),
        _ if readings == 0 => name.to_owned(),
        _ if readings < MIN_POINTS => format!("{name} (too early)"),
        // It changes, but not for good.
        _ => format!("{name} (unsteady)"),
    }
}

fn kinds(memory: &Memory, out: &mut dyn Write) -> io::Result<()> {
    let latest = &memory.latest;
    let [anon, file, vms] = [latest.anon_bytes, latest.file_bytes, latest.vms_bytes].map(units::bytes);
    write!(out, "memory     {anon} anonymous, {file} of files")?;
    // Most processes have none.
    for (bytes, kind) in [(latest.shmem_bytes, "shared"), (latest.swap_bytes, "swapped out")] {
        if bytes > 0 {
            write!(out, ", {} {kind}", units::bytes(bytes))?;
        }
    }
    writeln!(out, "; {vms} of address space")
}

fn limit(memory: &Memory, out: &mut dyn Write) -> io::Result<()> {
    let Some(limit) = &memory.limit else { return Ok(()) };
    let [used, max] = [limit.used_bytes, limit.max_bytes].map(units::bytes);
    match memory.time_to_limit {
        Some(time) => writeln!(
            out,
            "limit      reaches its memory.max ({max}) in {} at this rate; its cgroup has {used}",
            units::duration(time)
        ),
        None => writeln!(out, "limit      its cgroup has {used} of its memory.max ({max})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::trend::Trend, report::fixture};

    fn rendered(change: impl FnOnce(&mut Process)) -> String {
        let mut process = fixture::report().processes.remove(0);
        change(&mut process);
        let mut out = Vec::new();
        render(&process, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_process_without_readings_has_one_line() {
        let text = rendered(|process| {
            process.rss_bytes = None;
            process.memory = None;
            (process.trend, process.trend_confidence) = (Trend::Stable, 0.0);
        });
        assert_eq!(text, "RSS        unknown, +1.00 KiB/s, stable\n");
    }

    #[test]
    fn a_limit_that_is_not_in_sight_is_told_without_a_time() {
        let text = rendered(|process| process.memory.as_mut().unwrap().time_to_limit = None);
        assert!(text.ends_with("limit      its cgroup has 200.0 MiB of its memory.max (512.0 MiB)\n"), "{text}");
        let text = rendered(|process| process.memory.as_mut().unwrap().limit = None);
        assert!(!text.contains("limit"), "{text}");
    }

    #[test]
    fn nobody_is_told_to_be_certain() {
        let said = |confidence| {
            let mut process = fixture::report().processes.remove(0);
            process.trend_confidence = confidence;
            trend(&process)
        };
        assert_eq!([1.0, 0.9912, 0.5].map(said), ["increasing (> 99.9 %)", "increasing (99.1 %)", "increasing (50 %)"]);
        assert_eq!(said(0.0), "increasing (too early)");
    }
}
