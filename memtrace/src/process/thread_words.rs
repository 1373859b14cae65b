//! The threads of a process, and where the stacks of those that sleep end, without ptrace(2): /proc/PID/task/TID/syscall tells it, and
//! holds nobody up.

use std::fs;

use super::{arch, leader};
use crate::model::{holders::ThreadName, roots::ThreadWords};

/// Threads that are looked at.
const MAX_THREADS: usize = 1 << 16;

/// A thread of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Thread {
    /// Its words outside of memory.
    pub words: ThreadWords,
    /// Its number in the process's own pid namespace, as the process's memory has it.
    pub own_tid: u32,
}

/// The threads of the process `pid`, in order of their numbers, 65,536 at most. `told` has the words of those of which somebody knows
/// more than /proc does. A thread that is neither there nor told of has none.
#[must_use]
pub fn read(pid: u32, told: &[ThreadWords]) -> Vec<Thread> {
    let process = leader::speaker(pid);
    let entries = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten();
    let tids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let mut threads: Vec<Thread> = tids
        .take(MAX_THREADS)
        .map(|tid| {
            let read = |name: &str| fs::read(format!("/proc/{process}/task/{tid}/{name}")).unwrap_or_default();
            let stack_pointer = parse_stack_pointer(&read("syscall"));
            let own_tid = parse_own_tid(&read("status")).unwrap_or(tid);
            Thread { words: ThreadWords { tid, stack_pointer, registers: None }, own_tid }
        })
        .collect();
    threads.sort_by_key(|thread| thread.words.tid);
    merge(&mut threads, told);
    threads
}

/// Takes over what is told of threads. One that is told of and was not found has ended since, or is one of too many.
fn merge(threads: &mut Vec<Thread>, told: &[ThreadWords]) {
    for words in told {
        match threads.binary_search_by_key(&words.tid, |thread| thread.words.tid) {
            Ok(known) => {
                if let Some(known) = threads.get_mut(known) {
                    // The pointer goes with the registers: both are of one moment.
                    let stack_pointer = words.stack_pointer.or(known.words.stack_pointer);
                    known.words = ThreadWords { stack_pointer, ..words.clone() };
                }
            }
            Err(place) if threads.len() < MAX_THREADS => {
                threads.insert(place, Thread { words: words.clone(), own_tid: words.tid });
            }
            Err(_) => {}
        }
    }
}

/// The name of a thread; empty where it is gone.
#[must_use]
pub fn name(pid: u32, tid: u32) -> ThreadName {
    let name = fs::read(format!("/proc/{}/task/{tid}/comm", leader::speaker(pid))).unwrap_or_default();
    let name = super::status::printable(&String::from_utf8_lossy(name.trim_ascii_end()));
    ThreadName { tid, name }
}

/// The stack pointer of a thread by the contents of /proc/PID/task/TID/syscall (proc_pid_syscall(5)); `None` while it runs.
#[must_use]
pub fn parse_stack_pointer(text: &[u8]) -> Option<u64> {
    let fields: Vec<&str> = std::str::from_utf8(text).ok()?.split_ascii_whitespace().collect();
    // The call's number and its arguments come before, if it is in one.
    let [.., stack_pointer, _] = fields[..] else { return None };
    u64::from_str_radix(stack_pointer.strip_prefix("0x")?, 16).ok()
}

/// A thread's number in its own pid namespace by its account (`NSpid` of proc_pid_status(5)).
#[must_use]
pub fn parse_own_tid(status: &[u8]) -> Option<u32> {
    let line = status.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"NSpid:"))?;
    std::str::from_utf8(line).ok()?.split_ascii_whitespace().next_back()?.parse().ok()
}

/// A thread's own record, to which its thread pointer leads: its thread-local memory lies below.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ThreadRecord {
    /// The thread pointer.
    pub address: u64,
    /// The number that the C library notes there, in the process's own pid namespace; another C library has something else there.
    pub own_tid: u32,
}

/// The records that lie in a piece of memory, which begins at the address `start`. Not those whose beginning alone is in it.
pub fn records(start: u64, memory: &[u8]) -> impl Iterator<Item = ThreadRecord> {
    let words = memory.as_chunks::<8>().0;
    (start..).step_by(8).zip(words).enumerate().filter_map(move |(index, (address, word))| {
        let word_at = |offset: usize| words.get(index + offset / 8).map(|word| u64::from_ne_bytes(*word));
        let is_record = u64::from_ne_bytes(*word) == address && word_at(arch::thread_record::ITSELF) == Some(address);
        let tid = word_at(arch::thread_record::TID).filter(|_| is_record)?;
        #[expect(clippy::cast_possible_truncation, reason = "it is the lower half")]
        Some(ThreadRecord { address, own_tid: tid as u32 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleeping_threads_stack_pointer_is_told_and_a_running_ones_is_not() {
        let asleep = b"232 0x4 0x7ffc1000 0x1 0xffffffff 0x0 0x0 0x7ffc0f58 0x7f0000001234\n";
        assert_eq!(parse_stack_pointer(asleep), Some(0x7ffc_0f58));
        assert_eq!(parse_stack_pointer(b"-1 0x7ffc0f58 0x7f0000001234\n"), Some(0x7ffc_0f58));
        assert_eq!([&b"running\n"[..], b"", b"0x1"].map(parse_stack_pointer), [None; 3]);
    }

    #[test]
    fn the_number_in_the_innermost_namespace_is_told() {
        assert_eq!(parse_own_tid(b"Name:\tx\nNSpid:\t4711\t12\t7\nNSpgid:\t1\n"), Some(7));
        assert_eq!([&b"Name:\tx\n"[..], b"NSpid:\n", b"NSpid:\tx"].map(parse_own_tid), [None; 3]);
    }

    #[test]
    fn what_is_told_counts_more_than_what_is_read() {
        let words = |tid, stack_pointer, registers: Option<&[u64]>| ThreadWords {
            tid,
            stack_pointer,
            registers: registers.map(<[u64]>::to_vec),
        };
        let thread = |words: ThreadWords| Thread { own_tid: words.tid, words };
        let mut threads = [words(3, Some(30), None), words(5, Some(50), None)].map(thread).to_vec();
        merge(&mut threads, &[words(4, None, Some(&[1])), words(5, Some(51), Some(&[2])), words(3, None, Some(&[]))]);
        let merged: Vec<ThreadWords> = threads.into_iter().map(|thread| thread.words).collect();
        assert_eq!(merged, [words(3, Some(30), Some(&[])), words(4, None, Some(&[1])), words(5, Some(51), Some(&[2]))]);
    }

    #[test]
    fn threads_of_ones_own_are_found_asleep_and_with_their_names() {
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel();
        let sleeper = std::thread::Builder::new().name("sleeper".into());
        let sleeper = sleeper.spawn(move || {
            let mark = 7_u64;
            tell.send((nix::unistd::gettid().as_raw().unsigned_abs(), (&raw const mark).addr() as u64)).unwrap();
            // The channel ends it.
            _ = wait.recv();
            std::hint::black_box(mark)
        });
        let (tid, address) = told.recv().unwrap();
        let pid = std::process::id();
        let stack_pointer = (0..10_000).find_map(|_| {
            std::thread::sleep(std::time::Duration::from_millis(1));
            read(pid, &[]).into_iter().find(|thread| thread.words.tid == tid)?.words.stack_pointer
        });
        let below = address - stack_pointer.unwrap();
        assert!(below < 1 << 16, "{below}");
        assert_eq!(name(pid, tid), ThreadName { tid, name: "sleeper".into() });
        drop(go);
        assert_eq!(sleeper.unwrap().join().unwrap(), 7);
    }

    #[test]
    fn records_are_known_by_their_pointers_to_themselves() {
        let mut memory = [0_u64; 200];
        let start = 0x7000;
        memory[64] = start + 64 * 8;
        memory[66] = start + 64 * 8;
        memory[64 + 90] = 0x1_0000_0007;
        memory[20] = start + 20 * 8;
        let bytes: Vec<u8> = memory.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let record = ThreadRecord { address: start + 64 * 8, own_tid: 7 };
        assert_eq!(records(start, &bytes).collect::<Vec<_>>(), [record]);
        assert_eq!(records(start, &bytes[..67 * 8]).count(), 0);
    }
}
