//! The rows of an image: of its call frame information, and inferred from its code where it has none.

use std::ops::Range;

use memtrace_common::wire::code::Row;

use super::{
    cfi::{self, CfiError},
    inferred::{self, Beginnings, Inferred, Stretch},
    stack_ends::{self, StackEnds},
};
use crate::process::{
    arch::stack_effects,
    image::{FrameSection, Image, ImageError},
};

/// Gaps between functions that are no longer than this are padding, in bytes.
const PADDING_BYTES: u64 = 15;
/// The most code whose rows are inferred, in bytes: that takes some tens of nanoseconds, and five bytes
/// of memory, for each. musl's C library has 0.4 MiB.
const MAX_INFERRED_BYTES: usize = 4 << 20;
/// The most code that is searched for calls, in bytes: the called functions are of use where symbols are missing.
const MAX_SEARCHED_BYTES: u64 = 8 << 20;

/// The rows of an image.
#[derive(Debug, Default)]
pub struct ImageRows {
    /// Sorted, without two in a row that say the same.
    pub rows: Vec<Row>,
    /// The code of which more must be known than its rows say.
    pub peculiar: PeculiarCode,
}

/// The code of an image of which more must be known than its rows say.
#[derive(Debug, Default)]
pub struct PeculiarCode {
    /// The ranges of code whose rows are inferred, as virtual offsets: sorted, and apart.
    inferred: Vec<Range<u64>>,
    stack_ends: StackEnds,
}

impl PeculiarCode {
    /// Whether the row of a place is inferred.
    #[must_use]
    pub fn is_inferred(&self, virtual_offset: u64) -> bool {
        let after = self.inferred.partition_point(|range| range.start <= virtual_offset);
        after.checked_sub(1).is_some_and(|index| self.inferred[index].contains(&virtual_offset))
    }

    /// Whether a stack that was made by hand ends where code at a place is returned to.
    #[must_use]
    pub fn is_stack_end(&self, virtual_offset: u64) -> bool {
        self.stack_ends.contains(virtual_offset)
    }

    /// Of how many bytes of code rows are inferred.
    #[must_use]
    pub fn inferred_bytes(&self) -> u64 {
        self.inferred.iter().map(|range| range.end - range.start).sum()
    }
}

impl ImageRows {
    /// Compiles an image's call frame information, and infers what that leaves out.
    ///
    /// # Errors
    /// Where the file has become unreadable. Call frame information that cannot be used is told as a problem beside the rows.
    pub fn of(image: &Image) -> Result<(Self, Option<CfiError>), ImageError> {
        let section = image.frame_section()?;
        let (found, described, problem) = match section.as_ref().map(told) {
            Some(Ok((found, described))) => (found, described, None),
            Some(Err(problem)) => (Vec::new(), Vec::new(), Some(problem)),
            None => (Vec::new(), Vec::new(), None),
        };
        let mut gaps: Vec<Range<u64>> = image
            .code_ranges()
            .flat_map(|code| inferred::gaps(code, &described))
            .filter(|gap| gap.end - gap.start > PADDING_BYTES)
            .collect();
        gaps.sort_unstable_by_key(|gap| gap.start);
        let searched = searched(image);
        let Inferred { mut rows, mut stack_ends } =
            if gaps.is_empty() { Inferred::default() } else { infer(image, &gaps, &searched)? };
        stack_ends.extend(searched.iter().flat_map(|stretch| stack_ends::among(&described, stretch)));
        let stack_ends = StackEnds::of(stack_ends);
        rows.extend(stack_ends.rows().map(|row| (row, false)));
        Ok((Self { rows: cfi::with(found, rows), peculiar: PeculiarCode { inferred: gaps, stack_ends } }, problem))
    }
}

/// The code of an image that is not too large to be searched.
fn searched(image: &Image) -> Vec<Stretch> {
    let code: Vec<Range<u64>> = image.code_ranges().collect();
    if code.iter().map(|range| range.end - range.start).sum::<u64>() > MAX_SEARCHED_BYTES {
        return Vec::new();
    }
    let stretch = |range: Range<u64>| {
        let length = usize::try_from(range.end - range.start).unwrap_or(0);
        Stretch { start: range.start, code: image.read_at(range.start, length).unwrap_or_default() }
    };
    code.into_iter().map(stretch).collect()
}

type Told = (Vec<Row>, Vec<Range<u64>>);

fn told(section: &FrameSection) -> Result<Told, CfiError> {
    Ok((cfi::compile(section)?, cfi::code_ranges(section)?))
}

/// Infers what call frame information does not describe.
fn infer(image: &Image, gaps: &[Range<u64>], searched: &[Stretch]) -> Result<Inferred, ImageError> {
    let beginnings = beginnings(image, searched)?;
    let mut left = MAX_INFERRED_BYTES;
    let mut stretches = Vec::new();
    for gap in gaps {
        // Of the last, the beginning.
        let length = usize::try_from(gap.end - gap.start).unwrap_or(usize::MAX).min(left);
        left -= length;
        if length == 0 {
            break;
        }
        stretches.extend(image.read_at(gap.start, length).map(|code| Stretch { start: gap.start, code }));
    }
    // Where nothing is inferred, frame pointers must do.
    let starts = gaps.iter().filter_map(|gap| u32::try_from(gap.start).ok());
    let inferred = inferred::infer(&stretches, &beginnings);
    let unknown = starts.map(|start| (Row::by_frame_pointer(start), true));
    Ok(Inferred { rows: unknown.chain(inferred.rows).collect(), ..inferred })
}

/// Where functions begin: by symbols, and by the addresses that code and tables have.
fn beginnings(image: &Image, searched: &[Stretch]) -> Result<Beginnings, ImageError> {
    let mut beginnings = Beginnings { sure: image.function_starts()?, maybe: image.pointers()? };
    searched.iter().for_each(|stretch| beginnings.add_referred(stretch));
    Ok(beginnings)
}

/// Whether a return address, as a place in an image's file, is that of a signal handler.
#[must_use]
pub fn is_signal_return(image: &Image, file_offset: u64) -> bool {
    let code = image.read(file_offset, stack_effects::SIGNAL_RETURN_BYTES);
    code.is_ok_and(|code| stack_effects::is_signal_return(&code))
}

/// Whether a return address, as a place in an image's file, follows a call; also where the file cannot be read.
#[must_use]
pub fn follows_call(image: &Image, file_offset: u64) -> bool {
    let from = file_offset.saturating_sub(stack_effects::BEFORE_RETURN_BYTES as u64);
    let length = usize::try_from(file_offset - from).unwrap_or(0);
    image.read(from, length).map_or(true, |before| stack_effects::follows_call(&before))
}
