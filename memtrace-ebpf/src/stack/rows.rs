//! Walks by call frame information, from frame to frame.

use aya_ebpf::{cty::c_void, helpers::generated::bpf_loop};
use memtrace_common::{
    ids::StackId,
    steps::{
        cfi::step,
        frame::{Failure, Registers, Step},
        recent_rows::RecentRows,
        stack_cache::{Cached, StackCache},
    },
    thread::ThreadMemory,
    wire::{
        code::{CodeTable, Row},
        stack::{Ending, MAX_FRAMES, StackHasher, StackRecord},
    },
};

use super::{
    row_search::find_row,
    start::{Start, finish},
};
use crate::{atomic::load, maps::CODE_TABLES, target::Target, user_memory::UserMemory, verifier::forgotten};

/// A walk by call frame information, from frame to frame.
struct Walk {
    registers: Registers,
    /// As [`Start::is_return`].
    is_return: u64,
    frame_count: u32,
    hasher: StackHasher,
    code: CodeTable,
    ending: Ending,
    record: *mut StackRecord,
    recent: *mut RecentRows,
    cache: *mut StackCache,
}

#[inline(always)]
pub(crate) fn walk(target: &Target, start: &Start, thread: &mut ThreadMemory) -> StackId {
    thread.stack.frames[0] = start.frame();
    let mut walk = Walk {
        registers: start.registers,
        is_return: start.is_return,
        frame_count: 1,
        hasher: StackHasher::new().frame(start.frame()),
        code: CODE_TABLES.get_ptr(target.slot.0).map_or(CodeTable::default(), |word| CodeTable(load(word.cast()))),
        ending: Ending::TooDeep,
        record: &raw mut thread.stack,
        recent: &raw mut thread.recent_rows,
        cache: &raw mut thread.stack_cache,
    };
    // SAFETY: the callback has the signature that the helper calls, and the context outlives the call.
    unsafe { bpf_loop(MAX_CALLS, next_frames as *mut c_void, (&raw mut walk).cast(), 0) };
    if let Some(why) = walk.ending.counter() {
        target.count(why);
    }
    finish(&mut thread.stack, walk.hasher, walk.frame_count, walk.ending as u32)
}

/// How many frames one call of [`next_frames`] goes outwards at most: a call costs some ten nanoseconds, and one frame more has the
/// verifier follow 24,000 instructions more (67,000 with three).
const FRAMES_A_CALL: usize = 3;

/// As many calls as the deepest stack takes if no row is remembered: one to look it up, one to use it.
const MAX_CALLS: u32 = 2 * MAX_FRAMES as u32;

/// Some frames outwards. Returns 1 where the walk is over.
#[inline(never)]
extern "C" fn next_frames(_index: u64, walk: *mut Walk) -> i64 {
    // SAFETY: `walk` passes its own `Walk`, which nobody else uses meanwhile.
    let walk = unsafe { &mut *walk };
    match walk.advance() {
        Ok(()) => 0,
        Err(ending) => {
            walk.ending = ending;
            1
        }
    }
}

impl Walk {
    /// Goes outwards as long as rows are remembered, or finds one that is not.
    #[inline(always)]
    fn advance(&mut self) -> Result<(), Ending> {
        // SAFETY: the memory is the thread's own and outlives the walk.
        let recent = unsafe { &mut *self.recent };
        for _ in 0..FRAMES_A_CALL {
            // A return address may belong to the next function: the call is the instruction before it.
            let address = self.registers.pc.wrapping_sub(self.is_return);
            let Some(row) = recent.find(address, self.code) else {
                let row = find_row(address, self.code)?;
                recent.remember(address, self.code, row);
                return Ok(());
            };
            self.step(row)?;
        }
        Ok(())
    }

    #[inline(always)]
    fn step(&mut self, row: Row) -> Result<(), Ending> {
        // SAFETY: the cache is the thread's own and outlives the walk.
        let cache = unsafe { &mut *self.cache };
        let (registers, is_return) = match step(row, self.registers, &mut Cached { cache, source: UserMemory }) {
            Step::Caller(registers) => (registers, 1),
            Step::Interrupted(registers) => (registers, 0),
            Step::End => return Err(Ending::FirstFrame),
            Step::Failed(why) => return Err(ending_of(why)),
        };
        let Registers { pc, sp, bp } = registers;
        let unknown = self.hasher.so_far();
        let registers =
            Registers { pc: forgotten(pc, unknown), sp: forgotten(sp, unknown), bp: forgotten(bp, unknown) };
        self.registers = registers;
        self.is_return = forgotten(is_return, unknown);
        // Kept as if it were a return address: whoever symbolises looks one byte before.
        self.push(registers.pc.wrapping_add(1 - self.is_return))
    }

    #[inline(always)]
    fn push(&mut self, frame: u64) -> Result<(), Ending> {
        // SAFETY: the record is the thread's own and outlives the walk.
        let record = unsafe { &mut *self.record };
        // No indexing: it could panic, and a program that could panic is refused.
        let slot = record.frames.get_mut(self.frame_count as usize).ok_or(Ending::TooDeep)?;
        *slot = frame;
        self.hasher = self.hasher.frame(frame);
        // A constant, for the verifier, which would go through all of them.
        self.frame_count = forgotten(self.frame_count as u64 + 1, frame) as u32;
        Ok(())
    }
}

#[inline(always)]
fn ending_of(why: Failure) -> Ending {
    match why {
        Failure::Unreadable => Ending::Unreadable,
        Failure::NoRule => Ending::NoRule,
        Failure::NotOutwards => Ending::NotOutwards,
        Failure::StackSwitch => Ending::StackSwitch,
    }
}
