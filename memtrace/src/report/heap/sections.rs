//! The parts of the table: the processes in a line each, resident memory by kind, an allocator with its size classes.

use std::{
    cmp::Reverse,
    io::{self, Write},
};

use super::largest;
use crate::{
    model::{
        heap::{Allocator, Heap, Resident, SizeClass},
        heap_report::{HeapProcess, HeapReport},
    },
    report::{
        column::{Column, figure, text, write},
        words::{
            heap::{free_name, not_read, objects_per_s},
            units,
        },
    },
};

/// Processes that are shown with a line.
const SHOWN: usize = 20;
/// Characters of the longest bar.
const BAR: usize = 20;

/// Writes the processes, a line each.
pub(super) fn overview(report: &HeapReport, out: &mut dyn Write) -> io::Result<()> {
    let count = units::processes(report.processes.len() as u64);
    writeln!(out, "{count} looked at in {}\n", units::duration(report.duration))?;
    let columns = [
        figure("PID", |process: &HeapProcess| process.program.pid.to_string()),
        figure("RSS", |process: &HeapProcess| process.rss_bytes.map_or_else(|| "-".to_owned(), units::bytes)),
        figure("LIVE", |process: &HeapProcess| of(process, |resident| resident.live_bytes)),
        figure("FREE", |process: &HeapProcess| of(process, |resident| resident.free_bytes)),
        figure("RETURNABLE", |process: &HeapProcess| of(process, |resident| resident.returnable_bytes)),
        figure("GROWTH", |process: &HeapProcess| growth_of(process).map_or_else(|| "-".to_owned(), units::bytes_per_s)),
        text("PROCESS", name),
    ];
    write(&columns, report.processes.iter().take(SHOWN), None, out)?;
    match report.processes.len().saturating_sub(SHOWN) {
        0 => Ok(()),
        more => writeln!(out, "… and {} more (--format json has them all)", units::processes(more as u64)),
    }
}

/// A cell on the memory of a process that was looked at.
fn of(process: &HeapProcess, bytes: fn(&Resident) -> u64) -> String {
    process.heap.as_ref().map_or_else(|| "-".to_owned(), |heap| units::bytes(bytes(&heap.resident)))
}

fn growth_of(process: &HeapProcess) -> Option<f64> {
    process.heap.as_ref()?.growth_bytes_per_s()
}

fn name(process: &HeapProcess) -> String {
    let why = match (&process.not_read, process.ended) {
        (_, true) => " (ended)".to_owned(),
        (Some(why), false) => format!(" ({})", not_read(why)),
        (None, false) => String::new(),
    };
    format!("{}{why}", process.program.comm)
}

/// A kind of memory.
struct Part {
    bytes: u64,
    /// Of all resident memory, from 0 to 1; nothing where it is no part of that.
    share: Option<f64>,
    name: &'static str,
}

/// Writes where resident memory is, and how much is swapped out.
pub(super) fn resident(heap: &Heap, out: &mut dyn Write) -> io::Result<()> {
    let resident = &heap.resident;
    let total = resident.bytes();
    let parts = [
        (resident.live_bytes, "live blocks of allocators"),
        (resident.free_bytes, "free in allocators, on pages that hold live blocks too"),
        (resident.returnable_bytes, "free in allocators, on whole pages: returnable"),
        (resident.python_bytes, "arenas of Python's own allocator"),
        (resident.files_bytes, "files and shared memory"),
        (resident.stacks_bytes, "stacks of threads"),
        (resident.other_bytes, "other mappings"),
    ];
    let part = |(bytes, name): (u64, &'static str)| Part { bytes, share: Some(share(bytes, total)), name };
    let mut parts: Vec<Part> = parts.into_iter().filter(|(bytes, _)| *bytes > 0).map(part).collect();
    if resident.swap_bytes > 0 {
        parts.push(Part { bytes: resident.swap_bytes, share: None, name: "swapped out, beside that" });
    }
    let columns = [
        figure("BYTES", |part: &Part| units::bytes(part.bytes)),
        figure("SHARE", |part: &Part| part.share.map_or_else(String::new, percent)),
        text("", |part: &Part| bar(part.share.unwrap_or(0.0))),
        text("RESIDENT MEMORY", |part: &Part| part.name.to_owned()),
    ];
    write(&columns, parts.iter(), None, out)
}

/// Writes the figures of an allocator, and its size classes.
pub(super) fn allocator(allocator: &Allocator, top: usize, width: Option<u16>, out: &mut dyn Write) -> io::Result<()> {
    let version = allocator.version.as_ref().map_or_else(String::new, |version| format!(" {version}"));
    let image = allocator.image.as_ref().map_or_else(String::new, |image| format!(" in {image}"));
    writeln!(out, "allocator  {}{version}{image}", allocator.name)?;
    if let Some(reason) = &allocator.reason {
        return writeln!(out, "           not recognised: {reason}");
    }
    let objects = units::count(allocator.live_objects);
    writeln!(out, "live       {} in {objects} objects", units::bytes(allocator.live_bytes))?;
    let kinds: Vec<String> = allocator
        .free
        .iter()
        .filter(|free| free.bytes > 0)
        .map(|free| format!("{} {}", free_name(free.kind), units::bytes(free.bytes)))
        .collect();
    let kinds = if kinds.is_empty() { String::new() } else { format!(": {}", kinds.join(", ")) };
    writeln!(out, "free       {}{kinds}", units::bytes(allocator.free_bytes()))?;
    let [returnable, fragmented] = [allocator.returnable_bytes, allocator.fragmented_bytes].map(units::bytes);
    writeln!(out, "           {returnable} returnable; {fragmented} on pages that hold live blocks too")?;
    arenas(allocator, out)?;
    classes(allocator, top, width, out)
}

/// The arenas in a line: how many, and those that hold, and waste, most.
fn arenas(allocator: &Allocator, out: &mut dyn Write) -> io::Result<()> {
    let mut arenas: Vec<_> = allocator.arenas.iter().enumerate().collect();
    if arenas.len() < 2 {
        return Ok(());
    }
    arenas.sort_by_key(|(_, arena)| Reverse(arena.live_bytes.saturating_add(arena.free_bytes)));
    let told = arenas.iter().take(3).map(|(number, arena)| {
        let [live, free] = [arena.live_bytes, arena.free_bytes].map(units::bytes);
        format!("#{number} {live} live, {free} free")
    });
    let told: Vec<String> = told.collect();
    let more = if arenas.len() > told.len() { "; …" } else { "" };
    writeln!(out, "arenas     {}: {}{more}", units::count(arenas.len() as u64), told.join("; "))
}

/// A line of the size classes.
struct Line<'a> {
    class: &'a SizeClass,
    /// Of all live bytes, from 0 to 1.
    share: f64,
}

fn classes(allocator: &Allocator, top: usize, width: Option<u16>, out: &mut dyn Write) -> io::Result<()> {
    let largest: Vec<&SizeClass> = largest(allocator, usize::MAX);
    if largest.is_empty() {
        return Ok(());
    }
    writeln!(out)?;
    let line = |class: &&'_ SizeClass| share(class.live_bytes(), allocator.live_bytes);
    let lines: Vec<Line<'_>> = largest.iter().take(top).map(|class| Line { class, share: line(class) }).collect();
    let has_growth = allocator.growth_bytes_per_s.is_some();
    let per_s = |line: &Line<'_>| line.class.growth_bytes_per_s().map_or_else(|| "-".to_owned(), units::bytes_per_s);
    let objects = |line: &Line<'_>| line.class.growth_objects_per_s.map_or_else(|| "-".to_owned(), objects_per_s);
    let mut columns: Vec<Column<Line<'_>>> = vec![
        figure("SIZE", |line: &Line<'_>| units::count(line.class.size_bytes)),
        figure("OBJECTS", |line: &Line<'_>| units::count(line.class.live_objects)),
        figure("LIVE", |line: &Line<'_>| units::bytes(line.class.live_bytes())),
    ];
    if has_growth {
        columns.extend([figure("GROWTH", per_s), figure("OBJECTS GROWN", objects)]);
    }
    columns
        .extend([figure("SHARE", |line: &Line<'_>| percent(line.share)), text("", |line: &Line<'_>| bar(line.share))]);
    write(&columns, lines.iter(), width, out)?;
    match largest.len().saturating_sub(top) {
        0 => Ok(()),
        more => {
            let rest = largest.iter().skip(top).map(|class| class.live_bytes()).fold(0, u64::saturating_add);
            let (more, rest) = (units::count(more as u64), units::bytes(rest));
            writeln!(out, "… and {more} more sizes holding {rest} (--top N shows more)")
        }
    }
}

pub(super) fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

pub(super) fn percent(share: f64) -> String {
    match share * 100.0 {
        0.0 => "0 %".to_owned(),
        percent if percent < 0.5 => "<1 %".to_owned(),
        percent => format!("{percent:.0} %"),
    }
}

/// A share as a bar; empty where it is less than half of a character.
fn bar(share: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to the length of a bar")]
    let length = (share.clamp(0.0, 1.0) * BAR as f64).round() as usize;
    "█".repeat(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_a_bar_and_a_percentage() {
        assert_eq!([0.0, 0.001, 0.126, 1.0].map(percent), ["0 %", "<1 %", "13 %", "100 %"]);
        assert_eq!([0.0, 0.02, 0.1, 2.0].map(|share| bar(share).chars().count()), [0, 0, 2, BAR]);
        assert!(share(1, 0).abs() < f64::EPSILON);
    }
}
