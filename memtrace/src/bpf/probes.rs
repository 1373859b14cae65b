//! Probes: the programs that serve places in images' code, and how they are attached there, by the best means that this kernel has.

mod armed_sets;
mod attachment;
mod leaders;

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    io,
    num::NonZeroU32,
    os::fd::OwnedFd,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use aya::programs::{
    ProgramError, UProbe,
    uprobe::{UProbeAttachLocation, UProbeAttachPoint, UProbeScope},
};

use self::{
    armed_sets::ArmedSets,
    attachment::{Attachment, Link, let_go, take_out},
    leaders::Leaders,
};
use super::{
    error::{BpfError, of_program},
    multi_object::MultiObject,
    object::Object,
    point::Point,
    probe_kind::{AttachMethod, ProbeKind, ProbeSet, Served, When},
    sys,
};

/// The uprobe programs, each loaded once and attached at many places.
#[derive(Default)]
pub(super) struct Probes {
    method: AttachMethod,
    multi: Option<MultiObject>,
    programs: HashMap<Served, OwnedFd>,
    /// The attachments that were ever made and may have to be made again.
    attachments: Vec<Attachment>,
    armed: ArmedSets,
    leaders: Leaders,
}

impl Probes {
    /// Loads the usual programs, where anything will be hooked, to be attached by this method; by the best that the kernel has
    /// where none is said. The object still has its maps then.
    ///
    /// # Errors
    /// Where the kernel does not have the method, or refuses a program.
    pub(super) fn load(
        object: &mut Object,
        method: Option<AttachMethod>,
        hooks: bool,
        at_once: usize,
    ) -> Result<Self, BpfError> {
        let mut probes = match method {
            Some(method) => Self::of(method, object).ok_or(BpfError::NoLinks(method))?,
            None => [AttachMethod::Session, AttachMethod::Multi]
                .into_iter()
                .find_map(|method| Self::of(method, object))
                .unwrap_or_default(),
        };
        if hooks {
            probes.load_at_once(&ProbeKind::USUAL, at_once)?;
            probes.load_programs(object, &ProbeKind::USUAL)?;
        }
        Ok(probes)
    }

    /// Loads the programs that are otherwise loaded where the first target needs them.
    ///
    /// # Errors
    /// Where the kernel refuses one.
    pub(super) fn load_rare(&mut self, object: &mut Object) -> Result<(), BpfError> {
        self.load_programs(object, &ProbeKind::RARE)
    }

    /// Loads programs by so many threads, where they are for links that aya does not know: the kernel verifies the large ones for
    /// tenths of a second each.
    fn load_at_once(&mut self, kinds: &[ProbeKind], threads: usize) -> Result<(), BpfError> {
        let Some(multi) = &self.multi else { return Ok(()) };
        let wanted: HashSet<Served> = kinds.iter().flat_map(|kind| kind.programs(self.method)).copied().collect();
        let unloaded: Vec<Served> = wanted.into_iter().filter(|served| !self.programs.contains_key(served)).collect();
        let next = AtomicUsize::new(0);
        let work = || {
            let mut loaded = Vec::new();
            while let Some(served @ (name, when)) = unloaded.get(next.fetch_add(1, Ordering::Relaxed)).copied() {
                loaded.push((served, multi.load(name, when)));
            }
            loaded
        };
        let loaded: Vec<(Served, io::Result<OwnedFd>)> = thread::scope(|scope| {
            let others = (1..threads).map(|_| thread::Builder::new().spawn_scoped(scope, work));
            // Where there are no more threads, fewer do it.
            let others: Vec<_> = others.filter_map(Result::ok).collect();
            let own = work();
            own.into_iter().chain(others.into_iter().filter_map(|other| other.join().ok()).flatten()).collect()
        });
        for (served, program) in loaded {
            self.programs.insert(served, program.map_err(|source| BpfError::Program { name: served.0, source })?);
        }
        Ok(())
    }

    fn load_programs(&mut self, object: &mut Object, kinds: &[ProbeKind]) -> Result<(), BpfError> {
        let method = self.method;
        let mut programs = kinds.iter().flat_map(|kind| kind.programs(method));
        programs.try_for_each(|served| self.load_program(object, *served))
    }

    /// How probes are attached.
    pub(super) fn method(&self) -> AttachMethod {
        self.method
    }

    /// Probes that are attached by this method; `None` where the kernel does not have it.
    fn of(method: AttachMethod, object: &mut Object) -> Option<Self> {
        let empty = match method {
            AttachMethod::PerfEvent => return Some(Self::default()),
            AttachMethod::Multi => ("empty_entry", When::Entry),
            AttachMethod::Session => ("empty_call", When::Both),
        };
        let multi = MultiObject::parse(&object.ebpf).inspect_err(|error| log::info!("{method}: {error}")).ok()?;
        let mut probes = Self { method, multi: Some(multi), ..Self::default() };
        probes.load_program(object, empty).ok()?;
        sys::is_known(&probes.programs[&empty], empty.1).then_some(probes)
    }

    /// Whether any returns are seen at `ret` instructions.
    pub(super) fn are_at_rets(&self) -> bool {
        self.attachments.iter().any(|known| matches!(known.kind, ProbeKind::AllocRet | ProbeKind::ResizeRet))
    }

    fn load_program(&mut self, object: &mut Object, (name, when): Served) -> Result<(), BpfError> {
        let Some(multi) = &self.multi else {
            let program: &mut UProbe = object.program(name)?;
            return match program.load() {
                Ok(()) | Err(ProgramError::AlreadyLoaded) => Ok(()),
                Err(error) => Err(BpfError::Program { name, source: of_program(error) }),
            };
        };
        if let Entry::Vacant(unloaded) = self.programs.entry((name, when)) {
            let program = multi.load(name, when).map_err(|source| BpfError::Program { name, source })?;
            unloaded.insert(program);
        }
        Ok(())
    }

    /// Attaches programs of this kind to these points of the file at `path`: in the process `pid`, or in every process of the
    /// host. Where such probes are not armed, once they are.
    ///
    /// # Errors
    /// Where the kernel refuses a probe.
    pub(super) fn attach(
        &mut self,
        object: &mut Object,
        kind: ProbeKind,
        pid: Option<NonZeroU32>,
        path: &Path,
        points: &[Point],
    ) -> Result<(), BpfError> {
        let (path, points) = (path.to_owned(), points.to_owned());
        let mut attachment = Attachment { kind, pid, path, points, links: Vec::new() };
        self.leaders.widen(&mut attachment, &mut self.attachments);
        if kind.armed_with() <= self.armed.of(attachment.pid) && !self.is_covered(&attachment) {
            attachment.links = self.link(object, &mut attachment)?;
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

    /// Whether some probes are in every process, or would be once armed.
    pub(super) fn are_shared(&self) -> bool {
        self.attachments.iter().any(|attachment| attachment.pid.is_none())
    }

    /// Puts probes in place, or takes them out, until those are that `armed` says: those of a process alone, or all others.
    pub(super) fn arm(&mut self, object: &mut Object, pid: Option<NonZeroU32>, armed: ProbeSet) {
        self.armed.set(pid, armed);
        self.put_in_place(object);
    }

    /// The same of all processes together, whatever was in place in each.
    pub(super) fn share(&mut self, object: &mut Object, armed: ProbeSet) {
        self.armed = ArmedSets::default();
        self.arm(object, None, armed);
    }

    fn put_in_place(&mut self, object: &mut Object) {
        let mut attachments = std::mem::take(&mut self.attachments);
        // As they were attached at first; the other way round where they are taken out.
        attachments.sort_by_key(|attachment| attachment.kind);
        let is_armed = |attachment: &Attachment| attachment.kind.armed_with() <= self.armed.of(attachment.pid);
        for attachment in attachments.iter_mut().rev().filter(|attachment| !is_armed(attachment)) {
            let_go(std::mem::take(&mut attachment.links));
        }
        attachments = self.leaders.widen_all(attachments);
        attachments.retain_mut(|attachment| {
            let is_armed = attachment.kind.armed_with() <= self.armed.of(attachment.pid);
            if !attachment.links.is_empty() || !is_armed {
                return true;
            }
            match self.link(object, attachment) {
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

    /// Whether any is in place, or would be once armed, in other processes than this one.
    pub(super) fn are_elsewhere(&self) -> bool {
        let own = NonZeroU32::new(std::process::id());
        self.attachments.iter().any(|attachment| attachment.pid != own)
    }

    /// Takes every probe out that is attached to this process alone. Its breakpoints are gone then.
    pub(super) fn take_out(&mut self, pid: NonZeroU32) {
        self.attachments.retain(|attachment| attachment.pid != Some(pid));
    }

    /// Takes out the probes of a process whose main thread is another one by now: they do not fire any more.
    pub(super) fn unbind(&mut self, pid: NonZeroU32) {
        self.leaders.unbind(pid, &mut self.attachments);
    }

    /// Puts those probes in place once more that fire no longer, because the main threads of their processes have ended. Returns
    /// whose they were.
    pub(super) fn follow_leaders(&mut self, object: &mut Object) -> Vec<NonZeroU32> {
        self.leaders.let_unbound_go();
        if self.method != AttachMethod::PerfEvent {
            return Vec::new();
        }
        let pids = Leaders::ended(&self.attachments);
        if !pids.is_empty() {
            let is_bound = |attachment: &&mut Attachment| attachment.pid.is_some_and(|pid| pids.contains(&pid));
            let bound = self.attachments.iter_mut().filter(is_bound);
            let unbound: Vec<Link> = bound.flat_map(|bound| std::mem::take(&mut bound.links)).collect();
            self.put_in_place(object);
            // They did nothing any more, and take long to go.
            let_go(unbound);
        }
        pids
    }

    fn link(&mut self, object: &mut Object, attachment: &mut Attachment) -> Result<Vec<Link>, BpfError> {
        let links = self.link_bound(object, attachment)?;
        // Its main thread may have ended meanwhile.
        if !self.leaders.widen(attachment, &mut self.attachments) {
            return Ok(links);
        }
        take_out(links);
        self.link_bound(object, attachment)
    }

    fn link_bound(&mut self, object: &mut Object, attachment: &Attachment) -> Result<Vec<Link>, BpfError> {
        let Attachment { kind, pid, path, points, .. } = attachment;
        let mut links = Vec::new();
        for served @ (name, when) in kind.programs(self.method) {
            self.load_program(object, *served)?;
            match self.programs.get(served) {
                Some(program) => {
                    let link = sys::link_probes(program, *when, *pid, path, points);
                    links.push(Link::Multi(link.map_err(|source| BpfError::Attach { name, source })?));
                }
                None => link_one_by_one(object.program(name)?, name, *pid, path, points, &mut links)?,
            }
        }
        Ok(links)
    }
}

fn link_one_by_one(
    program: &mut UProbe,
    name: &'static str,
    pid: Option<NonZeroU32>,
    path: &Path,
    points: &[Point],
    links: &mut Vec<Link>,
) -> Result<(), BpfError> {
    for point in points {
        let location = UProbeAttachLocation::AbsoluteOffset(point.file_offset);
        let scope = pid.map_or(UProbeScope::AllProcesses, UProbeScope::OneProcess);
        let attached = program.attach(UProbeAttachPoint { location, cookie: Some(point.cookie) }, path, scope);
        let link = attached.and_then(|id| program.take_link(id));
        let link = link.map_err(|error| BpfError::Attach { name, source: of_program(error) });
        links.push(Link::PerfEvent(link?));
    }
    Ok(())
}
