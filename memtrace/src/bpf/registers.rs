//! Registers of a process's threads, as the kernel has saved them: an object of its own, whose one program runs on demand.
//!
//! Nothing is attached, no thread is stopped, and none is woken. A thread that runs on a CPU is left alone: only the CPU has its
//! registers.

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    os::fd::AsRawFd,
};

use aya::{
    Ebpf, EbpfLoader,
    programs::{RawTracePoint, RawTracePointRunOptions, TestRun},
};
use memtrace_common::wire::{
    namespace::PidLayout,
    registers::{MAX_THREADS, PieceAnswer, PieceEnd, ThreadLayout, ThreadRegisters, ThreadState},
};

use super::{
    error::{BpfError, of_program},
    features::has_bpf_loop,
    mapped_array::MappedArray,
    named_map::open,
};
use crate::{
    model::{no_registers::NoRegisters, roots::ThreadWords},
    process::{arch, task_type},
};

/// The object, as `cargo xtask` has built it; empty where only this crate was built (see `build.rs`).
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/memtrace-registers.o"));
/// Its program.
const PROGRAM: &str = "read_registers";
/// The map into which that writes.
const MAP: &str = "REGISTERS";

/// How often threads are looked for that others, ending meanwhile, have put out of place: only pieces after the first can miss any.
const PASSES: u32 = 3;

/// The registers of each thread of the process `pid`, in memtrace's pid namespace. See [`RegisterReader::read`].
///
/// # Errors
/// As [`RegisterReader::load`] and [`RegisterReader::read`].
pub fn read(pid: u32) -> Result<Vec<ThreadWords>, NoRegisters> {
    RegisterReader::load()?.read(pid)
}

/// The loaded object, for one process after another. Dropping it leaves nothing in the kernel.
pub struct RegisterReader {
    ebpf: Ebpf,
    records: MappedArray<ThreadRegisters>,
}

/// A thread that the kernel's list has.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Found {
    /// It may run the program's code again.
    Alive(ThreadWords),
    /// It has ended, and needs no word any more.
    Ended,
}

impl RegisterReader {
    /// Loads the object.
    ///
    /// # Errors
    /// Where the kernel refuses it, mostly for want of privileges (CAP_BPF and CAP_PERFMON), or does not tell of its structures.
    pub fn load() -> Result<Self, NoRegisters> {
        if OBJECT.is_empty() {
            return Err(NoRegisters::NotBuilt);
        }
        if !has_bpf_loop() {
            return Err(NoRegisters::TooOld);
        }
        let (threads, pids) = task_type::thread_layout().map_err(|error| refused(&error))?;
        Self::load_with(&threads, &pids).map_err(|error| refused(&error))
    }

    fn load_with(threads: &ThreadLayout, pids: &PidLayout) -> Result<Self, BpfError> {
        let mut loader = EbpfLoader::new();
        loader.override_global("THREAD_LAYOUT", threads, true).override_global("PID_LAYOUT", pids, true);
        let mut ebpf = loader.load(OBJECT)?;
        let program = ebpf.program_mut(PROGRAM).ok_or(BpfError::Missing(PROGRAM))?;
        let program: &mut RawTracePoint = program.try_into().map_err(|_| BpfError::Missing(PROGRAM))?;
        program.load().map_err(|error| BpfError::Program { name: PROGRAM, source: of_program(error) })?;
        let records = open(&mut ebpf, MAP)?;
        Ok(Self { ebpf, records })
    }

    /// The registers of each thread that the process `pid` has when the reading ends, but for those that have ended by then. A thread
    /// that runs, or has run meanwhile, or has come meanwhile, has none.
    ///
    /// # Errors
    /// Where the process has ended, has more than [`MAX_THREADS`] threads, or its records cannot be read.
    pub fn read(&mut self, pid: u32) -> Result<Vec<ThreadWords>, NoRegisters> {
        // The kernel keeps with this whose folder it is: whatever gets the pid next is not read.
        let folder = File::open(format!("/proc/{pid}")).map_err(|error| gone_or(pid, &error))?;
        let mut found = HashMap::new();
        let mut listed = Vec::new();
        for _ in 0..PASSES {
            self.copy_all(&folder, pid, &mut found)?;
            listed = threads_of(&folder, pid)?;
            if listed.iter().all(|tid| found.contains_key(tid)) {
                break;
            }
        }
        let words = words_of(&listed, found);
        if words.is_empty() { Err(NoRegisters::Gone) } else { Ok(words) }
    }

    /// Copies the threads of all pieces.
    fn copy_all(&mut self, folder: &File, pid: u32, found: &mut HashMap<u32, Found>) -> Result<(), NoRegisters> {
        let mut passed = 0;
        loop {
            let answer = self.copy_piece(folder, pid, passed)?;
            for index in 0..answer.count() {
                let record = self.records.get(index as usize).ok_or(NoRegisters::Unreadable)?;
                note(found, record.tid, thread_of(&record));
            }
            passed += answer.count();
            match answer.end() {
                PieceEnd::Last => return Ok(()),
                PieceEnd::More if passed > MAX_THREADS => {
                    return Err(NoRegisters::TooManyThreads { limit: MAX_THREADS });
                }
                PieceEnd::More if answer.count() > 0 => {}
                // Of a process that has ended by now, there is no list either.
                PieceEnd::NoProcess => {
                    return Err(threads_of(folder, pid).err().unwrap_or(NoRegisters::Unreadable));
                }
                PieceEnd::More | PieceEnd::Broken => return Err(NoRegisters::Unreadable),
            }
        }
    }

    /// Runs the program for the threads behind the first `passed`.
    fn copy_piece(&mut self, folder: &File, pid: u32, passed: u32) -> Result<PieceAnswer, NoRegisters> {
        let missing = || refused(&BpfError::Missing(PROGRAM));
        let program = self.ebpf.program_mut(PROGRAM).ok_or_else(missing)?;
        let program: &mut RawTracePoint = program.try_into().map_err(|_| missing())?;
        let mut options = RawTracePointRunOptions::new();
        let descriptor = u64::from(folder.as_raw_fd().unsigned_abs());
        options.args[..3].copy_from_slice(&[descriptor, u64::from(pid), u64::from(passed)]);
        let answer = program.test_run(options);
        let answer = answer.map_err(|error| BpfError::Program { name: PROGRAM, source: of_program(error) });
        Ok(PieceAnswer(answer.map_err(|error| refused(&error))?.return_value))
    }
}

/// A thread by its record.
fn thread_of(record: &ThreadRegisters) -> Found {
    let tid = record.tid;
    let without = ThreadWords { tid, stack_pointer: None, registers: None };
    match ThreadState::of(record.state) {
        ThreadState::Copied => {
            let (stack_pointer, words) = arch::copied_registers(record);
            Found::Alive(ThreadWords { tid, stack_pointer, registers: Some(words) })
        }
        ThreadState::Ended => Found::Ended,
        ThreadState::Running | ThreadState::Unreadable => Found::Alive(without),
    }
}

/// Notes a thread, unless more is known of it from before.
fn note(found: &mut HashMap<u32, Found>, tid: u32, thread: Found) {
    let tells_more = match &thread {
        Found::Alive(words) => words.registers.is_some(),
        Found::Ended => true,
    };
    if tells_more {
        found.insert(tid, thread);
    } else {
        found.entry(tid).or_insert(thread);
    }
}

/// The threads that are listed and have not ended. Those that were not found have no registers.
fn words_of(listed: &[u32], mut found: HashMap<u32, Found>) -> Vec<ThreadWords> {
    let words = listed.iter().filter_map(|tid| match found.remove(tid) {
        Some(Found::Alive(words)) => Some(words),
        Some(Found::Ended) => None,
        None => Some(ThreadWords { tid: *tid, stack_pointer: None, registers: None }),
    });
    words.collect()
}

/// The threads that a process has, by its folder in `/proc`.
fn threads_of(folder: &File, pid: u32) -> Result<Vec<u32>, NoRegisters> {
    let entries = fs::read_dir(format!("/proc/self/fd/{}/task", folder.as_raw_fd()));
    let entries = entries.map_err(|error| gone_or(pid, &error))?.take(MAX_THREADS as usize + 1);
    let tids: Vec<u32> = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    if tids.is_empty() {
        return Err(NoRegisters::Gone);
    }
    if tids.len() > MAX_THREADS as usize {
        return Err(NoRegisters::TooManyThreads { limit: MAX_THREADS });
    }
    Ok(tids)
}

/// Why a process's folder cannot be read.
fn gone_or(pid: u32, error: &io::Error) -> NoRegisters {
    if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH) {
        return NoRegisters::Gone;
    }
    NoRegisters::Refused { error: format!("cannot read /proc/{pid}: {error}") }
}

fn refused(error: &impl ToString) -> NoRegisters {
    NoRegisters::Refused { error: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use memtrace_common::arch::{SAVED_REGISTERS, THREAD_BASES, VECTOR_WORDS};

    fn record(tid: u32, state: ThreadState) -> ThreadRegisters {
        let (saved, vectors) = ([77; SAVED_REGISTERS], [0; VECTOR_WORDS]);
        ThreadRegisters { tid, state: state as u32, saved, bases: [0; THREAD_BASES], vectors, vectors_in_use: 0 }
    }

    fn found(records: &[ThreadRegisters]) -> HashMap<u32, Found> {
        let mut found = HashMap::new();
        records.iter().for_each(|record| note(&mut found, record.tid, thread_of(record)));
        found
    }

    #[test]
    fn threads_that_run_and_those_that_were_not_found_have_no_registers() {
        let records = [record(1, ThreadState::Copied), record(2, ThreadState::Running), record(3, ThreadState::Ended)];
        let words = words_of(&[1, 2, 3, 4], found(&records));
        let has: Vec<_> = words.iter().map(|words| (words.tid, words.registers.is_some())).collect();
        assert_eq!(has, [(1, true), (2, false), (4, false)]);
        assert_eq!((words[0].stack_pointer, words[1].stack_pointer), (Some(77), None));
    }

    #[test]
    fn a_later_pass_adds_registers_and_takes_none_away() {
        let twice = |first, second| words_of(&[1], found(&[record(1, first), record(1, second)]));
        for (first, second) in
            [(ThreadState::Copied, ThreadState::Running), (ThreadState::Running, ThreadState::Copied)]
        {
            assert!(twice(first, second)[0].registers.is_some());
        }
        assert_eq!(twice(ThreadState::Copied, ThreadState::Ended), []);
    }
}
