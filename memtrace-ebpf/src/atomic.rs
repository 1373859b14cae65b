//! Words in maps that other CPUs, and user space, change as well: reached by pointers, since a reference would promise that
//! nobody changes them.
//!
//! In assembly: `core`'s `AtomicU64` has no such operations for this target, which declares no compare-and-swap.

/// The value of a word now.
#[inline(always)]
pub(crate) fn load(word: *const u64) -> u64 {
    // SAFETY: one aligned `u64` inside a map value that outlives the program.
    unsafe { word.read_volatile() }
}

/// The word at `index` of an array of words.
#[inline(always)]
pub(crate) fn word_at<const COUNT: usize>(words: *mut [u64; COUNT], index: usize) -> Option<*mut u64> {
    // No indexing: it could panic, and a program that could panic is refused.
    if index < COUNT { Some(words.cast::<u64>().wrapping_add(index)) } else { None }
}

/// Adds to a word.
#[inline(always)]
pub(crate) fn add(word: *mut u64, amount: u64) {
    // SAFETY: one atomic addition to an aligned `u64` inside a map value that outlives the program.
    unsafe {
        core::arch::asm!(
            "lock *(u64 *)({word} + 0) += {amount}",
            word = in(reg) word,
            amount = in(reg) amount,
            options(nostack),
        );
    }
}

/// Subtracts from a word.
#[inline(always)]
pub(crate) fn subtract(word: *mut u64, amount: u64) {
    add(word, amount.wrapping_neg());
}

/// Adds 1 to a word. Returns what it was before.
#[inline(always)]
pub(crate) fn next(word: *mut u64) -> u64 {
    let mut before = 1u64;
    // SAFETY: as in `add`.
    unsafe {
        core::arch::asm!(
            "{before} = atomic_fetch_add((u64 *)({word} + 0), {before})",
            word = in(reg) word,
            before = inout(reg) before,
            options(nostack),
        );
    }
    before
}

/// Makes a word `new` if it is `old`. Returns what it was.
#[inline(always)]
pub(crate) fn compare_exchange(word: *mut u64, old: u64, new: u64) -> u64 {
    let mut was = old;
    // SAFETY: as in `add`; the instruction compares with r0 and answers in it.
    unsafe {
        core::arch::asm!(
            "r0 = cmpxchg_64({word} + 0, r0, {new})",
            word = in(reg) word,
            new = in(reg) new,
            inout("r0") was,
            options(nostack),
        );
    }
    was
}

/// Sets a word, after everything that was written before.
#[inline(always)]
pub(crate) fn store(word: *mut u64, value: u64) {
    _ = exchange(word, value);
}

/// Sets a word, after everything that was written before. Returns what it was.
#[inline(always)]
pub(crate) fn exchange(word: *mut u64, value: u64) -> u64 {
    let mut value = value;
    // SAFETY: as in `add`.
    unsafe {
        core::arch::asm!(
            "{value} = xchg_64({word} + 0, {value})",
            word = in(reg) word,
            value = inout(reg) value,
            options(nostack),
        );
    }
    value
}
