//! The stack of a thread whose hooked call has just returned.
//!
//! Walked at the return, not at the entry: the program counter is then the direct caller's own, the
//! callee-saved registers are restored, and failed or nested calls cost nothing.

use aya_ebpf::{
    Global,
    cty::c_void,
    helpers::{bpf_probe_read_user, generated::bpf_loop},
};
use memtrace_common::{
    frame_pointer::Cursor,
    process::Counter,
    stack::{MAX_FRAMES, StackHasher, StackId, StackRecord},
    unwind::{CodeRange, CodeTable, Failure, Memory, RecentRows, Registers, Row, Step, step},
};

use crate::{
    maps::{CODE_RANGES, CODE_TABLES, ROWS, Thread},
    target::Target,
};

/// 1 where stacks are unwound by call frame information, 0 where by frame pointers: set at load, so that
/// kernels without `bpf_loop` (before 5.17) never see the code that calls it.
#[unsafe(no_mangle)]
static UNWIND_BY_ROWS: Global<u8> = Global::new(0);

/// Walks the stack from the registers that the call's caller goes on with, into the thread's record, and
/// names it.
#[inline(always)]
pub(crate) fn walk(target: &Target, caller: Registers, thread: &mut Thread) -> StackId {
    if UNWIND_BY_ROWS.load() != 0 {
        walk_by_rows(target, caller, &mut thread.stack, &mut thread.recent_rows)
    } else {
        walk_by_frame_pointers(caller, &mut thread.stack)
    }
}

#[inline(always)]
fn walk_by_frame_pointers(caller: Registers, record: &mut StackRecord) -> StackId {
    let mut hasher = StackHasher::new().frame(caller.pc);
    record.frames[0] = caller.pc;
    let mut count = 1usize;
    let mut truncated = false;
    let mut cursor = Cursor::at(caller.sp, caller.bp);
    while cursor.is_plausible() {
        let Some([saved, return_address]) = UserMemory.pair(cursor.frame_pointer) else { break };
        let Some((frame, caller)) = cursor.step(saved, return_address) else { break };
        // No indexing: it could panic, and a program that could panic is refused.
        let Some(slot) = record.frames.get_mut(count) else {
            truncated = true;
            break;
        };
        *slot = frame;
        hasher = hasher.frame(frame);
        count += 1;
        cursor = caller;
    }
    finish(record, hasher, count as u32, truncated)
}

#[inline(always)]
fn finish(record: &mut StackRecord, hasher: StackHasher, frame_count: u32, truncated: bool) -> StackId {
    record.frame_count = frame_count;
    record.truncated = truncated as u32;
    hasher.finish(frame_count, truncated)
}

/// The memory of the current process.
struct UserMemory;

impl Memory for UserMemory {
    #[inline(always)]
    fn pair(&self, address: u64) -> Option<[u64; 2]> {
        // SAFETY: the helper checks the user address and fails where it is not readable.
        unsafe { bpf_probe_read_user(address as *const [u64; 2]) }.ok()
    }

    #[inline(always)]
    fn word(&self, address: u64) -> Option<u64> {
        // SAFETY: the helper checks the user address and fails where it is not readable.
        unsafe { bpf_probe_read_user(address as *const u64) }.ok()
    }
}

/// How a walk ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// It has not: the stack is deeper than is kept.
    TooDeep,
    /// At the thread's first frame.
    FirstFrame,
    /// Before that.
    Cut(Counter),
}

/// A walk by call frame information, from frame to frame.
struct Walk {
    registers: Registers,
    /// Whether the program counter is that of the next instruction, not a return address.
    is_exact: bool,
    frame_count: u32,
    hasher: StackHasher,
    code: CodeTable,
    ending: Ending,
    record: *mut StackRecord,
    recent: *mut RecentRows,
}

#[inline(always)]
fn walk_by_rows(target: &Target, caller: Registers, record: &mut StackRecord, recent: &mut RecentRows) -> StackId {
    record.frames[0] = caller.pc;
    let mut walk = Walk {
        registers: caller,
        is_exact: false,
        frame_count: 1,
        hasher: StackHasher::new().frame(caller.pc),
        code: CODE_TABLES.get(target.slot.0).copied().unwrap_or_default(),
        ending: Ending::TooDeep,
        record,
        recent,
    };
    // SAFETY: the callback has the signature that the helper calls, and the context outlives the call.
    unsafe { bpf_loop(MAX_FRAMES as u32, next_frame as *mut c_void, (&raw mut walk).cast(), 0) };
    if let Ending::Cut(why) = walk.ending {
        target.count(why);
    }
    finish(record, walk.hasher, walk.frame_count, walk.ending != Ending::FirstFrame)
}

/// One frame outwards. Returns 1 where the walk is over.
#[inline(never)]
extern "C" fn next_frame(_index: u64, walk: *mut Walk) -> i64 {
    // SAFETY: `walk_by_rows` passes its own `Walk`, which nobody else uses meanwhile.
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
    #[inline(always)]
    fn advance(&mut self) -> Result<(), Ending> {
        // A return address may belong to the next function: the call is the instruction before it.
        let address = if self.is_exact { self.registers.pc } else { self.registers.pc.wrapping_sub(1) };
        let next = match self.row_at(address).map_err(Ending::Cut)? {
            Some(row) => step(row, self.registers, &UserMemory),
            None => step_by_frame_pointer(self.registers),
        };
        let (registers, is_exact) = match next {
            Step::Caller(registers) => (registers, false),
            Step::Interrupted(registers) => (registers, true),
            Step::End => return Err(Ending::FirstFrame),
            Step::Failed(why) => return Err(Ending::Cut(counter_of(why))),
        };
        self.registers = registers;
        self.is_exact = is_exact;
        // Kept as if it were a return address: whoever symbolises looks one byte before.
        self.push(registers.pc.wrapping_add(is_exact as u64))
    }

    #[inline(always)]
    fn push(&mut self, frame: u64) -> Result<(), Ending> {
        // SAFETY: the record is the thread's own and outlives the walk.
        let record = unsafe { &mut *self.record };
        // No indexing: it could panic, and a program that could panic is refused.
        let slot = record.frames.get_mut(self.frame_count as usize).ok_or(Ending::TooDeep)?;
        *slot = frame;
        self.hasher = self.hasher.frame(frame);
        self.frame_count += 1;
        Ok(())
    }

    /// The row for an address; nothing in code that has none, where frame pointers must do.
    #[inline(always)]
    fn row_at(&mut self, address: u64) -> Result<Option<Row>, Counter> {
        // SAFETY: the memory is the thread's own and outlives the walk.
        let recent = unsafe { &mut *self.recent };
        if let Some(row) = recent.find(address, self.code) {
            return Ok(Some(row));
        }
        let range = range_of(address, self.code).ok_or(Counter::UnwindNoCode)?;
        if range.row_count == 0 {
            return Ok(None);
        }
        let row = row_of(address.wrapping_sub(range.bias), &range).ok_or(Counter::UnwindNoRule)?;
        recent.remember(address, self.code, row);
        Ok(Some(row))
    }
}

#[inline(always)]
fn counter_of(why: Failure) -> Counter {
    match why {
        Failure::Unreadable => Counter::UnwindUnreadable,
        Failure::NoRule => Counter::UnwindNoRule,
        Failure::NotOutwards => Counter::UnwindNotOutwards,
    }
}

/// Code that a compiler made at run time has no rows, but most such compilers keep frame pointers.
#[inline(always)]
fn step_by_frame_pointer(registers: Registers) -> Step {
    let cursor = Cursor::at(registers.sp, registers.bp);
    if !cursor.is_plausible() {
        return Step::Failed(Failure::NoRule);
    }
    match UserMemory.pair(registers.bp) {
        Some([_, 0]) => Step::End,
        Some([bp, pc]) => Step::Caller(Registers { pc, sp: registers.bp.wrapping_add(16), bp }),
        None => Step::Failed(Failure::Unreadable),
    }
}

/// Halvings that find one of as many ranges as a table can have.
const RANGE_HALVINGS: u32 = 12;
/// Halvings that find one of as many rows as an image can have.
const ROW_HALVINGS: u32 = 25;

/// The range that holds an address.
#[inline(always)]
fn range_of(address: u64, code: CodeTable) -> Option<CodeRange> {
    let (mut low, mut high) = (0, code.count());
    for _ in 0..RANGE_HALVINGS {
        if low >= high {
            break;
        }
        let middle = (low + high) / 2;
        if CODE_RANGES.get(code.first() + middle)?.start <= address {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    let range = *CODE_RANGES.get(code.first() + low.checked_sub(1)?)?;
    if address < range.end { Some(range) } else { None }
}

/// The last row of a range's image that begins at an offset or before.
#[inline(always)]
fn row_of(offset: u64, range: &CodeRange) -> Option<Row> {
    let (mut low, mut high) = (0, range.row_count);
    for _ in 0..ROW_HALVINGS {
        if low >= high {
            break;
        }
        let middle = (low + high) / 2;
        if ROWS.get(range.first_row.wrapping_add(middle))?.start as u64 <= offset {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    ROWS.get(range.first_row.wrapping_add(low.checked_sub(1)?)).copied()
}
