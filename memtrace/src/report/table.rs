//! The table: what a person wants to know first, on one screen.

use std::{
    cmp::Reverse,
    io::{self, Write},
};

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

use super::{
    column::{Column, figure, words},
    memory, overview, plumbing, suspects,
};
use crate::model::{
    estimate::Intervals,
    frame::{Frame, KERNEL_IMAGE, Place, base_name},
    gate::Tally,
    ledger::Ledger,
    report::{Category, FreedAt, HealthCounter, HealthKind, PageKind, Peak, Process, Report, Site, Steered, Tier},
    resident_change::ResidentChange,
    units,
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
    let is_told = |process: &&Process| !several || report.tier != Tier::Growth || !process.sites.is_empty();
    for process in report.processes.iter().filter(is_told).take(DETAILED) {
        if several {
            writeln!(out)?;
        }
        summary(report, process, out)?;
        sites(report.tier, process, top.unwrap_or(DEFAULT_TOP), width, out)?;
    }
    Ok(())
}

fn summary(report: &Report, process: &Process, out: &mut dyn Write) -> io::Result<()> {
    let Process { pid, comm, .. } = process;
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
    if let Some(held) = held(report.tier, process) {
        writeln!(out, "{held}")?;
    }
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
    suspects::before_end(process, out)?;
    memory::render(process, out)?;
    if let Some(ledger) = &process.ledger {
        writeln!(out, "ledger     {}", ledger_line(ledger))?;
    }
    if let Some(peak) = process.peak.filter(|peak| is_worth_a_word(peak, process)) {
        writeln!(out, "peak       {}", peak_line(&peak, process))?;
    }
    suspects(process, out)?;
    suspects::at_exit(process, out)?;
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
    losses(report, process, out)?;
    for not_seen in &report.not_seen {
        writeln!(out, "not seen   {not_seen}")?;
    }
    Ok(())
}

/// What the process holds of what was seen; nothing where its pages would be looked at, and are not (yet).
fn held(tier: Tier, Process { totals, resident_change, growth_bytes_per_s, .. }: &Process) -> Option<String> {
    let (live, allocated) = (units::bytes(totals.live_bytes()), units::bytes(totals.alloc_bytes));
    let (growth, freed) = (units::bytes_per_s(*growth_bytes_per_s), units::bytes(totals.freed_bytes));
    if tier == Tier::Growth {
        return resident_change.map(|change| pages(&change, &growth));
    }
    let objects = units::count(totals.live_objects());
    Some(format!("live       {live} in {objects} objects, {growth}   (allocated {allocated}, freed {freed})"))
}

/// How much more is resident than when that was first told, and what has come and gone.
fn pages(change: &ResidentChange, growth: &str) -> String {
    let [became, given_back] = [change.became_resident, change.given_back].map(|amount| units::bytes(amount.bytes));
    let than = if change.bytes() < 0 { "less" } else { "more" };
    let copied = match change.copied.bytes {
        0 => String::new(),
        bytes => format!("; {} copied on write", units::bytes(bytes)),
    };
    format!(
        "pages      {} {than} than at first, {growth}   (became resident {became}, given back {given_back}{copied})",
        units::bytes(change.bytes().unsigned_abs()),
    )
}

/// What resident memory consists of.
fn ledger_line(ledger: &Ledger) -> String {
    let amount = |bytes: u64| units::bytes(bytes);
    let signed = |bytes: i64| format!("{}{}", if bytes < 0 { "-" } else { "" }, amount(bytes.unsigned_abs()));
    let mapped = match ledger.live_mmap_bytes {
        0 => String::new(),
        bytes => format!(" and {} mapped", amount(bytes)),
    };
    format!(
        "RSS is {} from before attach and {} since; of that {} in live blocks{mapped}, {} not explained{}",
        amount(ledger.rss_at_attach_bytes),
        signed(ledger.grown_bytes()),
        amount(ledger.live_heap_bytes),
        signed(ledger.unexplained_bytes()),
        // Blocks need not be written to, nor lie where nothing was before.
        if ledger.unexplained_bytes() < 0 { " (not written to, or where older blocks were)" } else { "" },
    )
}

/// Whether much more was held at the peak than is now.
fn is_worth_a_word(peak: &Peak, process: &Process) -> bool {
    peak.live_bytes > process.totals.live_bytes() + process.totals.live_bytes() / 10
}

/// When most was held, and by what.
fn peak_line(peak: &Peak, process: &Process) -> String {
    /// So many sites are told.
    const TOLD: usize = 3;
    let (bytes, at) = (units::bytes(peak.live_bytes), units::duration(peak.at));
    // What stacks had touched by then need not have been resident any more.
    if process.resident_change.is_some() {
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
        Tally::of(&process.sites).passed().map_or_else(String::new, |passed| format!("; {passed}"))
    )
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

fn losses(report: &Report, process: &Process, out: &mut dyn Write) -> io::Result<()> {
    // Of several processes, what the run has lost is told before them.
    let of_run = if report.processes.len() == 1 { &report.health[..] } else { &[] };
    let lost = told(&[&process.health, of_run].concat(), HealthKind::Loss);
    writeln!(out, "lost       {}", if lost.is_empty() { "none" } else { &lost })?;
    let unmatched = told(&process.health, HealthKind::Unmatched);
    if !unmatched.is_empty() {
        let why = match process.is_kernel() {
            true => "frees of what is from before attach, or was never seen (below)",
            false => "frees of blocks from before attach",
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

fn sites(tier: Tier, process: &Process, top: usize, width: Option<u16>, out: &mut dyn Write) -> io::Result<()> {
    // A site that holds nothing now is of no interest here, unless it grew until it was freed at the end.
    let is_told = |site: &&Site| site.totals.live_objects() > 0 || site.before_end.is_some();
    let holding: Vec<&Site> = process.sites.iter().filter(is_told).collect();
    writeln!(out)?;
    if holding.is_empty() {
        let nothing = match tier {
            Tier::Growth => "Nothing was seen to become resident.",
            _ => "Nothing that was allocated since attach is live.",
        };
        return writeln!(out, "{nothing}");
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    if let Some(width) = width {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    }
    let columns = columns(tier, process.uncertainty.is_some());
    table.set_header(columns.iter().map(|column| column.name));
    for (column, cells) in columns.iter().zip(table.column_iter_mut()) {
        if column.is_figure {
            cells.set_cell_alignment(CellAlignment::Right);
        }
    }
    for site in holding.iter().take(top) {
        table.add_row(columns.iter().map(|column| (column.cell)(site)));
    }
    for line in table.lines() {
        writeln!(out, "{}", line.trim_end())?;
    }
    match holding.len().saturating_sub(top) {
        0 => Ok(()),
        more => {
            let rest: u64 = holding.iter().skip(top).map(|site| site.totals.live_bytes()).sum();
            let (more, rest) = (units::count(more as u64), units::bytes(rest));
            let holding = if tier == Tier::Growth { "that touched" } else { "holding" };
            writeln!(out, "… and {more} more sites {holding} {rest} (--top N shows more)")
        }
    }
}

/// What is told of each site.
fn columns(tier: Tier, is_estimated: bool) -> Vec<Column<Site>> {
    let objects = |name| figure(name, |site: &Site| units::count(site.totals.live_objects()));
    let per_s = |name| figure(name, |site: &Site| units::bytes_per_s(site.growth_bytes_per_s));
    let site = words("SITE", stack);
    if tier == Tier::Growth {
        // Which of them are still resident nobody tells.
        let touched = figure("TOUCHED", |site: &Site| units::bytes(site.totals.alloc_bytes));
        return vec![touched, objects("PAGES"), per_s("RATE"), site];
    }
    let live = figure("LIVE", |site: &Site| units::bytes(site.totals.live_bytes()));
    let interval = is_estimated.then(|| figure("95 %", interval));
    let allocated = figure("ALLOCATED", |site: &Site| units::bytes(site.totals.alloc_bytes));
    let oldest = figure("OLDEST", |site: &Site| site.oldest_age.map_or_else(|| "-".to_owned(), units::duration));
    let verdict = words("VERDICT", verdict);
    let columns =
        [Some(live), interval, Some(objects("OBJECTS")), Some(per_s("GROWTH")), Some(allocated), Some(oldest)];
    columns.into_iter().flatten().chain([verdict, site]).collect()
}

/// What is thought of a site, and how sure that is.
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
        Some(Intervals { live_bytes: live, .. }) => format!("{} - {}", units::bytes(live.low), units::bytes(live.high)),
        None => "exact".to_owned(),
    }
}

fn stack(site: &Site) -> String {
    let mut lines: Vec<String> = Vec::new();
    // One of them tells how it is allocated.
    let hidden = match plumbing::leading(&site.stack) {
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
    match site.stack.frames().skip(skipped + shown).count() {
        0 if site.truncated => lines.push("… (cut: outer frames are missing)".to_owned()),
        0 => {}
        more => lines.push(format!("… {more} more")),
    }
    if lines.is_empty() {
        lines.push("(no stack)".to_owned());
    }
    if matches!(site.judgement.verdict, Verdict::LeakSuspect | Verdict::Growing) {
        lines.push(format!("why: {}", site.judgement.reason));
        lines.extend(freed_at(&site.freed_at).map(|at| format!("freed elsewhere: {at}")));
    }
    lines.extend(suspects::marks(site));
    if let Some(kind) = unusual_kind(site.category) {
        lines[0].insert_str(0, &format!("[{kind}] "));
    }
    lines.join("\n")
}

/// By whom blocks of a site are freed, and which part of them.
fn freed_at(freed: &[FreedAt]) -> Option<String> {
    /// So many are told.
    const TOLD: usize = 2;
    let all: u64 = freed.iter().map(|at| at.samples).sum();
    let mut by_frame: Vec<(String, u64)> = Vec::new();
    for at in freed {
        let Some(frame) = plumbing::first_own(&at.stack) else { continue };
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

/// What kind of memory a site's is, where it is not the usual one: an allocator's, or the process's own.
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
    use std::time::Duration;

    use super::*;
    use crate::{
        model::{report::Totals, survival::Amount, teardown::BeforeEnd},
        report::fixture,
    };

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
        report.tier = Tier::Growth;
        let change = ResidentChange::default();
        (report.processes[0].resident_change, report.processes[0].totals) = (Some(change), change.totals());
        let mut out = Vec::new();
        render(&report, Some(1), None, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains(" TOUCHED  PAGES      RATE  SITE\n"), "{text}");
        assert!(text.contains("\npeak       4.00 KiB more than at first, after 9.0 s\n"), "{text}");
        assert!(text.ends_with("… and 1 more sites that touched 100 B (--top N shows more)\n"), "{text}");
    }

    #[test]
    fn what_has_become_of_resident_memory_is_told_with_its_sign() {
        let mib = |mib: u64| Amount { bytes: mib << 20, objects: mib << 8 };
        let (became_resident, given_back) = (mib(8), mib(50));
        let less = ResidentChange { became_resident, given_back, copied: Amount::default() };
        assert_eq!(
            pages(&less, "-1.00 MiB/s"),
            "pages      42.0 MiB less than at first, -1.00 MiB/s   (became resident 8.00 MiB, given back 50.0 MiB)"
        );
        let copies = ResidentChange { given_back: mib(1), copied: mib(54), ..less };
        assert_eq!(
            pages(&copies, "0 B/s"),
            "pages      7.00 MiB more than at first, 0 B/s   (became resident 8.00 MiB, given back 1.00 MiB; 54.0 MiB \
             copied on write)"
        );
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
    fn nothing_live_is_said_in_words() {
        let mut report = fixture::report();
        report.processes[0].sites.clear();
        let mut out = Vec::new();
        render(&report, None, None, &mut out).unwrap();
        assert!(String::from_utf8(out).unwrap().ends_with("Nothing that was allocated since attach is live.\n"));
    }
}
