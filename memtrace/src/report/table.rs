//! The table: what a person wants to know first, on one screen.

use std::{
    cmp::Reverse,
    io::{self, Write},
};

use super::{
    allocator_frames,
    column::{self, Column, figure, text},
    memory, overview, suspects,
    words::{self, units},
};
use crate::model::{
    category::{Category, PageKind},
    figures::{BlockFigures, Figures, Peak},
    finding::Finding,
    frame::{Frame, KERNEL_IMAGE, Place, base_name},
    health::{HealthCounter, HealthKind},
    outcome::Tally,
    report::{FreedAt, Process, Report, Site},
    stats::estimate::Intervals,
    tier::{BudgetLog, Tier, TierChange},
    verdict::{Judgement, Verdict},
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
    // Of a whole host's processes, most are not looked at by stack.
    let is_told = |process: &&Process| !several || report.run.tier != Tier::Growth || !process.sites.is_empty();
    for process in report.processes.iter().filter(is_told).take(DETAILED) {
        if several {
            writeln!(out)?;
        }
        summary(report, process, out)?;
        sites(process, top.unwrap_or(DEFAULT_TOP), width, out)?;
    }
    Ok(())
}

fn summary(report: &Report, process: &Process, out: &mut dyn Write) -> io::Result<()> {
    let (pid, comm) = (process.subject.pid(), process.subject.comm());
    let blocks = process.figures.blocks();
    let ended = if process.ended { ", ended" } else { "" };
    writeln!(
        out,
        "{comm} (pid {pid}{ended}) traced for {}, tier {}",
        units::duration(report.run.duration),
        process.tier.name()
    )?;
    for allocator in process.figures.allocators() {
        let functions = allocator.functions.len();
        writeln!(out, "allocator  {} in {}, {functions} functions", allocator.name, allocator.image)?;
    }
    if let Some(held) = words::figures::held(&process.figures) {
        writeln!(out, "{held}")?;
    }
    if let Some(log) = &report.run.budget {
        tier_changes(log, process, out)?;
    }
    if let Some(intervals) = blocks.and_then(BlockFigures::intervals) {
        writeln!(
            out,
            "estimate   live is {} in {} objects (95 %){}",
            words::figures::range(intervals.live_bytes, " to ", units::bytes),
            words::figures::range(intervals.live_objects, " to ", units::count),
            from_what(process),
        )?;
    }
    findings(process, "before end", out)?;
    memory::render(process, out)?;
    if let Some(ledger) = blocks.and_then(|blocks| blocks.ledger.as_ref()) {
        writeln!(out, "ledger     {}", words::figures::ledger(ledger))?;
    }
    if let Some(peak) = process.figures.peak().filter(|peak| is_worth_a_word(peak, process)) {
        writeln!(out, "peak       {}", peak_line(&peak, process))?;
    }
    suspects(process, out)?;
    findings(process, "exit", out)?;
    if let Some(overhead) = blocks.and_then(|blocks| blocks.overhead).filter(|overhead| !overhead.cost.is_zero()) {
        writeln!(out, "cost       {}", words::figures::cost(&overhead))?;
    }
    findings(process, "note", out)?;
    losses(report, process, out)?;
    for not_seen in &report.run.not_seen {
        writeln!(out, "not seen   {}", words::not_seen::not_seen(not_seen))?;
    }
    Ok(())
}

/// Writes the findings whose line has this label.
fn findings(process: &Process, label: &str, out: &mut dyn Write) -> io::Result<()> {
    for finding in process.findings.iter().filter(|finding| self::label(finding, process) == Some(label)) {
        writeln!(out, "{label:<10} {}", words::finding::finding(finding))?;
    }
    Ok(())
}

/// The label of a finding's line; nothing where it is not worth a line.
fn label(finding: &Finding, process: &Process) -> Option<&'static str> {
    match finding {
        Finding::UnexplainedGrowth { .. } | Finding::OneSided(_) => Some("note"),
        Finding::AtExit(_) => Some("exit"),
        // The process has freed nothing since.
        Finding::BeforeEnd(before) if before.live_bytes == process.figures.totals().live_bytes() => None,
        Finding::BeforeEnd(_) => Some("before end"),
    }
}

/// Whether much more was held at the peak than is now.
fn is_worth_a_word(peak: &Peak, process: &Process) -> bool {
    let live_bytes = process.figures.totals().live_bytes();
    peak.live_bytes > live_bytes + live_bytes / 10
}

/// When most was held, and by what.
fn peak_line(peak: &Peak, process: &Process) -> String {
    /// The most sites that are told.
    const TOLD: usize = 3;
    let (bytes, at) = (units::bytes(peak.live_bytes), units::duration(peak.at));
    // Pages that stacks had touched by then need not have been resident any more.
    if process.figures.pages().is_some() {
        return format!("{bytes} more than at first, after {at}");
    }
    let mut sites: Vec<&Site> = process.sites.iter().filter(|site| site.at_peak_bytes > 0).collect();
    sites.sort_by_key(|site| Reverse(site.at_peak_bytes));
    let told = sites.iter().take(TOLD).filter_map(|site| {
        let label = suspects::culprit(process, &site.stack)?.label();
        Some(format!("{} by {label}", units::bytes(site.at_peak_bytes)))
    });
    let told: Vec<String> = told.collect();
    format!("{bytes} after {at}: {}", told.join(", "))
}

/// How many sites are suspected, and how sure that is at most.
fn suspects(process: &Process, out: &mut dyn Write) -> io::Result<()> {
    let suspects = process.sites.iter().filter(|site| site.judgement.verdict == Verdict::LeakSuspect);
    let surest = suspects.clone().max_by(|a, b| a.judgement.confidence.total_cmp(&b.judgement.confidence));
    let Some(surest) = surest else { return Ok(()) };
    let count = units::count(suspects.clone().count() as u64);
    let growth: f64 = suspects.map(|site| site.growth_bytes_per_s).sum();
    let sites = if count == "1" { "site" } else { "sites" };
    writeln!(
        out,
        "suspects   {count} {sites}, {} together; the surest {:.0} %{}",
        units::bytes_per_s(growth),
        surest.judgement.confidence * 100.0,
        words::outcome::passed(&Tally::of(&process.sites)).map_or_else(String::new, |passed| format!("; {passed}"))
    )
}

/// The source of an estimate.
fn from_what(process: &Process) -> String {
    match process.tier {
        Tier::Sampled { sample_bytes } => format!(", from one in {}", units::bytes(sample_bytes)),
        Tier::Windowed => format!(", from {} windows", units::count(u64::from(process.windows))),
        _ => String::new(),
    }
}

/// Which tiers of a process a budget has led to, and why; nothing where the first has kept to it.
fn tier_changes(log: &BudgetLog, process: &Process, out: &mut dyn Write) -> io::Result<()> {
    let is_of_it = |change: &&TierChange| change.pid.is_none_or(|pid| pid == process.subject.pid());
    let changes: Vec<&TierChange> = log.changes.iter().filter(is_of_it).collect();
    let [.., before, last] = changes.as_slice() else { return Ok(()) };
    let more = match changes.len() - 2 {
        0 => format!("tier {} before", words::tier::name(before.tier)),
        more => format!("after {} other changes", units::count(more as u64)),
    };
    let (tier, at) = (words::tier::name(last.tier), units::duration(last.at));
    writeln!(out, "tier       {tier} since {at}, {more}: {}", words::tier::reason(&last.reason))
}

fn losses(report: &Report, process: &Process, out: &mut dyn Write) -> io::Result<()> {
    // Of several processes, what the run has lost is told before them.
    let of_run = if report.processes.len() == 1 { &report.health[..] } else { &[] };
    let lost = told(&[&process.health, of_run].concat(), HealthKind::Loss);
    writeln!(out, "lost       {}", if lost.is_empty() { "none" } else { &lost })?;
    let unmatched = told(&process.health, HealthKind::Unmatched);
    if !unmatched.is_empty() {
        let why = match process.is_kernel() {
            true => "frees of what is from before attach, or was never seen (below)",
            false => "frees of blocks from before attach, or of a process that shares the memory",
        };
        writeln!(out, "note       {unmatched}: {why}")?;
    }
    let cut = told(&process.health, HealthKind::CutStack);
    if !cut.is_empty() {
        writeln!(out, "note       {cut}: allocations whose outer frames are missing")?;
    }
    Ok(())
}

/// The counters of a kind that are not 0.
fn told(health: &[HealthCounter], kind: HealthKind) -> String {
    let of_kind = health.iter().filter(|counter| counter.kind == kind && counter.count > 0);
    of_kind.map(|counter| format!("{} {}", counter.name, units::count(counter.count))).collect::<Vec<_>>().join(", ")
}

fn sites(process: &Process, top: usize, width: Option<u16>, out: &mut dyn Write) -> io::Result<()> {
    // A site that holds nothing now is of no interest here, unless it grew until it was freed at the end.
    let is_told = |site: &&Site| site.totals.live_objects() > 0 || site.before_end.is_some();
    let holding: Vec<&Site> = process.sites.iter().filter(is_told).collect();
    writeln!(out)?;
    if holding.is_empty() {
        let nothing = match process.figures {
            Figures::Unread | Figures::Pages(_) => "Nothing was seen to become resident.",
            Figures::Blocks(_) | Figures::Kernel(_) => "Nothing that was allocated since attach is live.",
        };
        return writeln!(out, "{nothing}");
    }
    column::write(&columns(&process.figures), holding.iter().take(top).copied(), width, out)?;
    match holding.len().saturating_sub(top) {
        0 => Ok(()),
        more => {
            let rest: u64 = holding.iter().skip(top).map(|site| site.totals.live_bytes()).sum();
            let (more, rest) = (units::count(more as u64), units::bytes(rest));
            let holding = if process.figures.pages().is_some() { "that touched" } else { "holding" };
            writeln!(out, "… and {more} more sites {holding} {rest} (--top N shows more)")
        }
    }
}

/// The columns of each site.
fn columns(figures: &Figures) -> Vec<Column<Site>> {
    let objects = |name| figure(name, |site: &Site| units::count(site.totals.live_objects()));
    let per_s = |name| figure(name, |site: &Site| units::bytes_per_s(site.growth_bytes_per_s));
    let site = text("SITE", stack);
    if figures.pages().is_some() {
        // Which of them are still resident nobody tells.
        let touched = figure("TOUCHED", |site: &Site| units::bytes(site.totals.alloc_bytes));
        return vec![touched, objects("PAGES"), per_s("RATE"), site];
    }
    let live = figure("LIVE", |site: &Site| units::bytes(site.totals.live_bytes()));
    let is_estimated = figures.blocks().is_some_and(|blocks| blocks.uncertainty.is_some());
    let interval = is_estimated.then(|| figure("95 %", interval));
    let allocated = figure("ALLOCATED", |site: &Site| units::bytes(site.totals.alloc_bytes));
    let oldest = figure("OLDEST", |site: &Site| site.oldest_age.map_or_else(|| "-".to_owned(), units::duration));
    let verdict = text("VERDICT", verdict);
    let columns =
        [Some(live), interval, Some(objects("OBJECTS")), Some(per_s("GROWTH")), Some(allocated), Some(oldest)];
    columns.into_iter().flatten().chain([verdict, site]).collect()
}

/// The verdict on a site, and how sure it is.
fn verdict(site: &Site) -> String {
    let Judgement { verdict, confidence, .. } = &site.judgement;
    let freed = if site.before_end.is_some() { "\nfreed at end" } else { "" };
    match confidence {
        0.0 => format!("{}{freed}", verdict.name()),
        sure => format!("{}\n{:.0} %{freed}", verdict.name(), sure * 100.0),
    }
}

/// Where a site's live bytes really lie.
fn interval(site: &Site) -> String {
    match site.intervals() {
        Some(Intervals { live_bytes, .. }) => words::figures::range(live_bytes, " - ", units::bytes),
        None => "exact".to_owned(),
    }
}

fn stack(site: &Site) -> String {
    let mut lines: Vec<String> = Vec::new();
    // One of them tells how it is allocated.
    let hidden = match allocator_frames::leading(&site.stack) {
        0..=2 => 0,
        leading => leading - 1,
    };
    if hidden > 0 {
        lines.extend(site.stack.frames().take(1).map(frame_line));
        lines.push(format!("… {hidden} of standard libraries"));
    }
    let skipped = if hidden > 0 { hidden + 1 } else { 0 };
    let shown = SHOWN_FRAMES - lines.len();
    lines.extend(site.stack.frames().skip(skipped).take(shown).map(frame_line));
    let truncated = site.truncation.map(|why| format!(" (truncated: {})", words::truncation::truncation(why)));
    match (site.stack.frames().skip(skipped + shown).count(), truncated) {
        (0, None) => {}
        (0, Some(truncated)) => lines.push(format!("…{truncated}")),
        (more, truncated) => lines.push(format!("… {more} more{}", truncated.unwrap_or_default())),
    }
    if site.inferred {
        lines.push("(inferred: frames found without unwind tables)".to_owned());
    }
    if lines.is_empty() {
        lines.push("(no stack)".to_owned());
    }
    if matches!(site.judgement.verdict, Verdict::LeakSuspect | Verdict::Growing) {
        lines.push(format!("why: {}", words::verdict::of_site(site)));
        lines.extend(freed_at(&site.freed_at).map(|at| format!("freed elsewhere: {at}")));
    }
    lines.extend(words::outcome::marks(site));
    if let Some(kind) = unusual_kind(site.category) {
        lines[0].insert_str(0, &format!("[{kind}] "));
    }
    lines.join("\n")
}

/// By whom blocks of a site are freed, and which part of them.
fn freed_at(freed: &[FreedAt]) -> Option<String> {
    /// The most functions that are told.
    const TOLD: usize = 2;
    let all: u64 = freed.iter().map(|at| at.samples).sum();
    let mut by_frame: Vec<(String, u64)> = Vec::new();
    for at in freed {
        let Some(frame) = allocator_frames::first_own(&at.stack) else { continue };
        let line = frame_line(frame);
        match by_frame.iter_mut().find(|(known, _)| *known == line) {
            Some((_, samples)) => *samples += at.samples,
            None => by_frame.push((line, at.samples)),
        }
    }
    by_frame.sort_by_key(|(_, samples)| Reverse(*samples));
    let told: Vec<String> = by_frame
        .iter()
        .take(TOLD)
        .map(|(line, samples)| format!("{:.0} % by {line}", *samples as f64 / all as f64 * 100.0))
        .collect();
    (!told.is_empty()).then(|| format!("{} (of {} frees seen)", told.join(", "), units::count(all)))
}

/// The kind of a site's memory, where it is not the usual one: an allocator's, or the process's own.
fn unusual_kind(category: Category) -> Option<String> {
    match category {
        Category::Heap | Category::Pages(PageKind::Anonymous) => None,
        Category::Pages(kind) => Some(format!("{} pages", kind.name())),
        Category::Kernel(source) => Some(source.name().to_owned()),
        other => Some(other.name().to_owned()),
    }
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
    use crate::{
        model::{figures::PageFigures, resident_change::ResidentChange, stats::teardown::BeforeEnd, totals::Totals},
        report::fixture,
    };
    use std::time::Duration;

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
    fn what_stacks_have_touched_is_not_called_resident() {
        let mut report = fixture::report();
        (report.run.tier, report.processes[0].tier) = (Tier::Growth, Tier::Growth);
        let change = ResidentChange::default();
        let figures = fixture::blocks(&mut report.processes[0]);
        let (growth_bytes_per_s, peak) = (figures.growth_bytes_per_s, figures.peak);
        report.processes[0].figures = Figures::Pages(PageFigures { change, growth_bytes_per_s, peak });
        let mut out = Vec::new();
        render(&report, Some(1), None, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains(" TOUCHED  PAGES      RATE  SITE\n"), "{text}");
        assert!(text.contains("\npeak       4.00 KiB more than at first, after 9.0 s\n"), "{text}");
        assert!(text.ends_with("… and 1 more sites that touched 100 B (--top N shows more)\n"), "{text}");
    }

    #[test]
    fn a_site_that_was_freed_at_the_end_is_shown_though_it_holds_nothing() {
        let mut report = fixture::report();
        let site = &mut report.processes[0].sites[0];
        site.totals = Totals::new(8192, 8, 8192, 8);
        site.before_end =
            Some(BeforeEnd { at: Duration::from_secs(9), live_bytes: 8192, live_objects: 8, rss_bytes: None });
        let mut out = Vec::new();
        render(&report, None, None, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("   0 B        0  +410 B/s   8.00 KiB   9.5 s  leak-suspect  keep"), "{text}");
        assert!(text.contains("freed at end"), "{text}");
    }

    #[test]
    fn what_was_live_before_the_end_is_told_where_it_was_freed_since() {
        let mut report = fixture::report();
        let mut told = |live_bytes| {
            let before =
                BeforeEnd { at: Duration::from_millis(9600), live_bytes, live_objects: 5, rss_bytes: Some(9 << 20) };
            report.processes[0].findings = vec![Finding::BeforeEnd(before)];
            let mut out = Vec::new();
            render(&report, None, None, &mut out).unwrap();
            String::from_utf8(out).unwrap().lines().find(|line| line.starts_with("before end")).map(str::to_owned)
        };
        let line = "before end 8.00 MiB live in 5 objects with 9.00 MiB of RSS, after 9.6 s";
        assert_eq!(told(8 << 20).as_deref(), Some(line));
        assert_eq!(told(4196), None);
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
