//! Attaching: the probes that a survey asks for, put there in an order that loses nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
};

use memtrace_common::steps::call::{CallFlag, CallRoles};
use thiserror::Error;

use super::{
    allocators::Effect,
    returns::{Return, Value},
    survey::{Exit, Hook, Plan, Survey, SurveyError, Watched, place},
};
use crate::{
    bpf::{Bpf, BpfError, Point, ProbeKind},
    process::image::Image,
};

/// Why an allocator could not be hooked.
#[derive(Debug, Error)]
pub enum AttachError {
    /// The image cannot be surveyed.
    #[error(transparent)]
    Survey(#[from] SurveyError),
    /// The kernel refused probes.
    #[error("cannot attach to {functions} in {image}: {source}")]
    Probe {
        /// The functions' symbols.
        functions: String,
        /// The image's path as the target sees it.
        image: String,
        /// Why.
        source: BpfError,
    },
}

/// The programs that the probes run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbePrograms {
    /// memtrace's own.
    Tracing,
    /// Empty ones: what the probes themselves cost.
    Empty,
    /// None: nothing is hooked.
    Nothing,
}

/// Attaches every hook of `plan` to the process `pid`; to every process without.
///
/// In the order of [`ProbeKind`].
///
/// # Errors
/// Where the kernel refuses a probe. Probes that are attached by then stay until `bpf` is dropped.
pub fn attach(
    bpf: &mut Bpf,
    pid: Option<NonZeroU32>,
    image: &Image,
    plan: &Plan,
    programs: ProbePrograms,
) -> Result<(), AttachError> {
    let mut batches: BTreeMap<ProbeKind, Batch> = BTreeMap::new();
    for hook in &plan.hooks {
        for (handler, point) in hook.points(plan.number) {
            let handler = if programs == ProbePrograms::Empty { handler.emptied() } else { handler };
            batches.entry(handler).or_default().add(&hook.name, point);
        }
    }
    for (handler, batch) in batches {
        batch.attach(bpf, handler, pid, image)?;
    }
    for hook in &plan.hooks {
        log::info!("{} in {}: {}", hook.name, image.path.display(), hook.described());
    }
    Ok(())
}

/// Points of an image that go into one link.
#[derive(Default)]
struct Batch<'a> {
    points: Vec<Point>,
    functions: BTreeSet<&'a str>,
}

impl<'a> Batch<'a> {
    fn add(&mut self, function: &'a str, point: Point) {
        self.points.push(point);
        self.functions.insert(function);
    }

    fn attach(
        self,
        bpf: &mut Bpf,
        handler: ProbeKind,
        pid: Option<NonZeroU32>,
        image: &Image,
    ) -> Result<(), AttachError> {
        let attached = bpf.attach(handler, pid, &image.probe_path(), &self.points);
        attached.map_err(|source| AttachError::Probe {
            functions: self.functions.into_iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
            image: image.path.display().to_string(),
            source,
        })
    }
}

impl Hook {
    /// Where its probes go, and what they are to do: as parts of the allocator with this number.
    fn points(&self, allocator: u32) -> Vec<(ProbeKind, Point)> {
        let roles = self.roles.of_allocator(allocator);
        let entry = Point { file_offset: self.at.file_offset + self.placement.offset, cookie: roles.0 };
        let handler = match (self.effect, &self.exit) {
            (Effect::Free, _) => ProbeKind::Free,
            (Effect::Alloc, Exit::Rets(_)) => ProbeKind::AllocEntry,
            (Effect::Alloc, _) => ProbeKind::AllocCall,
            (Effect::Resize, Exit::Rets(_)) => ProbeKind::ResizeEntry,
            (Effect::Resize, _) => ProbeKind::ResizeCall,
        };
        let rets = if let Exit::Rets(rets) = &self.exit { rets.as_slice() } else { &[] };
        let at_ret = if self.effect == Effect::Resize { ProbeKind::ResizeRet } else { ProbeKind::AllocRet };
        let roles = self.roles.only(CallFlag::MaySwitchStacks);
        let ret = |ret: &Return| {
            let is_argument = ret.value == Value::FirstArgument;
            let roles = if is_argument { roles.that(CallFlag::ReturnsArgument) } else { roles };
            (at_ret, Point { file_offset: ret.at, cookie: roles.0 })
        };
        rets.iter().map(ret).chain([(handler, entry)]).collect()
    }

    fn described(&self) -> String {
        let exit = match &self.exit {
            Exit::Unseen => String::new(),
            Exit::ReturnProbe => ", with a return probe".to_owned(),
            Exit::Rets(rets) => format!(", with probes on {} more `ret`s", rets.len()),
        };
        let how = if self.placement.emulated { "emulated" } else { "single-stepped" };
        format!("probe at +{:#x}, {how}{exit}", self.placement.offset)
    }
}

/// Attaches to functions of an image that are only watched.
///
/// # Errors
/// Where the kernel refuses a probe.
pub fn attach_to_watched(
    bpf: &mut Bpf,
    pid: Option<NonZeroU32>,
    image: &Image,
    functions: &[Watched],
) -> Result<(), AttachError> {
    attach_with(bpf, pid, image, functions, 0)
}

/// The same where a program begins to end; with `holds`, it is stopped there until it was looked at.
///
/// # Errors
/// Where the kernel refuses a probe.
pub fn attach_to_ways_to_end(
    bpf: &mut Bpf,
    pid: Option<NonZeroU32>,
    image: &Image,
    survey: &Survey,
    holds: bool,
) -> Result<(), AttachError> {
    attach_with(bpf, pid, image, &survey.ways_to_end, u64::from(holds))
}

fn attach_with(
    bpf: &mut Bpf,
    pid: Option<NonZeroU32>,
    image: &Image,
    functions: &[Watched],
    cookie: u64,
) -> Result<(), AttachError> {
    let mut batches: BTreeMap<ProbeKind, Batch> = BTreeMap::new();
    for Watched { name, handler, at } in functions {
        let file_offset = at.file_offset + place(image, at, CallRoles::NONE).offset;
        batches.entry(*handler).or_default().add(name, Point { file_offset, cookie });
    }
    batches.into_iter().try_for_each(|(handler, batch)| batch.attach(bpf, handler, pid, image))
}
