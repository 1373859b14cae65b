//! Walks by frame pointers.

use memtrace_common::{
    ids::StackId,
    steps::{frame::Step, frame_pointer, stack_cache::Cached},
    thread::ThreadMemory,
    wire::stack::{Ending, StackHasher},
};

use super::start::{Start, finish};
use crate::{user_memory::UserMemory, verifier::forgotten};

/// A function of its own: what the loop has left behind on the BPF stack would make as many states of what comes next as
/// there are numbers of frames.
#[inline(never)]
pub(crate) fn walk(start: &Start, thread: &mut ThreadMemory) -> StackId {
    let mut memory = Cached { cache: &mut thread.stack_cache, source: UserMemory };
    let record = &mut thread.stack;
    let mut registers = start.registers;
    let mut hasher = StackHasher::new().frame(start.frame());
    record.frames[0] = start.frame();
    let mut count = 1usize;
    let mut ending = Ending::FirstFrame as u64;
    while let Step::Caller(caller) = frame_pointer::step(registers, start.registers.sp, &mut memory) {
        // No indexing: it could panic, and a program that could panic is refused.
        let Some(slot) = record.frames.get_mut(count) else {
            ending = Ending::TooDeep as u64;
            break;
        };
        *slot = caller.pc;
        hasher = hasher.frame(caller.pc);
        count += 1;
        registers = caller;
    }
    // The verifier would follow what comes next for each number of frames.
    let count = forgotten(count as u64, hasher.so_far()) as u32;
    let ending = forgotten(ending, hasher.so_far()) & 1;
    finish(record, hasher, count, ending as u32)
}
