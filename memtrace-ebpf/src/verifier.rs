//! Means to keep the kernel's verifier from following the same code many times.

/// The same number, of which the verifier knows nothing any more: it follows what comes next once, not once for each of
/// the ways on which the number was found. `unknown` is any number that it knows nothing of.
#[inline(always)]
pub(crate) fn forgotten(number: u64, unknown: u64) -> u64 {
    let mut number = number;
    // SAFETY: two operations on registers, of which the second undoes the first.
    unsafe {
        core::arch::asm!(
            "{number} ^= {unknown}",
            "{number} ^= {unknown}",
            number = inout(reg) number,
            unknown = in(reg) unknown,
            options(pure, nomem, nostack),
        );
    }
    number
}

/// The same number, of which the compiler knows nothing any more, but the verifier all that it did: a bound that is checked
/// against it is checked where it is written, in a form that every kernel's verifier follows.
#[inline(always)]
pub(crate) fn unoptimised(number: u64) -> u64 {
    let mut number = number;
    // SAFETY: a register is set to itself.
    unsafe {
        core::arch::asm!("{number} = {number}", number = inout(reg) number, options(pure, nomem, nostack));
    }
    number
}
