//! What is said of suspects to people, and of what was looked at when a program ended.

use std::io::{self, Write};

use super::plumbing::is_plumbing;
use crate::model::{
    at_exit::AtExit,
    frame::{Frame, Place, Stack},
    report::{Process, Site},
    units,
};

/// Writes a line on what was looked at when a process was about to end, if it was asked for.
pub(super) fn at_exit(process: &Process, out: &mut dyn Write) -> io::Result<()> {
    match &process.at_exit {
        None => Ok(()),
        Some(AtExit::Unchecked(why)) => writeln!(out, "exit       not checked for reachability: {}", why.reason),
        Some(AtExit::Checked(checked)) => {
            let of = units::count(checked.live.objects);
            match checked.unreachable.objects {
                0 => writeln!(out, "exit       all {of} live blocks can be reached"),
                lost => writeln!(
                    out,
                    "exit       {} of {of} live blocks are unreachable ({})",
                    units::count(lost),
                    units::bytes(checked.unreachable.bytes)
                ),
            }
        }
    }
}

/// Writes what was live when resident memory was read last, where the process has freed since: both are told of one moment.
pub(super) fn before_end(process: &Process, out: &mut dyn Write) -> io::Result<()> {
    let Some(before) = process.before_end.filter(|before| before.live_bytes != process.totals.live_bytes()) else {
        return Ok(());
    };
    let (live, objects) = (units::bytes(before.live_bytes), units::count(before.live_objects));
    let resident = before.rss_bytes.map_or_else(String::new, |bytes| format!(" with {} of RSS", units::bytes(bytes)));
    writeln!(out, "before end {live} live in {objects} objects{resident}, after {}", units::duration(before.at))
}

/// What lets a suspect pass, for its row.
pub(super) fn marks(site: &Site) -> impl Iterator<Item = String> {
    let suppressed = site.suppressed_by.as_ref().map(|pattern| format!("suppressed by {pattern}"));
    suppressed.into_iter().chain(site.in_baseline.then(|| "in the baseline".to_owned()))
}

/// The frame that names who allocates, or frees, to a person: the first that is neither a standard library's nor in an image
/// that defines an allocator (`strdup` says little); the first of all where there is none.
#[must_use]
pub fn culprit<'a>(process: &Process, stack: &'a Stack) -> Option<&'a Frame> {
    let is_allocators = |frame: &Frame| match &frame.place {
        Place::Image { image, .. } => process.allocators.iter().any(|allocator| allocator.image == image.path),
        Place::Address(_) | Place::Kernel { .. } => false,
    };
    let is_own = |frame: &&Frame| !is_plumbing(frame) && !is_allocators(frame);
    stack.frames().find(is_own).or_else(|| stack.frames().next())
}

/// A frame in one line: the function, with file and line where they are known.
#[must_use]
pub fn place(frame: &Frame) -> String {
    match frame.source() {
        Some(source) => format!("{} {source}", frame.label()),
        None => frame.label(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        model::{
            at_exit::Checked,
            gate::Gate,
            suppressions::Suppressions,
            survival::Amount,
            teardown::BeforeEnd,
            unseen::{Cause, Unchecked},
        },
        report::fixture,
    };

    fn rendered(process: &Process) -> String {
        let mut out = Vec::new();
        at_exit(process, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_site_is_named_by_the_first_frame_that_is_the_programs_own() {
        let mut report = fixture::report();
        let process = &mut report.processes[0];
        assert_eq!(place(culprit(process, &process.sites[0].stack).unwrap()), "keep demo.c:30");
        // All of it lies there, as in a static program.
        process.allocators[0].image = "/usr/bin/demo".into();
        assert_eq!(place(culprit(process, &process.sites[0].stack).unwrap()), "keep demo.c:30");
    }

    #[test]
    fn live_bytes_are_told_of_the_moment_of_resident_memory() {
        let mut report = fixture::report();
        let process = &mut report.processes[0];
        let told = |process: &Process| {
            let mut out = Vec::new();
            before_end(process, &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(told(process), "", "it has not ended");
        let at = Duration::from_millis(39_600);
        process.before_end = Some(BeforeEnd { at, live_bytes: 8 << 20, live_objects: 8000, rss_bytes: Some(9 << 20) });
        assert_eq!(told(process), "before end 8.00 MiB live in 8,000 objects with 9.00 MiB of RSS, after 39.6 s\n");
        process.before_end = Some(BeforeEnd { at, live_bytes: 4196, live_objects: 5, rss_bytes: None });
        assert_eq!(told(process), "", "it has freed nothing since");
    }

    #[test]
    fn what_was_looked_at_is_told_and_what_was_let_pass() {
        let mut report = fixture::report();
        assert_eq!(rendered(&report.processes[0]), "");
        let checked = Checked {
            live: Amount { bytes: 4096, objects: 4 },
            unreachable: Amount { bytes: 1024, objects: 1 },
            ..Checked::default()
        };
        report.processes[0].at_exit = Some(AtExit::Checked(checked));
        let suppressions = Suppressions::parse("leak:keep").unwrap();
        Gate { suppressions, baseline: None }.mark(&mut report);
        let process = &mut report.processes[0];
        assert_eq!(rendered(process), "exit       1 of 4 live blocks are unreachable (1.00 KiB)\n");
        assert_eq!(marks(&process.sites[0]).collect::<Vec<_>>(), ["suppressed by leak:keep"]);
        let why = Unchecked { cause: Cause::Killed, reason: "killed by signal 9".into() };
        process.at_exit = Some(AtExit::Unchecked(why));
        assert_eq!(rendered(process), "exit       not checked for reachability: killed by signal 9\n");
    }
}
