//! The holdings before a program freed on its way out.

use serde::Serialize;

use super::figures::nanoseconds;
use crate::model::stats::teardown::BeforeEnd;

/// The holdings of a site.
#[derive(Serialize)]
pub(super) struct JsonSiteBeforeEnd {
    at_ns: u64,
    live_bytes: u64,
    live_objects: u64,
    growth_bytes_per_s: f64,
}

impl JsonSiteBeforeEnd {
    pub(super) fn new(before: &BeforeEnd, growth_bytes_per_s: f64) -> Self {
        let BeforeEnd { at, live_bytes, live_objects, .. } = *before;
        Self { at_ns: nanoseconds(at), live_bytes, live_objects, growth_bytes_per_s }
    }
}

/// The holdings of a process.
#[derive(Serialize)]
pub(super) struct JsonBeforeEnd {
    at_ns: u64,
    live_bytes: u64,
    live_objects: u64,
    rss_bytes: Option<u64>,
}

impl From<BeforeEnd> for JsonBeforeEnd {
    fn from(before: BeforeEnd) -> Self {
        let BeforeEnd { at, live_bytes, live_objects, rss_bytes } = before;
        Self { at_ns: nanoseconds(at), live_bytes, live_objects, rss_bytes }
    }
}
