//! From a stack's return addresses to places that outlive the process.
//!
//! In: addresses as they were walked, the target's mappings, and the images that these are of. Out: places, and why some are
//! missing.

use std::ops::RangeInclusive;

use memtrace_common::wire::stack::{Ending, StackRecord};

use crate::{
    model::{code_place::CodePlace, frame::Reason, truncation::Truncation},
    process::{
        code_map::{self, CodeMap},
        maps::Mapping,
    },
};

/// A stack that was made independent of its process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NormalisedStack {
    /// From the allocation's caller outwards.
    pub places: Vec<CodePlace>,
    /// Why outer frames are missing; nothing where none is.
    pub truncation: Option<Truncation>,
    /// Whether the walk has left the code that is known.
    pub is_cut: bool,
    /// Whether a frame was found by a row that was inferred from code, or by frame pointers.
    pub is_inferred: bool,
}

/// A place in the file of an image: the index of the image, and bytes into the file.
pub(super) type FilePlace = (usize, u64);

/// The code in a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    /// An image's, by its index.
    Image(usize),
    /// Made by a compiler at run time.
    Jit,
    /// Any other that is in no image.
    Other,
}

/// The knowledge of code by which a stack is judged.
pub(super) trait KnownCode {
    /// The code in a mapping.
    fn of(&self, mapping: &Mapping) -> Code;

    /// Whether the rows of the code before a return address are inferred, so that the next frame may be a wrong one.
    fn is_inferred(&self, place: FilePlace) -> bool;

    /// Whether its compiler has told them, so that the next frame is right.
    fn is_described(&self, place: FilePlace) -> bool;

    /// Whether a call precedes a return address; also where that cannot be told.
    fn follows_call(&self, place: FilePlace) -> bool;

    /// Whether a return address was put on a new stack by hand: the code there is entered by a return, and has no caller.
    fn is_stack_end(&self, place: FilePlace) -> bool;

    /// Whether a return address is that of a signal handler: no call precedes it either.
    fn is_signal_return(&self, place: FilePlace) -> bool;
}

/// The places of the return addresses of a stack that was walked during these moments of the code.
///
/// A frame pointer that was no frame pointer leads the walk out of the code: the stack is cut there. Where rows are inferred, it
/// is cut at an address that follows no call. Where a stack of such addresses ends with one although nothing on the way was
/// inferred or made at run time, somebody has put it there by hand as the first of a new stack, as makers of coroutines do: such a
/// stack is whole.
pub(super) fn normalise(
    stack: &StackRecord,
    (code, during): (&CodeMap, &RangeInclusive<u64>),
    known: &impl KnownCode,
) -> NormalisedStack {
    let used = stack.used();
    let mut places: Vec<CodePlace> = Vec::with_capacity(used.len());
    // Whether every frame so far was found by rows that a compiler has told.
    let mut is_sure = true;
    for (index, address) in used.iter().enumerate() {
        let cut = |places, truncation| NormalisedStack {
            places,
            truncation: Some(truncation),
            is_cut: true,
            is_inferred: false,
        };
        // A return address may lie one past its mapping's end; the call before it does not.
        let place = match code.at(address.wrapping_sub(1), during) {
            code_map::Code::Unmapped if places.is_empty() => CodePlace::Address(*address, Reason::Unmapped),
            code_map::Code::Unmapped => return cut(places, Truncation::NoCode),
            code_map::Code::Unsure => CodePlace::Address(*address, Reason::Replaced),
            code_map::Code::In(mapping) => match known.of(mapping) {
                Code::Image(image) => {
                    let file_offset = address - mapping.start + mapping.file_offset;
                    let callee = match places.last() {
                        Some(CodePlace::File { image, file_offset }) => Some((*image, *file_offset)),
                        _ => None,
                    };
                    is_sure &= callee.is_none_or(|callee| known.is_described(callee));
                    let is_last = index + 1 == used.len();
                    let is_end = index > 0 && is_last && ends_by_hand(stack, (image, file_offset), is_sure, known);
                    let is_guessed = callee.is_some_and(|callee| known.is_inferred(callee));
                    if is_guessed && !is_end && !known.follows_call((image, file_offset)) {
                        return cut(places, Truncation::NoReturnAddress);
                    }
                    // It is the first instruction there, and whoever symbolises looks one byte before.
                    places.push(CodePlace::File { image, file_offset: file_offset + u64::from(is_end) });
                    if is_end {
                        return NormalisedStack { places, truncation: None, is_cut: false, is_inferred: false };
                    }
                    continue;
                }
                Code::Jit => CodePlace::Jit,
                Code::Other => CodePlace::Address(*address, Reason::Anonymous),
            },
        };
        is_sure = false;
        if place != CodePlace::Jit || places.last() != Some(&CodePlace::Jit) {
            places.push(place);
        }
    }
    NormalisedStack { places, truncation: truncation(stack.ending()), is_cut: false, is_inferred: false }
}

/// Whether the last return address of a stack was put there by hand. Without an image that says so, it must follow no call,
/// and the walk, which was sure until then, must have failed there.
fn ends_by_hand(stack: &StackRecord, place: FilePlace, is_sure: bool, known: &impl KnownCode) -> bool {
    let has_failed = !matches!(stack.ending(), Ending::FirstFrame | Ending::TooDeep | Ending::StackSwitch);
    known.is_stack_end(place) || has_failed && is_sure && !known.follows_call(place) && !known.is_signal_return(place)
}

fn truncation(ending: Ending) -> Option<Truncation> {
    Some(match ending {
        Ending::FirstFrame => return None,
        Ending::TooDeep => Truncation::TooDeep,
        Ending::NoCode => Truncation::NoCode,
        Ending::NoRule => Truncation::NoRule,
        Ending::Unreadable => Truncation::Unreadable,
        Ending::NotOutwards => Truncation::NotOutwards,
        Ending::StackSwitch => Truncation::StackSwitch,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::maps::parse;
    use memtrace_common::wire::stack::MAX_FRAMES;

    /// Two images, memory of a compiler's, and a copy of code: of 0x1000 bytes each.
    const MAPS: &str = "10000-11000 r-xp 00000000 08:01 1 /bin/program\n\
                        20000-21000 r-xp 00000000 08:01 2 /lib/inferred.so\n\
                        30000-31000 rwxp 00000000 00:00 0 \n\
                        38000-39000 rwxp 00000000 00:00 0 \n\
                        40000-41000 r-xp 00000000 00:00 0 [moved]\n";

    /// Calls precede addresses that are divisible by 16. At 0x500 a stack ends, at 0x701 a signal handler returns.
    struct Known;

    impl KnownCode for Known {
        fn of(&self, mapping: &Mapping) -> Code {
            match mapping.start {
                0x10000 => Code::Image(0),
                0x20000 => Code::Image(1),
                0x40000 => Code::Other,
                _ => Code::Jit,
            }
        }

        fn is_inferred(&self, (image, _): FilePlace) -> bool {
            image == 1
        }

        fn is_described(&self, (image, _): FilePlace) -> bool {
            image == 0
        }

        fn follows_call(&self, (_, offset): FilePlace) -> bool {
            offset % 16 == 0 && offset != 0x500
        }

        fn is_stack_end(&self, (_, offset): FilePlace) -> bool {
            offset == 0x500
        }

        fn is_signal_return(&self, (_, offset): FilePlace) -> bool {
            offset == 0x701
        }
    }

    fn normalised(addresses: &[u64], ending: Ending) -> NormalisedStack {
        let mut frames = [0; MAX_FRAMES];
        frames[..addresses.len()].copy_from_slice(addresses);
        let frame_count = u32::try_from(addresses.len()).unwrap();
        let mut code = CodeMap::default();
        code.update(parse(MAPS.as_bytes()).unwrap(), None);
        normalise(&StackRecord { frame_count, ending: ending as u32, frames }, (&code, &(0..=0)), &Known)
    }

    fn file(image: usize, file_offset: u64) -> CodePlace {
        CodePlace::File { image, file_offset }
    }

    #[test]
    fn frames_of_code_made_at_run_time_count_as_one() {
        let once = normalised(&[0x10010, 0x30010, 0x38020, 0x30030, 0x10020], Ending::FirstFrame);
        assert_eq!(once.places, [file(0, 0x10), CodePlace::Jit, file(0, 0x20)]);
        assert_eq!((once.truncation, once.is_cut), (None, false));
        // However much of it is compiled, and wherever that lies.
        assert_eq!(normalised(&[0x10010, 0x38123, 0x10020], Ending::FirstFrame), once);
        // Two runs stay two.
        let twice = normalised(&[0x30010, 0x10010, 0x30010, 0x10020], Ending::FirstFrame);
        assert_eq!(twice.places, [CodePlace::Jit, file(0, 0x10), CodePlace::Jit, file(0, 0x20)]);
    }

    #[test]
    fn code_that_was_copied_is_not_made_at_run_time() {
        let copied = normalised(&[0x40010, 0x40020], Ending::FirstFrame).places;
        assert_eq!(copied, [0x40010, 0x40020].map(|address| CodePlace::Address(address, Reason::Anonymous)));
    }

    #[test]
    fn a_stack_that_was_made_by_hand_is_whole() {
        let whole = |addresses: &[u64], ending| {
            let stack = normalised(addresses, ending);
            (stack.places.last().copied(), stack.truncation)
        };
        let end = Some(file(0, 0x501));
        assert_eq!(whole(&[0x10010, 0x10500], Ending::FirstFrame), (end, None));
        // Also behind inferred code, where a call must precede other addresses.
        assert_eq!(whole(&[0x20010, 0x10500], Ending::FirstFrame), (end, None));
        // Nobody has said that it is an end, but no other explanation is left.
        assert_eq!(whole(&[0x10010, 0x10203], Ending::NoRule), (Some(file(0, 0x204)), None));
    }

    #[test]
    fn a_walk_that_may_have_gone_astray_makes_no_stack_whole() {
        let why = |addresses: &[u64], ending| normalised(addresses, ending).truncation;
        // A call precedes; or a signal handler returns there.
        assert_eq!(why(&[0x10010, 0x10020], Ending::NoRule), Some(Truncation::NoRule));
        assert_eq!(why(&[0x10010, 0x10701], Ending::Unreadable), Some(Truncation::Unreadable));
        // Frames on the way were guessed.
        assert_eq!(why(&[0x20010, 0x10203], Ending::NoRule), Some(Truncation::NoReturnAddress));
        assert_eq!(why(&[0x20010, 0x10020, 0x10203], Ending::NoRule), Some(Truncation::NoRule));
        assert_eq!(why(&[0x30010, 0x10203], Ending::NoRule), Some(Truncation::NoRule));
        // The walk was not at its end, or knows better why it is.
        assert_eq!(why(&[0x10010, 0x10203], Ending::TooDeep), Some(Truncation::TooDeep));
        assert_eq!(why(&[0x10010, 0x10203], Ending::StackSwitch), Some(Truncation::StackSwitch));
        // An address between two others is none.
        assert_eq!(normalised(&[0x10010, 0x10203, 0x10020], Ending::FirstFrame).places.len(), 3);
        let astray = normalised(&[0x10010, 0x99999, 0x10020], Ending::FirstFrame);
        assert_eq!((astray.truncation, astray.is_cut), (Some(Truncation::NoCode), true));
    }
}
