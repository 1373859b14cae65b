//! Registers of threads that are in the kernel: the kernel side copies them in pieces, user space makes words of them.

use crate::arch::{SAVED_REGISTERS, THREAD_BASES, VECTOR_WORDS};

/// The threads of one piece: the most that one run of the program copies. On a kernel that does not preempt itself, nobody else
/// runs on that CPU meanwhile.
pub const PIECE: u32 = 512;

/// The most threads of a process.
pub const MAX_THREADS: u32 = 100_000;

/// Where the kernel's structures hold what is read of threads, in bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ThreadLayout {
    /// The head of the list of processes, in `pid`: `pid.tasks[PIDTYPE_TGID]`.
    pub leader: u32,
    /// Its entry in a task: `task_struct.pid_links[PIDTYPE_TGID]`.
    pub leader_entry: u32,
    /// `task_struct.signal`.
    pub signal: u32,
    /// The list of threads: `signal_struct.thread_head`.
    pub threads: u32,
    /// Its entry in a task: `task_struct.thread_node`.
    pub thread_entry: u32,
    /// `task_struct.exit_state`: 0 until the task has ended.
    pub exit_state: u32,
    /// `task_struct.on_cpu`: 0 while it runs on none.
    pub on_cpu: u32,
    /// How often it has given up a CPU: `task_struct.nvcsw`.
    pub given_up: u32,
    /// How often it had to: `task_struct.nivcsw`.
    pub preempted: u32,
    /// `task_struct.stack`: the kernel's stack of the task.
    pub stack: u32,
    /// In `task_struct`: the bases of memory that only the thread has.
    pub bases: [u32; THREAD_BASES],
    /// In `task_struct`: the pointer to the state of its vector registers; 0 where that is not known.
    pub vector_state: u32,
    /// The vector registers in that state.
    pub vectors: u32,
    /// The word in that state that says which of its parts are in use.
    pub vectors_in_use: u32,
}

const _: () = assert!(size_of::<ThreadLayout>() == 60);

/// How it stands with the registers of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ThreadState {
    /// The record has its registers: it was in the kernel, and did not run while they were copied.
    Copied = 0,
    /// It runs on a CPU, or did while they were copied: only the CPU has them.
    Running = 1,
    /// It has ended, and waits for that to be noticed.
    Ended = 2,
    /// The kernel's memory could not be read.
    Unreadable = 3,
}

impl ThreadState {
    /// By its code; codes that are not known are [`Self::Unreadable`].
    #[must_use]
    pub const fn of(code: u32) -> Self {
        match code {
            0 => Self::Copied,
            1 => Self::Running,
            2 => Self::Ended,
            _ => Self::Unreadable,
        }
    }
}

/// A thread, as the kernel side has found it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadRegisters {
    /// The thread, in memtrace's pid namespace; 0 where it has no number any more.
    pub tid: u32,
    /// A [`ThreadState`] code.
    pub state: u32,
    /// The registers with which it entered the kernel, in the kernel's own order ([`crate::arch::saved_registers`]).
    pub saved: [u64; SAVED_REGISTERS],
    /// The bases of memory that only the thread has.
    pub bases: [u64; THREAD_BASES],
    /// Its vector registers, two words each.
    pub vectors: [u64; VECTOR_WORDS],
    /// Which parts of the vectors' state are in use; 0 where they were not read.
    pub vectors_in_use: u64,
}

const _: () = assert!(size_of::<ThreadRegisters>() == 8 * (2 + SAVED_REGISTERS + THREAD_BASES + VECTOR_WORDS));

/// How a piece ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum PieceEnd {
    /// There may be more threads behind it.
    More = 0,
    /// The last thread is in it, or before it.
    Last = 1,
    /// The descriptor is not of a process of that number, or it has ended.
    NoProcess = 2,
    /// The kernel's memory could not be read: threads behind it are not known.
    Broken = 3,
}

/// The answer of the program, as its return value: how many records it has written, and how the piece ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PieceAnswer(pub u32);

impl PieceAnswer {
    const COUNT_BITS: u32 = 16;

    /// Both in one word.
    #[inline(always)]
    #[must_use]
    pub const fn new(count: u32, end: PieceEnd) -> Self {
        Self(count & ((1 << Self::COUNT_BITS) - 1) | (end as u32) << Self::COUNT_BITS)
    }

    /// How many records were written, from the first on.
    #[must_use]
    pub const fn count(self) -> u32 {
        self.0 & ((1 << Self::COUNT_BITS) - 1)
    }

    /// How the piece ends; codes that are not known are [`PieceEnd::Broken`].
    #[must_use]
    pub const fn end(self) -> PieceEnd {
        match self.0 >> Self::COUNT_BITS {
            0 => PieceEnd::More,
            1 => PieceEnd::Last,
            2 => PieceEnd::NoProcess,
            _ => PieceEnd::Broken,
        }
    }
}

const _: () = assert!(PIECE < 1 << PieceAnswer::COUNT_BITS);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_a_count_and_an_end() {
        for end in [PieceEnd::More, PieceEnd::Last, PieceEnd::NoProcess, PieceEnd::Broken] {
            for count in [0, 1, PIECE] {
                let answer = PieceAnswer::new(count, end);
                assert_eq!((answer.count(), answer.end()), (count, end));
            }
        }
        assert_eq!(PieceAnswer(u32::MAX).end(), PieceEnd::Broken);
    }

    #[test]
    fn states_are_known_by_their_codes() {
        for state in [ThreadState::Copied, ThreadState::Running, ThreadState::Ended, ThreadState::Unreadable] {
            assert_eq!(ThreadState::of(state as u32), state);
        }
        assert_eq!(ThreadState::of(77), ThreadState::Unreadable);
    }
}
