//! Changes of a target's address space, as the kernel side tells them: system calls by the program itself.

use crate::ids::{ProcessSlot, SiteIndex};

/// The kind of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum MappingKind {
    /// A thread is about to give up a range (munmap, mremap), or to fail: told before, because afterwards another
    /// thread may be handed the same addresses. Its outcome is told next. The arguments are as given: where the call
    /// will fail, they may name what is other threads'.
    Leave = 1,
    /// The range that the thread was about to give up is gone, or is not.
    Left = 2,
    /// The range that the thread was about to give up has become another one, or has not.
    Remapped = 3,
    /// A range was mapped.
    Mapped = 4,
    /// The end of the data segment was set (brk).
    Break = 5,
    /// As [`MappingKind::Mapped`] of anonymous memory and [`MappingKind::Remapped`], for who asks only whose it is: `flags` is
    /// [`MappingEvent::BY_ALLOCATOR`] or 0.
    AreaMapped = 6,
    /// As [`MappingKind::Break`], the same.
    AreaBreak = 7,
    /// A System V segment was attached (shmat). `length` is the segment's.
    Attached = 8,
    /// A thread is about to detach a System V segment (shmdt), or to fail, which [`MappingKind::Left`] tells next. `result`
    /// is where the segment was attached.
    Detach = 9,
    /// A thread is about to set the end of the data segment, which was there by then; 0 where the kernel does not tell.
    BreakFrom = 10,
}

/// A code that names no [`MappingKind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownMappingKind(pub u32);

impl TryFrom<u32> for MappingKind {
    type Error = UnknownMappingKind;

    fn try_from(code: u32) -> Result<Self, UnknownMappingKind> {
        Ok(match code {
            1 => Self::Leave,
            2 => Self::Left,
            3 => Self::Remapped,
            4 => Self::Mapped,
            5 => Self::Break,
            6 => Self::AreaMapped,
            7 => Self::AreaBreak,
            8 => Self::Attached,
            9 => Self::Detach,
            10 => Self::BreakFrom,
            other => return Err(UnknownMappingKind(other)),
        })
    }
}

/// One record of the `MAPPING_EVENTS` ring buffer.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MappingEvent {
    /// A [`MappingKind`] code.
    pub kind: u32,
    /// The thread.
    pub tid: u32,
    /// The program.
    pub slot: ProcessSlot,
    /// The site that is charged for a new range; [`SiteIndex::NONE`] where the range is an allocator's own, or the call
    /// has failed.
    pub site: SiteIndex,
    /// The call's return value; of [`MappingKind::Leave`], [`MappingKind::Detach`] and [`MappingKind::BreakFrom`], an address
    /// that is told before the call.
    pub result: u64,
    /// The new range's length in bytes, as given; of [`MappingKind::Leave`], the old one's.
    pub length: u64,
    /// The call's flags, as given.
    pub flags: u32,
    /// As [`crate::wire::control::Control::now_ms`].
    pub now_ms: u32,
}

impl MappingEvent {
    /// A hooked function has made the call, for itself.
    pub const BY_ALLOCATOR: u32 = 1;

    /// Reads a record as the ring buffer holds it; `None` where its length is not an event's.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; size_of::<Self>()] = bytes.try_into().ok()?;
        let word = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        Some(Self {
            kind: word(0),
            tid: word(4),
            slot: ProcessSlot(word(8)),
            site: SiteIndex(word(12)),
            result: long(16),
            length: long(24),
            flags: word(32),
            now_ms: word(36),
        })
    }

    /// Whether the call has failed: the kernel returns an error number below zero (at least -4095).
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.result >= 4095u64.wrapping_neg()
    }
}

const _: () = assert!(size_of::<MappingEvent>() == 40);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_own_code() {
        let kinds =
            [MappingKind::Leave, MappingKind::Left, MappingKind::Remapped, MappingKind::Mapped, MappingKind::Break];
        let others = [MappingKind::Attached, MappingKind::Detach, MappingKind::BreakFrom];
        for kind in kinds.into_iter().chain([MappingKind::AreaMapped, MappingKind::AreaBreak]).chain(others) {
            assert_eq!(MappingKind::try_from(kind as u32), Ok(kind));
        }
        assert_eq!(MappingKind::try_from(0), Err(UnknownMappingKind(0)));
    }

    #[test]
    fn errors_are_told_from_addresses() {
        let event = |result: i64| MappingEvent { result: result as u64, ..MappingEvent::default() };
        assert!(event(-22).has_failed() && event(-4095).has_failed());
        assert!(!event(0x7fff_ffff_f000).has_failed() && !event(0).has_failed());
    }
}
