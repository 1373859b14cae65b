//! The memory of many processes, read from /proc alone: nothing is attached to anybody.
//!
//! In: which processes. Out: what memory each has had since it was first seen, and what is thought of that. A look costs
//! one read of an open file for each process; names are read when a process is first seen, or has changed its name, and limits
//! twice a minute.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashSet},
    num::NonZeroU32,
    time::Duration,
};

use memtrace_common::wire::counters::Counter;

use super::options::Options;
use crate::{
    analysis::health::health,
    model::{
        figures::{Figures, PageFigures},
        memory::{Limit, Memory, MemoryHistory, Usage},
        report::{Process, Report},
        stats::trend::Trend,
        subject::{Program, Subject},
        tier::Tier,
    },
    process::{
        cgroup,
        memory::{self, Status},
        status,
    },
    profile::{reading::Counters, rss_history::RssHistory},
};

/// How many processes' accounts stay open. Descriptors are few: 1,024 for a program that has not asked for more, and
/// tracing takes some. Further processes are opened at each look.
const MAX_OPEN: usize = 512;

/// Many processes.
#[derive(Debug, Default)]
pub struct ProcessScan {
    entries: BTreeMap<NonZeroU32, Entry>,
    buffer: Vec<u8>,
    /// How many processes there were.
    count: u64,
    /// The size of memtrace's tables in the kernel meanwhile, in bytes.
    pub(crate) tables_bytes: u64,
}

/// A process.
#[derive(Debug)]
pub struct Entry {
    /// Tells it from all others of the scan, whatever becomes of its pid.
    pub serial: u64,
    /// Its thread group id.
    pub pid: NonZeroU32,
    /// Its own short name.
    pub comm: String,
    /// The program it runs, as it sees the path; empty where that may not be known.
    pub exe: String,
    /// Its name as its account has it: cheap to compare.
    name: Vec<u8>,
    /// When it began: with the pid, that tells it from all others of the machine.
    start_ticks: u64,
    /// Its account; nothing where there are too many.
    status: Option<Status>,
    memory: RssHistory,
}

impl ProcessScan {
    /// Looks at these processes, `elapsed` after the start. New ones begin, and those that have ended or are not among them
    /// leave. That one has ended is no error.
    pub fn read(&mut self, pids: &[NonZeroU32], elapsed: Duration) {
        let selected: HashSet<NonZeroU32> = pids.iter().copied().collect();
        let Self { entries, buffer, count, tables_bytes } = self;
        entries.retain(|pid, entry| selected.contains(pid) && entry.read(buffer, elapsed, *tables_bytes).is_some());
        let open = entries.values().filter(|entry| entry.status.is_some()).count();
        let mut free = MAX_OPEN.saturating_sub(open);
        for pid in selected {
            if let std::collections::btree_map::Entry::Vacant(vacant) = entries.entry(pid)
                && let Some(entry) = Entry::begin(pid, *count + 1, free > 0, buffer, (elapsed, *tables_bytes))
            {
                free -= usize::from(entry.status.is_some());
                *count += 1;
                vacant.insert(entry);
            }
        }
    }

    /// The processes, by pid.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// How many processes there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.entries.len()
    }

    /// Tells a report which way the memory of its processes goes, where the scan has seen more of them than the run has. The series
    /// of its memory stays the run's, whose times are after its own start.
    pub(crate) fn tell(&self, report: &mut Report) {
        for process in &mut report.processes {
            let Some(entry) = NonZeroU32::new(process.subject.pid()).and_then(|pid| self.entries.get(&pid)) else {
                continue;
            };
            if let (Some(told), Some(seen)) = (&mut process.memory, entry.memory.report()) {
                (told.judgement, told.limit, told.time_to_limit) = (seen.judgement, seen.limit, seen.time_to_limit);
            }
        }
    }

    /// The processes as reports have them, without sites: those that grow first, the fastest first, then those with
    /// most resident memory.
    #[must_use]
    pub fn processes(&self) -> Vec<Process> {
        let mut processes: Vec<Process> = self.iter().map(Entry::report).collect();
        processes.sort_by(|a, b| {
            growth(b).total_cmp(&growth(a)).then_with(|| {
                let weight =
                    |process: &Process| (Reverse(process.memory.as_ref().map(Memory::bytes)), process.subject.pid());
                weight(a).cmp(&weight(b))
            })
        });
        processes
    }
}

/// The scanned processes in their order, those that are `targets` with their sites; then the targets that were not scanned (any
/// more). The scan knows for longer which memory a process has had.
pub(super) fn with_targets(scanned: Vec<Process>, targets: Vec<Process>) -> Vec<Process> {
    let (ended, live): (Vec<Process>, Vec<Process>) = targets.into_iter().partition(|target| target.ended);
    let mut live: BTreeMap<u32, Process> = live.into_iter().map(|target| (target.subject.pid(), target)).collect();
    let with_target = |seen: Process| match live.remove(&seen.subject.pid()) {
        Some(Process { figures, health, sites, .. }) => {
            Process { figures: since_first_seen(figures), health, sites, ..seen }
        }
        None => seen,
    };
    let mut processes: Vec<Process> = scanned.into_iter().map(with_target).collect();
    processes.extend(live.into_values());
    processes.extend(ended);
    processes
}

/// The figures of a target that the scan has seen for longer: it may have had more before it was a target.
fn since_first_seen(figures: Figures) -> Figures {
    match figures {
        Figures::Pages(pages) => Figures::Pages(PageFigures { peak: None, ..pages }),
        others => others,
    }
}

/// Whether a run reads `/proc` for its processes, and makes only those targets that grow.
pub(super) fn is_scanned(options: &Options) -> bool {
    options.tier == Tier::Growth && options.selection.begins_by_itself()
}

/// How fast a process grows; 0 where it is not increasing.
fn growth(process: &Process) -> f64 {
    let judgement = process.trend();
    if judgement.trend == Trend::Increasing { judgement.slope_per_s } else { 0.0 }
}

impl Entry {
    /// A process that is seen for the first time; nothing where it has ended, or has no memory.
    fn begin(
        pid: NonZeroU32,
        serial: u64,
        keep: bool,
        buffer: &mut Vec<u8>,
        (elapsed, tables_bytes): (Duration, u64),
    ) -> Option<Self> {
        let mut seen = |status: Status| {
            let (usage, name) = account(status.read(buffer)?)?;
            Some((usage, name, status))
        };
        let first = Status::open(pid.get()).ok().and_then(&mut seen);
        let (usage, name, status) = first.or_else(|| seen(Status::open_again(pid.get()).ok()?))?;
        let mut entry = Self {
            serial,
            pid,
            comm: status::comm(pid.get()).ok()?,
            exe: exe(pid),
            name,
            start_ticks: status::start_ticks(pid.get())?,
            status: keep.then_some(status),
            memory: RssHistory::default(),
        };
        entry.memory.note(usage, elapsed, || cgroup::memory_limit(pid.get(), tables_bytes));
        Some(entry)
    }

    /// Looks at it once more; nothing once it has ended.
    fn read(&mut self, buffer: &mut Vec<u8>, elapsed: Duration, tables_bytes: u64) -> Option<()> {
        let pid = self.pid.get();
        let kept = self.status.as_ref().and_then(|status| status.read(buffer)).and_then(account);
        let (usage, name) = match kept {
            Some(account) => account,
            // Its pid may be another's by now; if not, the thread has ended whose account that was.
            None if status::start_ticks(pid) != Some(self.start_ticks) => return None,
            None => {
                let status = Status::open_again(pid).ok()?;
                let account = account(status.read(buffer)?)?;
                self.status = self.status.is_some().then_some(status);
                account
            }
        };
        if name != self.name {
            self.name = name;
            self.rename()?;
        }
        self.memory.note(usage, elapsed, || cgroup::memory_limit(pid, tables_bytes));
        Some(())
    }

    /// It has another name: most often because it runs another program, whose memory is another.
    fn rename(&mut self) -> Option<()> {
        self.comm = status::comm(self.pid.get()).ok()?;
        let exe = exe(self.pid);
        if exe != self.exe {
            self.exe = exe;
            self.memory = RssHistory::default();
        }
        Some(())
    }

    /// When it began, after the machine did.
    #[must_use]
    pub fn began(&self) -> Duration {
        status::after_boot(self.start_ticks)
    }

    /// The memory that it has had.
    #[must_use]
    pub fn history(&self) -> &MemoryHistory {
        &self.memory.history
    }

    /// The limit of its cgroup.
    #[must_use]
    pub fn limit(&self) -> Option<Limit> {
        self.memory.limit()
    }

    /// Its memory when last seen.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.history().latest().unwrap_or_default()
    }

    fn report(&self) -> Process {
        Process {
            subject: Subject::Process(Program { pid: self.pid.get(), comm: self.comm.clone(), exe: self.exe.clone() }),
            memory: self.memory.report(),
            health: health(&Counters::default(), Counter::is_of_process),
            ..Process::default()
        }
    }
}

/// The memory of a process by its account, and its name there.
fn account(text: &[u8]) -> Option<(Usage, Vec<u8>)> {
    Some((memory::parse_usage(text)?, memory::name_in(text)?.to_vec()))
}

fn exe(pid: NonZeroU32) -> String {
    status::exe(pid.get()).map(|path| status::printable(&path.to_string_lossy())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command};

    fn sleeper() -> (Child, NonZeroU32) {
        let child = Command::new("/bin/sleep").arg("1000").spawn().unwrap();
        let pid = NonZeroU32::new(child.id()).unwrap();
        (child, pid)
    }

    fn end(mut child: Child) {
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn processes_begin_and_leave() {
        let ((one, one_pid), (other, other_pid)) = (sleeper(), sleeper());
        let mut scan = ProcessScan::default();
        scan.read(&[one_pid, NonZeroU32::new(4_194_305).unwrap()], Duration::ZERO);
        assert_eq!(scan.iter().map(|entry| entry.pid).collect::<Vec<_>>(), [one_pid]);
        scan.read(&[one_pid, other_pid], Duration::from_secs(1));
        assert_eq!(scan.iter().count(), 2);
        assert_eq!(scan.entries[&one_pid].history().series().len(), 2);
        end(one);
        scan.read(&[one_pid, other_pid], Duration::from_secs(2));
        assert_eq!(scan.iter().map(|entry| entry.pid).collect::<Vec<_>>(), [other_pid]);
        scan.read(&[], Duration::from_secs(3));
        assert_eq!(scan.iter().count(), 0);
        end(other);
    }

    #[test]
    fn reports_have_names_and_memory_and_no_sites() {
        let (child, pid) = sleeper();
        let mut scan = ProcessScan::default();
        // Until it is the program that it will be.
        while scan.iter().all(|entry| entry.comm != "sleep" || entry.usage().file_bytes == 0) {
            scan.read(&[pid], Duration::ZERO);
        }
        let processes = scan.processes();
        let process = &processes[0];
        assert_eq!((process.subject.pid(), &*process.subject.comm()), (pid.get(), "sleep"));
        assert!(process.subject.exe().ends_with("sleep") && process.sites.is_empty());
        let memory = process.memory.as_ref().unwrap();
        let usage = scan.entries[&pid].usage();
        assert_eq!(memory.bytes(), usage.rss_bytes());
        assert!(usage.vms_bytes > usage.rss_bytes());
        end(child);
    }

    #[test]
    fn a_process_that_is_not_kept_open_is_told_from_another_with_its_pid() {
        let (child, pid) = sleeper();
        let mut scan = ProcessScan::default();
        scan.read(&[pid], Duration::ZERO);
        let entry = scan.entries.get_mut(&pid).unwrap();
        entry.status = None;
        let serial = entry.serial;
        scan.read(&[pid], Duration::from_secs(1));
        assert_eq!(scan.entries[&pid].serial, serial);
        scan.entries.get_mut(&pid).unwrap().status = None;
        scan.entries.get_mut(&pid).unwrap().start_ticks += 1;
        scan.read(&[pid], Duration::from_secs(2));
        assert_ne!(scan.entries[&pid].serial, serial);
        end(child);
    }

    #[test]
    fn a_program_that_becomes_another_begins_afresh() {
        let mut child = Command::new("/bin/sh")
            .args(["-c", "read line; exec sleep 1000"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let pid = NonZeroU32::new(child.id()).unwrap();
        let mut scan = ProcessScan::default();
        while scan.iter().all(|entry| entry.comm != "sh") {
            scan.read(&[pid], Duration::ZERO);
        }
        scan.read(&[pid], Duration::from_secs(1));
        assert_eq!(scan.entries[&pid].history().series().len(), 2);
        drop(child.stdin.take());
        while scan.entries[&pid].comm != "sleep" {
            scan.read(&[pid], Duration::from_secs(2));
        }
        assert_eq!(scan.entries[&pid].history().series().len(), 1);
        end(child);
    }
}
