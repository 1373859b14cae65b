//! The processes that are looked at, one after the other.

use std::{cmp::Reverse, num::NonZeroU32, os::fd::AsFd, time::Instant};

use super::{super::failure::Failure, stop::StopSignals};
use crate::{
    analysis::heap_looks::HeapLooks,
    bpf::registers::RegisterReader,
    capture::selection::Selection,
    looking::{self, Asked, Limits, pressure},
    model::{
        heap_report::{HeapProcess, NotRead},
        no_registers::NoRegisters,
        roots::ThreadWords,
        subject::Program,
    },
    process::{leader, memory, status},
    report::words,
    symbolize::{TypeNames, holders::HolderNames},
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
                heap.holders = heap.holders.take().map(|holders| looking.holders().name(pid, holders));
                heap.duration = look_begun.elapsed();
                looking.types.name(pid, &mut heap.types);
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

/// The means of looks.
struct Looking {
    asked: Asked,
    types: TypeNames,
    /// Names of holders, once there are any.
    holders: Option<HolderNames>,
    /// The reader of registers, once holders were asked for; nothing where it cannot be had.
    registers: Option<Option<RegisterReader>>,
}

impl Looking {
    fn holders(&mut self) -> &mut HolderNames {
        self.holders.get_or_insert_with(HolderNames::start)
    }

    /// The questions to a look at a process.
    fn asked(&mut self, pid: u32) -> Asked {
        let threads = if self.asked.holders { self.threads(pid) } else { Vec::new() };
        Asked { threads, ..self.asked.clone() }
    }

    /// The words of a process's threads, as far as the kernel tells them.
    fn threads(&mut self, pid: u32) -> Vec<ThreadWords> {
        let load = || {
            let warn = |why: &NoRegisters| {
                log::warn!("blocks that only registers point to have no holder: {}", words::registers::not_read(why));
            };
            RegisterReader::load().inspect_err(warn).ok()
        };
        let reader = self.registers.get_or_insert_with(load);
        reader.as_mut().and_then(|reader| reader.read(pid).ok()).unwrap_or_default()
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
        let looking = Looking { asked, types: TypeNames::default(), holders: None, registers: None };
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

    /// Looks at each that has not ended. Returns whether somebody has asked to stop meanwhile; those that come later are not looked
    /// at then.
    pub(super) fn look(&mut self, limits: Limits, begun: Instant, stop: &StopSignals) -> bool {
        let mut is_stopped = false;
        for target in self.all.iter_mut().filter(|target| !target.process.ended) {
            if is_stopped {
                target.process.not_read = Some(NotRead::Stopped);
                continue;
            }
            target.look(&mut self.looking, limits, begun, stop);
            is_stopped = target.process.not_read == Some(NotRead::Stopped);
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
