//! Surveys: which functions of an image are to be hooked, where in each the probe goes, and how its return is seen.
//!
//! In: an image, the families of allocators, and the functions that the user named. Out: plans. Attaches nothing.

use std::{
    cell::{Cell, OnceCell},
    collections::{HashMap, HashSet},
    ops::Range,
    sync::LazyLock,
};

use memtrace_common::steps::call::{CallFlag, CallRoles};
use thiserror::Error;

use super::{
    allocators::{Effect, FAMILIES, custom::CustomFunction},
    placement::{self, Placement},
    returns::{self, Linked, Return, Returns, ReturnsError, Text},
};
use crate::{
    bpf::ProbeKind,
    process::image::{FunctionAt, Image, ImageError, LinkedFunction},
    unwind::cfi,
};

/// The longest function that is decoded to place its probe, in bytes. Longer ones are hooked at their
/// first byte.
const MAX_FUNCTION_BYTES: u64 = 64 * 1024;
/// The most code of one image that is looked through for returns, in bytes: a thousand functions of the longest kind. An image may
/// be made to have more.
const MAX_SEARCHED_BYTES: u64 = 64 << 20;
/// The least that a read counts for, since each is a system call.
const LEAST_READ_BYTES: u64 = 256;

/// Why an image cannot be surveyed.
#[derive(Debug, Error)]
pub enum SurveyError {
    /// Its symbols or code cannot be read.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// It lacks a function that the user named.
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
    /// Its effect on blocks.
    pub effect: Effect,
    /// The meaning of its arguments, and its flags.
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
    /// Its name in the report.
    pub name: String,
    /// Its number among those of all images.
    pub number: u32,
    /// Its functions: frees, then resizes, then allocations.
    pub hooks: Vec<Hook>,
}

/// The parts of an image that are of interest.
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
    pub(super) name: &'static str,
    pub(super) handler: ProbeKind,
    pub(super) at: FunctionAt,
}

/// The functions through which exceptions and longjmps leave calls, and the one in which C++ code learns
/// that it has caught one. They need not be watched where every hooked call has a return probe: then the
/// place of the return address tells enough, and no exception passes.
const WAYS_OUT: [(&str, ProbeKind); 8] = [
    ("_Unwind_RaiseException", ProbeKind::CallLeft),
    ("_Unwind_Resume_or_Rethrow", ProbeKind::CallLeft),
    ("_Unwind_ForcedUnwind", ProbeKind::CallLeft),
    ("longjmp", ProbeKind::CallLeft),
    ("_longjmp", ProbeKind::CallLeft),
    ("siglongjmp", ProbeKind::CallLeft),
    ("__longjmp_chk", ProbeKind::CallLeft),
    ("__cxa_begin_catch", ProbeKind::CallCaught),
];

/// The functions through which every way to end a process by itself goes, in glibc and musl, after all that programs do at
/// exit, and those through which it becomes another program. (The system call itself cannot be stopped: signals are heeded after a
/// call, and from this one nobody returns.)
const ENDS: [(&str, ProbeKind); 4] = [
    ("_exit", ProbeKind::ProcessEnd),
    ("_Exit", ProbeKind::ProcessEnd),
    ("execve", ProbeKind::ProcessReplace),
    ("fexecve", ProbeKind::ProcessReplace),
];

/// The functions in which a program begins to end: CPython frees its objects in `Py_FinalizeEx`, which newer ones have inlined in
/// `Py_Exit`; destructors and functions of `atexit` run in `exit`. Found by name alone: any other image's function of that
/// name tells of an end that does not come, and is forgotten after a minute.
const WAYS_TO_END: [(&str, ProbeKind); 3] =
    [("Py_FinalizeEx", ProbeKind::WayOut), ("Py_Exit", ProbeKind::WayOut), ("exit", ProbeKind::WayOut)];

/// The function that dynamic linkers (glibc's, musl's) call after each change of what is loaded, for
/// debuggers to break on: `r_brk` of `<link.h>`.
const LINKER_NOTICES: [(&str, ProbeKind); 1] = [("_dl_debug_state", ProbeKind::LinkerNotice)];

/// Finds what is of interest in `image`: the families that it defines, the functions among `custom` that are
/// meant to be in it, and the notices of a dynamic linker.
///
/// # Errors
/// Where the image cannot be read, or lacks a function that the user named.
pub fn survey(image: &Image, custom: &[CustomFunction], returns: Returns) -> Result<Survey, SurveyError> {
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
fn watched_names() -> impl Iterator<Item = &'static (&'static str, ProbeKind)> {
    LINKER_NOTICES.iter().chain(&WAYS_TO_END).chain(&ENDS).chain(&WAYS_OUT)
}

/// Where the functions of these names are, each place once.
fn watched(found: &HashMap<String, Vec<FunctionAt>>, names: &[(&'static str, ProbeKind)]) -> Vec<Watched> {
    let mut taken = HashSet::new();
    let of_name = |&(name, handler): &(&'static str, ProbeKind)| {
        found.get(name).into_iter().flatten().map(move |at| Watched { name, handler, at: *at })
    };
    names.iter().flat_map(of_name).filter(|function| taken.insert(function.at.file_offset)).collect()
}

/// Every symbol that matters for some family.
fn known_names() -> &'static HashSet<String> {
    static NAMES: LazyLock<HashSet<String>> = LazyLock::new(all_names);
    &NAMES
}

fn all_names() -> HashSet<String> {
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
        self.hooks.iter().any(|hook| hook.roles.is(CallFlag::KeepsReturnAddress))
    }
}

impl<'a> Planner<'a> {
    fn new(image: &'a Image, found: &'a HashMap<String, Vec<FunctionAt>>, returns: Returns) -> Self {
        let left = Cell::new(MAX_SEARCHED_BYTES);
        let text = ImageText { image, found, left, ranges: OnceCell::new(), linked: OnceCell::new() };
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
                        let roles = if is_leaf { function.roles.that(CallFlag::Leaf) } else { function.roles };
                        hooks.extend(self.hook(&name, function.effect, roles, *at, family.returns_where_called));
                    }
                }
            }
            let has = |effect| hooks.iter().any(|hook: &Hook| hook.effect == effect);
            // The rest after another family has taken its own may be a free alone.
            if has(Effect::Alloc) || has(Effect::Resize) {
                plans.push(self.plan(family.name, hooks));
            }
        }
        plans
    }

    fn custom(&mut self, functions: &[&CustomFunction]) -> Result<Vec<Plan>, SurveyError> {
        let mut hooks = Vec::new();
        for function in functions {
            let names: Vec<&String> = self.found.keys().filter(|name| function.is_called(name)).collect();
            if names.is_empty() {
                let image = self.image.path.display().to_string();
                return Err(SurveyError::NoFunction { function: function.function.clone(), image });
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
        let at_rets = roles.is(CallFlag::MayThrow) || may_switch && self.returns != Returns::Trampoline;
        let exit = match effect {
            Effect::Free => Exit::Unseen,
            _ if !at_rets => Exit::ReturnProbe,
            _ => match self.rets(&at)? {
                Ok(rets) => Exit::Rets(rets),
                Err(why) => self.without_rets(name, roles, why)?,
            },
        };
        let roles = match &exit {
            Exit::Rets(_) if may_switch => roles.that(CallFlag::KeepsReturnAddress).that(CallFlag::MaySwitchStacks),
            Exit::Rets(_) => roles.that(CallFlag::KeepsReturnAddress),
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
        if roles.is(CallFlag::MayThrow) {
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
        Plan { name: name.to_owned(), number: 0, hooks }
    }
}

/// Functions of the C library to which an allocator's may jump at their end.
const RETURN_THEIR_FIRST_ARGUMENT: [&str; 3] = ["memset", "memcpy", "memmove"];

/// The code of an image, for the search for returns. All that it needs is read at its first question.
struct ImageText<'a> {
    image: &'a Image,
    found: &'a HashMap<String, Vec<FunctionAt>>,
    /// How much may be read yet.
    left: Cell<u64>,
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
        self.left.set(self.left.get().checked_sub(length.max(LEAST_READ_BYTES))?);
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

pub(super) fn place(image: &Image, at: &FunctionAt, roles: CallRoles) -> Placement {
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
