//! Checks that were asked for and not made, with the cause of each.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{health::HealthCounter, not_seen::NotSeen};

/// Why something was not checked, as scripts tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Cause {
    /// Nothing that the program has mapped is an allocator that could be hooked.
    NoAllocator,
    /// A probe was refused, or what the user has named was never there.
    NotHooked,
    /// The tier does not record every block.
    Tier,
    /// Events were lost.
    Losses,
    /// Its threads or its memory could not be looked at.
    Refused,
    /// There was more to look through than a look may take.
    TooMuch,
    /// A signal ended it.
    Killed,
    /// It ended, or became another program, by a way that nobody could stop.
    EndNotSeen,
    /// The run was stopped before it ended.
    Stopped,
    /// It goes on in a session of its own.
    Daemon,
    /// It was forked, and its allocator's tables cannot be told from pointers of its own.
    Forked,
    /// It found no room among the targets.
    NotFollowed,
    /// It ended, and was left out of the report to bound that.
    LeftOut,
    /// The run was too short to judge growth.
    TooEarly,
    /// There was nothing to look at.
    Nothing,
}

impl Cause {
    /// The word used in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NoAllocator => "no-allocator",
            Self::NotHooked => "not-hooked",
            Self::Tier => "tier",
            Self::Losses => "losses",
            Self::Refused => "refused",
            Self::TooMuch => "too-much",
            Self::Killed => "killed",
            Self::EndNotSeen => "end-not-seen",
            Self::Stopped => "stopped",
            Self::Daemon => "daemon",
            Self::Forked => "forked",
            Self::NotFollowed => "not-followed",
            Self::LeftOut => "left-out",
            Self::TooEarly => "too-early",
            Self::Nothing => "nothing",
        }
    }
}

/// A counter of what was lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// Its name in reports.
    pub name: String,
    /// How often it happened.
    pub count: u64,
}

impl From<&HealthCounter> for Lost {
    fn from(counter: &HealthCounter) -> Self {
        Self { name: counter.name.to_owned(), count: counter.count }
    }
}

/// Why nothing could be hooked in a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NothingHooked {
    /// It ended before its images could be looked at.
    EndedEarly,
    /// It is a 32-bit program.
    Is32Bit,
    /// None of its images is an ELF file of a 64-bit program.
    NoImages,
    /// It is linked statically and has no symbols.
    Stripped,
    /// Its images define no allocator that is known.
    NoAllocator {
        /// How many images it has.
        images: usize,
    },
}

/// Why something was not checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unchecked {
    /// Nothing could be hooked in it.
    NothingHooked(NothingHooked),
    /// It has no allocator that is known, and maps nothing by itself.
    NoAllocator,
    /// Memory that was asked for could not be seen.
    NotSeen(NotSeen),
    /// Of this allocator only one side is seen.
    OneSided {
        /// Its name.
        allocator: String,
    },
    /// An operation failed, with its error.
    Failed {
        /// For scripts.
        cause: Cause,
        /// The error.
        error: String,
    },
    /// The tier does not record every block.
    Tier,
    /// Blocks that are not recorded may have pointed to others.
    LostBlocks(Vec<Lost>),
    /// A table was full, so that sites are missing or wrong.
    TableFull(Lost),
    /// Notices of the kernel side were lost.
    LostNotices(Lost),
    /// A signal ended it.
    Killed {
        /// The signal's number.
        signal: i32,
    },
    /// It ended by a way that nobody could stop.
    EndNotSeen,
    /// It became another program by a way that nobody could stop.
    ExecNotSeen,
    /// It became another program before it could be looked at.
    Replaced,
    /// The run was stopped before it ended.
    Stopped,
    /// It goes on in a session of its own.
    Daemon,
    /// It was forked.
    Forked {
        /// The allocator that keeps addresses of blocks in tables.
        allocator: String,
    },
    /// Programs found no room among the targets.
    NotFollowed {
        /// How many.
        programs: u64,
    },
    /// Processes that were not looked at, maybe, are left out of the report.
    LeftOut {
        /// How many.
        processes: u64,
    },
    /// The run was too short to judge growth.
    TooEarly {
        /// How long it went on.
        traced: Duration,
    },
    /// A command ran no program whose end could be looked at.
    NoProgram,
    /// There was no process to trace.
    NoProcess,
}

impl Unchecked {
    /// The cause, for scripts.
    #[must_use]
    pub fn cause(&self) -> Cause {
        match self {
            Self::NothingHooked(_) | Self::NoAllocator => Cause::NoAllocator,
            Self::NotSeen(NotSeen::BetweenWindows { .. }) | Self::Tier => Cause::Tier,
            Self::NotSeen(_) | Self::OneSided { .. } => Cause::NotHooked,
            Self::Failed { cause, .. } => *cause,
            Self::LostBlocks(_) | Self::TableFull(_) | Self::LostNotices(_) => Cause::Losses,
            Self::Killed { .. } => Cause::Killed,
            Self::EndNotSeen | Self::ExecNotSeen | Self::Replaced => Cause::EndNotSeen,
            Self::Stopped => Cause::Stopped,
            Self::Daemon => Cause::Daemon,
            Self::Forked { .. } => Cause::Forked,
            Self::NotFollowed { .. } => Cause::NotFollowed,
            Self::LeftOut { .. } => Cause::LeftOut,
            Self::TooEarly { .. } => Cause::TooEarly,
            Self::NoProgram | Self::NoProcess => Cause::Nothing,
        }
    }
}
