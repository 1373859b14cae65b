//! What is recorded now, in the tiers in which not every allocation is, or in which that may change.

use aya_ebpf::Global;
use memtrace_common::{
    block::Recorded,
    call::{CallRoles, Trait},
    control::{Control, Watch},
};

use crate::{maps::CONTROL, sample};

/// 1 where what is recorded changes while memtrace runs. Set at load, so that programs of which it does not never see
/// the code for that.
#[unsafe(no_mangle)]
static IS_ADAPTIVE: Global<u8> = Global::new(0);

/// Whether what is recorded may change.
#[inline(always)]
pub(crate) fn is_adaptive() -> bool {
    IS_ADAPTIVE.load() != 0
}

#[inline(always)]
fn control<'a>() -> Option<&'a Control> {
    CONTROL.get(0)
}

/// What is recorded now.
#[inline(always)]
pub(crate) fn is(watch: Watch) -> bool {
    if is_adaptive() {
        return control().is_some_and(|control| control.watch == watch as u32);
    }
    (if sample::is_on() { Watch::Samples } else { Watch::All }) as u32 == watch as u32
}

/// Whether every block that was allocated since attach is on the books: an unknown one is from before.
#[inline(always)]
pub(crate) fn knows_every_block() -> bool {
    if is_adaptive() { !is_partial() } else { !sample::is_on() }
}

/// Whether blocks may have been freed unseen.
#[inline(always)]
pub(crate) fn is_partial() -> bool {
    is_adaptive() && control().is_some_and(|control| control.is_partial != 0)
}

/// Which window's blocks are being followed; 0 where blocks are recorded for good.
#[inline(always)]
pub(crate) fn cohort() -> u32 {
    control().map_or(0, |control| control.cohort)
}

/// Whether a call that was entered when this was the cohort may still be under way, as far as returns were seen since.
#[inline(always)]
pub(crate) fn is_present(cohort: u32) -> bool {
    !is_adaptive() || cohort == self::cohort()
}

/// As part of what the block of a call is recorded.
#[inline(always)]
pub(crate) fn recorded(roles: CallRoles) -> Recorded {
    if !is_adaptive() {
        return Recorded::FOR_CERTAIN;
    }
    match cohort() {
        0 if roles.is(Trait::Sampled) => Recorded::AS_SAMPLE,
        0 => Recorded::FOR_CERTAIN,
        cohort => Recorded::in_cohort(cohort),
    }
}

/// Whether a block is of a cohort that is not followed any more: its window is judged.
#[inline(always)]
pub(crate) fn is_judged(recorded: Recorded) -> bool {
    recorded.is_in_some_cohort() && Recorded::in_cohort(cohort()) != recorded
}
