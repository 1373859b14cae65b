//! The processes that are looked at, one after the other.

use std::{
    cmp::Reverse,
    num::NonZeroU32,
    os::fd::AsFd,
    time::{Duration, Instant},
};

use super::{super::failure::Failure, stop::StopSignals};
use crate::{
    analysis::heap_looks::HeapLooks,
    bpf::registers::RegisterReader,
    capture::selection::Selection,
    looking::{self, Asked, Limits, pressure},
    model::{
        heap_report::{HeapProcess, NotRead},
        roots::ThreadWords,
        subject::Program,
    },
    process::{leader, memory, status},
    report::words,
    symbolize::HeapNames,
};

/// The most processes that have ended and stay in the report.
const MAX_ENDED: usize = 256;

/// A process that is looked at.
pub(super) struct LookedAt {
    pub(super) process: HeapProcess,
    /// When it began: another process may have its pid later.
    start_ticks: Option<u64>,
    /// Where the stack of its program begins: it may run another program later.
    stack_start: Option<u64>,
    looks: HeapLooks,
}

/// How often a look is made anew, as the process runs another program by its end.
const ATTEMPTS: usize = 3;

fn program(pid: u32) -> Program {
    Program {
        pid,
        comm: status::comm(pid).unwrap_or_default(),
        exe: status::exe(pid).map_or_else(|_| String::new(), |exe| status::printable(&exe.to_string_lossy())),
    }
}

impl LookedAt {
    fn of(pid: u32) -> Self {
        let (start_ticks, stack_start) = (status::start_ticks(pid), status::stack_start(pid));
        let process = HeapProcess { program: program(pid), ended: false, rss_bytes: None, heap: None, not_read: None };
        Self { process, start_ticks, stack_start, looks: HeapLooks::default() }
    }

    fn pid(&self) -> u32 {
        self.process.program.pid
    }

    fn has_ended(&self) -> bool {
        let pid = self.pid();
        status::start_ticks(pid) != self.start_ticks || !leader::goes_on(leader::speaker(pid))
    }

    /// Looks at it: once, unless it begins another program meanwhile.
    fn look(&mut self, looking: &mut Looking, limits: Limits, begun: Instant, stop: &StopSignals) {
        for _ in 0..ATTEMPTS {
            self.look_once(looking, limits, begun, stop);
            if !self.begins_afresh() {
                return;
            }
        }
        self.process.not_read = Some(NotRead::Failed { error: "it runs one program after the other".into() });
    }

    /// Whether the process runs another program than before. Of that one, nothing is known then.
    fn begins_afresh(&mut self) -> bool {
        let (pid, stack_start) = (self.pid(), status::stack_start(self.pid()));
        if self.has_ended() || stack_start == self.stack_start {
            return false;
        }
        let (now, before) = (program(pid), &self.process.program);
        eprintln!("memtrace: process {pid} now runs {} (was {}): its figures start afresh", now.exe, before.exe);
        let process = HeapProcess { program: now, ended: false, rss_bytes: None, heap: None, not_read: None };
        *self = Self { process, start_ticks: self.start_ticks, stack_start, looks: HeapLooks::default() };
        true
    }

    fn look_once(&mut self, looking: &mut Looking, limits: Limits, begun: Instant, stop: &StopSignals) {
        let (pid, look_begun) = (self.pid(), Instant::now());
        let usage = memory::usage(pid);
        let looked = match usage {
            Some(_) => looking::look_for(pid, limits, looking.asked(pid), Some(stop.as_fd())),
            None => Err(NotRead::NoMemory),
        };
        // The look may have failed by that, and another process may have the pid.
        let looked = if self.has_ended() { Err(NotRead::Gone) } else { looked };
        match looked {
            Ok(mut heap) => {
                // Its figures are of the middle of reading, as far as anybody knows.
                let at = begun.elapsed().saturating_sub(heap.duration / 2);
                looking.names.name(pid, &mut heap);
                heap.duration = look_begun.elapsed();
                self.process.rss_bytes = usage.map(|usage| usage.rss_bytes());
                (self.process.heap, self.process.not_read) = (Some(self.looks.add(at, heap)), None);
            }
            Err(why) => {
                self.process.rss_bytes = self.process.rss_bytes.or(usage.map(|usage| usage.rss_bytes()));
                self.process.ended = why == NotRead::Gone;
                self.process.not_read = Some(why);
            }
        }
    }
}

/// How many times what one look may take is for all looks of a round.
const LOOKS_OF_TIME: u32 = 10;

/// The rest of the time, and of the bytes of resident memory, that all looks of a round may take together.
#[derive(Clone, Copy, Debug)]
struct Left {
    time: Duration,
    bytes: u64,
}

impl Left {
    /// All of it, where one look may take this.
    fn of(limits: Limits) -> Self {
        Self { time: limits.time.saturating_mul(LOOKS_OF_TIME), bytes: limits.bytes }
    }

    /// The limits of the next look, which may take this at most; nothing where nothing is left.
    fn limits(self, limits: Limits) -> Option<Limits> {
        let limits = Limits { time: limits.time.min(self.time), bytes: limits.bytes.min(self.bytes) };
        (!limits.time.is_zero() && limits.bytes > 0).then_some(limits)
    }

    fn take(&mut self, bytes: u64, time: Duration) {
        (self.time, self.bytes) = (self.time.saturating_sub(time), self.bytes.saturating_sub(bytes));
    }
}

/// The means of looks.
struct Looking {
    asked: Asked,
    names: HeapNames,
    registers: Registers,
}

/// The registers of threads.
enum Registers {
    /// Nobody has asked for them yet.
    NotRead,
    /// They can be read.
    Readable(Box<RegisterReader>),
    /// They cannot, which was said.
    Refused,
}

impl Registers {
    fn load() -> Self {
        match RegisterReader::load() {
            Ok(reader) => Self::Readable(Box::new(reader)),
            Err(why) => {
                let why = words::registers::not_read(&why);
                log::warn!("blocks that only registers point to have no holder: {why}");
                Self::Refused
            }
        }
    }
}

impl Looking {
    /// The questions to a look at a process.
    fn asked(&mut self, pid: u32) -> Asked {
        let mut asked = self.asked.clone();
        if let Some(holders) = &mut asked.holders {
            holders.threads = self.threads(pid);
        }
        asked
    }

    /// The words of a process's threads, as far as the kernel tells them.
    fn threads(&mut self, pid: u32) -> Vec<ThreadWords> {
        if let Registers::NotRead = self.registers {
            self.registers = Registers::load();
        }
        match &mut self.registers {
            Registers::Readable(reader) => reader.read(pid).unwrap_or_default(),
            Registers::NotRead | Registers::Refused => Vec::new(),
        }
    }
}

/// The processes that are selected.
pub(super) struct Targets {
    selection: Selection,
    looking: Looking,
    all: Vec<LookedAt>,
}

impl Targets {
    pub(super) fn of(selection: Selection, asked: Asked) -> Self {
        let looking = Looking { asked, names: HeapNames::default(), registers: Registers::NotRead };
        Self { selection, looking, all: Vec::new() }
    }

    /// Finds the processes for the first time.
    ///
    /// # Errors
    /// Where one that is named is not there, or none at all.
    pub(super) fn find(&mut self) -> Result<(), Failure> {
        self.find_more()?;
        for target in &self.all {
            let pid = target.pid();
            if target.start_ticks.is_none() {
                return Err(Failure::nobody(&format!("process {pid}")));
            }
            if let Some(process) = leader::process_of(pid).filter(|process| *process != pid) {
                let reason = format!("it is a thread of process {process}");
                return Err(Failure::look(pid, &reason, format!("--pid {process} looks at the process")));
            }
        }
        if self.all.is_empty() {
            let selected = match &self.selection {
                Selection::Comm(name) => format!("`{name}`"),
                Selection::Cgroup(path) => format!("the cgroup {}", path.display()),
                _ => "this".to_owned(),
            };
            return Err(Failure::nobody(&selected));
        }
        Ok(())
    }

    /// Finds those that have begun since, and tells which of them are short of memory.
    pub(super) fn find_more(&mut self) -> Result<(), Failure> {
        let selected = self.selection.processes().map_err(|error| Failure::selection(&error))?;
        for pid in selected.into_iter().map(NonZeroU32::get) {
            if self.all.iter().any(|target| target.pid() == pid && !target.process.ended) {
                continue;
            }
            // A process that was named is itself, whoever has its pid later.
            if matches!(self.selection, Selection::Pids(_)) && self.all.iter().any(|target| target.pid() == pid) {
                continue;
            }
            if let Some(pressure) = pressure::on(pid) {
                log::warn!(
                    "the cgroup of process {pid} is short of memory ({}): a look marks the pages that it reads as used",
                    words::heap::pressure(&pressure)
                );
            }
            self.all.push(LookedAt::of(pid));
        }
        self.forget_ended();
        Ok(())
    }

    /// Forgets those that have ended first, where they are many.
    fn forget_ended(&mut self) {
        let ended = self.all.iter().filter(|target| target.process.ended).count();
        let mut too_many = ended.saturating_sub(MAX_ENDED);
        self.all.retain(|target| {
            let is_forgotten = target.process.ended && too_many > 0;
            too_many -= usize::from(is_forgotten);
            !is_forgotten
        });
    }

    /// Looks at each that has not ended, at those first for which nothing was left the last time. Returns whether somebody has asked
    /// to stop meanwhile; those that come later are not looked at then.
    pub(super) fn look(&mut self, limits: Limits, begun: Instant, stop: &StopSignals) -> bool {
        let (mut left, mut is_stopped) = (Left::of(limits), false);
        let is_left_out = |target: &LookedAt| target.process.not_read == Some(NotRead::UsedUp);
        let (mut due, others): (Vec<_>, Vec<_>) =
            self.all.iter_mut().filter(|target| !target.process.ended).partition(|target| is_left_out(target));
        due.extend(others);
        for target in due {
            let why_not = if is_stopped { Err(NotRead::Stopped) } else { left.limits(limits).ok_or(NotRead::UsedUp) };
            match why_not {
                Ok(limits) => {
                    let look_begun = Instant::now();
                    target.look(&mut self.looking, limits, begun, stop);
                    left.take(target.process.rss_bytes.unwrap_or(0), look_begun.elapsed());
                    is_stopped = target.process.not_read == Some(NotRead::Stopped);
                }
                Err(why) => target.process.not_read = Some(why),
            }
        }
        is_stopped
    }

    /// Whether there is nobody left to look at, nor can be: of a name or a cgroup, processes may begin later.
    pub(super) fn have_all_ended(&self) -> bool {
        matches!(self.selection, Selection::Pids(_)) && self.all.iter().all(|target| target.process.ended)
    }

    pub(super) fn looked_at(&self) -> impl Iterator<Item = &LookedAt> {
        self.all.iter()
    }

    /// The processes, those with most memory first.
    pub(super) fn processes(&self) -> Vec<HeapProcess> {
        let mut processes: Vec<HeapProcess> = self.all.iter().map(|target| target.process.clone()).collect();
        processes.sort_by_key(|process| Reverse(process.rss_bytes));
        processes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_draw_on_what_is_left_for_all_of_them() {
        let second = Duration::from_secs(1);
        let limits = Limits { time: second, bytes: 100 };
        let mut left = Left::of(limits);
        assert_eq!(left.limits(limits), Some(limits));
        left.take(60, second * 19 / 2);
        assert_eq!(left.limits(limits), Some(Limits { time: second / 2, bytes: 40 }));
        left.take(40, Duration::ZERO);
        assert_eq!(left.limits(limits), None, "no bytes are left");
        let mut left = Left::of(limits);
        left.take(1, second * 11);
        assert_eq!(left.limits(limits), None, "no time is left");
    }
}
