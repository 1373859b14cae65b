//! Calls: what the arguments of a hooked function mean, what is remembered between its entry and its
//! return, and when a call is nested in another.

use super::sampling::MeanGap;
use crate::{
    arch::{PAGE_BYTES, RETURN_POPS_BYTES},
    wire::block::LiveBlock,
};

/// The meaning of a hooked function's arguments, carried to the kernel as the probe's cookie.
///
/// One program serves every function of the same kind; a new function is a new row of data. Each role
/// is a nibble: 0 where the function has no such argument, else the argument's index plus one. Above them
/// stand a bit for each [`CallFlag`], which allocator it is of, and the [`MeanGap`] of a sampled call.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CallRoles(pub u64);

/// One role that an argument can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The size in bytes, or the size of one element.
    Size,
    /// How many elements of that size.
    Count,
    /// The block that is freed or resized.
    Block,
    /// Where the function stores the new block; it returns 0 on success. Without this role the
    /// function returns the block, or 0 on failure.
    Output,
}

impl Role {
    const fn shift(self) -> u32 {
        match self {
            Self::Size => 0,
            Self::Count => 4,
            Self::Block => 8,
            Self::Output => 12,
        }
    }
}

/// A special trait of a function, apart from its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallFlag {
    /// A free that may reach another hooked free of the same block.
    HandsOn,
    /// A free that may reach another hooked free of the same block, or of one that begins up to 256 bytes before it: of
    /// an allocator that may wrap another, and keep a header of its own in each block.
    HandsOnWithHeader,
    /// A resize that leaves the block where it is and returns its real size; it has failed where that is
    /// less than what was asked for.
    InPlace,
    /// A resize that frees the block when it fails.
    FreesOnFailure,
    /// It calls no other hooked function: where its return is of no interest, it need not be seen.
    Leaf,
    /// Not a function's but a call's: it is under way, and its block is not to be recorded.
    Unsampled,
    /// Not a function's but a call's: it is under way, and is one of the samples.
    Sampled,
    /// It may leave by a C++ exception, so its return address must stay what it is.
    MayThrow,
    /// Its return address stays what it is: its returns are seen by probes on its `ret` instructions.
    KeepsReturnAddress,
    /// A call may switch stacks while it is under way, and return in another thread: each is remembered by the place of
    /// its return address. Only together with [`CallFlag::KeepsReturnAddress`].
    MaySwitchStacks,
    /// Not a function's but a return's: its value is not where functions return it, but still their first argument.
    ReturnsArgument,
}

impl CallFlag {
    const fn bit(self) -> u64 {
        1 << match self {
            Self::HandsOn => 32,
            Self::InPlace => 33,
            Self::FreesOnFailure => 34,
            Self::MayThrow => 35,
            Self::Leaf => 36,
            Self::Unsampled => 37,
            Self::Sampled => 38,
            Self::KeepsReturnAddress => 39,
            Self::MaySwitchStacks => 40,
            Self::ReturnsArgument => 41,
            Self::HandsOnWithHeader => 42,
        }
    }
}

/// Where the mean gap of a sampled call stands: above the allocator.
const MEAN_GAP: u32 = 52;

const _: () = {
    assert!(CallRoles::ALLOCATORS == 1 << (MEAN_GAP - CallRoles::ALLOCATOR_SHIFT));
    assert!(MEAN_GAP + MeanGap::BITS <= u64::BITS);
};

impl CallRoles {
    /// A function without roles.
    pub const NONE: Self = Self(0);

    /// How many allocators are told apart. The last stands for all further ones.
    pub const ALLOCATORS: usize = 16;
    const ALLOCATOR_SHIFT: u32 = 48;

    /// The same function, of the allocator with this number.
    #[must_use]
    pub const fn of_allocator(self, number: u32) -> Self {
        let last = Self::ALLOCATORS as u64 - 1;
        let number = if (number as u64) < last { number as u64 } else { last };
        Self(self.0 & !(last << Self::ALLOCATOR_SHIFT) | number << Self::ALLOCATOR_SHIFT)
    }

    /// Which allocator the function is of: below [`Self::ALLOCATORS`].
    #[inline(always)]
    #[must_use]
    pub const fn allocator(self) -> usize {
        (self.0 >> Self::ALLOCATOR_SHIFT) as usize & (Self::ALLOCATORS - 1)
    }

    /// The same function, whose argument number `index` (from 0) has `role`.
    #[must_use]
    pub const fn with(self, role: Role, index: u8) -> Self {
        Self(self.0 | (index as u64 + 1) << role.shift())
    }

    /// Whether it is a free that may reach another hooked one.
    #[must_use]
    #[inline(always)]
    pub fn hands_on(self) -> bool {
        self.is(CallFlag::HandsOn) || self.is(CallFlag::HandsOnWithHeader)
    }

    /// The same function, which is special in this way as well.
    #[must_use]
    pub const fn that(self, special: CallFlag) -> Self {
        Self(self.0 | special.bit())
    }

    /// Whether the function is special in this way.
    #[inline(always)]
    #[must_use]
    pub const fn is(self, special: CallFlag) -> bool {
        self.0 & special.bit() != 0
    }

    /// Nothing but whether the function is special in this way.
    #[must_use]
    pub const fn only(self, special: CallFlag) -> Self {
        Self(self.0 & special.bit())
    }

    /// A call under way of the same function, which is sampled under this mean gap.
    #[inline(always)]
    #[must_use]
    pub const fn sampled(self, gap: MeanGap) -> Self {
        Self(self.that(CallFlag::Sampled).0 | (gap.code() as u64) << MEAN_GAP)
    }

    /// The mean gap under which the call is sampled; `None` where it is not.
    #[inline(always)]
    #[must_use]
    pub const fn mean_gap(self) -> Option<MeanGap> {
        if self.is(CallFlag::Sampled) { Some(MeanGap::of_code((self.0 >> MEAN_GAP) as u32)) } else { None }
    }

    /// The same function, which is not special in this way.
    #[inline(always)]
    #[must_use]
    pub const fn without(self, special: CallFlag) -> Self {
        Self(self.0 & !special.bit())
    }

    /// The indices of the arguments that have any role, each as often as it has one.
    #[cfg(any(feature = "user", test))]
    #[must_use]
    pub fn arguments(self) -> Vec<u8> {
        let roles = [Role::Size, Role::Count, Role::Block, Role::Output];
        roles.into_iter().filter_map(|role| self.index_of(role)).collect()
    }

    /// The index of the argument that has `role`.
    #[inline(always)]
    #[must_use]
    pub const fn index_of(self, role: Role) -> Option<u8> {
        match (self.0 >> role.shift() & 0xf).to_le_bytes()[0] {
            0 => None,
            plus_one => Some(plus_one - 1),
        }
    }
}

/// The record that a resize took out at its entry, until its return tells what became of the block.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResizedBlock {
    /// The block's address; 0 where there is none.
    pub address: u64,
    /// Its record.
    pub block: LiveBlock,
}

/// A call under way in one thread: only the outermost hooked call counts.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PendingCall {
    /// The stack pointer at entry, where the return address lies; 0 where no call is under way.
    pub stack_pointer: u64,
    /// The size asked for, in bytes.
    pub size_bytes: u64,
    /// Where the block's address will be stored; 0 where it is returned.
    pub output: u64,
    /// The block that a resize is about.
    pub resized: ResizedBlock,
    /// The meaning of the function's arguments, and its flags.
    pub roles: CallRoles,
    /// Where the function returns to, if that was left as it was ([`CallFlag::KeepsReturnAddress`]); else 0, and the
    /// kernel's trampoline stands there.
    pub return_address: u64,
    /// 1 once an exception was thrown or a longjmp begun within it, and nothing was caught there since: it
    /// is about to be left, or has been.
    pub is_left: u32,
    /// [`crate::wire::control::InForce::cohort`] when it was entered: while probes are taken out, returns go unseen.
    pub cohort: u32,
}

/// How far apart two places of one stack can be while a hooked call is under way, in bytes: what an allocator has on the
/// stack where it calls another hooked function. Stacks of coroutines are larger.
const NEAR_BYTES: u64 = 8192;

impl PendingCall {
    /// Whether the call whose return left the stack pointer at `stack_pointer` is this one.
    ///
    #[inline(always)]
    #[must_use]
    pub fn returns_at(&self, stack_pointer: u64) -> bool {
        self.stack_pointer != 0 && stack_pointer == self.stack_pointer.wrapping_add(RETURN_POPS_BYTES)
    }

    /// Whether a call at `stack_pointer` could be nested in this one: the stack has not shrunk past it.
    ///
    /// At the very same stack pointer stands a function that this one has jumped to, or the next call
    /// after this one was left by an exception. Where the slot shows which ([`PendingCall::awaits_return`]),
    /// it is asked. Where it does not, since the same call site writes the same address again, and an exception may have
    /// passed, the newer call takes this one's place: after an exception that is right, and after a jump the newer
    /// function returns in place of this one, with the same block.
    #[inline(always)]
    #[must_use]
    pub fn encloses(&self, stack_pointer: u64) -> bool {
        let is_replaced = self.return_address != 0 && self.roles.is(CallFlag::MayThrow);
        let reach = if is_replaced { self.stack_pointer.wrapping_sub(1) } else { self.stack_pointer };
        self.stack_pointer != 0
            && self.is_left == 0
            && stack_pointer <= reach
            && !self.is_on_another_stack(stack_pointer)
    }

    /// Whether `stack_pointer` is on another stack than this call's, if the call may switch stacks. A call nested so deeply
    /// that it is [`NEAR_BYTES`] further in is taken for one on another stack, and counts by itself.
    #[inline(always)]
    #[must_use]
    pub fn is_on_another_stack(&self, stack_pointer: u64) -> bool {
        self.roles.is(CallFlag::MaySwitchStacks) && self.stack_pointer.abs_diff(stack_pointer) > NEAR_BYTES
    }

    /// Whether the call that begins at `stack_pointer` was jumped to by this one, and returns in its place: `slot` is what
    /// stands there, where this one's return address was left alone.
    #[inline(always)]
    #[must_use]
    pub fn has_jumped_to(&self, stack_pointer: u64, slot: u64) -> bool {
        self.stack_pointer == stack_pointer && self.return_address != 0 && self.return_address == slot
    }

    /// An exception was caught by the function that called the C++ library at `stack_pointer`: a call that
    /// stands further in has been left; one further out goes on.
    #[inline(always)]
    pub fn catch(&mut self, stack_pointer: u64) {
        self.is_left = 0;
        if stack_pointer >= self.stack_pointer {
            self.stack_pointer = 0;
        }
    }

    /// Whether this call, whose return-address slot now holds `slot`, is still under way.
    ///
    /// While it is, the slot holds what it held when the call had been entered: the kernel's return trampoline, or the
    /// caller's address, in whose place another tracer may have put the trampoline since. A fresh call has written its
    /// own return address over it, and a C++ exception or longjmp leaves the slot to whoever comes next. (The kernel
    /// tells tail calls the same way: `prepare_uretprobe`, kernel/events/uprobes.c, 3.10 and later.) Where `trampoline`
    /// is not known yet, its alignment stands in: it begins a page of its own.
    #[inline(always)]
    #[must_use]
    pub fn awaits_return(&self, slot: u64, trampoline: Option<u64>) -> bool {
        match trampoline {
            _ if self.return_address != 0 && slot == self.return_address => true,
            Some(trampoline) => slot == trampoline,
            None => slot != 0 && slot & (PAGE_BYTES - 1) == 0,
        }
    }

    /// The address of the block that a resize in place has resized, 0 where it has not: `real_bytes` is
    /// what it returned.
    #[inline(always)]
    #[must_use]
    pub fn resized_in_place(&self, real_bytes: u64) -> u64 {
        if real_bytes >= self.size_bytes { self.resized.address } else { 0 }
    }

    /// Whether a resize that returned no block has freed the old one: any to nothing does, and some do so
    /// whenever they fail.
    #[inline(always)]
    #[must_use]
    pub fn frees_without_block(&self) -> bool {
        self.size_bytes == 0 || self.roles.is(CallFlag::FreesOnFailure)
    }
}

/// The bytes that `count` elements of `size` take; `u64::MAX` where that overflows, as the call must fail.
///
/// In halves, without 128-bit multiplication, which BPF does not have.
#[inline(always)]
#[must_use]
pub fn product_bytes(count: u64, size: u64) -> u64 {
    const LOW_HALF: u64 = 0xffff_ffff;
    let (count_high, size_high) = (count >> 32, size >> 32);
    if count_high != 0 && size_high != 0 {
        return u64::MAX;
    }
    // One of the two products is zero.
    let middle = count_high * (size & LOW_HALF) + (count & LOW_HALF) * size_high;
    if middle >> 32 != 0 {
        return u64::MAX;
    }
    let low = (count & LOW_HALF) * (size & LOW_HALF);
    let sum = (middle << 32).wrapping_add(low);
    if sum < low { u64::MAX } else { sum }
}

const _: () = assert!(size_of::<PendingCall>() == 72);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_survive_the_cookie() {
        let calloc = CallRoles::NONE.with(Role::Count, 0).with(Role::Size, 1);
        assert_eq!(calloc.index_of(Role::Count), Some(0));
        assert_eq!(calloc.index_of(Role::Size), Some(1));
        assert_eq!(calloc.index_of(Role::Block), None);
        assert_eq!(calloc.index_of(Role::Output), None);
        assert_eq!(calloc.arguments(), [1, 0]);
    }

    const TRAMPOLINE: u64 = 0x7fff_ffff_e000;

    fn pending(stack_pointer: u64) -> PendingCall {
        PendingCall { stack_pointer, ..PendingCall::default() }
    }

    #[test]
    fn deeper_and_tail_calls_are_nested_and_a_shrunken_stack_ends_the_call() {
        assert!(pending(0x1000).encloses(0xf00));
        assert!(pending(0x1000).encloses(0x1000));
        assert!(!pending(0x1000).encloses(0x1008));
        assert!(!pending(0).encloses(0));
    }

    #[test]
    fn a_slot_that_was_used_again_awaits_nothing() {
        let call = pending(0x1000);
        assert!(call.awaits_return(TRAMPOLINE, Some(TRAMPOLINE)));
        assert!(!call.awaits_return(0x7f00_0000_1000, Some(TRAMPOLINE)));
        assert!(call.awaits_return(TRAMPOLINE, None));
        assert!(!call.awaits_return(0x40_1234, None));
        assert!(!call.awaits_return(0, None));
    }

    #[test]
    fn a_call_that_kept_its_return_address_ends_with_it_and_gives_way_to_one_at_its_own_place_if_it_may_throw() {
        let call = PendingCall { return_address: 0x40_1234, ..pending(0x1000) };
        assert!(call.encloses(0x1000));
        let call = PendingCall { roles: CallRoles::NONE.that(CallFlag::MayThrow), ..call };
        assert!(call.encloses(0xff8));
        assert!(!call.encloses(0x1000));
        assert!(!call.encloses(0x1008));
        assert!(call.awaits_return(0x40_1234, Some(TRAMPOLINE)));
        // Another tracer's return probe.
        assert!(call.awaits_return(TRAMPOLINE, Some(TRAMPOLINE)));
        assert!(!call.awaits_return(0x40_1300, Some(TRAMPOLINE)));
    }

    #[test]
    fn a_call_that_may_switch_stacks_encloses_only_what_is_near() {
        let roles = CallRoles::NONE.that(CallFlag::KeepsReturnAddress).that(CallFlag::MaySwitchStacks);
        let call = PendingCall { return_address: 0x40_1234, roles, ..pending(0x10_0000) };
        assert!(call.encloses(0x10_0000 - 8192));
        assert!(!call.encloses(0x10_0000 - 8200));
        assert!(call.is_on_another_stack(0x11_0000) && !call.is_on_another_stack(0x10_0100));
        assert!(!pending(0x10_0000).is_on_another_stack(0x11_0000));
        assert!(pending(0x10_0000).encloses(0x1000));
    }

    #[test]
    fn a_jump_to_another_function_leaves_place_and_return_address_as_they_were() {
        let call = PendingCall { return_address: 0x40_1234, ..pending(0x1000) };
        assert!(call.has_jumped_to(0x1000, 0x40_1234));
        assert!(!call.has_jumped_to(0x1000, 0x40_1300));
        assert!(!call.has_jumped_to(0xff8, 0x40_1234));
        assert!(!pending(0x1000).has_jumped_to(0x1000, 0));
    }

    #[test]
    fn a_call_encloses_nothing_from_a_throw_until_it_is_caught_within() {
        let mut call = PendingCall { is_left: 1, ..pending(0x1000) };
        assert!(!call.encloses(0xf00));
        call.catch(0xf80);
        assert!(call.encloses(0xf00));
        call.catch(0x1000);
        assert!(!call.encloses(0xf00));
        assert!(!call.returns_at(0x1008));
    }

    #[test]
    fn resizes_in_place_go_by_the_real_size() {
        let resized = ResizedBlock { address: 0x5000, block: LiveBlock::default() };
        let call = PendingCall { size_bytes: 100, resized, ..pending(0x1000) };
        assert_eq!(call.resized_in_place(112), 0x5000);
        assert_eq!(call.resized_in_place(100), 0x5000);
        assert_eq!(call.resized_in_place(96), 0);
    }

    #[test]
    fn traits_do_not_touch_roles() {
        let roles = CallRoles::NONE.with(Role::Block, 5).that(CallFlag::MayThrow).that(CallFlag::HandsOn);
        assert_eq!(roles.index_of(Role::Block), Some(5));
        assert_eq!(roles.arguments(), [5]);
        assert!(roles.is(CallFlag::MayThrow) && roles.is(CallFlag::HandsOn));
        assert!(!roles.is(CallFlag::InPlace) && !roles.is(CallFlag::FreesOnFailure));
    }

    #[test]
    fn products_saturate_instead_of_wrapping() {
        assert_eq!(product_bytes(3, 5), 15);
        assert_eq!(product_bytes(0, u64::MAX), 0);
        assert_eq!(product_bytes(1 << 63, 2), u64::MAX);
        assert_eq!(product_bytes(u64::MAX, 1), u64::MAX);
    }

    proptest::proptest! {
        #[test]
        fn products_are_those_of_wide_arithmetic(count: u64, size: u64, shift in 0u32..64) {
            let size = size >> shift;
            let wide = (count as u128).checked_mul(size as u128).unwrap();
            let expected = u64::try_from(wide).unwrap_or(u64::MAX);
            proptest::prop_assert_eq!(product_bytes(count, size), expected);
        }
    }

    #[test]
    fn a_sampled_call_keeps_its_mean_gap_beside_its_roles() {
        let roles = CallRoles::NONE.with(Role::Output, 3).that(CallFlag::HandsOnWithHeader);
        assert_eq!(roles.mean_gap(), None);
        for gap in [MeanGap::OF_RUN, MeanGap::of(1 << 10), MeanGap::of(1 << 24)] {
            let sampled = roles.sampled(gap);
            assert_eq!((sampled.mean_gap(), sampled.index_of(Role::Output)), (Some(gap), Some(3)));
            let sampled = roles.of_allocator(u32::MAX).sampled(gap);
            assert_eq!((sampled.mean_gap(), sampled.allocator()), (Some(gap), CallRoles::ALLOCATORS - 1));
        }
    }

    #[test]
    fn only_the_outermost_return_is_taken() {
        assert!(pending(0x1000).returns_at(0x1008));
        assert!(!pending(0x1000).returns_at(0xf08));
        assert!(!pending(0).returns_at(8));
    }
}
