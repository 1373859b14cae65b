//! Every target of a run: those that live, and what remains of those that have ended.

use std::{
    collections::{BTreeMap, HashMap},
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant},
};

use memtrace_common::{
    ids::{ProcessSlot, SiteIndex},
    thread::Requested,
    wire::{counters::Counter, mapping::MappingEvent},
};
use tokio::sync::mpsc::UnboundedSender;

use super::{
    attached::{AttachedTarget, ExitCheck, Stopped},
    counts::each_counted,
    ended::Ended,
    exit_check::{self, Findings, LookError, Recorded},
    look_budget::LookBudget,
    process_handle::ProcessHandle,
    reading::Reader,
};
use crate::{
    bpf::{Bpf, BpfError, point::Scope},
    capture::{
        images::Images,
        sources::{Source, Sources},
        target::{Target, TargetError},
    },
    model::{
        at_exit::{AtExit, Checked},
        category::Category,
        figures::FigureKind,
        life::Life,
        not_seen::NotSeen,
        stats::windows::{Cohort, Window},
        target_id::{BudgetGroup, TargetId},
        unchecked::{Cause, Unchecked},
    },
    process::{mapping_log::MappingLog, status},
    profile::{
        Profile,
        cpu_clock::Beginning,
        reading::{Basis, Time},
        subject::SubjectProfile,
    },
};

/// The work of targets whose programs are over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Done {
    pub(crate) requested: Requested,
    pub(crate) cpu: Duration,
}

/// Every target of a run.
pub(crate) struct Targets {
    pub(crate) images: Images,
    /// The sources of their memory.
    pub(super) sources: Sources<Bpf>,
    /// The mappings of processes, where some may end before they can be looked at.
    pub(super) log: Option<MappingLog>,
    /// The kinds of memory that reports are of.
    pub(super) categories: Vec<Category>,
    pub(super) live: BTreeMap<ProcessSlot, AttachedTarget>,
    pub(super) ended: Ended,
    /// The joint work of those that are not live any more, by group.
    pub(crate) done: HashMap<BudgetGroup, Done>,
    /// How many have ended that no window has met, nor anything else.
    pub(super) between_windows: u64,
    /// How many targets there were.
    count: u64,
    ends: UnboundedSender<TargetId>,
}

impl Targets {
    /// No target yet. Whose process has ended is told to `ends`.
    pub(crate) fn new(
        images: Images,
        sources: Sources<Bpf>,
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
            sources,
            live: BTreeMap::new(),
            ended: Ended::default(),
            done: HashMap::new(),
            between_windows: 0,
            count: 0,
            ends,
        }
    }

    pub(crate) fn live(&self) -> impl Iterator<Item = &AttachedTarget> {
        self.live.values()
    }

    pub(crate) fn get(&self, slot: ProcessSlot) -> Option<&AttachedTarget> {
        self.live.get(&slot)
    }

    pub(super) fn get_mut(&mut self, slot: ProcessSlot) -> Option<&mut AttachedTarget> {
        self.live.get_mut(&slot)
    }

    /// Follows a target that has a slot, of this group; where one begins now and `looks_at_exit`, it will be looked at what it leaves behind.
    /// Returns what it is called, and whether its process is still there.
    pub(crate) fn add(
        &mut self,
        target: Target,
        group: BudgetGroup,
        beginning: Beginning,
        looks_at_exit: bool,
    ) -> (TargetId, bool) {
        self.count += 1;
        let id = TargetId { slot: target.slot, serial: self.count };
        let process = ProcessHandle::of(target.pid.get()).map(Arc::new).ok();
        let waiting = process.as_ref().map(|process| {
            let (ends, process) = (self.ends.clone(), Arc::clone(process));
            tokio::spawn(async move {
                process.ended().await;
                // Nobody listens any more once the run is over.
                _ = ends.send(id);
            })
        });
        let is_there = process.is_some();
        self.sources.begin(target.slot);
        let profile = SubjectProfile::beginning(beginning);
        let is_forked = beginning == Beginning::Forked;
        let is_looked_at = looks_at_exit && beginning != Beginning::Before;
        let exit = is_looked_at.then(|| ExitCheck { is_forked, ..ExitCheck::default() });
        let (since, ended) = (Instant::now(), None);
        let look_budget = LookBudget::new(since);
        let followed = AttachedTarget {
            id,
            group,
            target,
            process,
            profile,
            exit,
            since,
            ended,
            waiting,
            cut_stacks: 0,
            look_budget,
        };
        self.live.insert(id.slot, followed);
        (id, is_there)
    }

    /// The process of a target has ended.
    pub(crate) fn note_end(&mut self, id: TargetId) {
        if let Some(followed) = self.live.get_mut(&id.slot).filter(|followed| followed.id == id) {
            followed.ended = Some(Instant::now());
        }
    }

    /// The kinds of memory that reports are of.
    pub(crate) fn categories(&self) -> &[Category] {
        &self.categories
    }

    /// Takes in changes of address spaces, in the order in which they happened.
    pub(crate) fn change_address_spaces(&mut self, events: &[MappingEvent]) {
        for event in events {
            self.sources.change(event);
            if let Some(exit) = self.live.get_mut(&event.slot).and_then(|followed| followed.exit.as_mut()) {
                exit.areas.handle(event);
            }
        }
    }

    /// Whether a target is to be looked at before it ends, and was not yet.
    pub(crate) fn waits_for_a_last_look(&self, slot: ProcessSlot) -> bool {
        self.get(slot).and_then(|followed| followed.exit.as_ref()).is_some_and(|exit| exit.found.is_none())
    }

    /// A target begins to end.
    pub(crate) fn note_way_out(&mut self, slot: ProcessSlot, at: Duration) {
        if let Some(followed) = self.live.get_mut(&slot) {
            followed.profile.note_way_out(at);
        }
    }

    /// Whether a target is to be looked at that is stopped before it ends, or becomes another program. Where a look could tell
    /// nothing, that is known from now on.
    pub(crate) fn is_worth_a_look(&mut self, slot: ProcessSlot, why: Stopped, bpf: &Bpf) -> bool {
        let Some(AttachedTarget { target, profile, exit: Some(exit), .. }) = self.live.get_mut(&slot) else {
            return false;
        };
        let looked = match exit.refused.clone() {
            Some(error) => Err(Unchecked::Failed { cause: Cause::NotHooked, error }),
            None => {
                let holds_any = profile.totals(FigureKind::Blocks).live_objects() > 0;
                exit_check::is_worth_a_look(target, holds_any, bpf).map_err(Unchecked::from)
            }
        };
        match looked {
            Ok(true) => return true,
            Ok(false) => exit.note(why, AtExit::Checked(Checked::default())),
            Err(unchecked) => exit.note(why, AtExit::Unchecked(unchecked)),
        }
        false
    }

    /// The blocks of a target that is held to be looked at.
    pub(super) fn recorded(&self, id: TargetId, bpf: &Bpf) -> Result<Recorded, LookError> {
        match self.get(id.slot).filter(|followed| followed.id == id) {
            Some(AttachedTarget { target, exit: Some(exit), .. }) => exit_check::recorded(target, &exit.areas, bpf),
            _ => Err(LookError::Futile(Unchecked::Replaced)),
        }
    }

    /// A target was looked at. It may be gone by now.
    pub(super) fn note_looked(&mut self, id: TargetId, why: Stopped, looked: Result<Findings, LookError>) {
        let Some(AttachedTarget { target, profile, exit: Some(exit), .. }) =
            self.live.get_mut(&id.slot).filter(|followed| followed.id == id)
        else {
            return;
        };
        let looked =
            if exit.is_forked { looked.and_then(|findings| exit_check::of_forked(target, findings)) } else { looked };
        let found = match looked {
            Ok(findings) => {
                profile.note_left(&findings.sites);
                AtExit::Checked(findings.checked)
            }
            Err(why) => AtExit::Unchecked(why.into()),
        };
        exit.note(why, found);
    }

    /// The run is over: of those that go on, and were to be looked at, nobody will see the end. `why` says what of each.
    pub(crate) fn leave(&mut self, why: impl Fn(&Target) -> Unchecked) {
        for AttachedTarget { target, exit, .. } in self.live.values_mut() {
            if let Some(ExitCheck { found: found @ None, .. }) = exit {
                *found = Some(AtExit::Unchecked(why(target)));
            }
        }
    }

    /// Looks at a target's mappings and hooks what is new there.
    pub(crate) fn look(&mut self, slot: ProcessSlot, bpf: &mut Bpf) -> Result<(), TargetError> {
        let Some(followed) = self.live.get_mut(&slot) else { return Ok(()) };
        let known = followed.target.allocators.len();
        let begun = status::own_cpu_time();
        let looked = followed.target.look(&mut self.images, bpf);
        followed.look_budget.looked(status::own_cpu_time().saturating_sub(begun));
        if let (Some(exit), Err(TargetError::Attach(error))) = (&mut followed.exit, &looked) {
            exit.refused = Some(error.to_string());
        }
        for allocator in &followed.target.allocators[known..] {
            log::info!("process {}: hooked {} in {}", followed.target.pid, allocator.name, allocator.image);
        }
        looked
    }

    /// See [`Target::unbind`].
    pub(crate) fn unbind(&mut self, slot: ProcessSlot, bpf: &mut Bpf) {
        if let Some(followed) = self.live.get_mut(&slot) {
            followed.target.unbind(&mut self.images, bpf);
        }
    }

    /// Hooks those anew whose probes have gone with their main threads. Their work meanwhile was not seen.
    pub(crate) fn follow_leaders(&self, bpf: &mut Bpf) {
        for pid in bpf.follow_leaders() {
            log::info!("process {pid}: its probes are in place again");
            let of_pid = self.live().filter(|followed| followed.target.pid == pid);
            of_pid.for_each(|followed| bpf.count(followed.target.slot, Counter::ProbesGone));
        }
    }

    /// The targets at whose mappings a look is due although nothing was announced. Code that nobody announces
    /// (a just-in-time compiler's, say) shows in stacks that were cut there.
    pub(crate) fn due_for_a_look(&mut self) -> Vec<ProcessSlot> {
        let is_hooked = self.images.are_hooked();
        let is_due = |followed: &mut AttachedTarget| {
            let cut_stacks = followed.profile.count(Counter::UnwindNoCode);
            let more_cut = std::mem::replace(&mut followed.cut_stacks, cut_stacks) < cut_stacks;
            // A process that never calls a hooked function has nothing to show: a host is full of such processes.
            let unfinished = is_hooked && followed.target.wants_look() && followed.profile.is_active();
            more_cut || followed.profile.has_tentative_stacks() || unfinished
        };
        let due = self.live.iter_mut().filter_map(|(slot, followed)| is_due(followed).then_some(*slot));
        due.collect()
    }

    /// A process has forked a child: what it has told of its mappings holds of the child as well.
    pub(crate) fn note_fork(&mut self, parent: NonZeroU32, child: NonZeroU32) {
        if let Some(log) = &mut self.log {
            log.fork(parent.get(), child.get());
        }
    }

    /// Takes in what processes have told of their mappings, before there is no room for more.
    pub(crate) fn read_log(&mut self) {
        self.log.iter_mut().for_each(MappingLog::read);
    }

    /// Takes in what the kernel side has counted by now; `basis` tells that of a group's figures.
    ///
    /// Those that have ended are read when they are closed: after what they have told of their mappings was taken in, without which
    /// their stacks have no places.
    pub(crate) fn read(&mut self, bpf: &Bpf, time: Time, basis: impl Fn(BudgetGroup) -> Basis) -> Result<(), BpfError> {
        let Self { live, images, sources, .. } = self;
        let reader = Reader { bpf, images, sources, time };
        each_counted(
            live,
            bpf,
            |followed| !followed.has_ended(),
            |AttachedTarget { target, group, profile, .. }, counted| {
                reader.read(profile, counted, target, basis(*group))
            },
        )
    }

    /// Asks where blocks are freed at the sites whose old ones accumulate: where the others go is where these do not come.
    /// Returns whether there are any.
    pub(crate) fn want_frees(&self, bpf: &mut Bpf) -> bool {
        let sites: Vec<SiteIndex> = self.live.values().flat_map(|followed| followed.profile.accumulating()).collect();
        bpf.want_frees(&sites);
        !sites.is_empty()
    }

    /// Windows begin, or begin again, of these groups.
    pub(crate) fn begin_windows(&mut self, bpf: &Bpf, of: impl Fn(BudgetGroup) -> bool) -> Result<(), BpfError> {
        let is_one = |followed: &AttachedTarget| of(followed.group);
        each_counted(&mut self.live, bpf, is_one, |followed, counted| {
            followed.profile.begin_windows(counted);
            Ok(())
        })
    }

    /// Half of the time is over in which the present window's blocks are followed.
    pub(crate) fn note_halfway(&mut self, bpf: &Bpf, of: impl Fn(BudgetGroup) -> bool) -> Result<(), BpfError> {
        let is_one = |followed: &AttachedTarget| of(followed.group);
        each_counted(&mut self.live, bpf, is_one, |followed, counted| {
            followed.profile.note_halfway(counted);
            Ok(())
        })
    }

    /// A window of these groups is judged: `window` makes it of what became of all blocks of a target of such a life.
    pub(crate) fn judge(
        &mut self,
        bpf: &Bpf,
        started: Instant,
        of: impl Fn(BudgetGroup) -> bool,
        mut window: impl FnMut((TargetId, Life), &Cohort) -> Window,
    ) -> Result<(), BpfError> {
        let is_one = |followed: &AttachedTarget| of(followed.group);
        each_counted(&mut self.live, bpf, is_one, |followed, counted| {
            let who = (followed.id, followed.life(bpf, started));
            followed.profile.judge(counted, |cohort| window(who, cohort));
            Ok(())
        })
    }

    /// The profile of all targets by now; `profile` has all but them.
    pub(crate) fn profile(&mut self, bpf: &mut Bpf, mut profile: Profile) -> Profile {
        bpf.sweep();
        let Self { live, ended, images, sources, between_windows, .. } = self;
        let slots: Vec<ProcessSlot> = live.keys().copied().collect();
        let oldest_born_ms = sources.oldest_born_ms(bpf, &slots);
        profile.run.not_seen.extend(sources.not_seen(bpf));
        if *between_windows > 0 {
            profile.run.not_seen.push(NotSeen::BetweenWindows { programs: *between_windows });
        }
        for followed in live.values_mut() {
            followed.profile.read_blocks(|index| bpf.live_blocks(index), &oldest_born_ms);
            followed.describe();
        }
        profile.images = images.all().iter().map(|image| Arc::clone(&image.name)).collect();
        profile.run.unlisted = ended.unlisted;
        let live = live.values().map(|followed| Arc::new(followed.profile.clone()));
        let ended = ended.kept.iter().map(|ended| Arc::clone(&ended.profile));
        Profile { subjects: live.chain(ended).collect(), ..profile }
    }

    /// Lets go of every target: probes in their processes alone are taken out, and their slots are unused. Nothing is counted
    /// any more by then.
    pub(crate) fn release(mut self, bpf: &mut Bpf) -> Result<(Images, Sources<Bpf>), BpfError> {
        let slots: Vec<ProcessSlot> = self.live.keys().copied().collect();
        for followed in self.live.values() {
            self.images.detach(followed.target.pid, bpf);
        }
        bpf.close_processes(&slots)?;
        bpf.sweep();
        slots.iter().for_each(|slot| self.sources.end(*slot));
        bpf.recycle(&slots)?;
        Ok((self.images, self.sources))
    }

    /// The target that this process is.
    pub(crate) fn id_of(&self, pid: NonZeroU32) -> Option<TargetId> {
        self.live().find(|followed| followed.target.pid == pid).map(|followed| followed.id)
    }

    /// How many sites all targets have together, as of the last reading.
    pub(crate) fn site_count(&self) -> usize {
        self.live().map(|followed| followed.profile.site_count()).sum()
    }

    /// Whether any target that is there is this process.
    pub(crate) fn has_pid(&self, pid: NonZeroU32) -> bool {
        self.id_of(pid).is_some()
    }
}
