//! Why the outer frames of a stack are missing.

use serde::{Deserialize, Serialize};

/// Why the outer frames of a stack are missing. Where the stacks of a site were cut for several reasons, the least counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Truncation {
    /// The code had put the stack pointer on another stack: the callers' frames lie on the one before.
    StackSwitch,
    /// The stack is deeper than is kept.
    TooDeep,
    /// Nothing says where the next frame is.
    NoRule,
    /// The walk led to an address that lies in no code that is known.
    NoCode,
    /// The walk led to an address in code that follows no call.
    NoReturnAddress,
    /// The stack could not be read.
    Unreadable,
    /// The next frame would not lie further out.
    NotOutwards,
    /// The stack itself was not kept.
    NotKept,
}

impl Truncation {
    /// Each.
    pub const ALL: [Self; 8] = [
        Self::StackSwitch,
        Self::TooDeep,
        Self::NoRule,
        Self::NoCode,
        Self::NoReturnAddress,
        Self::Unreadable,
        Self::NotOutwards,
        Self::NotKept,
    ];

    /// The word for it in reports for scripts.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::StackSwitch => "stack-switch",
            Self::TooDeep => "depth",
            Self::NoRule => "no-rule",
            Self::NoCode => "no-code",
            Self::NoReturnAddress => "no-return-address",
            Self::Unreadable => "unreadable",
            Self::NotOutwards => "not-outwards",
            Self::NotKept => "not-kept",
        }
    }
}
