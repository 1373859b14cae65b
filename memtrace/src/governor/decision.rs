//! Decisions of the governor, as data that the engine carries out.

use std::time::Duration;

use super::meter::{Metering, Payer};
use crate::model::tier::Tier;

/// The kinds of events that are recorded, and so the probes that are in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Every allocation, for good.
    All,
    /// Samples of allocations, for good.
    Samples {
        /// The mean number of bytes between them.
        sample_bytes: u64,
    },
    /// Every allocation, as part of a cohort: a window is open.
    Window {
        /// The cohort.
        cohort: u32,
    },
    /// No allocation. Frees of the blocks of a cohort are seen.
    Following {
        /// The cohort.
        cohort: u32,
    },
    /// Nothing: the targets are left alone until the next window.
    Gap {
        /// The cohort of the next window.
        cohort: u32,
    },
}

impl Phase {
    /// The phase in which a run of this tier begins.
    #[must_use]
    pub fn first(tier: Tier) -> Self {
        match tier {
            Tier::Exact => Self::All,
            Tier::Sampled { sample_bytes } => Self::Samples { sample_bytes },
            Tier::Windowed | Tier::Growth => Self::Following { cohort: 0 },
        }
    }

    /// The cohort that blocks belong to, or whose blocks are followed; 0 where blocks are recorded for good.
    #[must_use]
    pub fn cohort(self) -> u32 {
        match self {
            Self::All | Self::Samples { .. } => 0,
            Self::Window { cohort } | Self::Following { cohort } | Self::Gap { cohort } => cohort,
        }
    }
}

/// A window that is to be opened and closed at once, without anything done in between.
#[derive(Debug)]
pub struct Opening {
    /// The cohort of its blocks.
    pub cohort: u32,
    /// How long it is to be open.
    pub open_for: Duration,
    /// The metering with which its cycle began.
    pub begun: Metering,
}

/// A window that was opened and closed.
#[derive(Debug)]
pub struct Closed {
    /// The metering before its probes were put in place, with those on frees in place already.
    pub before: Metering,
    /// The metering after it was closed, with its probes in place still.
    pub after: Metering,
    /// When it was open, after the start: everything between was recorded.
    pub opened: (Duration, Duration),
    /// How long it was open.
    pub open: Duration,
    /// How long its probes were in place.
    pub in_place: Duration,
}

/// A step in the life of a window.
#[derive(Debug)]
pub enum WindowStep {
    /// Windows begin, or begin again: what is known of the sites until now does not come from windows.
    Begin,
    /// A window opens. [`super::tiers::Governor::opened`] takes what came of it.
    Open(Box<Opening>),
    /// Half of the time is over in which its blocks are followed.
    NoteHalfway,
    /// Its blocks are not followed any more. [`super::tiers::Governor::weigh`] tells for each target what it stands for, and
    /// [`super::tiers::Governor::judged`] what comes next.
    Judge(Box<Judging>),
}

/// Another tier, and the reason.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Change {
    /// After the start.
    pub at: Duration,
    /// The tier until now.
    pub from: Tier,
    /// The tier from now on.
    pub to: Tier,
    /// The part of its CPU time that the tier until now takes, where the next is less exact; else the part that the next tier
    /// would take.
    pub share: f64,
    /// The target whose CPU time that is.
    pub payer: Payer,
    /// Whether it is not for the budget, but for want of room in the table of blocks.
    pub is_for_room: bool,
}

/// Everything that is to be done now, in the order of the fields. By default nothing.
#[derive(Debug, Default)]
pub struct Decision {
    /// Another tier, to be told.
    pub change: Option<Change>,
    /// The phase from now on, where that changes. Probes follow last, after the step of a window.
    pub phase: Option<Phase>,
    /// A step of a window.
    pub window: Option<WindowStep>,
    /// Whether the table of blocks is to be swept: survivors of judged windows take room that others need.
    pub sweeps: bool,
}

/// A window whose blocks are followed.
#[derive(Debug)]
pub(super) struct Following {
    /// The metering with which its cycle began.
    pub(super) begun: Metering,
    pub(super) closed: Closed,
    pub(super) halfway: Option<Duration>,
    pub(super) until: Duration,
}

/// A window that is being judged.
#[derive(Debug)]
pub struct Judging {
    pub(super) following: Following,
    /// The metering with which its cycle ends.
    pub(super) ended: Metering,
    /// Whether counting is over.
    pub(super) is_last: bool,
}
