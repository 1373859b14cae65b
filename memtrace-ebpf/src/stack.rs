//! The stack of a thread whose hooked call has just returned, or which the kernel has interrupted.
//!
//! Calls are walked at the return, not at the entry: the program counter is then the direct caller's own, the
//! callee-saved registers are restored, and failed or nested calls cost nothing.

use aya_ebpf::{
    Global,
    cty::c_void,
    helpers::{bpf_probe_read_user, generated},
};
use memtrace_common::{
    frame_pointer,
    process::Counter,
    stack::{MAX_FRAMES, StackHasher, StackId, StackRecord},
    thread::ThreadMemory,
    unwind::{CodeRange, CodeTable, Failure, RecentRows, Registers, Row, Step, step},
    window::{Source, WINDOW_WORDS, Window, Windowed},
};

use crate::{
    maps::{CODE_RANGES, CODE_TABLES, ROWS},
    target::Target,
    verifier::forgotten,
};

/// 1 where stacks are unwound by call frame information, 0 where by frame pointers: set at load, so that
/// kernels without `bpf_loop` (before 5.17) never see the code that calls it.
#[unsafe(no_mangle)]
static UNWIND_BY_ROWS: Global<u8> = Global::new(0);

/// Walks the stack from the registers that the call's caller goes on with, into the thread's record, and
/// names it.
#[inline(always)]
pub(crate) fn walk(target: &Target, caller: Registers, thread: &mut ThreadMemory) -> StackId {
    walk_from(target, Start { registers: caller, is_return: 1 }, thread)
}

/// Walks the stack from the registers with which a thread was interrupted.
#[inline(always)]
pub(crate) fn walk_interrupted(target: &Target, registers: Registers, thread: &mut ThreadMemory) -> StackId {
    walk_from(target, Start { registers, is_return: 0 }, thread)
}

/// Where a walk begins.
struct Start {
    registers: Registers,
    /// 1 where the program counter is a return address, 0 where it is that of the next instruction.
    is_return: u64,
}

impl Start {
    /// As it is kept: as if it were a return address, because whoever symbolises looks one byte before.
    #[inline(always)]
    fn frame(&self) -> u64 {
        self.registers.pc.wrapping_add(1 - self.is_return)
    }
}

#[inline(always)]
fn walk_from(target: &Target, start: Start, thread: &mut ThreadMemory) -> StackId {
    // The thread has written to its stack since its last walk.
    thread.window.forget();
    if UNWIND_BY_ROWS.load() != 0 {
        walk_by_rows(target, &start, thread)
    } else {
        walk_by_frame_pointers(&start, thread)
    }
}

/// A function of its own: what the loop has left behind on the BPF stack would make as many states of what comes next as
/// there are numbers of frames.
#[inline(never)]
fn walk_by_frame_pointers(start: &Start, thread: &mut ThreadMemory) -> StackId {
    let mut memory = Windowed { window: &mut thread.window, source: UserMemory };
    let record = &mut thread.stack;
    let mut registers = start.registers;
    let mut hasher = StackHasher::new().frame(start.frame());
    record.frames[0] = start.frame();
    let mut count = 1usize;
    let mut truncated = false;
    while let Step::Caller(caller) = frame_pointer::step(registers, start.registers.sp, &mut memory) {
        // No indexing: it could panic, and a program that could panic is refused.
        let Some(slot) = record.frames.get_mut(count) else {
            truncated = true;
            break;
        };
        *slot = caller.pc;
        hasher = hasher.frame(caller.pc);
        count += 1;
        registers = caller;
    }
    // The verifier would follow what comes next for each number of frames.
    let count = forgotten(count as u64, hasher.so_far()) as u32;
    let truncated = forgotten(truncated as u64, hasher.so_far()) & 1;
    finish(record, hasher, count, truncated != 0)
}

#[inline(always)]
fn finish(record: &mut StackRecord, hasher: StackHasher, frame_count: u32, truncated: bool) -> StackId {
    record.frame_count = frame_count;
    record.truncated = truncated as u32;
    hasher.finish(frame_count, truncated)
}

/// The memory of the current process.
struct UserMemory;

impl Source for UserMemory {
    #[inline(always)]
    fn copy(&self, address: u64, words: &mut [u64; WINDOW_WORDS]) -> bool {
        let size = size_of_val(words) as u32;
        // SAFETY: the helper checks the user address, fails where it is not readable, and writes `size` bytes.
        unsafe { generated::bpf_probe_read_user(words.as_mut_ptr().cast(), size, address as *const c_void) == 0 }
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
    /// As [`Start::is_return`].
    is_return: u64,
    frame_count: u32,
    hasher: StackHasher,
    code: CodeTable,
    ending: Ending,
    record: *mut StackRecord,
    recent: *mut RecentRows,
    window: *mut Window,
}

#[inline(always)]
fn walk_by_rows(target: &Target, start: &Start, thread: &mut ThreadMemory) -> StackId {
    thread.stack.frames[0] = start.frame();
    let mut walk = Walk {
        registers: start.registers,
        is_return: start.is_return,
        frame_count: 1,
        hasher: StackHasher::new().frame(start.frame()),
        code: CODE_TABLES.get(target.slot.0).copied().unwrap_or_default(),
        ending: Ending::TooDeep,
        record: &raw mut thread.stack,
        recent: &raw mut thread.recent_rows,
        window: &raw mut thread.window,
    };
    // SAFETY: the callback has the signature that the helper calls, and the context outlives the call.
    unsafe { generated::bpf_loop(MAX_CALLS, next_frames as *mut c_void, (&raw mut walk).cast(), 0) };
    if let Ending::Cut(why) = walk.ending {
        target.count(why);
    }
    finish(&mut thread.stack, walk.hasher, walk.frame_count, walk.ending != Ending::FirstFrame)
}

/// How many frames one call of [`next_frames`] goes outwards at most: a call costs some ten nanoseconds, and one frame more has the
/// verifier follow 24,000 instructions more (67,000 with three).
const FRAMES_A_CALL: usize = 3;

/// As many calls as the deepest stack takes if no row is remembered: one to look it up, one to use it.
const MAX_CALLS: u32 = 2 * MAX_FRAMES as u32;

/// Some frames outwards. Returns 1 where the walk is over.
#[inline(never)]
extern "C" fn next_frames(_index: u64, walk: *mut Walk) -> i64 {
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
    /// Goes outwards as long as rows are remembered, or finds one that is not.
    #[inline(always)]
    fn advance(&mut self) -> Result<(), Ending> {
        // SAFETY: the memory is the thread's own and outlives the walk.
        let recent = unsafe { &mut *self.recent };
        for _ in 0..FRAMES_A_CALL {
            // A return address may belong to the next function: the call is the instruction before it.
            let address = self.registers.pc.wrapping_sub(self.is_return);
            let Some(row) = recent.find(address, self.code) else {
                let row = find_row(address, self.code).map_err(Ending::Cut)?;
                recent.remember(address, self.code, row);
                return Ok(());
            };
            self.step(row)?;
        }
        Ok(())
    }

    #[inline(always)]
    fn step(&mut self, row: Row) -> Result<(), Ending> {
        // SAFETY: the window is the thread's own and outlives the walk.
        let window = unsafe { &mut *self.window };
        let (registers, is_return) = match step(row, self.registers, &mut Windowed { window, source: UserMemory }) {
            Step::Caller(registers) => (registers, 1),
            Step::Interrupted(registers) => (registers, 0),
            Step::End => return Err(Ending::FirstFrame),
            Step::Failed(why) => return Err(Ending::Cut(counter_of(why))),
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

/// The row for an address.
#[inline(always)]
fn find_row(address: u64, code: CodeTable) -> Result<Row, Counter> {
    let range = range_of(address, code).ok_or(Counter::UnwindNoCode)?;
    if range.row_count == 0 {
        // Code that a compiler made at run time has no rows, but most such compilers keep frame pointers.
        return Ok(Row::BY_FRAME_POINTER);
    }
    row_of(address.wrapping_sub(range.bias), &range).ok_or(Counter::UnwindNoRule)
}

#[inline(always)]
fn counter_of(why: Failure) -> Counter {
    match why {
        Failure::Unreadable => Counter::UnwindUnreadable,
        Failure::NoRule => Counter::UnwindNoRule,
        Failure::NotOutwards => Counter::UnwindNotOutwards,
    }
}

/// The range that holds an address.
#[inline(always)]
fn range_of(address: u64, code: CodeTable) -> Option<CodeRange> {
    let range = *CODE_RANGES.get(last_until::<Ranges>(address, code.first(), code.count())?)?;
    if address < range.end { Some(range) } else { None }
}

/// The last row of a range's image that begins at an offset or before.
#[inline(always)]
fn row_of(offset: u64, range: &CodeRange) -> Option<Row> {
    ROWS.get(last_until::<Rows>(offset, range.first_row, range.row_count)?).copied()
}

/// A table that is sorted by where its entries begin.
trait Sorted {
    /// Halvings that find one of as many entries as can be.
    const HALVINGS: u32;

    /// Where an entry begins.
    fn start(index: u32) -> Option<u64>;
}

struct Ranges;

impl Sorted for Ranges {
    const HALVINGS: u32 = 12;

    #[inline(always)]
    fn start(index: u32) -> Option<u64> {
        Some(CODE_RANGES.get(index)?.start)
    }
}

struct Rows;

impl Sorted for Rows {
    const HALVINGS: u32 = 25;

    #[inline(always)]
    fn start(index: u32) -> Option<u64> {
        Some(ROWS.get(index)?.start as u64)
    }
}

/// A search by bisection: entries below `low` begin at the wanted place or before, those from `high` on after it.
struct Bisection {
    wanted: u64,
    low: u32,
    high: u32,
}

/// The index of the last of `count` entries from `first` on that begins at a place or before.
#[inline(always)]
fn last_until<T: Sorted>(wanted: u64, first: u32, count: u32) -> Option<u32> {
    let mut search = Bisection { wanted, low: first, high: first.wrapping_add(count) };
    // A plain loop would do, but the verifier follows each of its ways: half a million instructions.
    // SAFETY: the callback has the signature that the helper calls, and the context outlives the call.
    unsafe { generated::bpf_loop(T::HALVINGS, halve::<T> as *mut c_void, (&raw mut search).cast(), 0) };
    if search.low > first { Some(search.low - 1) } else { None }
}

/// Halves what is left to search. Returns 1 where that is nothing.
#[inline(never)]
extern "C" fn halve<T: Sorted>(_index: u64, search: *mut Bisection) -> i64 {
    // SAFETY: `last_until` passes its own `Bisection`, which nobody else uses meanwhile.
    let search = unsafe { &mut *search };
    if search.low >= search.high {
        return 1;
    }
    let middle = search.low + (search.high - search.low) / 2;
    match T::start(middle) {
        Some(start) if start <= search.wanted => search.low = middle + 1,
        _ => search.high = middle,
    }
    0
}
