//! From `.eh_frame` (or `.debug_frame`) to compact rows.

use std::ops::Range;

use gimli::{
    BaseAddresses, CfaRule as DwarfCfa, DebugFrame, EhFrame, EndianSlice, FrameDescriptionEntry, NativeEndian,
    RegisterRule, UnwindContext, UnwindExpression, UnwindSection, UnwindTableRow,
};
use memtrace_common::wire::code::{BP_AT_BP, CfaRule, Row};
use thiserror::Error;

use crate::process::{
    arch::dwarf::{
        FRAME_POINTER, FRAME_POINTER_AND, LINKAGE_TABLE, RETURN_ADDRESS, RETURN_ADDRESS_OFFSET, STACK_POINTER,
        STACK_POINTER_AND,
    },
    image::FrameSection,
};

/// The most rows that an image may have. A 100 MB library has about three million.
pub const MAX_ROWS: usize = 16 << 20;

/// Why an image's call frame information cannot be used.
#[derive(Debug, Error)]
pub enum CfiError {
    /// It cannot be parsed.
    #[error("cannot parse call frame information: {0}")]
    Parse(#[from] gimli::Error),
    /// It is larger than any that a real program has.
    #[error("call frame information of more than {MAX_ROWS} rows")]
    TooLarge,
}

/// Compiles a section to rows: sorted, without two in a row that say the same. Code between functions, and
/// code whose rules no row can hold, gets rows that say [`CfaRule::Unknown`].
///
/// # Errors
/// Where the section is corrupt or absurdly large. Never takes more memory than a few times its size.
pub fn compile(section: &FrameSection) -> Result<Vec<Row>, CfiError> {
    match section {
        FrameSection::EhFrame { bytes, address } => {
            let bases = BaseAddresses::default().set_eh_frame(*address);
            let mut frame = EhFrame::new(bytes, NativeEndian);
            frame.set_address_size(8);
            rows_of(&frame, &bases)
        }
        FrameSection::DebugFrame { bytes } => {
            let mut frame = DebugFrame::new(bytes, NativeEndian);
            frame.set_address_size(8);
            rows_of(&frame, &BaseAddresses::default())
        }
    }
    .map(merged)
}

/// The ranges of code that the section describes, sorted by start: a function each, or a part of one that
/// the compiler put elsewhere.
///
/// # Errors
/// Where the section is corrupt.
pub fn code_ranges(section: &FrameSection) -> Result<Vec<Range<u64>>, CfiError> {
    let mut ranges = match section {
        FrameSection::EhFrame { bytes, address } => {
            let mut frame = EhFrame::new(bytes, NativeEndian);
            frame.set_address_size(8);
            ranges_of(&frame, &BaseAddresses::default().set_eh_frame(*address))
        }
        FrameSection::DebugFrame { bytes } => {
            let mut frame = DebugFrame::new(bytes, NativeEndian);
            frame.set_address_size(8);
            ranges_of(&frame, &BaseAddresses::default())
        }
    }?;
    ranges.sort_unstable_by_key(|range| range.start);
    Ok(ranges)
}

fn ranges_of<'a, S>(section: &S, bases: &BaseAddresses) -> Result<Vec<Range<u64>>, CfiError>
where
    S: UnwindSection<Reader<'a>>,
    S::Offset: gimli::UnwindOffset<usize>,
{
    let mut ranges = Vec::new();
    let mut entries = section.entries(bases);
    while let Some(entry) = entries.next()? {
        let gimli::CieOrFde::Fde(partial) = entry else { continue };
        let function = partial.parse(S::cie_from_offset)?;
        ranges.push(function.initial_address()..function.end_address());
    }
    Ok(ranges)
}

/// Compiled rows, and rows of code that they say nothing of, each with whether it only says where some code ends. Sorted as
/// [`compile`] has them.
#[must_use]
pub(super) fn with(compiled: Vec<Row>, others: Vec<(Row, bool)>) -> Vec<Row> {
    let is_end = |row: &Row| row.rule() == Some(CfaRule::Unknown);
    merged(compiled.into_iter().map(|row| (row, is_end(&row))).chain(others).collect())
}

type Reader<'a> = EndianSlice<'a, NativeEndian>;

/// A row as it was found, and whether it only says where a function ends.
type Found = (Row, bool);

fn rows_of<'a, S>(section: &S, bases: &BaseAddresses) -> Result<Vec<Found>, CfiError>
where
    S: UnwindSection<Reader<'a>>,
    S::Offset: gimli::UnwindOffset<usize>,
{
    let mut found = Vec::new();
    let mut context = UnwindContext::new();
    let mut entries = section.entries(bases);
    while let Some(entry) = entries.next()? {
        let gimli::CieOrFde::Fde(partial) = entry else { continue };
        let function = partial.parse(S::cie_from_offset)?;
        let before = found.len();
        match rows_of_function(section, bases, &mut context, &function, &mut found) {
            Ok(()) => {}
            // Hand-written assembly is sometimes wrong in one function: only that one is lost.
            Err(CfiError::Parse(_)) => {
                found.truncate(before);
                push(&mut found, function.initial_address(), Row::unknown, false)?;
            }
            Err(error) => return Err(error),
        }
        push(&mut found, function.end_address(), Row::unknown, true)?;
    }
    Ok(found)
}

fn rows_of_function<'a, S>(
    section: &S,
    bases: &BaseAddresses,
    context: &mut UnwindContext<usize>,
    function: &FrameDescriptionEntry<Reader<'a>>,
    found: &mut Vec<Found>,
) -> Result<(), CfiError>
where
    S: UnwindSection<Reader<'a>>,
{
    let is_signal = function.is_signal_trampoline();
    let mut rows = function.rows(section, bases, context)?;
    while let Some(row) = rows.next_row()? {
        push(found, row.start_address(), |start| compact(section, row, is_signal, start), false)?;
    }
    Ok(())
}

/// Adds a row, unless it begins beyond the 4 GiB that a row can tell.
fn push(found: &mut Vec<Found>, start: u64, row: impl FnOnce(u32) -> Row, is_end: bool) -> Result<(), CfiError> {
    if found.len() >= MAX_ROWS {
        return Err(CfiError::TooLarge);
    }
    if let Ok(start) = u32::try_from(start) {
        found.push((row(start), is_end));
    }
    Ok(())
}

/// Sorts rows and drops those that add nothing.
fn merged(mut found: Vec<Found>) -> Vec<Row> {
    // Where one function ends and the next begins, the beginning counts.
    found.sort_by_key(|(row, is_end)| (row.start, !is_end));
    let mut rows: Vec<Row> = Vec::with_capacity(found.len());
    for (row, _) in found {
        match rows.last_mut() {
            Some(last) if last.start == row.start => *last = row,
            Some(last) if last.says_the_same(&row) => {}
            _ => rows.push(row),
        }
    }
    // Taking a later row of the same start may have made two neighbours the same.
    rows.dedup_by(|later, earlier| earlier.says_the_same(later));
    rows.shrink_to_fit();
    rows
}

/// One row in eight bytes; unknown where its rules do not fit.
fn compact<'a, S>(section: &S, row: &UnwindTableRow<usize>, is_signal: bool, start: u32) -> Row
where
    S: UnwindSection<Reader<'a>>,
{
    let with = |rule: CfaRule, offset: i64, bp_words: u8| {
        let offset_words = i32::try_from(offset / 8).ok().filter(|_| offset % 8 == 0);
        offset_words.and_then(|words| Row::new(start, rule, words, bp_words)).unwrap_or(Row::unknown(start))
    };
    match row.register(RETURN_ADDRESS) {
        // The kernel's frame, where expressions tell each register. Others call their frames so to have the address of a frame
        // looked up as it is (corosensei, where it leads back to the stack that a coroutine was resumed from).
        Some(RegisterRule::Expression(_)) if is_signal => return with(CfaRule::Signal, 0, 0),
        // The mark of the outermost frame.
        Some(RegisterRule::Undefined) => return with(CfaRule::End, 0, 0),
        Some(RegisterRule::Offset(RETURN_ADDRESS_OFFSET)) | None => {}
        _ => return Row::unknown(start),
    }
    let bp_words = match row.register(FRAME_POINTER) {
        None | Some(RegisterRule::SameValue | RegisterRule::Undefined) => Some(0),
        Some(RegisterRule::Offset(offset)) => words_below(offset),
        // Aligned frames: the frame pointer points at where it was saved itself.
        Some(RegisterRule::Expression(expression)) => saved_at_frame_pointer(section, &expression),
        _ => None,
    };
    let Some(bp_words) = bp_words else { return Row::unknown(start) };
    match row.cfa() {
        DwarfCfa::RegisterAndOffset { register: STACK_POINTER, offset } => with(CfaRule::Sp, *offset, bp_words),
        DwarfCfa::RegisterAndOffset { register: FRAME_POINTER, offset } => with(CfaRule::Bp, *offset, bp_words),
        DwarfCfa::RegisterAndOffset { .. } => Row::unknown(start),
        DwarfCfa::Expression(expression) => match cfa_expression(section, expression) {
            Some((rule, offset)) => with(rule, offset, bp_words),
            None => Row::unknown(start),
        },
    }
}

/// How many words below the CFA an offset of a saved register is.
fn words_below(offset: i64) -> Option<u8> {
    let words = u8::try_from(offset.checked_neg()? / 8).ok()?;
    (offset % 8 == 0 && words > 0).then_some(words)
}

/// `DW_OP_deref`: what lies at the address that comes before (DWARF 5, 7.7.1).
const DEREF: u8 = 0x06;

/// The rule that an expression for the CFA comes to, if it is one of those that compilers write.
fn cfa_expression<'a, S>(section: &S, expression: &UnwindExpression<usize>) -> Option<(CfaRule, i64)>
where
    S: UnwindSection<Reader<'a>>,
{
    let bytes = expression.get(section).ok()?.0;
    if bytes.slice() == LINKAGE_TABLE {
        return Some((CfaRule::Plt, 0));
    }
    let (register, offset, rest) = register_and_offset(bytes.slice())?;
    match (register, rest) {
        (FRAME_POINTER_AND, [DEREF]) => Some((CfaRule::AtBp, offset)),
        (STACK_POINTER_AND, [DEREF]) => Some((CfaRule::AtSp, offset)),
        (FRAME_POINTER_AND, []) => Some((CfaRule::Bp, offset)),
        (STACK_POINTER_AND, []) => Some((CfaRule::Sp, offset)),
        _ => None,
    }
}

/// Whether an expression for the saved frame pointer says that the frame pointer points at it.
fn saved_at_frame_pointer<'a, S>(section: &S, expression: &UnwindExpression<usize>) -> Option<u8>
where
    S: UnwindSection<Reader<'a>>,
{
    let bytes = expression.get(section).ok()?.0;
    (bytes.slice() == [FRAME_POINTER_AND, 0]).then_some(BP_AT_BP)
}

/// `DW_OP_bregN offset`, and what follows it. Offsets are signed LEB128; those of two bytes are enough.
fn register_and_offset(bytes: &[u8]) -> Option<(u8, i64, &[u8])> {
    let (register, rest) = bytes.split_first()?;
    match rest {
        [low, rest @ ..] if low & 0x80 == 0 => Some((*register, i64::from(*low << 1) << 56 >> 57, rest)),
        [low, high, rest @ ..] if high & 0x80 == 0 => {
            let bits = i64::from(*low & 0x7f) | i64::from(*high) << 7;
            Some((*register, bits << 50 >> 50, rest))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::image::Image;
    use proptest::prelude::*;
    use std::fs::File;

    fn rows(path: &str) -> Vec<Row> {
        let image = Image::parse(File::open(path).unwrap(), path.into()).unwrap();
        let section = image.frame_section().unwrap().unwrap();
        compile(&section).unwrap()
    }

    fn row_at(rows: &[Row], offset: u64) -> Row {
        let after = rows.partition_point(|row| u64::from(row.start) <= offset);
        rows[after - 1]
    }

    const LIBC: &str = "/lib/x86_64-linux-gnu/libc.so.6";

    #[test]
    fn libc_is_compiled_to_sorted_rows_most_of_which_are_known() {
        let rows = rows(LIBC);
        assert!(rows.len() > 10_000, "{}", rows.len());
        assert!(rows.windows(2).all(|pair| pair[0].start < pair[1].start && !pair[0].says_the_same(&pair[1])));
        let plt = rows.iter().filter(|row| row.rule() == Some(CfaRule::Plt)).count();
        let signal = rows.iter().filter(|row| row.rule() == Some(CfaRule::Signal)).count();
        let end = rows.iter().filter(|row| row.rule() == Some(CfaRule::End)).count();
        assert!(plt >= 1 && signal >= 1 && end >= 1, "{plt} {signal} {end}");
    }

    #[test]
    fn a_function_begins_one_word_below_its_cfa() {
        let image = Image::parse(File::open(LIBC).unwrap(), LIBC.into()).unwrap();
        let malloc = image.functions(&["malloc"]).unwrap()["malloc"][0];
        let start = image.virtual_offset(malloc.file_offset).unwrap();
        let rows = rows(LIBC);
        let row = row_at(&rows, start);
        assert_eq!((row.rule(), row.offset_words(), row.bp_words()), (Some(CfaRule::Sp), 1, 0));
        // After `push %r12`.
        assert_eq!(row_at(&rows, start + 2).offset_words(), 2);
    }

    /// An `.eh_frame` of one function at 0x1000 that its description calls a signal frame, with these further instructions.
    fn signal_frame(instructions: &[u8]) -> FrameSection {
        // Version 1, alignments of 1 and -8, the column of the return address, pointers as they are; the CFA is rsp + 8, with the
        // return address below it (DWARF 5, 6.4.1; LSB 5, 10.6.1).
        let common = [&[1][..], b"zRS\0", &[1, 0x78, 16, 1, 0], &[0x0c, 7, 8, 0x90, 1]].concat();
        let function = [&0x1000u64.to_le_bytes()[..], &16u64.to_le_bytes(), &[0], instructions].concat();
        let entry = |link: u32, content: Vec<u8>| {
            let mut content = content;
            content.resize(content.len().next_multiple_of(8) + 4, 0);
            let length = u32::try_from(content.len() + 4).unwrap();
            [&length.to_le_bytes()[..], &link.to_le_bytes(), &content].concat()
        };
        let common = entry(0, common);
        let link = u32::try_from(common.len() + 4).unwrap();
        let bytes = [common, entry(link, function), vec![0; 4]].concat();
        FrameSection::EhFrame { bytes, address: 0 }
    }

    #[test]
    fn only_a_frame_whose_registers_expressions_tell_is_the_kernels() {
        let rule = |instructions| row_at(&compile(&signal_frame(instructions)).unwrap(), 0x1000).rule();
        // The return address is at rsp + 168.
        assert_eq!(rule(&[0x10, 16, 3, 0x77, 0xa8, 1]), Some(CfaRule::Signal));
        assert_eq!(rule(&[]), Some(CfaRule::Sp));
        // It is two words below the CFA.
        assert_eq!(rule(&[0x90, 2]), Some(CfaRule::Unknown));
    }

    #[test]
    fn offsets_of_expressions_are_signed() {
        assert_eq!(register_and_offset(&[0x76, 0x78, 0x06]), Some((0x76, -8, &[0x06][..])));
        assert_eq!(register_and_offset(&[0x77, 0xa0, 0x01]), Some((0x77, 160, &[][..])));
        assert_eq!(register_and_offset(&[0x76, 0xf8, 0x7e]), Some((0x76, -136, &[][..])));
        assert_eq!(register_and_offset(&[0x76]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_compiled_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400), address: u64) {
            _ = compile(&FrameSection::EhFrame { bytes: bytes.clone(), address });
            _ = compile(&FrameSection::DebugFrame { bytes });
        }

        #[test]
        fn real_sections_with_wrong_bytes_are_compiled_or_refused(at in 0usize..200_000, wrong: u8, cut in 1usize..200_000) {
            let image = Image::parse(File::open(LIBC).unwrap(), LIBC.into()).unwrap();
            let Some(FrameSection::EhFrame { mut bytes, address }) = image.frame_section().unwrap() else {
                unreachable!()
            };
            bytes.truncate(cut);
            if let Some(byte) = bytes.get_mut(at) {
                *byte = wrong;
            }
            _ = compile(&FrameSection::EhFrame { bytes, address });
        }
    }
}
