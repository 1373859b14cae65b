//! The row for an address, found by bisection.

use aya_ebpf::{Global, cty::c_void, helpers::generated::bpf_loop};
use memtrace_common::wire::{
    code::{CodeRange, CodeTable, Row, SPARE_ROWS as SPARE_ROWS_COUNT},
    stack::Ending,
};

use crate::maps::{CODE_RANGES, ROWS, SPARE_ROWS};

/// How many rows [`ROWS`] holds: set at load. The spare ones follow.
#[unsafe(no_mangle)]
static ROW_COUNT: Global<u32> = Global::new(0);

/// The row for an address.
#[inline(always)]
pub(crate) fn find_row(address: u64, code: CodeTable) -> Result<Row, Ending> {
    let range = range_of(address, code).ok_or(Ending::NoCode)?;
    if range.row_count == 0 {
        // Code that a compiler made at run time has no rows, but most such compilers keep frame pointers.
        return Ok(Row::BY_FRAME_POINTER);
    }
    row_of(address.wrapping_sub(range.bias), &range).ok_or(Ending::NoRule)
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
    row_at(last_until::<Rows>(offset, range.first_row, range.row_count)?)
}

/// The row of an index.
#[inline(always)]
fn row_at(index: u32) -> Option<Row> {
    let count = ROW_COUNT.load();
    if index < count {
        return ROWS.get(index).copied();
    }
    let spare = index - count;
    let rows = SPARE_ROWS.get_ptr(&(spare / SPARE_ROWS_COUNT))?;
    let row = rows.cast::<Row>().wrapping_add((spare % SPARE_ROWS_COUNT) as usize);
    // SAFETY: within the rows, by the remainder. They are never taken out.
    Some(unsafe { *row })
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
        Some(row_at(index)?.start as u64)
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
    unsafe { bpf_loop(T::HALVINGS, halve::<T> as *mut c_void, (&raw mut search).cast(), 0) };
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
