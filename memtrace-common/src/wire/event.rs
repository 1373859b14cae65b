//! Rare events that user space must hear of at once, through a ring buffer.

use crate::ids::ProcessSlot;

/// The kind of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum EventKind {
    /// A target has loaded or mapped files as code: there may be an allocator to attach to.
    ImageMapped = 1,
    /// A target has replaced itself by another program, or a program that is to be a target has begun.
    Exec = 2,
    /// A target has a child that is a target as well.
    Forked = 3,
    /// A target is about to end by itself, and waits until it is let go.
    Ending = 4,
    /// As [`EventKind::Exec`], by a thread that was not the first of its process.
    ExecByThread = 5,
    /// A target is about to become another program, or to fail to, and waits until it is let go.
    Replacing = 6,
    /// A target begins to end: it frees its blocks from now on. It waits where that was asked for.
    Leaving = 7,
    /// A target may be about to copy its code: it has mapped as much memory as some of it takes that is hooked.
    CodeCopy = 8,
}

/// A code that names no [`EventKind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownEvent(pub u32);

impl TryFrom<u32> for EventKind {
    type Error = UnknownEvent;

    fn try_from(code: u32) -> Result<Self, UnknownEvent> {
        match code {
            1 => Ok(Self::ImageMapped),
            2 => Ok(Self::Exec),
            3 => Ok(Self::Forked),
            4 => Ok(Self::Ending),
            5 => Ok(Self::ExecByThread),
            6 => Ok(Self::Replacing),
            7 => Ok(Self::Leaving),
            8 => Ok(Self::CodeCopy),
            other => Err(UnknownEvent(other)),
        }
    }
}

/// One record of the `EVENTS` ring buffer.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// An [`EventKind`] code.
    pub kind: u32,
    /// The process's number in memtrace's own pid namespace: of a fork, the child's; of what is about to happen, the thread that does
    /// it; of an image, 0.
    pub tgid: u32,
    /// Where the program stands from now on; [`ProcessSlot::NONE`] where it is no target.
    pub slot: ProcessSlot,
    /// Of an exec, where the program before it stood; of a fork, the parent; else the same as `slot`.
    pub previous: ProcessSlot,
}

impl Event {
    /// Reads a record as the ring buffer holds it; `None` where its length is not an event's.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; size_of::<Self>()] = bytes.try_into().ok()?;
        let word = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        Some(Self { kind: word(0), tgid: word(4), slot: ProcessSlot(word(8)), previous: ProcessSlot(word(12)) })
    }
}

const _: () = assert!(size_of::<Event>() == 16);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_own_code() {
        use EventKind::{CodeCopy, Ending, Exec, ExecByThread, Forked, ImageMapped, Leaving, Replacing};
        let kinds = [ImageMapped, Exec, Forked, Ending, ExecByThread, Replacing, Leaving, CodeCopy];
        for kind in kinds {
            assert_eq!(EventKind::try_from(kind as u32), Ok(kind));
        }
        assert_eq!(EventKind::try_from(0), Err(UnknownEvent(0)));
    }

    #[test]
    fn a_record_of_another_length_is_no_event() {
        assert_eq!(Event::from_bytes(&[0; 15]), None);
        let bytes = [2, 0, 0, 0, 7, 0, 0, 0, 5, 0, 0, 0, 4, 0, 0, 0];
        let event = Event { kind: 2, tgid: 7, slot: ProcessSlot(5), previous: ProcessSlot(4) };
        assert_eq!(Event::from_bytes(&bytes), Some(event));
    }
}
