//! Every target of a run: those that live, and what remains of those that have ended.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    num::NonZeroU32,
    time::{Duration, Instant},
};

use memtrace_common::{
    process::{Counter, ProcessSlot},
    site::SiteIndex,
    thread::Requested,
    vm::VmEvent,
};
use tokio::{sync::mpsc::UnboundedSender, task::JoinHandle};

use super::{
    area_book::AreaBook,
    at_exit,
    ended::Ended,
    profile::{Counted, Profile, Reading, Time, View, are_pages},
    vm_book::VmBook,
    watch::Exit,
};
use crate::{
    capture::{
        images::{Images, Scope},
        kernel::{Kernel, KernelError},
        target::{Target, TargetError},
    },
    model::{
        at_exit::{AtExit, Checked},
        overhead::TrapCost,
        report::{Category, Process, Unlisted},
        unseen::{Cause, Unchecked},
        windows::{Cohort, Window},
    },
    process::{mapping_log::MappingLog, maps},
    symbolize::Symbolizer,
};

/// The work of targets whose programs are over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) requested: Requested,
    pub(super) cpu: Duration,
}

/// Names a target for the whole run: slots are used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct TargetId {
    pub(super) slot: ProcessSlot,
    serial: u64,
}

impl TargetId {
    /// All those together that come and go. No target has this slot.
    pub(super) const PASSING: Self = Self { slot: ProcessSlot::NONE, serial: 0 };
}

/// A target and what is known of it.
pub(super) struct Followed {
    pub(super) id: TargetId,
    pub(super) target: Target,
    pub(super) profile: Profile,
    /// What it maps by itself, where that is asked for.
    mapped: Option<VmBook>,
    /// Where it is looked at what it leaves behind when it ends.
    exit: Option<ExitBook>,
    since: Instant,
    /// When its process was found to have ended.
    ended: Option<Instant>,
    /// Waits for the end of its process.
    waiting: Option<JoinHandle<()>>,
    /// Stacks that were cut at unknown code, as of the last look.
    cut_stacks: u64,
}

/// What is known of how a target ends.
#[derive(Default)]
struct ExitBook {
    areas: AreaBook,
    found: Option<AtExit>,
    /// The findings when it was about to become another program.
    replaced: Option<AtExit>,
    /// Whether it began as a copy of its parent.
    is_forked: bool,
    /// The reason why memtrace could not hook something in it.
    refused: Option<String>,
}

/// How a target begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Beginning {
    /// As what it was before it became a target.
    #[default]
    Before,
    /// As a program, with nothing.
    Program,
    /// As a copy of its parent: the allocator's memory of that time is known neither as blocks nor as free, so all of it may hold
    /// pointers. Memory that its own calls map afterwards is known, as of a program.
    Forked,
}

/// Why a target is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stopped {
    /// It is about to end.
    ToEnd,
    /// It is about to become another program.
    ToBeReplaced,
}

impl Followed {
    /// Its process has become another program: what was found just before that is what it left.
    fn note_replaced(&mut self, counted: Option<&Counted>, images: &Images) {
        let Some(exit) = &mut self.exit else { return };
        let live = counted.map_or(0, Counted::live_heap_objects);
        exit.found = match exit.replaced.take() {
            // A child that has held nothing of its own has left nothing, whatever way it went.
            None if exit.is_forked && live == 0 => Some(AtExit::Checked(Checked::default())),
            None => {
                let why = match at_exit::why_unchecked(&self.target, images, exit.refused.take()) {
                    Unchecked { cause: Cause::EndNotSeen | Cause::Killed, .. } => Unchecked {
                        cause: Cause::EndNotSeen,
                        reason: "it became another program without calling its C library's execve".to_owned(),
                    },
                    other => other,
                };
                Some(AtExit::Unchecked(why))
            }
            found => found,
        };
    }

    /// Whether it was to be looked at, and was not.
    pub(super) fn is_unchecked(&self) -> bool {
        let found = self.exit.as_ref().and_then(|exit| exit.found.as_ref());
        matches!(found, Some(AtExit::Unchecked(_)))
    }

    /// Whether there is something to say of what it left, where it was replaced.
    fn has_left_something(&self) -> bool {
        match self.exit.as_ref().and_then(|exit| exit.found.as_ref()) {
            None => false,
            Some(AtExit::Checked(checked)) => checked.unreachable.objects > 0,
            Some(AtExit::Unchecked(_)) => true,
        }
    }
}

impl Followed {
    /// How long it has been followed until now, or until it had ended.
    fn lived(&self) -> Duration {
        self.ended.unwrap_or_else(Instant::now).saturating_duration_since(self.since)
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        if let Some(waiting) = &self.waiting {
            waiting.abort();
        }
    }
}

/// Every target of a run.
pub(super) struct Targets {
    pub(super) images: Images,
    symbolizer: Symbolizer,
    /// What processes map, where some may end before they can be looked at.
    log: Option<MappingLog>,
    /// What reports are of.
    categories: Vec<Category>,
    live: BTreeMap<ProcessSlot, Followed>,
    ended: Ended,
    /// The joint work of those that are not live any more.
    pub(super) done: Done,
    /// How many targets there were.
    count: u64,
    ends: UnboundedSender<TargetId>,
}

impl Targets {
    /// No target yet. Whose process has ended is told to `ends`.
    pub(super) fn new(
        images: Images,
        symbolizer: Symbolizer,
        categories: Vec<Category>,
        ends: UnboundedSender<TargetId>,
    ) -> Self {
        let log = match images.scope() {
            Scope::Targets => None,
            Scope::EveryProcess => MappingLog::open()
                .inspect_err(|error| log::warn!("processes that end at once will have no names: {error}"))
                .ok(),
        };
        Self {
            log,
            categories,
            images,
            symbolizer,
            live: BTreeMap::new(),
            ended: Ended::default(),
            done: Done::default(),
            count: 0,
            ends,
        }
    }

    pub(super) fn live(&self) -> impl Iterator<Item = &Followed> {
        self.live.values()
    }

    pub(super) fn get(&self, slot: ProcessSlot) -> Option<&Followed> {
        self.live.get(&slot)
    }

    /// Follows a target that has a slot; where one begins now and `looks_at_exit`, it will be looked at what it leaves behind.
    /// Returns what it is called, and whether its process is still there.
    pub(super) fn add(&mut self, target: Target, beginning: Beginning, looks_at_exit: bool) -> (TargetId, bool) {
        self.count += 1;
        let id = TargetId { slot: target.slot, serial: self.count };
        let waiting = Exit::of(target.pid.get()).map(|exit| {
            let ends = self.ends.clone();
            tokio::spawn(async move {
                exit.wait().await;
                // Nobody listens any more once the run is over.
                _ = ends.send(id);
            })
        });
        let is_there = waiting.is_ok();
        let mapped = self.follows_mappings().then(|| VmBook::new(maps::data_end(target.pid.get())));
        let profile = Profile::beginning(beginning);
        let is_forked = beginning == Beginning::Forked;
        let is_looked_at = looks_at_exit && beginning != Beginning::Before;
        let exit = is_looked_at.then(|| ExitBook { is_forked, ..ExitBook::default() });
        let (since, ended, waiting) = (Instant::now(), None, waiting.ok());
        let followed = Followed { id, target, profile, mapped, exit, since, ended, waiting, cut_stacks: 0 };
        self.live.insert(id.slot, followed);
        (id, is_there)
    }

    /// The process of a target has ended.
    pub(super) fn note_end(&mut self, id: TargetId) {
        if let Some(followed) = self.live.get_mut(&id.slot).filter(|followed| followed.id == id) {
            followed.ended = Some(Instant::now());
        }
    }

    /// Whether reports are of what targets map by themselves.
    pub(super) fn follows_mappings(&self) -> bool {
        self.categories.contains(&Category::Mmap)
    }

    /// Takes in changes of address spaces, in the order in which they happened.
    pub(super) fn change_address_spaces(&mut self, events: &[VmEvent]) {
        for event in events {
            // One that is closed already gives up nothing any more.
            let Some(followed) = self.live.get_mut(&event.slot) else { continue };
            if let Some(book) = &mut followed.mapped {
                book.handle(event);
            }
            if let Some(exit) = &mut followed.exit {
                exit.areas.handle(event);
            }
        }
    }

    /// Whether a target is to be looked at before it ends, and was not yet.
    pub(super) fn waits_for_a_last_look(&self, slot: ProcessSlot) -> bool {
        self.get(slot).and_then(|followed| followed.exit.as_ref()).is_some_and(|exit| exit.found.is_none())
    }

    /// A target begins to end.
    pub(super) fn note_way_out(&mut self, slot: ProcessSlot, at: Duration) {
        if let Some(followed) = self.live.get_mut(&slot) {
            followed.profile.note_way_out(at);
        }
    }

    /// Looks at what a target leaves behind that is stopped before its `thread` ends it, or makes it another program.
    pub(super) fn look_before_end(&mut self, slot: ProcessSlot, thread: u32, why: Stopped, kernel: &Kernel) {
        let Some(Followed { target, profile, exit: Some(exit), .. }) = self.live.get_mut(&slot) else { return };
        // A thread that calls exec may be refused, and go on: it needs all its registers.
        let ending = if why == Stopped::ToEnd { thread } else { 0 };
        let looked = match exit.refused.clone() {
            Some(reason) => Err(Unchecked { cause: Cause::NotHooked, reason }),
            None => {
                let holds_any = profile.totals(false).live_objects() > 0;
                let looked = at_exit::look(target, ending, holds_any, &exit.areas, kernel);
                let looked = if exit.is_forked {
                    looked.and_then(|findings| at_exit::of_forked(target, findings))
                } else {
                    looked
                };
                looked.map_err(Unchecked::from)
            }
        };
        let found = match looked {
            Ok(findings) => {
                profile.note_left(&findings.sites);
                AtExit::Checked(findings.checked)
            }
            Err(why) => AtExit::Unchecked(why),
        };
        match why {
            Stopped::ToEnd => exit.found = Some(found),
            Stopped::ToBeReplaced => exit.replaced = Some(found),
        }
    }

    /// The run is over: of those that go on, and were to be looked at, nobody will see the end. `why` says what of each.
    pub(super) fn leave(&mut self, why: impl Fn(&Target) -> Unchecked) {
        for Followed { target, exit, .. } in self.live.values_mut() {
            if let Some(ExitBook { found: found @ None, .. }) = exit {
                *found = Some(AtExit::Unchecked(why(target)));
            }
        }
    }

    /// Looks at a target's mappings and hooks what is new there.
    pub(super) fn look(&mut self, slot: ProcessSlot, kernel: &mut Kernel) -> Result<(), TargetError> {
        let Some(followed) = self.live.get_mut(&slot) else { return Ok(()) };
        let known = followed.target.allocators.len();
        let looked = followed.target.look(&mut self.images, kernel);
        if let (Some(exit), Err(TargetError::Attach(error))) = (&mut followed.exit, &looked) {
            exit.refused = Some(error.to_string());
        }
        for allocator in &followed.target.allocators[known..] {
            log::info!("process {}: hooked {} in {}", followed.target.pid, allocator.name, allocator.image);
        }
        looked
    }

    /// See [`Target::unbind`].
    pub(super) fn unbind(&mut self, slot: ProcessSlot, kernel: &mut Kernel) {
        if let Some(followed) = self.live.get_mut(&slot) {
            followed.target.unbind(&mut self.images, kernel);
        }
    }

    /// Hooks those anew whose probes have gone with their main threads. Their work meanwhile was not seen.
    pub(super) fn follow_leaders(&self, kernel: &mut Kernel) {
        for pid in kernel.follow_leaders() {
            log::info!("process {pid}: its probes are in place again");
            let of_pid = self.live().filter(|followed| followed.target.pid == pid);
            of_pid.for_each(|followed| kernel.count(followed.target.slot, Counter::ProbesGone));
        }
    }

    /// The targets at whose mappings a look is due although nothing was announced. Code that nobody announces
    /// (a just-in-time compiler's, say) shows in stacks that were cut there.
    pub(super) fn due_for_a_look(&mut self) -> Vec<ProcessSlot> {
        let is_hooked = self.images.are_hooked();
        let is_due = |followed: &mut Followed| {
            let cut_stacks = followed.profile.count(Counter::UnwindNoCode);
            let more_cut = std::mem::replace(&mut followed.cut_stacks, cut_stacks) < cut_stacks;
            // What never calls a hooked function has nothing to show: a host is full of such processes.
            let unfinished = is_hooked && followed.target.wants_look() && followed.profile.is_active();
            more_cut || followed.profile.has_tentative_stacks() || unfinished
        };
        let due = self.live.iter_mut().filter_map(|(slot, followed)| is_due(followed).then_some(*slot));
        due.collect()
    }

    /// Takes in what processes have told of their mappings, before there is no room for more.
    pub(super) fn read_log(&mut self) {
        self.log.iter_mut().for_each(MappingLog::read);
    }

    /// Takes in what the kernel side has counted by now.
    pub(super) fn read(&mut self, kernel: &Kernel, time: Time, scale: f64) -> Result<(), KernelError> {
        let is_of_pages = are_pages(&self.categories);
        let Self { live, images, .. } = self;
        let reading = Reading { kernel, images, time, scale, is_of_pages };
        each_counted(live, kernel, |Followed { target, profile, mapped, .. }, counted| {
            profile.read(counted, mapped.as_ref(), target, &reading)
        })
    }

    /// Asks where blocks are freed at the sites whose old ones accumulate: where the others go is where these do not come.
    /// Returns whether there are any.
    pub(super) fn want_frees(&self, kernel: &mut Kernel) -> bool {
        let sites: Vec<SiteIndex> = self.live.values().flat_map(|followed| followed.profile.accumulating()).collect();
        kernel.want_frees(&sites);
        !sites.is_empty()
    }

    /// Windows begin, or begin again.
    pub(super) fn begin_windows(&mut self, kernel: &Kernel) -> Result<(), KernelError> {
        each_counted(&mut self.live, kernel, |followed, counted| {
            followed.profile.begin_windows(counted);
            Ok(())
        })
    }

    /// Half of the time is over in which the present window's blocks are followed.
    pub(super) fn note_halfway(&mut self, kernel: &Kernel) -> Result<(), KernelError> {
        each_counted(&mut self.live, kernel, |followed, counted| {
            followed.profile.note_halfway(counted);
            Ok(())
        })
    }

    /// A window is judged: `window` makes it of what became of all blocks of a target that has lived for so long.
    pub(super) fn judge(
        &mut self,
        kernel: &Kernel,
        mut window: impl FnMut((TargetId, Duration), &Cohort) -> Window,
    ) -> Result<(), KernelError> {
        each_counted(&mut self.live, kernel, |followed, counted| {
            let who = (followed.id, followed.lived());
            followed.profile.judge(counted, |cohort| window(who, cohort));
            Ok(())
        })
    }

    /// Closes the books of targets whose programs are over. What they held is kept for the report, unless they
    /// became other programs.
    pub(super) fn close(
        &mut self,
        over: &[(TargetId, Over)],
        kernel: &mut Kernel,
        time: Time,
        window: impl Fn((TargetId, Duration)) -> Option<Window>,
        scale: f64,
    ) -> Result<(), KernelError> {
        let mut leaving: Vec<(Followed, Over)> =
            over.iter().filter_map(|(id, why)| Some((self.remove(*id)?, *why))).collect();
        if leaving.is_empty() {
            return Ok(());
        }
        let closed: Vec<ProcessSlot> = leaving.iter().map(|(followed, _)| followed.target.slot).collect();
        kernel.close_processes(&closed)?;
        kernel.sweep();
        // Once more, though it was just read: what has ended since has told the last of it since.
        self.read_log();
        let mut counted = counted(kernel)?;
        for (followed, _) in &leaving {
            let slot = followed.target.slot;
            let requested = counted.get(&slot).map(|counted| counted.requested).unwrap_or_default();
            self.done.requested = self.done.requested.plus(requested);
            self.done.cpu += kernel.cpu_time_at_end(slot).unwrap_or_default();
        }
        for (followed, _) in leaving.iter_mut().filter(|(_, why)| *why == Over::Ended) {
            let who = (followed.id, followed.lived());
            let Followed { target, profile, mapped, exit, .. } = followed;
            if let Some(log) = &mut self.log {
                target.learn(log.take(target.pid.get()), &mut self.images, kernel);
            }
            let counted = counted.remove(&target.slot).unwrap_or_default();
            if let Some(window) = window(who) {
                // What it has left of the present window's blocks is what survived.
                profile.judge(&counted, |_| window);
            }
            let is_of_pages = are_pages(&self.categories);
            let reading = Reading { kernel, images: &self.images, time, scale, is_of_pages };
            profile.read(&counted, mapped.as_ref(), target, &reading)?;
            profile.read_blocks(kernel, mapped.as_ref());
            if let Some(ExitBook { found: found @ None, refused, .. }) = exit {
                *found = Some(AtExit::Unchecked(at_exit::why_unchecked(target, &self.images, refused.take())));
            }
        }
        for (followed, why) in &mut leaving {
            if *why == Over::Replaced {
                followed.note_replaced(counted.get(&followed.target.slot), &self.images);
            }
        }
        kernel.recycle(&closed)?;
        let is_kept = |followed: &Followed, why| why == Over::Ended || followed.has_left_something();
        let leaving = leaving.into_iter().filter(|(followed, why)| is_kept(followed, *why));
        let Self { images, categories, .. } = self;
        let is_adaptive = kernel.is_adaptive();
        let view = View { categories, images, now: time.elapsed, trap: None, is_adaptive, scale };
        self.ended.extend(leaving.map(|(followed, _)| followed), &view);
        Ok(())
    }

    /// Takes a target out, unless that has happened already and another has its slot.
    fn remove(&mut self, id: TargetId) -> Option<Followed> {
        if self.live.get(&id.slot)?.id == id { self.live.remove(&id.slot) } else { None }
    }

    /// The targets as reports have them, most live bytes first, and the sum of those that are not among them.
    pub(super) fn report(
        &mut self,
        kernel: &mut Kernel,
        now: Duration,
        trap: Option<TrapCost>,
        scale: f64,
    ) -> Result<(Vec<Process>, Unlisted), KernelError> {
        kernel.sweep();
        let mut processes = Vec::with_capacity(self.live.len() + self.ended.kept.len());
        let Self { images, symbolizer, categories, .. } = self;
        let view = View { categories, images, now, trap, is_adaptive: kernel.is_adaptive(), scale };
        for Followed { target, profile, mapped, exit, .. } in self.live.values_mut() {
            profile.read_blocks(kernel, mapped.as_ref());
            let at_exit = exit.as_ref().and_then(|exit| exit.found.clone());
            processes.push(Process { at_exit, ..profile.report(&view, target, symbolizer, false) });
        }
        for Followed { target, profile, exit, .. } in &self.ended.kept {
            let at_exit = exit.as_ref().and_then(|exit| exit.found.clone());
            processes.push(Process { at_exit, ..profile.report(&view, target, symbolizer, true) });
        }
        processes.sort_by(|a, b| {
            let weight = |process: &Process| (process.totals.live_bytes(), process.totals.alloc_bytes);
            weight(b).cmp(&weight(a)).then(a.pid.cmp(&b.pid))
        });
        Ok((processes, self.ended.unlisted))
    }

    /// Whether any target that is there is this process.
    pub(super) fn has_pid(&self, pid: NonZeroU32) -> bool {
        self.live.values().any(|followed| followed.target.pid == pid)
    }
}

/// Why a target's program is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// Its process has ended.
    Ended,
    /// Its process runs another program, whose book is another.
    Replaced,
}

/// Does something with each target and what the kernel side has counted of it by now.
fn each_counted(
    live: &mut BTreeMap<ProcessSlot, Followed>,
    kernel: &Kernel,
    mut with: impl FnMut(&mut Followed, &Counted) -> Result<(), KernelError>,
) -> Result<(), KernelError> {
    let mut counted = counted(kernel)?;
    live.iter_mut().try_for_each(|(slot, followed)| with(followed, &counted.remove(slot).unwrap_or_default()))
}

/// What the kernel side has counted by now, by target.
fn counted(kernel: &Kernel) -> Result<HashMap<ProcessSlot, Counted>, KernelError> {
    let mut counted: HashMap<ProcessSlot, Counted> = HashMap::new();
    for (index, site) in kernel.sites()? {
        counted.entry(site.process).or_default().sites.push((index, site));
    }
    for (slot, requested) in kernel.requested() {
        counted.entry(slot).or_default().requested = requested;
    }
    let sides = kernel.free_sides()?;
    if !sides.is_empty() {
        for counted in counted.values_mut() {
            let own: HashSet<SiteIndex> = counted.sites.iter().map(|(index, _)| *index).collect();
            counted.free_sides = sides.iter().filter(|(side, _)| own.contains(&side.site)).copied().collect();
        }
    }
    Ok(counted)
}
