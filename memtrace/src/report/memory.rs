//! The table's lines on memory, a process's or the kernel's: which way it goes, of what kind it is, and where it ends.

use std::{
    io::{self, Write},
    time::Duration,
};

use super::{sparkline, words::units};
use crate::model::{
    memory::{KernelUsage, Memory, Series, Usage},
    report::Process,
    stats::trend::MIN_POINTS,
};

/// Writes the lines; none where it is not known.
///
/// # Errors
/// Where `out` refuses.
pub(super) fn render(process: &Process, out: &mut dyn Write) -> io::Result<()> {
    let Some(memory) = &process.memory else { return Ok(()) };
    let label = match memory.series {
        Series::OfProcess(_) => "RSS",
        Series::OfKernel(_) => "held",
    };
    let slope = units::bytes_per_s(memory.judgement.slope_per_s);
    write!(out, "{label:<10} {}, {slope}, {}", units::bytes(memory.bytes()), trend(memory))?;
    let points = memory.points();
    if let [(_, first), .., (_, last)] = points.as_slice() {
        write!(out, "   {} {} {}", units::bytes(*first), sparkline::render(&points), units::bytes(*last))?;
    }
    writeln!(out)?;
    match &memory.series {
        Series::OfProcess(readings) => kinds(readings, out),
        Series::OfKernel(readings) => kernel_kinds(readings, out),
    }?;
    limit(memory, out)
}

/// The word for a trend, with how sure that is.
pub(super) fn trend(memory: &Memory) -> String {
    let name = memory.judgement.trend.name();
    let percent = memory.judgement.confidence * 100.0;
    match percent {
        // It would be rounded up to certainty.
        99.95.. => format!("{name} (> 99.9 %)"),
        99.0.. => format!("{name} ({percent:.1} %)"),
        50.0.. => format!("{name} ({percent:.0} %)"),
        _ if memory.points().len() < MIN_POINTS => format!("{name} (too early)"),
        // It changes, but not for good.
        _ => format!("{name} (unsteady)"),
    }
}

fn kinds(readings: &[(Duration, Usage)], out: &mut dyn Write) -> io::Result<()> {
    let Some((_, latest)) = readings.last() else { return Ok(()) };
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

/// By the kernel's own account: also what it held before.
fn kernel_kinds(readings: &[(Duration, KernelUsage)], out: &mut dyn Write) -> io::Result<()> {
    let Some((_, latest)) = readings.last() else { return Ok(()) };
    let slabs = latest.slab_reclaimable_bytes.saturating_add(latest.slab_unreclaimable_bytes);
    let [slabs, reclaimable] = [slabs, latest.slab_reclaimable_bytes].map(units::bytes);
    let [stacks, vmalloc] = [latest.stack_bytes, latest.vmalloc_bytes].map(units::bytes);
    let [tables, percpu] = [latest.page_table_bytes, latest.percpu_bytes].map(units::bytes);
    writeln!(
        out,
        "memory     {slabs} in slabs ({reclaimable} reclaimable), {stacks} stacks of threads, {vmalloc} other vmalloc, {tables} page tables, \
         {percpu} per-CPU; also from before"
    )
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
    use crate::{
        model::stats::trend::{Judgement, Trend},
        report::fixture,
    };

    fn rendered(change: impl FnOnce(&mut Process)) -> String {
        let mut process = fixture::report().processes.remove(0);
        change(&mut process);
        let mut out = Vec::new();
        render(&process, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn nothing_is_said_of_what_was_never_read() {
        assert_eq!(rendered(|process| process.memory = None), "");
    }

    #[test]
    fn the_kernels_memory_has_kinds_of_its_own() {
        let usage = |mib: u64| KernelUsage {
            slab_reclaimable_bytes: mib << 20,
            slab_unreclaimable_bytes: 10 << 20,
            stack_bytes: 3 << 20,
            vmalloc_bytes: 4 << 20,
            page_table_bytes: 2 << 20,
            percpu_bytes: 1 << 20,
        };
        let text = rendered(|process| {
            let readings = (0..10).map(|second| (Duration::from_secs(second), usage(second))).collect();
            let judgement = Judgement { trend: Trend::Increasing, confidence: 0.9, slope_per_s: 1048576.0 };
            process.memory =
                Some(Memory { judgement, limit: None, time_to_limit: None, series: Series::OfKernel(readings) });
        });
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("held       29.0 MiB, +1.00 MiB/s, increasing (90 %)   20.0 MiB "), "{text}");
        let kinds = "memory     19.0 MiB in slabs (9.00 MiB reclaimable), 3.00 MiB stacks of threads, 4.00 MiB other vmalloc, 2.00 MiB page tables, \
                     1.00 MiB per-CPU; also from before";
        assert_eq!(lines[1], kinds);
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
            let mut memory = fixture::report().processes.remove(0).memory.unwrap();
            memory.judgement.confidence = confidence;
            trend(&memory)
        };
        assert_eq!([1.0, 0.9912, 0.5].map(said), ["increasing (> 99.9 %)", "increasing (99.1 %)", "increasing (50 %)"]);
        assert_eq!(said(0.0), "increasing (too early)");
    }
}
