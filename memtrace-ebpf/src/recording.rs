//! The recording in force, in the tiers in which not every allocation is, or in which that may change.

use aya_ebpf::Global;
use memtrace_common::{
    ids::BudgetGroup,
    steps::{call::CallRoles, sampling::MeanGap},
    wire::{
        block::Recorded,
        control::{InForce, Recording},
    },
};

use crate::maps::RECORDINGS;

/// 1 where what is recorded changes while memtrace runs. Set at load, so that programs of which it does not never see
/// the code for that.
#[unsafe(no_mangle)]
static IS_ADAPTIVE: Global<u8> = Global::new(0);

/// The mean gap between samples, in bytes, where [`InForce::gap`] names no other; 0 where every allocation is counted, and nothing else ever will be. Set at
/// load, so that programs which count all never see the code for samples.
#[unsafe(no_mangle)]
static SAMPLE_BYTES: Global<u64> = Global::new(0);

/// A mean gap between samples, in bytes.
#[inline(always)]
pub(crate) fn bytes_of(gap: MeanGap) -> u64 {
    // A run of a fixed tier has one gap, which is a constant to the verifier.
    if is_adaptive() { gap.bytes(SAMPLE_BYTES.load()) } else { SAMPLE_BYTES.load() }
}

/// Whether anything but every allocation may be recorded.
#[inline(always)]
pub(crate) fn takes_samples() -> bool {
    SAMPLE_BYTES.load() != 0
}

/// Whether what is recorded may change.
#[inline(always)]
pub(crate) fn is_adaptive() -> bool {
    IS_ADAPTIVE.load() != 0
}

#[inline(always)]
fn in_force<'a>(group: BudgetGroup) -> Option<&'a InForce> {
    RECORDINGS.get(group.0)
}

/// Whether this is the recording in force.
#[inline(always)]
pub(crate) fn is(what: Recording, group: BudgetGroup) -> bool {
    if is_adaptive() {
        return in_force(group).is_some_and(|in_force| in_force.recording == what as u32);
    }
    (if takes_samples() { Recording::Samples } else { Recording::All }) as u32 == what as u32
}

/// The mean gap of the samples that are taken of a group; `None` where none are.
#[inline(always)]
pub(crate) fn samples(group: BudgetGroup) -> Option<MeanGap> {
    if !is_adaptive() {
        return if takes_samples() { Some(MeanGap::OF_RUN) } else { None };
    }
    let in_force = in_force(group)?;
    if in_force.recording == Recording::Samples as u32 { Some(in_force.gap) } else { None }
}

/// Whether every block that was allocated since attach is on the books: an unknown one is from before.
#[inline(always)]
pub(crate) fn knows_every_block(group: BudgetGroup) -> bool {
    if is_adaptive() { !is_partial(group) } else { !takes_samples() }
}

/// Whether blocks may have been freed unseen.
#[inline(always)]
pub(crate) fn is_partial(group: BudgetGroup) -> bool {
    is_adaptive() && in_force(group).is_some_and(|in_force| in_force.is_partial != 0)
}

/// Which window's blocks are being followed; 0 where blocks are recorded for good.
#[inline(always)]
pub(crate) fn cohort(group: BudgetGroup) -> u32 {
    in_force(group).map_or(0, |in_force| in_force.cohort)
}

/// Whether a call that was entered when this was the cohort may still be under way, as far as returns were seen since.
#[inline(always)]
pub(crate) fn is_present(cohort: u32, group: BudgetGroup) -> bool {
    !is_adaptive() || cohort == self::cohort(group)
}

/// As part of what the block of a call is recorded.
#[inline(always)]
pub(crate) fn recorded(roles: CallRoles, group: BudgetGroup) -> Recorded {
    if !is_adaptive() {
        return Recorded::FOR_CERTAIN;
    }
    match cohort(group) {
        0 => roles.mean_gap().map_or(Recorded::FOR_CERTAIN, Recorded::as_sample),
        cohort => Recorded::in_cohort(cohort),
    }
}

/// Whether a block is of a cohort that is not followed any more: its window is judged.
#[inline(always)]
pub(crate) fn is_judged(recorded: Recorded, group: BudgetGroup) -> bool {
    recorded.is_in_some_cohort() && Recorded::in_cohort(cohort(group)) != recorded
}
