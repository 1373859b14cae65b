//! Privileges: what memtrace keeps of them once it traces.
//!
//! It goes on to read what targets map and which files that is, and to hook what they load, so it keeps what that takes;
//! all else that root may do is given up, for good.

use caps::{CapSet, Capability, CapsHashSet, errors::CapsError};

/// The capabilities that it takes to go on tracing.
const KEPT: [Capability; 6] = [
    Capability::CAP_BPF,
    Capability::CAP_PERFMON,
    Capability::CAP_SYS_PTRACE,
    Capability::CAP_DAC_READ_SEARCH,
    Capability::CAP_CHECKPOINT_RESTORE,
    // Targets that were stopped on mapping an image are continued.
    Capability::CAP_KILL,
];

/// Gives up what is not needed any more; with `writes_a_file`, not the right to give a report its name in a folder of
/// somebody else's; with `opens_perf_events`, what that takes, which is all there is: CAP_PERFMON is not enough for probes by
/// perf events since Linux 6.16 and in the stable kernels from then on, and for none where an administrator says so.
///
/// # Errors
/// Where the kernel refuses, which it does not for want of privileges.
pub fn drop_unneeded(writes_a_file: bool, opens_perf_events: bool) -> Result<(), CapsError> {
    let mut kept: CapsHashSet = KEPT.into_iter().collect();
    if writes_a_file {
        kept.insert(Capability::CAP_DAC_OVERRIDE);
    }
    if opens_perf_events {
        kept.insert(Capability::CAP_SYS_ADMIN);
    }
    let kept_of = |set| caps::read(None, set).map(|had| had.intersection(&kept).copied().collect::<CapsHashSet>());
    caps::set(None, CapSet::Inheritable, &CapsHashSet::new())?;
    caps::set(None, CapSet::Effective, &kept_of(CapSet::Effective)?)?;
    caps::set(None, CapSet::Permitted, &kept_of(CapSet::Permitted)?)
}
