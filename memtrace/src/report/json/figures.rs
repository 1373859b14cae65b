//! Figures that processes and sites have alike.

use std::time::Duration;

use serde::Serialize;

use crate::model::{
    stats::estimate::{Interval, Intervals},
    totals::Totals,
};

#[derive(Serialize)]
pub(super) struct JsonTotals {
    live_bytes: u64,
    live_objects: u64,
    alloc_bytes: u64,
    alloc_objects: u64,
    freed_bytes: u64,
    freed_objects: u64,
}

/// Where the true figures lie, 95 times of a hundred: from, to; null where that is not known.
#[derive(Serialize)]
pub(super) struct JsonIntervals {
    live_bytes: (u64, Option<u64>),
    live_objects: (u64, Option<u64>),
    alloc_bytes: (u64, Option<u64>),
    alloc_objects: (u64, Option<u64>),
    freed_bytes: (u64, Option<u64>),
    freed_objects: (u64, Option<u64>),
}

impl From<Intervals> for JsonIntervals {
    fn from(intervals: Intervals) -> Self {
        let pair = |interval: Interval| (interval.low, interval.high);
        Self {
            live_bytes: pair(intervals.live_bytes),
            live_objects: pair(intervals.live_objects),
            alloc_bytes: pair(intervals.alloc_bytes),
            alloc_objects: pair(intervals.alloc_objects),
            freed_bytes: pair(intervals.freed_bytes),
            freed_objects: pair(intervals.freed_objects),
        }
    }
}

impl From<&Totals> for JsonTotals {
    fn from(totals: &Totals) -> Self {
        Self {
            live_bytes: totals.live_bytes(),
            live_objects: totals.live_objects(),
            alloc_bytes: totals.alloc_bytes,
            alloc_objects: totals.alloc_objects,
            freed_bytes: totals.freed_bytes,
            freed_objects: totals.freed_objects,
        }
    }
}

pub(in crate::report) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
