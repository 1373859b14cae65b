//! The processes of a report, a line each: what comes first where there are several.

use std::io::{self, Write};

use super::{
    column::{self, Column, figure, text},
    memory, sparkline,
    words::units,
};
use crate::model::{
    health::HealthCounter,
    memory::Memory,
    report::{Process, Report},
    tier::Tier,
};

/// Processes that are shown with a line.
const SHOWN: usize = 20;

/// Writes the processes that hold most, and sums of the others.
///
/// # Errors
/// Where `out` refuses.
pub(super) fn render(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let count = units::count(report.processes.len() as u64);
    let (duration, tier) = (units::duration(report.run.duration), report.run.tier.name());
    writeln!(out, "{count} processes traced for {duration}, tier {tier}\n")?;
    column::write(&columns(report.run.tier), report.processes.iter().take(SHOWN), None, out)?;
    rest(report, out)?;
    let lost: Vec<String> = report.health.iter().filter(|counter| counter.count > 0).map(told).collect();
    if !lost.is_empty() {
        writeln!(out, "lost       {}", lost.join(", "))?;
    }
    Ok(())
}

/// The columns of each process. Where only pages are looked at, and not of everybody, its memory comes first.
fn columns(tier: Tier) -> Vec<Column<Process>> {
    let pid = figure("PID", |process: &Process| process.subject.pid().to_string());
    let rss = figure("RSS", |process: &Process| of_memory(process, |memory| units::bytes(memory.bytes())));
    let slope = figure("RSS GROWTH", |process: &Process| {
        of_memory(process, |memory| units::bytes_per_s(memory.judgement.slope_per_s))
    });
    let trend = text("TREND", |process: &Process| of_memory(process, memory::trend));
    let name = text("PROCESS", |process: &Process| {
        let ended = if process.ended { " (ended)" } else { "" };
        format!("{}{ended}", process.subject.comm())
    });
    if tier == Tier::Growth {
        let resident = figure("BY STACK", |process: &Process| match by_stack(process) {
            0 => "-".to_owned(),
            bytes => units::bytes(bytes),
        });
        // A process that has no limit, or will not reach it, has nothing there.
        let limit = figure("LIMIT IN", |process: &Process| {
            let time = process.memory.as_ref().and_then(|memory| memory.time_to_limit);
            time.map_or_else(|| "-".to_owned(), units::duration)
        });
        let timeline = text("RSS SINCE START", |process: &Process| {
            of_memory(process, |memory| sparkline::render(&memory.points()))
        });
        return vec![pid, rss, slope, trend, timeline, limit, resident, name];
    }
    let live = figure("LIVE", |process: &Process| units::bytes(process.figures.totals().live_bytes()));
    let objects = figure("OBJECTS", |process: &Process| units::count(process.figures.totals().live_objects()));
    let growth = figure("GROWTH", |process: &Process| units::bytes_per_s(process.figures.growth_bytes_per_s()));
    let allocated = figure("ALLOCATED", |process: &Process| units::bytes(process.figures.totals().alloc_bytes));
    vec![pid, live, objects, growth, allocated, rss, slope, trend, name]
}

/// A cell on a process's memory, where that is known.
fn of_memory(process: &Process, told: impl Fn(&Memory) -> String) -> String {
    process.memory.as_ref().map_or_else(|| "-".to_owned(), told)
}

/// The memory that its stacks have made resident.
fn by_stack(process: &Process) -> u64 {
    process.sites.iter().map(|site| site.totals.alloc_bytes).sum()
}

fn rest(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let hidden = &report.processes[report.processes.len().min(SHOWN)..];
    if !hidden.is_empty() {
        let live: u64 = hidden.iter().map(|process| process.figures.totals().live_bytes()).sum();
        let count = units::count(hidden.len() as u64);
        let holding = match report.run.tier {
            Tier::Growth => String::new(),
            _ => format!(" holding {}", units::bytes(live)),
        };
        writeln!(out, "… and {count} more processes{holding} (--format json has them all)")?;
    }
    let unlisted = &report.run.unlisted;
    if unlisted.processes > 0 {
        let (count, totals) = (units::count(unlisted.processes), &unlisted.totals);
        let (allocated, freed) = (units::bytes(totals.alloc_bytes), units::bytes(totals.freed_bytes));
        let sums = match report.run.tier {
            Tier::Growth => format!("became resident {allocated}, given back {freed} before they ended"),
            _ => format!("allocated {allocated}, freed {freed}"),
        };
        writeln!(out, "… and {count} that have ended, of which only the sum is kept: {sums}")?;
    }
    Ok(())
}

fn told(counter: &HealthCounter) -> String {
    format!("{} {}", counter.name, units::count(counter.count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{run::Unlisted, totals::Totals},
        report::fixture,
    };

    #[test]
    fn every_process_has_a_line_and_what_is_not_shown_is_told() {
        let mut report = fixture::report();
        let process = report.processes[0].clone();
        report.processes.extend((0..30).map(|_| Process { ended: true, ..process.clone() }));
        report.run.unlisted =
            Unlisted { processes: 1200, totals: Totals::new(2048, 2, 1024, 1), ..Unlisted::default() };
        report.health[0].count = 5;
        let mut out = Vec::new();
        render(&report, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "31 processes traced for 10.0 s, tier exact");
        assert!(lines[3].trim_start().starts_with("42  4.10 KiB"), "{text}");
        assert!(lines[4].ends_with("demo;1 (ended)"), "{text}");
        assert_eq!(lines[23], "… and 11 more processes holding 45.1 KiB (--format json has them all)");
        assert!(lines[24].starts_with("… and 1,200 that have ended"), "{text}");
        assert_eq!(lines[25], "lost       events_full 5");
    }

    #[test]
    fn what_ended_processes_have_given_back_is_told() {
        let mut report = fixture::report();
        report.run.tier = Tier::Growth;
        report.run.unlisted =
            Unlisted { processes: 1200, totals: Totals::new(3 << 20, 768, 1 << 20, 256), ..Unlisted::default() };
        let mut out = Vec::new();
        render(&report, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let told = "only the sum is kept: became resident 3.00 MiB, given back 1.00 MiB before they ended";
        assert!(text.contains(told), "{text}");
    }
}
