//! From a command line to a plan of what is done, or to a refusal.
//!
//! In: parsed arguments, and the facts of the machine that matter, as data. Out: everything that a command carries out. Makes no
//! system call, reads no clock and prints nothing.

pub(super) mod heap;
mod table;
pub(super) mod trace;
pub(super) mod watch;

#[cfg(test)]
mod tests;

use crate::bpf::Unwind;

pub(super) use table::Refusal;

/// The facts that a plan depends on, beside its arguments.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    /// Whether the kernel has `bpf_loop`, with which stacks are walked by call frame information.
    pub(super) has_bpf_loop: bool,
    /// Whether stdout is a terminal.
    pub(super) has_terminal: bool,
    /// How often `-v` was given.
    pub(super) verbose: u8,
}

/// Words for stderr, before the plan is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Note {
    /// A choice that memtrace has made.
    Choice(&'static str),
    /// Something that this machine cannot do.
    Warning(&'static str),
}

/// The best way to walk stacks. That the kernel cannot do what was not asked for is worth a word.
fn best_unwind(facts: Facts) -> (Unwind, Option<Note>) {
    const TOO_OLD: &str = "this kernel is older than Linux 5.17: stacks are walked by frame pointers";
    if facts.has_bpf_loop { (Unwind::Rows, None) } else { (Unwind::FramePointers, Some(Note::Warning(TOO_OLD))) }
}
