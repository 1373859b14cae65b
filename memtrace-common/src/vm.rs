//! Changes of a target's address space, as the kernel side tells them: system calls by the program itself.

use crate::{process::ProcessSlot, site::SiteIndex};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum VmKind {
    /// A thread is about to give up a range (munmap, mremap), or to fail: told before, because afterwards another
    /// thread may be handed the same addresses. What becomes of it follows. The arguments are as given: where the call
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
    /// As [`VmKind::Mapped`] of anonymous memory and [`VmKind::Remapped`], for who asks only whose it is: `flags` is
    /// [`VmEvent::BY_ALLOCATOR`] or 0.
    AreaMapped = 6,
    /// As [`VmKind::Break`], the same.
    AreaBreak = 7,
}

/// A code that names no [`VmKind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownVmKind(pub u32);

impl TryFrom<u32> for VmKind {
    type Error = UnknownVmKind;

    fn try_from(code: u32) -> Result<Self, UnknownVmKind> {
        Ok(match code {
            1 => Self::Leave,
            2 => Self::Left,
            3 => Self::Remapped,
            4 => Self::Mapped,
            5 => Self::Break,
            6 => Self::AreaMapped,
            7 => Self::AreaBreak,
            other => return Err(UnknownVmKind(other)),
        })
    }
}

/// One record of the `VM_EVENTS` ring buffer.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VmEvent {
    /// A [`VmKind`] code.
    pub kind: u32,
    /// The thread.
    pub tid: u32,
    /// The program.
    pub slot: ProcessSlot,
    /// The site that is charged for a new range; [`SiteIndex::NONE`] where the range is an allocator's own, or
    /// of a file, or the call has failed.
    pub site: SiteIndex,
    /// What the call has returned; of [`VmKind::Leave`], the first address.
    pub result: u64,
    /// The new range's length in bytes, as given; of [`VmKind::Leave`], the old one's.
    pub length: u64,
    /// The call's flags, as given.
    pub flags: u32,
    /// As [`crate::control::Control::now_ms`].
    pub now_ms: u32,
}

impl VmEvent {
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

const _: () = assert!(size_of::<VmEvent>() == 40);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_own_code() {
        let kinds = [VmKind::Leave, VmKind::Left, VmKind::Remapped, VmKind::Mapped, VmKind::Break];
        for kind in kinds.into_iter().chain([VmKind::AreaMapped, VmKind::AreaBreak]) {
            assert_eq!(VmKind::try_from(kind as u32), Ok(kind));
        }
        assert_eq!(VmKind::try_from(0), Err(UnknownVmKind(0)));
    }

    #[test]
    fn errors_are_told_from_addresses() {
        let event = |result: i64| VmEvent { result: result as u64, ..VmEvent::default() };
        assert!(event(-22).has_failed() && event(-4095).has_failed());
        assert!(!event(0x7fff_ffff_f000).has_failed() && !event(0).has_failed());
    }
}
