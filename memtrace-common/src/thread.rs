//! Threads of targets: what one is doing, and the memory in which its stack is walked.

use crate::{
    ids::{BudgetGroup, ProcessSlot, SiteIndex},
    steps::{
        call::PendingCall, handed_on::HandedOn, recent_rows::RecentRows, sampling::MeanGap, stack_cache::StackCache,
    },
    wire::{site::RecentSites, stack::StackRecord},
};

/// One thread's place in the table of threads.
///
/// Per thread, not per CPU: a preempted program must find its own memory again. Only the thread itself
/// writes here, so that nothing need be atomic.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Thread {
    /// Whose it is, by thread id; 0 where nobody's.
    pub tid: u64,
    /// The state kept for the thread; all zeros at its begin.
    pub memory: ThreadMemory,
}

/// The state kept for a thread.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ThreadMemory {
    /// The target that it belongs to.
    pub process: ProcessSlot,
    /// The group of that.
    pub group: BudgetGroup,
    /// Its requests, wherever not all is recorded for good.
    pub requested: Requested,
    /// How many unmatched frees there were since its last allocation.
    pub unmatched_frees: u64,
    /// The call that is under way.
    pub pending: PendingCall,
    /// The block of a free that may reach another hooked free of it.
    pub handed_on: HandedOn,
    /// Its last write to a page that it may share with another process.
    pub write: SharedWrite,
    /// The allocators of which it has called a function that allocates: bits by [`crate::steps::call::CallRoles::allocator`].
    pub allocators: u64,
    /// How many bytes more until the next sample, plus 1; 0 before the first is drawn.
    pub until_sample: u64,
    /// The mean gap by which that was drawn.
    pub drawn_by: MeanGap,
    /// Makes the whole aligned.
    pub unused: u32,
    /// Where its last sites have their counters.
    pub recent_sites: RecentSites,
    /// Where its last code has its rows.
    pub recent_rows: RecentRows,
    /// The stack that was walked last.
    pub stack: StackRecord,
    /// A copy of the part of its stack that is looked at.
    pub stack_cache: StackCache,
}

/// A write to a page that may be shared with another process: whether the kernel copies the page shows in what the
/// thread does before it goes on.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SharedWrite {
    /// The instruction that writes; 0 where nothing is under way.
    pub pc: u64,
    /// The stack pointer then.
    pub sp: u64,
    /// The site that was charged for the copy.
    pub site: SiteIndex,
    /// Makes the whole aligned.
    pub unused: u32,
}

/// Memory that was asked for, whether sampled or not: exact, but for calls that fail.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(serde::Serialize, serde::Deserialize))]
pub struct Requested {
    /// Bytes.
    pub bytes: u64,
    /// Objects.
    pub objects: u64,
    /// For how many of them the call's return was trapped as well, at the kernel's trampoline.
    pub returns: u64,
    /// How often it has executed a `ret` that is probed; counted wherever there are such.
    pub rets: u64,
    /// How often it has called a function that frees; counted, like what follows, only where what is recorded may change.
    pub frees: u64,
    /// Blocks that it has freed or resized.
    pub ends: u64,
    /// How many of these while a window was open.
    pub window_ends: u64,
}

impl Requested {
    /// How many sums there are.
    pub const WORDS: usize = 7;

    /// All sums, in the order in which they stand.
    #[inline(always)]
    #[must_use]
    pub const fn words(self) -> [u64; Self::WORDS] {
        let Self { bytes, objects, returns, rets, frees, ends, window_ends } = self;
        [bytes, objects, returns, rets, frees, ends, window_ends]
    }

    /// Both together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.wrapping_add(other.bytes),
            objects: self.objects.wrapping_add(other.objects),
            returns: self.returns.wrapping_add(other.returns),
            rets: self.rets.wrapping_add(other.rets),
            frees: self.frees.wrapping_add(other.frees),
            ends: self.ends.wrapping_add(other.ends),
            window_ends: self.window_ends.wrapping_add(other.window_ends),
        }
    }

    /// The counts since `before`.
    #[must_use]
    pub const fn since(self, before: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_sub(before.bytes),
            objects: self.objects.saturating_sub(before.objects),
            returns: self.returns.saturating_sub(before.returns),
            rets: self.rets.saturating_sub(before.rets),
            frees: self.frees.saturating_sub(before.frees),
            ends: self.ends.saturating_sub(before.ends),
            window_ends: self.window_ends.saturating_sub(before.window_ends),
        }
    }
}

const _: () = assert!(size_of::<Thread>().is_multiple_of(8));
const _: () = assert!(size_of::<Requested>() == size_of::<[u64; Requested::WORDS]>());
