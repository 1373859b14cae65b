//! Settings that user space gives the kernel side while it runs.

use crate::steps::sampling::MeanGap;

/// The one entry of the `CONTROL` map, written by user space only.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// 1 while events are counted. Set once every probe is in place, and cleared before the final
    /// reading, so that the figures are of one moment.
    pub counting: u32,
    /// 1 where a target is stopped (SIGSTOP) after an exec and after it maps a file as code, until user
    /// space has attached to that file and continues it. Only for programs that memtrace itself started.
    pub stop_on_image: u32,
    /// Milliseconds since the start, as of the last reading: how old blocks are is told no closer.
    pub now_ms: u32,
    /// Which processes become targets by themselves: bits of [`Adoption`].
    pub adoption: u32,
    /// memtrace itself, by thread group id: never a target.
    pub own_tgid: u32,
    /// 1 while the stacks that free blocks of some sites are wanted.
    pub follows_frees: u32,
    /// The wanted short name, padded with zeros, for [`Adoption::COMM`].
    pub comm: [u64; 2],
}

/// How many lengths of hooked code are known.
pub const HOOKED_CODE: u32 = 16;

const _: () = assert!(size_of::<Control>() == 40);

/// The recording in force for one [`crate::ids::BudgetGroup`]: an entry of the `RECORDINGS` map, written by user space only. Read only
/// where that may change ("adaptive"); it is set for good elsewhere.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InForce {
    /// A [`Recording`] code.
    pub recording: u32,
    /// Which window's blocks are being followed, from 1 to [`crate::wire::block::Recorded::MAX_COHORT`]; 0 where blocks are
    /// recorded for good.
    pub cohort: u32,
    /// 1 from when anything but [`Recording::All`] was in force: a free of an unknown block tells nothing from then on.
    pub is_partial: u32,
    /// The mean gap between samples, where samples are taken.
    pub gap: MeanGap,
}

const _: () = assert!(size_of::<InForce>() == 16);

/// How long a run has gone on before anything is said of growth ([`Control::now_ms`]): until then nobody asks what a program held
/// when it began to end.
pub const VERDICTS_FROM_MS: u32 = 24_000;

/// The allocations that are recorded. Frees of recorded blocks always are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
pub enum Recording {
    /// Every one.
    #[default]
    All = 0,
    /// Samples.
    Samples = 1,
    /// Every one, as part of the cohort: a window is open.
    Window = 2,
    /// None.
    Frees = 3,
}

/// Which processes become targets by themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Adoption(pub u32);

impl Adoption {
    /// Children of targets.
    pub const CHILDREN: Self = Self(1);
    /// Every process that runs a program, but memtrace itself.
    pub const EVERYONE: Self = Self(1 << 1);
    /// Programs of one short name.
    pub const COMM: Self = Self(1 << 2);
    /// Programs in the cgroup of the map `CGROUPS`, or below.
    pub const CGROUP: Self = Self(1 << 3);

    /// Whether all of `other` is part of this.
    #[inline(always)]
    #[must_use]
    pub const fn includes(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether it depends on the program that a process runs, not on the process alone: then an exec can
    /// make a target no target any more.
    #[inline(always)]
    #[must_use]
    pub const fn depends_on_program(self) -> bool {
        self.0 & (Self::COMM.0 | Self::CGROUP.0) != 0
    }
}

/// A short name as [`Control::comm`] has it; what goes beyond its 16 bytes is left out, as the kernel does.
#[must_use]
pub fn comm_words(name: &[u8]) -> [u64; 2] {
    let mut bytes = [0; 16];
    // The kernel ends every short name with a zero.
    for (to, from) in bytes.iter_mut().take(15).zip(name) {
        *to = *from;
    }
    let word = |at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[at..at + 8]);
        u64::from_ne_bytes(word)
    };
    [word(0), word(8)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cut_as_the_kernel_cuts_them() {
        assert_eq!(comm_words(b"a-name-of-fifteen"), comm_words(b"a-name-of-fifte"));
        assert_ne!(comm_words(b"redis"), comm_words(b"redi"));
        assert_eq!(comm_words(b"redis")[1], 0);
    }

    #[test]
    fn only_names_and_cgroups_can_change_with_an_exec() {
        assert!(Adoption::COMM.depends_on_program() && Adoption::CGROUP.depends_on_program());
        assert!(!Adoption::EVERYONE.depends_on_program() && !Adoption::CHILDREN.depends_on_program());
        assert!(Adoption(5).includes(Adoption::CHILDREN) && !Adoption(4).includes(Adoption::CHILDREN));
    }
}
