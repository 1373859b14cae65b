//! The table: what a person wants to know first, on one screen.

use std::io::{self, Write};

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

use super::{overview, units};
use crate::model::{
    frame::{Frame, KERNEL_IMAGE, Place, base_name},
    report::{Category, HealthKind, Process, Report, Site, Steered, Tier},
};

/// Sites that a process shows unless told otherwise.
pub const DEFAULT_TOP: usize = 10;

/// Processes that are shown with their sites: those that hold most.
const DETAILED: usize = 5;

/// Frames that a site shows, from the allocation outwards.
const SHOWN_FRAMES: usize = 6;

/// Writes the report for a person. `width` is the terminal's, in columns; without it lines are as long as
/// they need.
///
/// # Errors
/// Where `out` refuses.
pub fn render(report: &Report, top: Option<usize>, width: Option<u16>, out: &mut dyn Write) -> io::Result<()> {
    let several = report.processes.len() > 1;
    if several {
        overview::render(report, out)?;
    }
    for process in report.processes.iter().take(DETAILED) {
        if several {
            writeln!(out)?;
        }
        summary(report, process, out)?;
        sites(process, top.unwrap_or(DEFAULT_TOP), width, out)?;
    }
    Ok(())
}

fn summary(report: &Report, process: &Process, out: &mut dyn Write) -> io::Result<()> {
    let Process { pid, comm, totals, .. } = process;
    let ended = if process.ended { ", ended" } else { "" };
    writeln!(
        out,
        "{comm} (pid {pid}{ended}) traced for {}, tier {}",
        units::duration(report.duration),
        report.tier.name()
    )?;
    for allocator in &process.allocators {
        let functions = allocator.functions.len();
        writeln!(out, "allocator  {} in {}, {functions} functions", allocator.name, allocator.image)?;
    }
    writeln!(
        out,
        "live       {} in {} objects, {}   (allocated {}, freed {})",
        units::bytes(totals.live_bytes()),
        units::count(totals.live_objects()),
        units::bytes_per_s(process.growth_bytes_per_s),
        units::bytes(totals.alloc_bytes),
        units::bytes(totals.freed_bytes),
    )?;
    if let Some(steered) = &report.steered {
        tier_changes(steered, out)?;
    }
    if let Some(intervals) = process.intervals() {
        writeln!(
            out,
            "estimate   live is {} to {} in {} to {} objects (95 %){}",
            units::bytes(intervals.live_bytes.low),
            units::bytes(intervals.live_bytes.high),
            units::count(intervals.live_objects.low),
            units::count(intervals.live_objects.high),
            from_what(report),
        )?;
    }
    let (label, what) = match process.pid {
        0 => ("held", " (slabs, stacks of threads, page tables, per-CPU memory, also from before)"),
        _ => ("RSS", ""),
    };
    let rss = process.rss_bytes.map_or_else(|| "unknown".to_owned(), units::bytes);
    let (slope, trend) = (units::bytes_per_s(process.rss_growth_bytes_per_s), process.trend.name());
    writeln!(out, "{label:<10} {rss}, {slope}, {trend}{what}")?;
    if let Some(overhead) = process.overhead.filter(|overhead| !overhead.cost.is_zero()) {
        let (cost, cpu) = (units::duration(overhead.cost), units::duration(overhead.cpu));
        let percent = overhead.share() * 100.0;
        writeln!(out, "cost       about {cost} of its {cpu} on a CPU went to being traced ({percent:.0} %)")?;
    }
    if let Some(bytes) = process.unexplained_rss_bytes {
        writeln!(
            out,
            "note       {} of the growth of RSS are in no live block: mapped directly, or from an allocator that is \
             not hooked (--alloc)",
            units::bytes(bytes)
        )?;
    }
    losses(process, out)
}

/// What an estimate was made from.
fn from_what(report: &Report) -> String {
    match (report.tier, &report.steered) {
        (Tier::Sampled { sample_bytes }, _) => format!(", from one in {}", units::bytes(sample_bytes)),
        (Tier::Windowed, Some(steered)) => format!(", from {} windows", units::count(u64::from(steered.windows))),
        _ => String::new(),
    }
}

/// Which tiers a budget has led to, and why; nothing where the first has kept to it.
fn tier_changes(steered: &Steered, out: &mut dyn Write) -> io::Result<()> {
    let [.., before, last] = steered.changes.as_slice() else { return Ok(()) };
    let more = match steered.changes.len() - 2 {
        0 => format!("tier {} before", before.tier.name()),
        more => format!("after {} other changes", units::count(more as u64)),
    };
    let (tier, at) = (last.tier.name(), units::duration(last.at));
    writeln!(out, "tier       {tier} since {at}, {more}: {}", last.reason)
}

fn losses(process: &Process, out: &mut dyn Write) -> io::Result<()> {
    let lost = told(process, HealthKind::Loss);
    writeln!(out, "lost       {}", if lost.is_empty() { "none" } else { &lost })?;
    let unmatched = told(process, HealthKind::Unmatched);
    if !unmatched.is_empty() {
        writeln!(out, "note       {unmatched}: frees of blocks from before attach")?;
    }
    let cut = told(process, HealthKind::CutStack);
    if !cut.is_empty() {
        writeln!(out, "note       {cut}: allocations whose outer frames are missing")?;
    }
    Ok(())
}

/// The counters of a kind that are not 0.
fn told(process: &Process, kind: HealthKind) -> String {
    let of_kind = process.health.iter().filter(|counter| counter.kind == kind && counter.count > 0);
    of_kind.map(|counter| format!("{} {}", counter.name, units::count(counter.count))).collect::<Vec<_>>().join(", ")
}

fn sites(process: &Process, top: usize, width: Option<u16>, out: &mut dyn Write) -> io::Result<()> {
    // What holds nothing now is of no interest here, whatever it did before.
    let holding: Vec<&Site> = process.sites.iter().filter(|site| site.totals.live_objects() > 0).collect();
    writeln!(out)?;
    if holding.is_empty() {
        return writeln!(out, "Nothing that was allocated since attach is live.");
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    if let Some(width) = width {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    }
    let estimated = process.uncertainty.is_some();
    let header = ["LIVE", "95 %", "OBJECTS", "GROWTH", "ALLOCATED", "OLDEST", "VERDICT", "SITE"];
    table.set_header(header.into_iter().filter(|name| estimated || *name != "95 %"));
    for column in table.column_iter_mut().take(if estimated { 6 } else { 5 }) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for site in holding.iter().take(top) {
        let interval = site.intervals().map(|intervals| intervals.live_bytes);
        let range = interval.map(|live| format!("{} - {}", units::bytes(live.low), units::bytes(live.high)));
        let figures = [
            Some(units::bytes(site.totals.live_bytes())),
            range.or(estimated.then(|| "exact".to_owned())),
            Some(units::count(site.totals.live_objects())),
            Some(units::bytes_per_s(site.growth_bytes_per_s)),
            Some(units::bytes(site.totals.alloc_bytes)),
            Some(site.oldest_age.map_or_else(|| "-".to_owned(), units::duration)),
            Some(site.verdict.name().to_owned()),
            Some(stack(site)),
        ];
        table.add_row(figures.into_iter().flatten());
    }
    for line in table.lines() {
        writeln!(out, "{}", line.trim_end())?;
    }
    match holding.len().saturating_sub(top) {
        0 => Ok(()),
        more => {
            let rest: u64 = holding.iter().skip(top).map(|site| site.totals.live_bytes()).sum();
            writeln!(
                out,
                "… and {} more sites holding {} (--top N shows more)",
                units::count(more as u64),
                units::bytes(rest)
            )
        }
    }
}

fn stack(site: &Site) -> String {
    let mut lines: Vec<String> = site.stack.frames().take(SHOWN_FRAMES).map(frame_line).collect();
    match site.stack.frames().skip(SHOWN_FRAMES).count() {
        0 if site.truncated => lines.push("… (cut: outer frames are missing)".to_owned()),
        0 => {}
        more => lines.push(format!("… {more} more")),
    }
    if lines.is_empty() {
        lines.push("(no stack)".to_owned());
    }
    // An allocator's is the usual kind.
    if site.category != Category::Heap {
        lines[0].insert_str(0, &format!("[{}] ", site.category.name()));
    }
    lines.join("\n")
}

fn frame_line(frame: &Frame) -> String {
    let place = match (&frame.place, frame.source()) {
        (_, Some(source)) => format!("  {source}"),
        (Place::Image { image, .. }, None) if frame.function.is_ok() => format!("  [{}]", base_name(&image.path)),
        // That it is the kernel's own need not be said of each.
        (Place::Kernel { image: Some(image), .. }, None) if frame.function.is_ok() && image.path != KERNEL_IMAGE => {
            format!("  [{}]", image.path)
        }
        _ => String::new(),
    };
    let inlined = if frame.function.as_ref().is_ok_and(|function| function.inlined) { " (inlined)" } else { "" };
    format!("{}{place}{inlined}", frame.label())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture;

    fn rendered(top: Option<usize>) -> String {
        let mut out = Vec::new();
        render(&fixture::report(), top, None, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_first_screen_answers_the_first_questions() {
        assert_eq!(rendered(None), include_str!("table.golden"));
    }

    #[test]
    fn what_is_not_shown_is_told() {
        assert!(rendered(Some(1)).ends_with("… and 1 more sites holding 100 B (--top N shows more)\n"));
    }

    #[test]
    fn nothing_live_is_said_in_words() {
        let mut report = fixture::report();
        report.processes[0].sites.clear();
        let mut out = Vec::new();
        render(&report, None, None, &mut out).unwrap();
        assert!(String::from_utf8(out).unwrap().ends_with("Nothing that was allocated since attach is live.\n"));
    }
}
