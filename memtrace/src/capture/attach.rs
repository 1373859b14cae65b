//! Attaching: which probes an image needs, and putting them there in an order that loses nothing.

use std::{
    cell::OnceCell,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    num::NonZeroU32,
    ops::Range,
};

use memtrace_common::call::{CallRoles, Trait};
use thiserror::Error;

use super::{
    allocators::{Effect, FAMILIES, custom::CustomFunction},
    kernel::{Handler, Kernel, KernelError, Point},
    placement::{self, Placement},
    returns::{self, Linked, Return, Returns, ReturnsError, Text, Value},
};
use crate::{
    process::image::{FunctionAt, Image, ImageError, LinkedFunction},
    unwind::cfi,
};

/// The longest function that is decoded to place its probe, in bytes. Longer ones are hooked at their
/// first byte.
const MAX_FUNCTION_BYTES: u64 = 64 * 1024;

/// Why an allocator could not be hooked.
#[derive(Debug, Error)]
pub enum AttachError {
    /// The image's symbols or code cannot be read.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The kernel refused probes.
    #[error("cannot attach to {functions} in {image}: {source}")]
    Probe {
        /// The functions' symbols.
        functions: String,
        /// The image's path as the target sees it.
        image: String,
        /// Why.
        source: KernelError,
    },
    /// A function that the user named is not in the image that the user named.
    #[error("cannot hook `{function}`: {image} defines no function of that name")]
    NoFunction {
        /// The function as the user named it.
        function: String,
        /// The image's path as the target sees it.
        image: String,
    },
}

/// One function that is to be hooked.
#[derive(Clone, Debug)]
pub struct Hook {
    /// Its symbol.
    pub name: String,
    /// What it does.
    pub effect: Effect,
    /// What its arguments mean, and what is special about it.
    pub roles: CallRoles,
    /// Where it is in the image.
    pub at: FunctionAt,
    /// Where in it the probe goes.
    pub placement: Placement,
    /// How its return is seen.
    pub exit: Exit,
}

/// How the return of a function is seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It is of no interest.
    Unseen,
    /// By a return probe.
    ReturnProbe,
    /// By probes on the instructions with which it returns, by offset in the file; those that an earlier hook has
    /// already are left out.
    Rets(Vec<Return>),
}

/// An allocator that an image defines, and what to hook in it.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What the report calls it.
    pub name: String,
    /// Its functions: frees, then resizes, then allocations.
    pub hooks: Vec<Hook>,
}

/// What is of interest in an image.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// Where the dynamic linker gives notice of what it loads, if the image is one.
    pub linker_notices: Vec<Watched>,
    /// Where a program begins to end, before it frees its blocks.
    pub ways_to_end: Vec<Watched>,
    /// Where the C library ends the process.
    pub ends: Vec<Watched>,
    /// Where calls are left by other ways than a return.
    pub ways_out: Vec<Watched>,
    /// The allocators.
    pub plans: Vec<Plan>,
}

/// A function that allocates nothing, but whose calls matter, and what is to be done about them.
#[derive(Clone, Copy, Debug)]
pub struct Watched {
    name: &'static str,
    handler: Handler,
    at: FunctionAt,
}

/// The functions through which exceptions and longjmps leave calls, and the one in which C++ code learns
/// that it has caught one. They need not be watched where every hooked call has a return probe: then the
/// place of the return address tells enough, and no exception passes.
const WAYS_OUT: [(&str, Handler); 8] = [
    ("_Unwind_RaiseException", Handler::CallLeft),
    ("_Unwind_Resume_or_Rethrow", Handler::CallLeft),
    ("_Unwind_ForcedUnwind", Handler::CallLeft),
    ("longjmp", Handler::CallLeft),
    ("_longjmp", Handler::CallLeft),
    ("siglongjmp", Handler::CallLeft),
    ("__longjmp_chk", Handler::CallLeft),
    ("__cxa_begin_catch", Handler::CallCaught),
];

/// The functions through which every way to end a process by itself goes, in glibc and musl, after all that programs do at
/// exit, and those through which it becomes another program. (The system call itself cannot be stopped: signals are heeded after a
/// call, and from this one nobody returns.)
const ENDS: [(&str, Handler); 4] = [
    ("_exit", Handler::ProcessEnd),
    ("_Exit", Handler::ProcessEnd),
    ("execve", Handler::ProcessReplace),
    ("fexecve", Handler::ProcessReplace),
];

/// The functions in which a program begins to end: CPython frees its objects in `Py_FinalizeEx`, which newer ones have inlined in
/// `Py_Exit`; destructors and functions of `atexit` run in `exit`. Found by name alone: any other image's function of that
/// name tells of an end that does not come, and is forgotten after a minute.
const WAYS_TO_END: [(&str, Handler); 3] =
    [("Py_FinalizeEx", Handler::WayOut), ("Py_Exit", Handler::WayOut), ("exit", Handler::WayOut)];

/// What the probes run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Programs {
    /// memtrace's own.
    Tracing,
    /// Empty ones: what the probes themselves cost.
    Empty,
    /// None: nothing is hooked.
    Nothing,
}

/// Finds what is of interest in `image`: the families that it defines, the functions among `custom` that are
/// meant to be in it, and the notices of a dynamic linker.
///
/// # Errors
/// Where the image cannot be read, or lacks a function that the user named.
pub fn survey(image: &Image, custom: &[CustomFunction], returns: Returns) -> Result<Survey, AttachError> {
    let custom: Vec<&CustomFunction> = custom.iter().filter(|function| function.is_in(&image.path)).collect();
    let known = known_names();
    let found = image.functions_where(|name| {
        known.contains(name)
            || watched_names().any(|(watched, _)| *watched == name)
            || custom.iter().any(|function| function.is_called(name))
    })?;
    let mut planner = Planner::new(image, &found, returns);
    // The user's come first: a place that they name is theirs.
    let mut plans = planner.custom(&custom)?;
    plans.extend(planner.families());
    Ok(Survey {
        linker_notices: watched(&found, &LINKER_NOTICES),
        ways_to_end: watched(&found, &WAYS_TO_END),
        ends: watched(&found, &ENDS),
        ways_out: watched(&found, &WAYS_OUT),
        plans,
    })
}

/// Functions that are only watched.
fn watched_names() -> impl Iterator<Item = &'static (&'static str, Handler)> {
    LINKER_NOTICES.iter().chain(&WAYS_TO_END).chain(&ENDS).chain(&WAYS_OUT)
}

/// Where the functions of these names are, each place once.
fn watched(found: &HashMap<String, Vec<FunctionAt>>, names: &[(&'static str, Handler)]) -> Vec<Watched> {
    let mut taken = HashSet::new();
    let of_name = |&(name, handler): &(&'static str, Handler)| {
        found.get(name).into_iter().flatten().map(move |at| Watched { name, handler, at: *at })
    };
    names.iter().flat_map(of_name).filter(|function| taken.insert(function.at.file_offset)).collect()
}

/// Every symbol that matters for some family.
fn known_names() -> HashSet<String> {
    let variants = FAMILIES.iter().flat_map(|family| family.variants);
    let names = variants.flat_map(|variant| {
        let markers = variant.markers.iter().map(|marker| (*marker).to_owned());
        markers.chain(variant.functions().map(|(name, _)| name))
    });
    names.collect()
}

/// Makes the plans of one image: each place is hooked once, whatever its names.
struct Planner<'a> {
    image: &'a Image,
    found: &'a HashMap<String, Vec<FunctionAt>>,
    text: ImageText<'a>,
    returns: Returns,
    taken: HashSet<u64>,
    taken_rets: HashSet<Return>,
}

impl Plan {
    /// Whether calls of these functions may be left by other ways than a return.
    #[must_use]
    pub fn may_be_left(&self) -> bool {
        self.hooks.iter().any(|hook| hook.roles.is(Trait::KeepsReturnAddress))
    }
}

impl<'a> Planner<'a> {
    fn new(image: &'a Image, found: &'a HashMap<String, Vec<FunctionAt>>, returns: Returns) -> Self {
        let text = ImageText { image, found, ranges: OnceCell::new(), linked: OnceCell::new() };
        Self { image, found, text, returns, taken: HashSet::new(), taken_rets: HashSet::new() }
    }

    fn families(&mut self) -> Vec<Plan> {
        let mut plans = Vec::new();
        for family in FAMILIES {
            let mut hooks = Vec::new();
            for variant in family.variants {
                if !variant.markers.iter().any(|marker| self.found.contains_key(*marker)) {
                    continue;
                }
                for (name, function) in variant.functions() {
                    for at in self.found.get(&name).into_iter().flatten() {
                        let is_leaf = family.leaves.contains(&function.name);
                        let roles = if is_leaf { function.roles.that(Trait::Leaf) } else { function.roles };
                        hooks.extend(self.hook(&name, function.effect, roles, *at, family.returns_where_called));
                    }
                }
            }
            let has = |effect| hooks.iter().any(|hook: &Hook| hook.effect == effect);
            // What is left after another family has taken its own may be a free alone.
            if has(Effect::Alloc) || has(Effect::Resize) {
                plans.push(self.plan(family.name, hooks));
            }
        }
        plans
    }

    fn custom(&mut self, functions: &[&CustomFunction]) -> Result<Vec<Plan>, AttachError> {
        let mut hooks = Vec::new();
        for function in functions {
            let names: Vec<&String> = self.found.keys().filter(|name| function.is_called(name)).collect();
            if names.is_empty() {
                let image = self.image.path.display().to_string();
                return Err(AttachError::NoFunction { function: function.function.clone(), image });
            }
            for name in names {
                for at in &self.found[name] {
                    hooks.extend(self.hook(name, function.effect, function.roles, *at, false));
                }
            }
        }
        if hooks.is_empty() {
            return Ok(Vec::new());
        }
        let path = self.image.path.as_path();
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        Ok(vec![self.plan(&name, hooks)])
    }

    /// A hook of one place, unless it has one or must not have any.
    fn hook(
        &mut self,
        name: &str,
        effect: Effect,
        roles: CallRoles,
        at: FunctionAt,
        returns_where_called: bool,
    ) -> Option<Hook> {
        if !self.taken.insert(at.file_offset) {
            return None;
        }
        let may_switch = !returns_where_called || self.returns == Returns::Instruction;
        let at_rets = roles.is(Trait::MayThrow) || may_switch && self.returns != Returns::Trampoline;
        let exit = match effect {
            Effect::Free => Exit::Unseen,
            _ if !at_rets => Exit::ReturnProbe,
            _ => match self.rets(&at)? {
                Ok(rets) => Exit::Rets(rets),
                Err(why) => self.without_rets(name, roles, why)?,
            },
        };
        let roles = match &exit {
            Exit::Rets(_) if may_switch => roles.that(Trait::KeepsReturnAddress).that(Trait::MaySwitchStacks),
            Exit::Rets(_) => roles.that(Trait::KeepsReturnAddress),
            _ => roles,
        };
        let placement = place(self.image, &at, roles);
        Some(Hook { name: name.to_owned(), effect, roles, at, placement, exit })
    }

    /// The places of a function's `ret` instructions.
    fn rets(&self, at: &FunctionAt) -> Option<Result<Vec<Return>, ReturnsError>> {
        let entry = self.image.virtual_offset(at.file_offset)?;
        let place = |found: Return| Some(Return { at: self.image.file_offset(found.at)?, ..found });
        let in_file = |rets: Vec<Return>| rets.into_iter().map(place).collect();
        returns::returns(&self.text, entry)
            .map(in_file)
            .map_or_else(|why| Some(Err(why)), |rets: Option<_>| rets.map(Ok))
    }

    /// How the return is seen of a function whose `ret` instructions cannot all be told. Where a return probe could end
    /// the program, it is not hooked.
    fn without_rets(&self, name: &str, roles: CallRoles, why: ReturnsError) -> Option<Exit> {
        let image = self.image.path.display();
        if roles.is(Trait::MayThrow) {
            log::warn!("`{name}` in {image} may throw and is not hooked, what it allocates is not seen: {why}");
            None
        } else if self.returns == Returns::Instruction {
            log::warn!(
                "`{name}` in {image} is not hooked, what it allocates is not seen: not all its returns can be found: {why}"
            );
            None
        } else {
            log::warn!(
                "`{name}` in {image} gets a return probe, since not all its returns can be found ({why}): if it switches stacks \
                 while it is under way, the program will crash\nhint: --returns instruction leaves it alone"
            );
            Some(Exit::ReturnProbe)
        }
    }

    fn plan(&mut self, name: &str, mut hooks: Vec<Hook>) -> Plan {
        hooks.sort_by_key(|hook| hook.effect);
        for hook in &mut hooks {
            if let Exit::Rets(rets) = &mut hook.exit {
                rets.retain(|ret| self.taken_rets.insert(*ret));
            }
        }
        Plan { name: name.to_owned(), hooks }
    }
}

/// Functions of the C library to which an allocator's may jump at their end.
const RETURN_THEIR_FIRST_ARGUMENT: [&str; 3] = ["memset", "memcpy", "memmove"];

/// The code of an image, for the search for returns. What that needs is read at its first question.
struct ImageText<'a> {
    image: &'a Image,
    found: &'a HashMap<String, Vec<FunctionAt>>,
    ranges: OnceCell<Vec<Range<u64>>>,
    linked: OnceCell<HashMap<u64, LinkedFunction>>,
}

impl ImageText<'_> {
    /// The functions, or parts of functions, that the image's call frame information tells.
    fn ranges(&self) -> &[Range<u64>] {
        self.ranges.get_or_init(|| {
            let section = self.image.frame_section().ok().flatten();
            section.and_then(|section| cfi::code_ranges(&section).ok()).unwrap_or_default()
        })
    }
}

impl Text for ImageText<'_> {
    fn code_from(&self, address: u64) -> Option<Vec<u8>> {
        let ranges = self.ranges();
        let before = ranges.partition_point(|range| range.start <= address);
        let around = before.checked_sub(1).and_then(|index| ranges.get(index)).filter(|range| address < range.end);
        // Hand-written code may have no call frame information: it is walked as far as it goes.
        let length = around.map_or(MAX_FUNCTION_BYTES, |range| (range.end - address).min(MAX_FUNCTION_BYTES));
        self.image.read_at(address, usize::try_from(length).ok()?)
    }

    fn linked(&self, slot: u64) -> Option<Linked> {
        let linked = self.linked.get_or_init(|| self.image.linked_functions().unwrap_or_default());
        let function = linked.get(&slot)?;
        let is_hooked = function.own.is_none() && known_names().contains(&function.name);
        if RETURN_THEIR_FIRST_ARGUMENT.contains(&function.name.as_str()) {
            return Some(Linked::FirstArgument);
        }
        match function.own {
            Some(_) if self.found.contains_key(&function.name) => Some(Linked::Hooked),
            Some(address) => Some(Linked::Here(address)),
            None => is_hooked.then_some(Linked::Hooked),
        }
    }
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
/// In the order of [`Handler`].
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
    let mut batches: BTreeMap<Handler, Batch> = BTreeMap::new();
    for hook in &plan.hooks {
        for (handler, point) in hook.points() {
            let handler = if programs == Programs::Empty { handler.emptied() } else { handler };
            batches.entry(handler).or_default().add(&hook.name, point);
        }
    }
    for (handler, batch) in batches {
        batch.attach(kernel, handler, pid, image)?;
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
        kernel: &mut Kernel,
        handler: Handler,
        pid: Option<NonZeroU32>,
        image: &Image,
    ) -> Result<(), AttachError> {
        let attached = kernel.attach(handler, pid, &image.probe_path(), &self.points);
        attached.map_err(|source| AttachError::Probe {
            functions: self.functions.into_iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
            image: image.path.display().to_string(),
            source,
        })
    }
}

impl Hook {
    /// Where its probes go, and what they are to do.
    fn points(&self) -> Vec<(Handler, Point)> {
        let entry = Point { file_offset: self.at.file_offset + self.placement.offset, cookie: self.roles.0 };
        let handler = match (self.effect, &self.exit) {
            (Effect::Free, _) => Handler::Free,
            (Effect::Alloc, Exit::Rets(_)) => Handler::AllocEntry,
            (Effect::Alloc, _) => Handler::AllocCall,
            (Effect::Resize, Exit::Rets(_)) => Handler::ResizeEntry,
            (Effect::Resize, _) => Handler::ResizeCall,
        };
        let rets = if let Exit::Rets(rets) = &self.exit { rets.as_slice() } else { &[] };
        let at_ret = if self.effect == Effect::Resize { Handler::ResizeRet } else { Handler::AllocRet };
        let roles = self.roles.only(Trait::MaySwitchStacks);
        let ret = |ret: &Return| {
            let is_argument = ret.value == Value::FirstArgument;
            let roles = if is_argument { roles.that(Trait::ReturnsArgument) } else { roles };
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

/// The function that dynamic linkers (glibc's, musl's) call after each change of what is loaded, for
/// debuggers to break on: `r_brk` of `<link.h>`.
const LINKER_NOTICES: [(&str, Handler); 1] = [("_dl_debug_state", Handler::LinkerNotice)];

/// Attaches to functions of an image that are only watched.
///
/// # Errors
/// Where the kernel refuses a probe.
pub fn attach_to_watched(
    kernel: &mut Kernel,
    pid: Option<NonZeroU32>,
    image: &Image,
    functions: &[Watched],
) -> Result<(), AttachError> {
    attach_with(kernel, pid, image, functions, 0)
}

/// The same where a program begins to end; with `holds`, it is stopped there until it was looked at.
///
/// # Errors
/// Where the kernel refuses a probe.
pub fn attach_to_ways_to_end(
    kernel: &mut Kernel,
    pid: Option<NonZeroU32>,
    image: &Image,
    survey: &Survey,
    holds: bool,
) -> Result<(), AttachError> {
    attach_with(kernel, pid, image, &survey.ways_to_end, u64::from(holds))
}

fn attach_with(
    kernel: &mut Kernel,
    pid: Option<NonZeroU32>,
    image: &Image,
    functions: &[Watched],
    cookie: u64,
) -> Result<(), AttachError> {
    let mut batches: BTreeMap<Handler, Batch> = BTreeMap::new();
    for Watched { name, handler, at } in functions {
        let file_offset = at.file_offset + place(image, at, CallRoles::NONE).offset;
        batches.entry(*handler).or_default().add(name, Point { file_offset, cookie });
    }
    batches.into_iter().try_for_each(|(handler, batch)| batch.attach(kernel, handler, pid, image))
}
