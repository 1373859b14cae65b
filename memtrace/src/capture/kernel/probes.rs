//! Probes: which programs serve a place in an image's code, and how they are attached there, by the best means
//! that this kernel has.

mod leaders;

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    fmt,
    num::NonZeroU32,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    thread,
};

use aya::{
    Ebpf,
    programs::{
        ProgramError, UProbe,
        uprobe::{UProbeAttachLocation, UProbeAttachPoint, UProbeLink, UProbeScope},
    },
};

use super::{
    KernelError, OBJECT,
    multi::{self, MultiObject, When},
};

/// A place in a file for a probe, with what its program is told there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// Bytes into the file.
    pub file_offset: u64,
    /// The cookie that the program reads.
    pub cookie: u64,
}

/// What is to be done when a probe is hit; in the order in which probes must be attached.
///
/// Frees first, and returns before entries: a block that is allocated under our eyes must not be freed behind our
/// back, and an entry whose return is not seen would be remembered for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Handler {
    /// A free begins.
    Free,
    /// A call that resizes a block begins, and returns.
    ResizeCall,
    /// A call that hands out a block begins, and returns.
    AllocCall,
    /// One of the returns of a function whose return address must be left alone.
    AllocRet,
    /// A call that hands out a block begins; its returns are seen by [`Handler::AllocRet`].
    AllocEntry,
    /// An exception is thrown, or a longjmp begins.
    CallLeft,
    /// An exception is caught.
    CallCaught,
    /// The dynamic linker has loaded or unloaded images.
    LinkerNotice,
    /// The process is about to end.
    ProcessEnd,
    /// Nothing, at the entry and at the return: what the probes themselves cost.
    EmptyCall,
    /// Nothing: what the probe itself costs.
    EmptyEntry,
}

/// Which probes are in place: those not needed are taken out, since each hit costs the target a trap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Armed {
    /// Neither on allocations nor on frees.
    Neither,
    /// On frees, and on what resizes blocks.
    Frees,
    /// On allocations as well.
    #[default]
    Everything,
}

/// How probes are attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Links {
    /// A perf event for each probe; any kernel.
    #[default]
    PerfEvent,
    /// One link for many probes of an image (uprobe_multi); Linux 6.6.
    Multi,
    /// The same, and one probe for a call's entry and return (uprobe session); Linux 6.13.
    Session,
}

impl fmt::Display for Links {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::PerfEvent => "a perf event for each probe",
            Self::Multi => "uprobe_multi links",
            Self::Session => "uprobe sessions",
        })
    }
}

/// A program and when it runs.
type Served = (&'static str, When);

impl Handler {
    /// Those that nearly every target needs.
    const USUAL: [Self; 4] = [Self::Free, Self::ResizeCall, Self::AllocCall, Self::LinkerNotice];

    /// Those that only targets need whose allocator may throw, or whose end is waited for.
    const RARE: [Self; 5] = [Self::AllocRet, Self::AllocEntry, Self::CallLeft, Self::CallCaught, Self::ProcessEnd];

    /// With what its probes are in place.
    fn armed_with(self) -> Armed {
        match self {
            Self::Free | Self::ResizeCall => Armed::Frees,
            Self::AllocCall | Self::AllocRet | Self::AllocEntry => Armed::Everything,
            // Hit too rarely to matter.
            Self::CallLeft
            | Self::CallCaught
            | Self::LinkerNotice
            | Self::ProcessEnd
            | Self::EmptyCall
            | Self::EmptyEntry => Armed::Neither,
        }
    }

    /// What takes the same probes and does nothing.
    #[must_use]
    pub fn emptied(self) -> Self {
        match self {
            Self::AllocCall | Self::ResizeCall => Self::EmptyCall,
            _ => Self::EmptyEntry,
        }
    }

    /// The programs that do it, in the order in which they must be attached, for the same reason.
    fn programs(self, links: Links) -> &'static [Served] {
        use When::{Both, Entry, Return};
        let is_session = links == Links::Session;
        match self {
            Self::AllocCall if is_session => &[("alloc_call", Both)],
            Self::AllocCall => &[("alloc_return", Return), ("alloc_entry", Entry)],
            Self::ResizeCall if is_session => &[("resize_call", Both)],
            Self::ResizeCall => &[("alloc_return", Return), ("resize_entry", Entry)],
            Self::AllocRet => &[("alloc_ret", Entry)],
            Self::AllocEntry => &[("alloc_entry", Entry)],
            Self::Free => &[("free_entry", Entry)],
            Self::CallLeft => &[("call_left", Entry)],
            Self::CallCaught => &[("call_caught", Entry)],
            Self::LinkerNotice => &[("linker_notice", Entry)],
            Self::ProcessEnd => &[("process_end", Entry)],
            Self::EmptyCall if is_session => &[("empty_call", Both)],
            Self::EmptyCall => &[("empty_return", Return), ("empty_entry", Entry)],
            Self::EmptyEntry => &[("empty_entry", Entry)],
        }
    }
}

/// The uprobe programs, each loaded once and attached at many places.
#[derive(Default)]
pub(super) struct Probes {
    links: Links,
    multi: Option<MultiObject>,
    programs: HashMap<Served, OwnedFd>,
    /// What was ever attached and may have to be again.
    attachments: Vec<Attachment>,
    armed: Armed,
    /// The processes whose probes are in every process.
    told: HashSet<NonZeroU32>,
    /// Probes that do not fire any more, and were not taken out yet.
    unbound: Vec<Link>,
}

/// Places of one file that one handler serves.
struct Attachment {
    handler: Handler,
    pid: Option<NonZeroU32>,
    path: PathBuf,
    points: Vec<Point>,
    /// What holds its probes in place, while they are.
    links: Vec<Link>,
}

/// Holds probes in place.
#[expect(dead_code, reason = "held for its drop")]
enum Link {
    Multi(OwnedFd),
    PerfEvent(UProbeLink),
}

impl Probes {
    /// Loads the usual programs, where anything will be hooked, for links of this kind; of the best kind that the kernel has
    /// where `links` is `None`.
    pub(super) fn load(ebpf: &mut Ebpf, links: Option<Links>, hooks: bool) -> Result<Self, KernelError> {
        let mut probes = match links {
            Some(links) => Self::of(links, ebpf).ok_or(KernelError::NoLinks(links))?,
            None => {
                [Links::Session, Links::Multi].into_iter().find_map(|links| Self::of(links, ebpf)).unwrap_or_default()
            }
        };
        if hooks {
            probes.load_programs(ebpf, &Handler::USUAL)?;
        }
        Ok(probes)
    }

    /// Loads the programs that are otherwise loaded where the first target needs them.
    pub(super) fn load_rare(&mut self, ebpf: &mut Ebpf) -> Result<(), KernelError> {
        self.load_programs(ebpf, &Handler::RARE)
    }

    fn load_programs(&mut self, ebpf: &mut Ebpf, handlers: &[Handler]) -> Result<(), KernelError> {
        let links = self.links;
        let mut programs = handlers.iter().flat_map(|handler| handler.programs(links));
        programs.try_for_each(|served| self.load_program(ebpf, *served))
    }

    /// How probes are attached.
    pub(super) fn links(&self) -> Links {
        self.links
    }

    /// Probes with links of this kind; `None` where the kernel does not have them.
    fn of(links: Links, ebpf: &mut Ebpf) -> Option<Self> {
        let empty = match links {
            Links::PerfEvent => return Some(Self::default()),
            Links::Multi => ("empty_entry", When::Entry),
            Links::Session => ("empty_call", When::Both),
        };
        let multi = MultiObject::parse(OBJECT, ebpf).inspect_err(|error| log::info!("{links}: {error}")).ok()?;
        let mut probes = Self { links, multi: Some(multi), ..Self::default() };
        probes.load_program(ebpf, empty).ok()?;
        multi::is_known(&probes.programs[&empty], empty.1).then_some(probes)
    }

    fn load_program(&mut self, ebpf: &mut Ebpf, (name, when): Served) -> Result<(), KernelError> {
        let Some(multi) = &self.multi else {
            let program = uprobe(ebpf, name)?;
            return match program.load() {
                Ok(()) | Err(ProgramError::AlreadyLoaded) => Ok(()),
                Err(source) => Err(KernelError::Program { name, source: Box::new(source) }),
            };
        };
        if let Entry::Vacant(unloaded) = self.programs.entry((name, when)) {
            let program = multi.load(name, when).map_err(|source| KernelError::MultiProgram { name, source })?;
            unloaded.insert(program);
        }
        Ok(())
    }

    /// Attaches what serves `handler` to these points of the file at `path`: in the process `pid`, or in every
    /// process of the host. Where such probes are not armed, once they are.
    pub(super) fn attach(
        &mut self,
        ebpf: &mut Ebpf,
        handler: Handler,
        pid: Option<NonZeroU32>,
        path: &Path,
        points: &[Point],
    ) -> Result<(), KernelError> {
        let (path, points) = (path.to_owned(), points.to_owned());
        let mut attachment = Attachment { handler, pid, path, points, links: Vec::new() };
        self.widen(&mut attachment);
        if handler.armed_with() <= self.armed && !self.is_covered(&attachment) {
            attachment.links = self.link(ebpf, &mut attachment)?;
        }
        if self.is_covered(&attachment) {
            let_go(attachment.links);
        } else {
            self.attachments.push(attachment);
        }
        Ok(())
    }

    /// Whether the same probes are in every process already.
    fn is_covered(&self, attachment: &Attachment) -> bool {
        self.attachments.iter().any(|known| known.covers(attachment))
    }

    /// Puts probes in place, or takes them out, until those are that `armed` says.
    pub(super) fn arm(&mut self, ebpf: &mut Ebpf, armed: Armed) {
        self.armed = armed;
        let mut attachments = std::mem::take(&mut self.attachments);
        // As they were attached at first; the other way round where they are taken out.
        attachments.sort_by_key(|attachment| attachment.handler);
        for attachment in attachments.iter_mut().rev().filter(|attachment| attachment.handler.armed_with() > armed) {
            let_go(std::mem::take(&mut attachment.links));
        }
        attachments = self.widen_all(attachments);
        attachments.retain_mut(|attachment| {
            if !attachment.links.is_empty() || attachment.handler.armed_with() > armed {
                return true;
            }
            match self.link(ebpf, attachment) {
                Ok(links) => attachment.links = links,
                Err(error) if error.is_of_no_process() => return false,
                // As where it is attached at first: one file that cannot be probed is no reason to stop.
                Err(error) => {
                    log::warn!("{error}");
                    return false;
                }
            }
            true
        });
        self.attachments = attachments;
    }

    fn link(&mut self, ebpf: &mut Ebpf, attachment: &mut Attachment) -> Result<Vec<Link>, KernelError> {
        let links = self.link_bound(ebpf, attachment)?;
        // Its main thread may have ended meanwhile.
        if !self.widen(attachment) {
            return Ok(links);
        }
        take_out(links);
        self.link_bound(ebpf, attachment)
    }

    fn link_bound(&mut self, ebpf: &mut Ebpf, attachment: &Attachment) -> Result<Vec<Link>, KernelError> {
        let Attachment { handler, pid, path, points, .. } = attachment;
        let mut links = Vec::new();
        for served @ (name, when) in handler.programs(self.links) {
            self.load_program(ebpf, *served)?;
            match self.programs.get(served) {
                Some(program) => {
                    let link = multi::link(program, *when, *pid, path, points);
                    links.push(Link::Multi(link.map_err(|source| KernelError::Link { name, source })?));
                }
                None => link_one_by_one(uprobe(ebpf, name)?, name, *pid, path, points, &mut links)?,
            }
        }
        Ok(links)
    }
}

/// Takes probes out. The breakpoints of a link go at once; that nobody is on his way through them any more, the kernel may
/// take a tenth of a second to know, which is not waited for. Those of perf events go one by one, and each waits.
fn let_go(links: Vec<Link>) {
    for link in links {
        match link {
            // Where there is no thread to be had, it is dropped here.
            Link::Multi(_) => drop(thread::Builder::new().spawn(move || drop(link))),
            Link::PerfEvent(_) => drop(link),
        }
    }
}

/// The same, and waits until they are out: others take their places, and no call is to be seen twice.
fn take_out(links: Vec<Link>) {
    thread::scope(|scope| {
        for link in links {
            match link {
                // Together they take no longer than one.
                Link::Multi(_) => drop(thread::Builder::new().spawn_scoped(scope, move || drop(link))),
                Link::PerfEvent(_) => drop(link),
            }
        }
    });
}

fn uprobe<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut UProbe, KernelError> {
    let program = ebpf.program_mut(name).ok_or(KernelError::Missing(name))?;
    program.try_into().map_err(|_| KernelError::Missing(name))
}

fn link_one_by_one(
    program: &mut UProbe,
    name: &'static str,
    pid: Option<NonZeroU32>,
    path: &Path,
    points: &[Point],
    links: &mut Vec<Link>,
) -> Result<(), KernelError> {
    for point in points {
        let location = UProbeAttachLocation::AbsoluteOffset(point.file_offset);
        let scope = pid.map_or(UProbeScope::AllProcesses, UProbeScope::OneProcess);
        let attached = program.attach(UProbeAttachPoint { location, cookie: Some(point.cookie) }, path, scope);
        let link = attached.and_then(|id| program.take_link(id));
        links.push(Link::PerfEvent(link.map_err(|source| KernelError::Attach { name, source: Box::new(source) })?));
    }
    Ok(())
}
