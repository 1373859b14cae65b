//! A hooked call's registers and the word at its return address: a program sets both as it likes. The code that tells nested calls
//! and returns runs in the kernel.

use memtrace_common::{
    ids::SiteIndex,
    steps::call::{CallFlag, CallRoles, PendingCall, ResizedBlock, Role, product_bytes},
    wire::block::{LiveBlock, Recorded},
};

use crate::{Target, input::Input};

/// A call under way, then what comes next: a stack pointer, a word at its place, a trampoline, and two arguments.
pub const TARGET: Target = Target { name: "calls", run, seeds };

fn run(input: &[u8]) {
    let mut input = Input::new(input);
    let mut call = PendingCall {
        stack_pointer: input.long(),
        size_bytes: input.long(),
        output: input.long(),
        resized: ResizedBlock { address: input.long(), block: LiveBlock::default() },
        roles: CallRoles(input.long()),
        return_address: input.long(),
        is_left: input.word(),
        cohort: input.word(),
    };
    let (next, slot, trampoline) = (input.long(), input.long(), Some(input.long()).filter(|address| *address != 0));
    for role in [Role::Size, Role::Count, Role::Block, Role::Output] {
        assert!(call.roles.index_of(role).is_none_or(|index| index < 15));
    }
    if call.has_jumped_to(next, slot) {
        assert!(call.awaits_return(slot, trampoline), "{call:?}");
    }
    if call.encloses(next) {
        assert!(next <= call.stack_pointer && !call.is_on_another_stack(next), "{call:?}");
    }
    if call.returns_at(next) {
        // Beyond the end of the address space lies its beginning.
        assert!(next < call.stack_pointer || !call.encloses(next), "{call:?}");
    }
    let resized = call.resized_in_place(slot);
    assert!(resized == 0 || resized == call.resized.address);
    _ = call.frees_without_block();
    let (count, size) = (input.long(), input.long());
    assert_eq!(product_bytes(count, size), count.saturating_mul(size));
    let block = LiveBlock::new(size, Recorded::FOR_CERTAIN, SiteIndex::NONE, 0);
    assert!(block.size_bytes() <= size);
    call.catch(next);
    assert!(call.stack_pointer == 0 || next < call.stack_pointer);
}

/// A call with a nested one, and one at the end of the address space.
fn seeds() -> Vec<Vec<u8>> {
    let leaves = CallRoles::NONE.with(Role::Size, 0).that(CallFlag::KeepsReturnAddress).that(CallFlag::MaySwitchStacks);
    let nested =
        [0x7ffd_0000_1000, 64, 0, 0x5555_1000, leaves.0, 0x5555_4321, 0, 0x7ffd_0000_0f00, 0x5555_4321, 0, 3, 5];
    let at_the_end = [u64::MAX - 7, 0, 0, 0, 0, 0, 0, u64::MAX, 0, 0x7fff_f000, u64::MAX, 2];
    [nested, at_the_end].map(|words| words.map(u64::to_le_bytes).concat()).to_vec()
}
