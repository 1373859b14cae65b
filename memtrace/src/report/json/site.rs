//! Allocation sites, with their stacks.

use std::{cell::RefCell, collections::HashMap, rc::Rc, time::Duration};

use serde::{
    Serialize, Serializer,
    ser::{Error, SerializeSeq},
};
use serde_json::value::{RawValue, to_raw_value};

use super::{
    before_end::JsonSiteBeforeEnd,
    figures::{JsonIntervals, JsonTotals, nanoseconds},
};
use crate::{
    model::{
        category::{KernelSource, PageKind},
        frame::{Frame, Stack},
        report::{FreedAt, Site},
        survival::{Cohort, GENERATION_S, Survival},
        truncation::Truncation,
    },
    report::words,
};

/// Written one by one: a hundred thousand with their frames would take gigabytes.
pub(super) struct JsonSites<'a>(pub(super) &'a [Site]);

impl Serialize for JsonSites<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let places = Places::default();
        serializer.collect_seq(self.0.iter().map(|site| json_site(site, &places)))
    }
}

/// The written frames of each place: a hundred thousand stacks go through a few thousand places.
#[derive(Default)]
struct Places(RefCell<HashMap<*const Frame, Rc<[Box<RawValue>]>>>);

impl Places {
    fn frames(&self, place: &[Frame]) -> serde_json::Result<Rc<[Box<RawValue>]>> {
        if let Some(known) = self.0.borrow().get(&place.as_ptr()) {
            return Ok(Rc::clone(known));
        }
        let written: Rc<[Box<RawValue>]> =
            place.iter().map(|frame| to_raw_value(&json_frame(frame))).collect::<serde_json::Result<_>>()?;
        self.0.borrow_mut().insert(place.as_ptr(), Rc::clone(&written));
        Ok(written)
    }
}

struct JsonFrames<'a> {
    stack: &'a Stack,
    places: &'a Places,
}

impl Serialize for JsonFrames<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut frames = serializer.serialize_seq(None)?;
        for place in self.stack.places() {
            for frame in self.places.frames(place).map_err(S::Error::custom)?.iter() {
                frames.serialize_element(frame)?;
            }
        }
        frames.end()
    }
}

#[derive(Serialize)]
struct JsonSite<'a> {
    /// 16 hexadecimal digits.
    id: String,
    category: &'static str,
    /// The content of its pages, where it is of pages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pages: Option<&'static str>,
    /// Which of the kernel's allocators it is from, where it is the kernel's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'static str>,
    #[serde(flatten)]
    totals: JsonTotals,
    interval_95: Option<JsonIntervals>,
    growth_bytes_per_s: f64,
    verdict: &'static str,
    confidence: f64,
    reason: String,
    /// Whether it grew until its program freed it on its way out.
    freed_at_end: bool,
    before_end: Option<JsonSiteBeforeEnd>,
    unreachable_bytes: Option<u64>,
    unreachable_objects: Option<u64>,
    suppressed_by: Option<&'a str>,
    in_baseline: bool,
    survival: Option<JsonSurvival>,
    short_lived_objects: Option<u64>,
    at_peak_bytes: u64,
    sizes: Vec<JsonSize>,
    freed_at: Vec<JsonFreedAt<'a>>,
    oldest_age_ns: Option<u64>,
    truncated: bool,
    /// Why, where it is.
    truncation: Option<&'static str>,
    inferred: bool,
    frames: JsonFrames<'a>,
}

#[derive(Serialize)]
struct JsonFrame<'a> {
    kind: &'static str,
    function: Option<&'a str>,
    image: Option<&'a str>,
    build_id: Option<&'a str>,
    offset: u64,
    file: Option<&'a str>,
    line: Option<u32>,
    inlined: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    unresolved: Option<&'static str>,
}

/// How many blocks are no larger than this, and larger than half of it.
#[derive(Serialize)]
struct JsonSize {
    up_to_bytes: u64,
    objects: u64,
}

/// Where blocks of a site are freed.
#[derive(Serialize)]
struct JsonFreedAt<'a> {
    samples: u64,
    frames: JsonFrames<'a>,
}

/// The fate of a site's blocks, by when they were allocated.
#[derive(Serialize)]
struct JsonSurvival {
    generation_ns: u64,
    generations: Vec<JsonCohort>,
    older_live_bytes: u64,
    older_live_objects: u64,
    older_freed_bytes: u64,
    older_freed_objects: u64,
}

#[derive(Serialize)]
struct JsonCohort {
    born_bytes: u64,
    born_objects: u64,
    live_bytes: u64,
    live_objects: u64,
}

impl From<&Survival> for JsonSurvival {
    fn from(survival: &Survival) -> Self {
        let cohort = |cohort: &Cohort| JsonCohort {
            born_bytes: cohort.born.bytes,
            born_objects: cohort.born.objects,
            live_bytes: cohort.live.bytes,
            live_objects: cohort.live.objects,
        };
        Self {
            generation_ns: nanoseconds(Duration::from_secs_f64(GENERATION_S)),
            generations: survival.generations.iter().map(cohort).collect(),
            older_live_bytes: survival.older_live.bytes,
            older_live_objects: survival.older_live.objects,
            older_freed_bytes: survival.older_freed.bytes,
            older_freed_objects: survival.older_freed.objects,
        }
    }
}

fn json_site<'a>(site: &'a Site, places: &'a Places) -> JsonSite<'a> {
    JsonSite {
        id: format!("{:016x}", site.id),
        category: site.category.name(),
        pages: site.category.page_kind().map(PageKind::name),
        source: site.category.kernel_source().map(KernelSource::name),
        totals: (&site.totals).into(),
        interval_95: site.intervals().map(JsonIntervals::from),
        growth_bytes_per_s: site.growth_bytes_per_s,
        verdict: site.judgement.verdict.name(),
        confidence: site.judgement.confidence,
        reason: words::verdict::of_site(site),
        freed_at_end: site.before_end.is_some(),
        before_end: site.before_end.as_ref().map(|before| JsonSiteBeforeEnd::new(before, site.growth_bytes_per_s)),
        unreachable_bytes: site.unreachable.map(|amount| amount.bytes),
        unreachable_objects: site.unreachable.map(|amount| amount.objects),
        suppressed_by: site.suppressed_by.as_deref(),
        in_baseline: site.in_baseline,
        short_lived_objects: site.short_lived_objects,
        at_peak_bytes: site.at_peak_bytes,
        sizes: site.sizes.counts().map(|(up_to_bytes, objects)| JsonSize { up_to_bytes, objects }).collect(),
        freed_at: site.freed_at.iter().take(MOST_FREED_AT).map(|at| json_freed_at(at, places)).collect(),
        survival: site.survival.as_ref().map(JsonSurvival::from),
        oldest_age_ns: site.oldest_age.map(nanoseconds),
        truncated: site.truncation.is_some(),
        truncation: site.truncation.map(Truncation::name),
        inferred: site.inferred,
        frames: JsonFrames { stack: &site.stack, places },
    }
}

/// Stacks that free which a site tells.
const MOST_FREED_AT: usize = 8;

fn json_freed_at<'a>(at: &'a FreedAt, places: &'a Places) -> JsonFreedAt<'a> {
    JsonFreedAt { samples: at.samples, frames: JsonFrames { stack: &at.stack, places } }
}

fn json_frame(frame: &Frame) -> JsonFrame<'_> {
    let (image, offset) = frame.place.in_image();
    let function = frame.function.as_ref().ok();
    JsonFrame {
        kind: frame.place.kind(),
        function: function.map(|function| function.name.as_str()),
        image: image.map(|image| image.path.as_str()),
        build_id: image.and_then(|image| image.build_id.as_deref()),
        offset,
        file: function.and_then(|function| function.file.as_deref()),
        line: function.and_then(|function| function.line),
        inlined: function.is_some_and(|function| function.inlined),
        unresolved: frame.function.as_ref().err().map(|reason| words::frame::unresolved(*reason)),
    }
}
