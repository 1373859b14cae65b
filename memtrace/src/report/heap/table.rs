//! The table: where a process's memory is, and what fills its heap, on one screen.

use std::io::{self, Write};

use super::{holders, sections, types};
use crate::{
    model::{
        heap::Heap,
        heap_report::{HeapProcess, HeapReport},
    },
    report::words::{self, units},
};

/// Size classes that an allocator shows, and types that a process shows, unless told otherwise.
pub const DEFAULT_TOP: usize = 10;

/// Lines on holders that a process shows unless told otherwise.
const DEFAULT_LINES: usize = 30;

/// Processes that are shown in full: those that have most memory.
const DETAILED: usize = 5;

/// Writes the report for a person. `width` is the terminal's, in columns; without it lines are as long as they need.
///
/// # Errors
/// Where `out` refuses.
pub fn render(report: &HeapReport, top: Option<usize>, width: Option<u16>, out: &mut dyn Write) -> io::Result<()> {
    let several = report.processes.len() > 1;
    if several {
        sections::overview(report, out)?;
    }
    for process in report.processes.iter().take(DETAILED) {
        if several {
            writeln!(out)?;
        }
        in_full(process, top, width, out)?;
    }
    match report.processes.len().saturating_sub(DETAILED) {
        0 => Ok(()),
        more => writeln!(out, "\n… and {} in full (--pid N, or --format json)", units::processes(more as u64)),
    }
}

fn in_full(process: &HeapProcess, top: Option<usize>, width: Option<u16>, out: &mut dyn Write) -> io::Result<()> {
    let (pid, comm) = (process.program.pid, &process.program.comm);
    let ended = if process.ended { ", ended" } else { "" };
    write!(out, "{comm} (pid {pid}{ended})")?;
    let Some(heap) = &process.heap else {
        writeln!(out, " was not looked at")?;
        return not_read(process, out);
    };
    let took = units::duration(heap.duration);
    match heap.looks {
        1 => writeln!(out, ": its heap as of now, by a look of {took}")?,
        looks => writeln!(out, ": its heap as of now, by {} looks of {took} in all", units::count(u64::from(looks)))?,
    }
    if let Some(sentence) = words::heap::summary(heap) {
        writeln!(out, "summary    {sentence}")?;
    }
    if let Some(growth) = words::heap::growth(heap) {
        writeln!(out, "growth     {growth}")?;
    }
    not_read(process, out)?;
    passed_over(heap, out)?;
    writeln!(out)?;
    sections::resident(heap, out)?;
    if heap.allocators.is_empty() {
        writeln!(out, "\nallocator  none that memtrace can read was found")?;
    }
    for allocator in &heap.allocators {
        writeln!(out)?;
        sections::allocator(allocator, top.unwrap_or(DEFAULT_TOP), width, out)?;
    }
    types::types(heap, top.unwrap_or(DEFAULT_TOP), width, out)?;
    holders::section(heap, top.unwrap_or(DEFAULT_LINES), width, out)
}

/// Why the last look was not made.
fn not_read(process: &HeapProcess, out: &mut dyn Write) -> io::Result<()> {
    match &process.not_read {
        Some(why) => writeln!(out, "not read   {}", words::heap::not_read(why)),
        None => Ok(()),
    }
}

/// The parts that a look has not seen, or had to see twice.
fn passed_over(heap: &Heap, out: &mut dyn Write) -> io::Result<()> {
    let seen = &heap.consistency;
    if seen.skipped_bytes > 0 {
        let skipped = units::bytes(seen.skipped_bytes);
        writeln!(out, "skipped    {skipped} of heaps that stayed contradictory while they were read")?;
    }
    if seen.swapped_bytes > 0 {
        writeln!(out, "swapped    {} of heaps, which were left there", units::bytes(seen.swapped_bytes))?;
    }
    if seen.retries > 0 {
        let (places, were) = if seen.retries == 1 { ("place", "it was") } else { ("places", "they were") };
        let retries = units::count(seen.retries);
        writeln!(out, "retried    {retries} {places} that changed while {were} read")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{heap_report::NotRead, holders::NoHolders},
        report::heap::fixture,
    };

    fn rendered(report: &HeapReport, top: Option<usize>) -> String {
        let mut out = Vec::new();
        render(report, top, None, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn several_processes_come_with_an_overview() {
        assert_eq!(rendered(&fixture::report(), None), include_str!("table.golden"));
    }

    #[test]
    fn one_process_that_grows_is_told_with_its_growth() {
        assert_eq!(rendered(&fixture::grown(), Some(2)), include_str!("growth.golden"));
    }

    #[test]
    fn holders_are_a_tree_with_the_largest_branches_first() {
        assert_eq!(rendered(&fixture::held(), Some(5)), include_str!("holders.golden"));
        let mut report = fixture::held();
        let heap = report.processes[0].heap.as_mut().unwrap();
        (heap.holders, heap.no_holders) = (None, Some(NoHolders::TooManyPointers));
        let text = rendered(&report, None);
        assert!(text.ends_with("\nholders    not told: the blocks have too many pointers to one another\n"), "{text}");
    }

    #[test]
    fn a_process_that_has_ended_keeps_its_last_figures() {
        let mut report = fixture::grown();
        (report.processes[0].ended, report.processes[0].not_read) = (true, Some(NotRead::Gone));
        let text = rendered(&report, None);
        assert!(text.starts_with("demo;1 (pid 42, ended): its heap as of now, by 2 looks of 1.3 s in all\n"), "{text}");
        assert!(text.contains("not read   the process has ended\n") && text.contains("10,000,000"), "{text}");
    }

    #[test]
    fn of_many_processes_the_first_are_told_in_full() {
        let mut report = fixture::report();
        report.processes = vec![report.processes[1].clone(); 7];
        let text = rendered(&report, None);
        assert_eq!(text.matches("was not looked at").count(), DETAILED);
        assert!(text.ends_with("… and 2 processes in full (--pid N, or --format json)\n"), "{text}");
    }
}
