//! Attaching: which probes an image needs, and putting them there in an order that loses nothing.

use std::{collections::HashSet, num::NonZeroU32};

use memtrace_common::call::CallRoles;
use thiserror::Error;

use super::{
    allocators::{Effect, FAMILIES, Family, Function},
    kernel::{Kernel, KernelError},
    placement::{self, Placement},
};
use crate::process::image::{FunctionAt, Image, ImageError};

/// The longest function that is decoded to place its probe, in bytes. Longer ones are hooked at their
/// first byte.
const MAX_FUNCTION_BYTES: u64 = 64 * 1024;

/// Why an allocator could not be hooked.
#[derive(Debug, Error)]
pub enum AttachError {
    /// The image's symbols or code cannot be read.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The kernel refused a probe.
    #[error("cannot attach to `{function}` in {image}: {source}")]
    Probe {
        /// The function's symbol.
        function: &'static str,
        /// The image's path as the target sees it.
        image: String,
        /// Why.
        source: KernelError,
    },
}

/// One function that is to be hooked.
#[derive(Clone, Copy, Debug)]
pub struct Hook {
    /// The function, as its family's table has it.
    pub function: &'static Function,
    /// Where it is in the image.
    pub at: FunctionAt,
    /// Where in it the probe goes.
    pub placement: Placement,
}

/// An allocator that an image defines, and what to hook in it.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The family.
    pub family: &'static Family,
    /// Its functions, in the order in which they must be attached.
    pub hooks: Vec<Hook>,
}

/// What the probes run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Programs {
    /// memtrace's own.
    Tracing,
    /// Empty ones: what the probes themselves cost.
    Empty,
}

/// Finds the allocators that `image` defines.
///
/// # Errors
/// Where the image cannot be read.
pub fn plans(image: &Image) -> Result<Vec<Plan>, ImageError> {
    let names: Vec<&str> = FAMILIES.iter().flat_map(Family::symbols).collect();
    let found = image.functions(&names)?;
    let has = |name: &&str| found.contains_key(*name);
    let families = FAMILIES.iter().filter(|family| family.markers.iter().any(has));
    Ok(families
        .map(|family| {
            let mut taken = HashSet::new();
            let mut hooks: Vec<Hook> = Vec::new();
            for function in family.functions {
                for at in found.get(function.name).into_iter().flatten() {
                    // Two names of one place are one function.
                    if taken.insert(at.file_offset) {
                        hooks.push(Hook { function, at: *at, placement: place(image, at, function.roles) });
                    }
                }
            }
            // Frees first: a block that is allocated under our eyes must not be freed behind our back.
            hooks.sort_by_key(|hook| match hook.function.effect {
                Effect::Free => 0,
                Effect::Resize => 1,
                Effect::Alloc => 2,
            });
            Plan { family, hooks }
        })
        .filter(|plan| plan.hooks.iter().any(|hook| hook.function.effect == Effect::Alloc))
        .collect())
}

fn place(image: &Image, at: &FunctionAt, roles: CallRoles) -> Placement {
    let at_first = Placement { offset: 0, emulated: false };
    if at.size == 0 || at.size > MAX_FUNCTION_BYTES {
        return at_first;
    }
    // Smaller than the bound above, so it fits.
    let length = usize::try_from(at.size).unwrap_or(0);
    match image.read(at.file_offset, length) {
        Ok(code) if code.len() == length => placement::place(&code, &roles.arguments()),
        _ => at_first,
    }
}

/// Attaches every hook of `plan` to the process `pid`; to every process without.
///
/// The return probe goes before the entry probe: an entry without a return would be remembered for
/// nothing.
///
/// # Errors
/// Where the kernel refuses a probe. What is attached by then stays until `kernel` is dropped.
pub fn attach(
    kernel: &mut Kernel,
    pid: Option<NonZeroU32>,
    image: &Image,
    plan: &Plan,
    programs: Programs,
) -> Result<(), AttachError> {
    for hook in &plan.hooks {
        let entry = match (programs, hook.function.effect) {
            (Programs::Empty, _) => "empty_entry",
            (_, Effect::Alloc) => "alloc_entry",
            (_, Effect::Resize) => "resize_entry",
            (_, Effect::Free) => "free_entry",
        };
        if hook.function.effect != Effect::Free {
            let at_return = if programs == Programs::Empty { "empty_return" } else { "alloc_return" };
            attach_one(kernel, at_return, pid, image, hook)?;
        }
        attach_one(kernel, entry, pid, image, hook)?;
        log::info!(
            "{} in {}: probe at +{:#x}, {}",
            hook.function.name,
            image.path.display(),
            hook.placement.offset,
            if hook.placement.emulated { "emulated" } else { "single-stepped" }
        );
    }
    Ok(())
}

/// The function that dynamic linkers (glibc's, musl's) call after each change of what is loaded, for
/// debuggers to break on: `r_brk` of `<link.h>`.
const LINKER_NOTICE: &str = "_dl_debug_state";

/// Attaches to the dynamic linker, if `image` is one, so that libraries which are loaded later are noticed.
///
/// # Errors
/// Where the image cannot be read or the kernel refuses the probe.
pub fn attach_to_linker(kernel: &mut Kernel, pid: Option<NonZeroU32>, image: &Image) -> Result<(), AttachError> {
    let found = image.functions(&[LINKER_NOTICE])?;
    for at in found.get(LINKER_NOTICE).into_iter().flatten() {
        let point = at.file_offset + place(image, at, CallRoles::NONE).offset;
        attach_at(kernel, "linker_notice", pid, image, LINKER_NOTICE, point, CallRoles::NONE)?;
    }
    Ok(())
}

fn attach_one(
    kernel: &mut Kernel,
    program: &'static str,
    pid: Option<NonZeroU32>,
    image: &Image,
    hook: &Hook,
) -> Result<(), AttachError> {
    let point = hook.at.file_offset + hook.placement.offset;
    attach_at(kernel, program, pid, image, hook.function.name, point, hook.function.roles)
}

fn attach_at(
    kernel: &mut Kernel,
    program: &'static str,
    pid: Option<NonZeroU32>,
    image: &Image,
    function: &'static str,
    file_offset: u64,
    roles: CallRoles,
) -> Result<(), AttachError> {
    let attached = kernel.attach_uprobe(program, pid, &image.probe_path(), file_offset, roles.0);
    attached.map_err(|source| AttachError::Probe { function, image: image.path.display().to_string(), source })
}
