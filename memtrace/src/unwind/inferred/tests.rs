//! Inferred rows beside those that a compiler has written for the same code.

use super::*;
use crate::{process::image::Image, unwind::cfi};
use std::fs::File;

fn image(path: &str) -> Image {
    Image::parse(File::open(path).unwrap(), path.into()).unwrap()
}

fn row_at(rows: &[Row], offset: u64) -> Option<Row> {
    let after = rows.partition_point(|row| u64::from(row.start) <= offset);
    after.checked_sub(1).map(|index| rows[index])
}

/// Of the return addresses in an image's described functions: how many there are, at how many both kinds of rows find the same
/// caller, and at how many the inferred rows leave it to frame pointers.
fn agreement(path: &str, with_symbols: bool) -> (usize, usize, usize) {
    let image = image(path);
    let section = image.frame_section().unwrap().unwrap();
    let (compiled, described) = (cfi::compile(&section).unwrap(), cfi::code_ranges(&section).unwrap());
    let code =
        |range: &Range<u64>| image.read_at(range.start, usize::try_from(range.end - range.start).unwrap()).unwrap();
    let stretches: Vec<Stretch> =
        image.code_ranges().map(|range| Stretch { start: range.start, code: code(&range) }).collect();
    let sure = if with_symbols { image.function_starts().unwrap() } else { BTreeSet::new() };
    let mut functions = Beginnings { sure, maybe: image.pointers().unwrap() };
    stretches.iter().for_each(|stretch| functions.add_referred(stretch));
    let inferred = cfi::with(Vec::new(), infer(&stretches, &functions).rows);
    let (mut all, mut same, mut left) = (0, 0, 0);
    for range in described {
        let code = code(&range);
        let calls = stack_effects::steps(&code, range.start).filter(|step| matches!(step.flow, Flow::Call(_)));
        for call in calls {
            // The row of a return address is that of the call before it.
            let (Some(told), Some(found)) = (row_at(&compiled, call.at), row_at(&inferred, call.at)) else { continue };
            if !matches!(told.rule(), Some(CfaRule::Sp | CfaRule::Bp)) {
                continue;
            }
            all += 1;
            same += usize::from(is_same(told, found));
            left += usize::from(found.rule() == Some(CfaRule::FramePointer));
        }
    }
    (all, same, left)
}

/// Whether two rows lead to the same CFA: the one by the frame pointer, whose distance a compiler tells, is taken as such.
fn is_same(told: Row, found: Row) -> bool {
    match (told.rule(), found.rule()) {
        (Some(CfaRule::Sp), Some(CfaRule::Sp)) => {
            told.offset_words() == found.offset_words() && (told.bp_words() == 0 || told.bp_words() == found.bp_words())
        }
        // Where there is a frame, the distance from the stack pointer is known to the code alone.
        (Some(CfaRule::Bp), Some(CfaRule::Sp)) => found.bp_words() == told.bp_words(),
        (Some(CfaRule::Bp), Some(CfaRule::Bp)) => told.offset_words() == found.offset_words(),
        _ => false,
    }
}

#[test]
fn inferred_rows_agree_with_those_of_compilers() {
    for (path, with_symbols, least) in [
        ("/lib/x86_64-linux-gnu/libc.so.6", true, 0.98),
        ("/lib/x86_64-linux-gnu/libc.so.6", false, 0.97),
        ("/usr/bin/perl", true, 0.98),
    ] {
        let (all, same, left) = agreement(path, with_symbols);
        println!("{path}: {same} of {all} the same, {left} left to frame pointers");
        assert!(
            all > 5000 && same as f64 >= all as f64 * least,
            "{path}: {same} of {all}, {left} left to frame pointers"
        );
    }
}

/// The code of one function at 0x1000, and what is inferred of it; `maybe` are addresses that something takes.
fn inferred(code: &[&[u8]], maybe: &[u64]) -> (Vec<Row>, Vec<u64>) {
    let stretch = Stretch { start: 0x1000, code: code.concat() };
    let beginnings = Beginnings { sure: [0x1000].into(), maybe: maybe.iter().copied().collect() };
    let Inferred { rows, stack_ends } = infer(&[stretch], &beginnings);
    (cfi::with(Vec::new(), rows), stack_ends)
}

const CALL_RAX: &[u8] = &[0xff, 0xd0];
const RET: &[u8] = &[0xc3];

#[test]
fn a_call_on_another_stack_has_a_row_that_says_so() {
    let rule = |rows: &[Row], at| row_at(rows, at).and_then(Row::rule);
    // mov rdx,rsp; mov rsp,[rsi+0x38]; sub rsp,0x40; and rsp,-16; call rax; ret
    let switch =
        [&[0x48, 0x89, 0xe2][..], &[0x48, 0x8b, 0x66, 0x38], &[0x48, 0x83, 0xec, 0x40], &[0x48, 0x83, 0xe4, 0xf0]];
    let (rows, _) = inferred(&[&switch[..], &[CALL_RAX, RET]].concat(), &[]);
    assert_eq!(rule(&rows, 0x1003), Some(CfaRule::Sp));
    assert_eq!(row_at(&rows, 0x100f).map(|row| (row.rule(), row.offset_words())), Some((Some(CfaRule::Switched), 0)));
    // push rbp; mov rbp,rsp; mov rsp,rdi; call rax; leave; ret: the frame pointer leads back.
    let framed = [&[0x55][..], &[0x48, 0x89, 0xe5], &[0x48, 0x89, 0xfc], CALL_RAX, &[0xc9], RET];
    let (rows, _) = inferred(&framed, &[]);
    let row = row_at(&rows, 0x1007).unwrap();
    assert_eq!((row.rule(), row.offset_words(), row.bp_words()), (Some(CfaRule::Switched), 2, 2));
    assert_eq!(rule(&rows, 0x100a), Some(CfaRule::Sp), "back on the caller's stack");
    // Room for an array is on the same stack: sub rsp,rdi; call rax; ret
    let (rows, _) = inferred(&[&[0x48, 0x29, 0xfc], CALL_RAX, RET], &[]);
    assert_eq!(rule(&rows, 0x1003), Some(CfaRule::FramePointer));
}

#[test]
fn code_that_never_returns_and_that_no_call_precedes_ends_stacks() {
    // As make_fcontext of boost.context: lea rcx,[rip+4]; ret; push rbp; jmp rbx; finish: xor edi,edi; call rax; hlt.
    let make = [&[0x48, 0x8d, 0x0d, 4, 0, 0, 0][..], RET, &[0x55], &[0xff, 0xe3]];
    let finish = [&[0x31, 0xff][..], CALL_RAX, &[0xf4]];
    let (_, ends) = inferred(&[&make[..], &finish].concat(), &[0x1008, 0x100b]);
    assert_eq!(ends, [0x100b]);
    // Another function, which returns, is behind it: nop; ret.
    let (_, ends) = inferred(&[&make[..], &finish, &[&[0x90], RET]].concat(), &[0x1008, 0x100b]);
    assert_eq!(ends, [0x100b]);
    // It returns.
    let (_, ends) = inferred(&[&make[..], &[&[0x31, 0xff], CALL_RAX, RET]].concat(), &[0x1008, 0x100b]);
    assert!(ends.is_empty());
    // The call before it may be one that does not come back.
    let (_, ends) = inferred(&[&[&[0x31, 0xff][..], CALL_RAX], &finish[..]].concat(), &[0x1004]);
    assert!(ends.is_empty(), "{ends:x?}");
}
