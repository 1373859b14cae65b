//! Findings about a process: allocators of one side, the look at its end, and why its heap was not looked at.

use serde::Serialize;

use super::{super::words, figures::nanoseconds};
use crate::model::{at_exit::AtExit, finding::OneSided, heap_look::NotLooked};

/// Why there is no (later) look at the heap of the process.
#[derive(Serialize)]
pub(super) struct JsonNotLooked {
    /// For scripts.
    cause: &'static str,
    /// For people.
    reason: String,
}

impl From<&NotLooked> for JsonNotLooked {
    fn from(why: &NotLooked) -> Self {
        Self { cause: why.cause(), reason: words::heap_look::not_looked(why) }
    }
}

/// An allocator of which only one side is seen.
#[derive(Serialize)]
pub(super) struct JsonOneSided<'a> {
    allocator: &'a str,
    image: &'a str,
    seen: &'static str,
    events: u64,
}

impl<'a> From<&'a OneSided> for JsonOneSided<'a> {
    fn from(found: &'a OneSided) -> Self {
        let OneSided { allocator, image, seen, events } = found;
        Self { allocator, image, seen: seen.name(), events: *events }
    }
}

/// The look at the process when it was about to end.
#[derive(Serialize)]
pub(super) struct JsonAtExit {
    checked: bool,
    /// Why not, for scripts and for people.
    cause: Option<&'static str>,
    reason: Option<String>,
    unreachable_bytes: Option<u64>,
    unreachable_objects: Option<u64>,
    read_bytes: Option<u64>,
    held_ns: Option<u64>,
}

impl From<&AtExit> for JsonAtExit {
    fn from(at_exit: &AtExit) -> Self {
        let (checked, why) = match at_exit {
            AtExit::Checked(checked) => (Some(checked), None),
            AtExit::Unchecked(why) => (None, Some(why)),
        };
        Self {
            checked: checked.is_some(),
            cause: why.map(|why| why.cause().name()),
            reason: why.map(words::unchecked::reason),
            unreachable_bytes: checked.map(|checked| checked.unreachable.bytes),
            unreachable_objects: checked.map(|checked| checked.unreachable.objects),
            read_bytes: checked.map(|checked| checked.read_bytes),
            held_ns: checked.map(|checked| nanoseconds(checked.held)),
        }
    }
}
