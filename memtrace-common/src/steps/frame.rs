//! A frame of a stack, and the step from it to its caller: the same code in the kernel and in host tests.

use crate::{
    arch::return_address_at,
    wire::code::{BP_AT_BP, Row},
};

/// The registers that unwinding needs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// The program counter: a return address, except in the innermost frame and below a signal frame.
    pub pc: u64,
    /// The stack pointer.
    pub sp: u64,
    /// The frame pointer, or whatever else the code keeps in that register.
    pub bp: u64,
}

/// Why a step could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The stack could not be read where the row says.
    Unreadable,
    /// The row says nothing.
    NoRule,
    /// The caller's frame would not lie further out: the stack or the row is corrupt.
    NotOutwards,
    /// The stack pointer was put on another stack, and the frame pointer does not lead back.
    StackSwitch,
}

/// The outcome of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The caller's registers. Their program counter is a return address.
    Caller(Registers),
    /// The registers that a signal interrupted. Their program counter is that of the next instruction.
    Interrupted(Registers),
    /// The outermost frame was reached.
    End,
    /// The caller cannot be told.
    Failed(Failure),
}

/// A thread's memory, as far as it can be read.
pub trait Memory {
    /// The word at `address`.
    fn word(&mut self, address: u64) -> Option<u64>;
}

/// The caller, whose frame begins at `cfa`. It lies further out, whichever way `cfa` was found, so every walk ends.
#[inline(always)]
pub(crate) fn caller(row: Row, cfa: u64, registers: Registers, memory: &mut impl Memory) -> Step {
    if cfa <= registers.sp {
        return Step::Failed(Failure::NotOutwards);
    }
    let Some(pc) = memory.word(return_address_at(cfa)) else { return Step::Failed(Failure::Unreadable) };
    let saved_at = match row.bp_words() {
        BP_AT_BP => registers.bp,
        words => cfa.wrapping_sub(words as u64 * 8),
    };
    let bp = match row.bp_words() {
        0 => registers.bp,
        _ => match memory.word(saved_at) {
            Some(bp) => bp,
            None => return Step::Failed(Failure::Unreadable),
        },
    };
    // Thread entry points written in assembly leave a zero where the return address would be.
    if pc == 0 { Step::End } else { Step::Caller(Registers { pc, sp: cfa, bp }) }
}
