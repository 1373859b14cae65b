//! Where stacks end that a program has made by hand, as makers of coroutines do.
//!
//! The first return address of such a stack was put there without a call. It leads to the beginning of code that takes the next
//! stack pointer out of a register and never returns (`__start_context` of glibc, for makecontext(3)), or that ends the program.
//! The address before it, at which an unwinder looks for the call, belongs to something else. There, a row says that the stack
//! ends.

use std::ops::Range;

use memtrace_common::wire::code::{CfaRule, Row};

use super::inferred::{Stretch, follows_no_call};
use crate::process::{arch::stack_effects, code_step::Effect};

/// The code that a return leads to from the first function of a stack: virtual offsets, sorted.
#[derive(Debug, Default)]
pub struct StackEnds(Vec<u64>);

impl StackEnds {
    /// These.
    pub(super) fn of(mut ends: Vec<u64>) -> Self {
        ends.sort_unstable();
        ends.dedup();
        Self(ends)
    }

    /// Whether code at a place is one of them.
    #[must_use]
    pub fn contains(&self, virtual_offset: u64) -> bool {
        self.0.binary_search(&virtual_offset).is_ok()
    }

    /// A row before each, which says that the stack ends.
    pub(super) fn rows(&self) -> impl Iterator<Item = Row> {
        let before = self.0.iter().filter_map(|end| u32::try_from(end.checked_sub(1)?).ok());
        before.filter_map(|start| Row::new(start, CfaRule::End, 0, 0))
    }
}

/// Those among functions that call frame information describes, which are sorted by their starts, in a stretch of code: they begin
/// by taking another stack pointer, and only room is before them.
pub(super) fn among<'a>(described: &'a [Range<u64>], stretch: &'a Stretch) -> impl Iterator<Item = u64> + 'a {
    let mut described_until = 0;
    described.iter().filter_map(move |function| {
        let is_apart = described_until < function.start;
        described_until = described_until.max(function.end);
        let index = usize::try_from(function.start.checked_sub(stretch.start)?).ok().filter(|_| is_apart)?;
        let (before, code) = stretch.code.split_at_checked(index)?;
        (follows_no_call(before) && switches_stacks(code)).then_some(function.start)
    })
}

/// Whether code begins by taking another stack pointer.
fn switches_stacks(code: &[u8]) -> bool {
    // As `endbr64`, where a processor checks to where jumps lead.
    let mut steps = stack_effects::steps(&code[..code.len().min(BEGINNING_BYTES)], 0);
    let first = steps.find(|step| !stack_effects::is_landing_mark(code, *step));
    first.is_some_and(|step| step.effect == Effect::SwitchStackPointer)
}

/// A mark and an instruction are no longer, in bytes.
const BEGINNING_BYTES: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{process::image::Image, unwind::image_rows::ImageRows};
    use std::{fs::File, slice};

    /// `mov rsp, rbx`.
    const SWITCH: [u8; 3] = [0x48, 0x89, 0xdc];

    fn ends(code: &[u8], described: &[Range<u64>]) -> Vec<u64> {
        among(described, &Stretch { start: 0x1000, code: code.to_vec() }).collect()
    }

    #[test]
    fn a_function_that_takes_another_stack_pointer_first_is_entered_by_a_return() {
        // ret; nop; then the function.
        let code = [&[0xc3, 0x90][..], &SWITCH].concat();
        assert_eq!(ends(&code, &[0x1000..0x1001, 0x1002..0x1005]), [0x1002]);
        // endbr64 first.
        let marked = [&[0xc3, 0x90, 0xf3, 0x0f, 0x1e, 0xfa][..], &SWITCH].concat();
        assert_eq!(ends(&marked, &[0x1000..0x1001, 0x1002..0x1009]), [0x1002]);
    }

    #[test]
    fn other_functions_are_not() {
        // It begins otherwise: sub rsp,8.
        assert!(ends(&[0xc3, 0x90, 0x48, 0x83, 0xec, 8], &[0x1000..0x1001, 0x1002..0x1006]).is_empty());
        // A call that never comes back is the end of the function before.
        let called = [&[0xe8, 0, 0, 0, 0][..], &SWITCH].concat();
        assert!(ends(&called, slice::from_ref(&(0x1005..0x1008))).is_empty());
        // The function before has the byte before.
        let joined = [&[0xc3, 0x90][..], &SWITCH].concat();
        assert!(ends(&joined, &[0x1000..0x1002, 0x1002..0x1005]).is_empty());
        // Nothing is known of the byte before.
        assert!(ends(&SWITCH, slice::from_ref(&(0x1000..0x1003))).is_empty());
    }

    #[test]
    fn the_c_librarys_first_code_of_a_context_is_found_with_a_row_before_it() {
        let path = "/lib/x86_64-linux-gnu/libc.so.6";
        let image = Image::parse(File::open(path).unwrap(), path.into()).unwrap();
        let (ImageRows { rows, peculiar }, problem) = ImageRows::of(&image).unwrap();
        assert!(problem.is_none());
        let makecontext = image.functions(&["makecontext"]).unwrap()["makecontext"][0];
        let code = image.read(makecontext.file_offset, usize::try_from(makecontext.size).unwrap()).unwrap();
        let start = image.virtual_offset(makecontext.file_offset).unwrap();
        // It puts the address there, so it takes it.
        let taken: Vec<u64> = stack_effects::steps(&code, start)
            .filter_map(|step| step.refers_to)
            .filter(|to| peculiar.is_stack_end(*to))
            .collect();
        assert_eq!(taken.len(), 1, "{taken:x?}");
        let row_at = |offset: u64| rows[rows.partition_point(|row| u64::from(row.start) <= offset) - 1];
        assert_eq!(row_at(taken[0] - 1).rule(), Some(CfaRule::End));
        assert_eq!(row_at(taken[0]).rule(), Some(CfaRule::Sp));
        let ends = rows.iter().filter(|row| row.rule() == Some(CfaRule::End)).count();
        assert!(ends < 20, "{ends} of {} rows", rows.len());
    }
}
