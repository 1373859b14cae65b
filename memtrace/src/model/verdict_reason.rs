//! Why a site has its verdict: the figures that it rests on, as data. Times are in seconds, slopes in bytes a second.

use super::survival::Amount;

/// Why a site has its verdict.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum VerdictReason {
    /// It was not judged.
    #[default]
    Unjudged,
    /// None of its blocks is live.
    NothingLive,
    /// The run has not gone on for as long as a verdict takes.
    SeenFor {
        /// How long it has.
        seconds: f64,
    },
    /// The same, and it grows.
    GrowsSoFar {
        /// How fast.
        slope_per_s: f64,
        /// How long the run has gone on.
        seconds: f64,
    },
    /// It began to allocate a short time ago.
    FirstSeen {
        /// How long ago.
        seconds_ago: f64,
    },
    /// So few windows have met its allocations that it is known from below only.
    HardlyMet {
        /// How many have.
        times: u64,
    },
    /// It began to make pages resident a short time ago.
    FirstTouched {
        /// How long ago.
        seconds_ago: f64,
    },
    /// Its older blocks are not freed, and more come.
    StillLive {
        /// The living part of them.
        survivors: Survivors,
        /// How fast it grows.
        pace: Pace,
    },
    /// Its live bytes only ever rise.
    Enlarged {
        /// Its live blocks.
        live_objects: u64,
        /// In how many readings it had grown.
        rises: usize,
        /// In how many it had shrunk.
        falls: usize,
        /// How many readings there were after the first.
        readings: usize,
        /// How fast it grows.
        pace: Pace,
    },
    /// Its few blocks are enlarged by ever larger steps, as a buffer is that is filled evenly.
    Stepped {
        /// Its live blocks.
        live_objects: u64,
        /// How many steps were seen.
        steps: usize,
        /// How fast the room of the last but one was filled.
        pace: Pace,
    },
    /// Its old blocks accumulate, and may not go on to.
    Accumulates {
        /// For how long they have.
        seconds: f64,
        /// How fast.
        pace: Pace,
        /// Why they may not.
        doubt: Doubt,
    },
    /// It holds more than ever before.
    HoldsMore {
        /// How much more.
        grown_bytes: u64,
        /// Within how long.
        seconds: f64,
        /// How fast it grows.
        pace: Pace,
    },
    /// It has grown, and does not any more.
    Filled {
        /// Its live bytes.
        held_bytes: u64,
        /// For how long it grew.
        grew_s: f64,
        /// For how long it has not.
        flat_s: f64,
    },
    /// It holds as much as before.
    Holds {
        /// Its live bytes.
        held_bytes: u64,
        /// For how long.
        seconds: f64,
    },
    /// Its live bytes have risen by little, and never fell.
    HasRisen {
        /// The fewest of late.
        from_bytes: u64,
        /// The most of late.
        to_bytes: u64,
    },
    /// Its live bytes go up and down.
    GoesUpAndDown {
        /// The fewest of late.
        least_bytes: u64,
        /// The most of late.
        most_bytes: u64,
    },
    /// Most of its live bytes go, again and again.
    ComesAndGoes {
        /// How far apart.
        period_s: f64,
        /// The most that it held.
        most_bytes: u64,
    },
    /// It makes hardly any pages resident any more.
    HasTouched {
        /// The sum of all pages that it made resident.
        bytes: u64,
        /// The part of late.
        lately_bytes: u64,
        /// The length of that late time.
        seconds: f64,
    },
    /// It goes on making pages resident.
    Touches {
        /// The sum of late.
        lately_bytes: u64,
        /// The length of that late time.
        seconds: f64,
        /// How fast.
        slope_per_s: f64,
        /// How fast the process's resident memory grows.
        process_slope_per_s: f64,
        /// Whether that bears it out.
        process_grows: bool,
    },
    /// Nothing pointed to some of its blocks when its program was about to end.
    Unreachable {
        /// Those blocks.
        unreachable: Amount,
        /// Its live blocks then.
        live_objects: u64,
    },
    /// All of its blocks could be reached when its program was about to end.
    Reachable {
        /// Its live blocks then.
        live_objects: u64,
    },
    /// It grew until its program freed it on its way out.
    FreedAtEnd {
        /// Why it has its verdict as of before that.
        before: Box<Self>,
        /// How much was freed then.
        freed_bytes: u64,
    },
}

impl VerdictReason {
    /// How fast its site grows, where that is part of the reason.
    #[must_use]
    pub fn pace(&self) -> Option<Pace> {
        match self {
            Self::StillLive { pace, .. }
            | Self::Enlarged { pace, .. }
            | Self::Stepped { pace, .. }
            | Self::Accumulates { pace, .. }
            | Self::HoldsMore { pace, .. } => Some(*pace),
            Self::FreedAtEnd { before, .. } => before.pace(),
            _ => None,
        }
    }
}

/// Why blocks that accumulate may not go on to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Doubt {
    /// None has come for longer than ever before.
    Stopped {
        /// For how long.
        seconds: f64,
    },
    /// They come more slowly than before.
    SlowsDown {
        /// The part of the former rate.
        part: f64,
    },
    /// Those that grow old are freed.
    TurnsOver {
        /// The part of them that was freed.
        part: f64,
    },
    /// As many blocks from before attach were freed, and resident memory does not grow.
    ReplacesOlder,
}

/// The living part of a site's older blocks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Survivors {
    /// The age of the youngest of those whose age is told.
    pub youngest_s: f64,
    /// The age of the oldest of them.
    pub oldest_s: f64,
    /// Those of them that live.
    pub live_objects: u64,
    /// All of them.
    pub born_objects: u64,
    /// Those that had become older than that.
    pub older_objects: u64,
    /// The freed ones among these.
    pub older_freed_objects: u64,
}

/// How fast a site grows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// The slope of its live bytes.
    pub slope_per_s: f64,
    /// The part of its process's growth that this is; nothing where that is nearly all of it, or not known.
    pub of_process: Option<f64>,
}
