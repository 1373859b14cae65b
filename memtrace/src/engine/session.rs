//! One run: its targets, what of them is hooked, and readings of them.

use std::{
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use memtrace_common::{
    ids::ProcessSlot,
    wire::{
        block::Recorded,
        control::{Adoption, Control},
        site::Generation,
    },
};
use tokio::{
    io::unix::AsyncFd,
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    time::Instant as Deadline,
};

use super::{
    attached::Stopped,
    closing::ProgramEnd,
    error::PipelineError,
    govern::{RunGovernor, RunParts, basis},
    growth_looks::GrowthLooks,
    loaded::{Loaded, adoption},
    looks::Looks,
    mailbox::Mailbox,
    options::{BudgetOptions, Options},
    process_handle::has_ended,
    process_scan::{ProcessScan, is_scanned},
    snapshot::Snapshot,
    targets::Targets,
};
use crate::{
    bpf::{AttachMethod, Bpf, BpfError, Events, MappingEvents, point::Scope},
    capture::{
        preflight,
        selection::Selection,
        target::{Target, TargetError},
    },
    governor::tiers,
    model::{
        overhead::TrapCost,
        target_id::{BudgetGroup, TargetId},
        tier::Tier,
    },
    process::{leader, own_memory, status},
    profile::{cpu_clock::Beginning, reading::Time},
};

/// The cost of a probe where it cannot be measured: as much as on a slow machine.
const GUESSED: TrapCost = TrapCost { entry_ns: 1000.0, call_ns: 2500.0, ret_ns: 2500.0 };

/// One run.
pub(super) struct Session {
    pub(super) bpf: Bpf,
    pub(super) targets: Targets,
    pub(super) selection: Selection,
    pub(super) adoption: Adoption,
    pub(super) events: AsyncFd<Events>,
    /// Changes of address spaces.
    pub(super) mapping_events: AsyncFd<MappingEvents>,
    pub(super) ends: UnboundedReceiver<TargetId>,
    /// Targets whose process has ended, and that are to be finished.
    pub(super) over: Vec<(TargetId, ProgramEnd)>,
    pub(super) started: Instant,
    pub(super) started_at: SystemTime,
    pub(super) tier: Tier,
    /// Keeps to the budget, where there is one.
    pub(super) governor: Option<RunGovernor>,
    /// The last words to the kernel side.
    pub(super) control: Control,
    pub(super) stops_on_image: bool,
    /// Whether it is looked at what programs leave behind that have begun under our eyes.
    pub(super) looks_at_exit: bool,
    /// Those that are stopped before they free their blocks.
    pub(super) leaving: Vec<ProcessSlot>,
    /// Those that are stopped before they end: where, by which thread, and why.
    pub(super) ending: Vec<(ProcessSlot, u32, Stopped)>,
    /// The same of targets that are being looked at already.
    pub(super) postponed: Vec<(ProcessSlot, u32, Stopped)>,
    /// Looks at those, under way.
    pub(super) looks: Looks,
    /// Every process that is selected, where probes find none of them: those that grow become targets.
    pub(super) scan: Option<ProcessScan>,
    /// Which of them are looked at by stack.
    pub(super) growth: GrowthLooks,
    /// Whether stacks of those that grow are told: the kernel may refuse, maybe days after the start.
    pub(super) tells_stacks: bool,
    /// Whether the children of targets are targets.
    pub(super) follows_children: bool,
    /// How many processes the targets had started that were not followed, and their resident memory, when there were most.
    pub(super) unfollowed: (u64, u64),
    /// The cost of a probe, where that could be tried.
    pub(super) trap: Option<TrapCost>,
    /// See [`Loaded::serial`].
    pub(super) serial: u64,
    /// Where snapshots go.
    pub(super) snapshots: Arc<Mailbox<Snapshot>>,
    /// Notices that found no room, as of the last reading.
    pub(super) lost_events: u64,
}

impl Session {
    /// Begins with a BPF side that has no targets. Nothing is hooked or counted yet.
    pub(super) fn new(options: &Options, loaded: Loaded, snapshots: Arc<Mailbox<Snapshot>>) -> Self {
        let Loaded { bpf, images, sources, events, mapping_events, trap, serial } = loaded;
        let mut scan = is_scanned(options).then(ProcessScan::default);
        scan.iter_mut().for_each(|scan| scan.tables_bytes = bpf.tables_bytes());
        let governor = governor(options, trap, bpf.links());
        let (ends_sender, ends) = unbounded_channel();
        let control = Control {
            adoption: adoption(options).0,
            own_tgid: bpf.own_tgid(),
            comm: options.selection.comm(),
            ..Control::default()
        };
        Self {
            bpf,
            targets: Targets::new(images, sources, options.categories.clone(), ends_sender),
            selection: options.selection.clone(),
            adoption: adoption(options),
            events,
            mapping_events,
            serial,
            ends,
            over: Vec::new(),
            started: Instant::now(),
            started_at: SystemTime::now(),
            tier: options.tier,
            governor,
            control,
            trap,
            growth: GrowthLooks::default(),
            tells_stacks: true,
            follows_children: options.follow,
            unfollowed: (0, 0),
            scan,
            stops_on_image: false,
            looks_at_exit: options.at_exit,
            leaving: Vec::new(),
            ending: Vec::new(),
            postponed: Vec::new(),
            looks: Looks::default(),
            lost_events: 0,
            snapshots,
        }
    }

    /// Lets go of every target: its probes are taken out, and its slot is another's from now on.
    pub(super) fn release(self) -> Result<Loaded, PipelineError> {
        let Self { mut bpf, targets, mut events, mut mapping_events, trap, serial, .. } = self;
        let (images, sources) = targets.release(&mut bpf)?;
        // These are of targets that are gone.
        events.get_mut().take();
        mapping_events.get_mut().take();
        bpf.begin_again()?;
        Ok(Loaded { bpf, images, sources, events, mapping_events, trap, serial })
    }

    /// Whether perf events will be opened later that take more than CAP_PERFMON: for probes, or for the tracepoints about pages.
    pub(super) fn opens_perf_events(&self) -> bool {
        self.bpf.links() == AttachMethod::PerfEvent || (self.scan.is_some() && preflight::restricts_perf_events())
    }

    /// Makes a process a target, without hooking it.
    pub(super) fn add(&mut self, target: Target) -> Result<Option<ProcessSlot>, PipelineError> {
        let is_first = self.targets.live().next().is_none();
        let has_own_probes = self.targets.images.scope() == Scope::Targets;
        let group = match &mut self.governor {
            Some(governor) if has_own_probes => governor.own(target.pid),
            _ => BudgetGroup::SHARED,
        };
        let Some(slot) = self.bpf.open_process(target.pid.get(), group, is_first)? else { return Ok(None) };
        self.follow_new(target, slot, group, Beginning::Before);
        Ok(Some(slot))
    }

    /// Makes what is selected now targets, and hooks every allocator in them. A program that begins from now on is
    /// found by the kernel side.
    pub(super) fn attach(&mut self) -> Result<(), PipelineError> {
        self.set_control(false)?;
        if self.scan.is_some() {
            return Ok(());
        }
        self.add_selected()?;
        if self.adoption != Adoption::default() && self.targets.images.are_hooked() {
            self.hook_in_advance();
        }
        self.targets.images.forget_prepared();
        own_memory::give_back_free_pages();
        Ok(())
    }

    /// Hooks the allocators of the host's own libraries, so that programs which begin later are exact from
    /// their first instruction: whichever the first process of the host and our own have mapped.
    fn hook_in_advance(&mut self) {
        for pid in [NonZeroU32::MIN, NonZeroU32::new(std::process::id()).unwrap_or(NonZeroU32::MIN)] {
            let looked =
                Target::find(pid).and_then(|mut target| target.hook(&mut self.targets.images, &mut self.bpf).map(drop));
            if let Err(error) = looked {
                log::info!("{error}");
            }
        }
    }

    pub(super) fn add_selected(&mut self) -> Result<(), PipelineError> {
        let pids = self.selection.processes()?;
        let named = matches!(self.selection, Selection::Pids(_));
        let mut problem = None;
        for pid in &pids {
            match self.add_and_hook(*pid) {
                Ok(()) => {}
                Err(error) if !named => log::info!("{error}"),
                // One of several may be gone, or hold no heap; the others are still worth a look.
                Err(error) if pids.len() > 1 && is_of_one_process(&error) => {
                    log::warn!("{error}");
                    problem = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        match problem {
            Some(error) if self.hooked().next().is_none() => Err(error),
            _ => Ok(()),
        }
    }

    pub(super) fn add_and_hook(&mut self, pid: NonZeroU32) -> Result<(), PipelineError> {
        if self.targets.has_pid(pid) {
            return Ok(());
        }
        let Some(slot) = self.add(find(pid)?)? else { return Ok(()) };
        self.targets.look(slot, &mut self.bpf).map_err(|error| unless_ended(pid, error))?;
        let Some(followed) = self.targets.get(slot).filter(|_| self.targets.images.are_hooked()) else { return Ok(()) };
        followed.target.check_custom(&self.targets.images)?;
        if followed.target.allocators.is_empty() {
            return Err(followed.target.no_allocator(&self.targets.images).into());
        }
        Ok(())
    }

    /// The targets in which something is hooked; where nothing is to be, all.
    pub(super) fn hooked(&self) -> impl Iterator<Item = &Target> {
        let all = !self.targets.images.are_hooked();
        self.targets.live().map(|followed| &followed.target).filter(move |target| all || !target.allocators.is_empty())
    }

    pub(super) fn count(&mut self, stop_on_image: bool) -> Result<(), PipelineError> {
        self.stops_on_image = stop_on_image;
        self.started = Instant::now();
        self.started_at = SystemTime::now();
        if let Some(governor) = &self.governor {
            governor.prepare(&mut self.bpf)?;
        }
        self.control.now_ms = 0;
        self.set_control(true)?;
        self.take_scan()?;
        self.govern(RunGovernor::begin)
    }

    /// Lets the governor act, where there is a budget.
    pub(super) fn govern(
        &mut self,
        act: impl FnOnce(&mut RunGovernor, &mut RunParts<'_>) -> Result<(), PipelineError>,
    ) -> Result<(), PipelineError> {
        let Self { governor: Some(governor), bpf, targets, started, .. } = self else { return Ok(()) };
        act(governor, &mut RunParts { bpf, targets, started: *started })
    }

    /// When the governor has something to do, where there is a budget.
    pub(super) fn next_act(&self) -> Option<Deadline> {
        self.governor.as_ref()?.deadline(self.started)
    }

    /// Tells the kernel side whether to count.
    pub(super) fn set_control(&mut self, counting: bool) -> Result<(), BpfError> {
        let (counting, stop_on_image) = (u32::from(counting), u32::from(counting && self.stops_on_image));
        self.control = Control { counting, stop_on_image, ..self.control };
        self.bpf.set_control(self.control)
    }

    /// Tells the kernel side what time it is.
    pub(super) fn set_time(&mut self, now_ms: u32) -> Result<(), BpfError> {
        self.control.now_ms = now_ms;
        self.bpf.set_control(self.control)
    }

    /// The time of a reading after which blocks belong to generation `next`.
    pub(super) fn time(&self, next: u32) -> Time {
        Time { elapsed: self.started.elapsed(), generation: Generation::at(self.control.now_ms), next }
    }

    /// Reads the kernel side and `/proc` into the profiles.
    pub(super) fn read(&mut self) -> Result<(), PipelineError> {
        self.read_until(Generation::at(self.control.now_ms)).map(drop)
    }

    /// The same at the end of a generation of blocks, where another is `next`. Returns how long it took, but for looks at what
    /// targets map.
    pub(super) fn read_until(&mut self, next: u32) -> Result<Duration, PipelineError> {
        self.handle_mapping_events()?;
        for slot in self.targets.due_for_a_look() {
            self.look_again(slot)?;
        }
        let begun = status::own_cpu_time();
        let (time, governor) = (self.time(next), self.governor.as_ref());
        self.targets.read(&self.bpf, time, |group| basis(governor, group, time.elapsed))?;
        Ok(status::own_cpu_time().saturating_sub(begun))
    }

    /// Looks at a target that is being followed. That it ends meanwhile is no error; that a library of
    /// its cannot be hooked is worth a warning.
    pub(super) fn look_again(&mut self, slot: ProcessSlot) -> Result<(), PipelineError> {
        let Some(pid) = self.targets.get(slot).map(|followed| followed.target.pid) else { return Ok(()) };
        match self.targets.look(slot, &mut self.bpf) {
            Ok(()) | Err(TargetError::NoSuchProcess { .. }) => {}
            Err(_) if has_ended(pid.get()) => {}
            Err(TargetError::Kernel(error)) => return Err(error.into()),
            Err(error) => log::warn!("{error}"),
        }
        Ok(())
    }
}

/// Looks at a process that is to be a target, without touching it.
pub(crate) fn find(pid: NonZeroU32) -> Result<Target, TargetError> {
    is_process(pid.get())?;
    Target::find(pid).map_err(|error| unless_ended(pid, error))
}

/// Checks that a pid is that of a process, not of one of its threads.
pub(super) fn is_process(tid: u32) -> Result<(), TargetError> {
    match leader::process_of(tid) {
        Some(pid) if pid != tid => Err(TargetError::Thread { tid, pid }),
        _ => Ok(()),
    }
}

/// The failure: that the process has ended meanwhile, if it has.
fn unless_ended(pid: NonZeroU32, error: TargetError) -> TargetError {
    let pid = pid.get();
    if has_ended(pid) { TargetError::NoSuchProcess { pid } } else { error }
}

/// The governor, where there is a budget.
fn governor(options: &Options, trap: Option<TrapCost>, links: AttachMethod) -> Option<RunGovernor> {
    let BudgetOptions { budget, gap } = options.budget?;
    let trap = trap.unwrap_or_else(|| {
        log::warn!("what tracing costs is guessed, to keep to --max-overhead");
        GUESSED
    });
    let attaches = !matches!(options.selection, Selection::Command(_));
    Some(RunGovernor::new(&tiers::Settings {
        budget,
        closest: options.tier,
        gap,
        blocks: options.capacities.blocks.into(),
        can_skip_returns: links == AttachMethod::Session,
        attaches,
        trap,
        cohorts: Recorded::MAX_COHORT,
        seed: fastrand::u64(..),
    }))
}

/// Whether other targets may do better.
fn is_of_one_process(error: &PipelineError) -> bool {
    use TargetError::{Bits32, Closed, MovedCode, NoAllocator, NoProgram, NoSuchProcess, Thread};
    match error {
        PipelineError::Kernel(error) => matches!(error, BpfError::NoSuchProcess { .. }),
        PipelineError::Target(error) => {
            matches!(
                error,
                NoSuchProcess { .. }
                    | NoProgram { .. }
                    | NoAllocator { .. }
                    | Closed { .. }
                    | Thread { .. }
                    | Bits32 { .. }
                    | MovedCode { .. }
            )
        }
        _ => false,
    }
}

/// As the kernel side keeps times: 49 days, then no further.
pub(super) fn milliseconds(elapsed: Duration) -> u32 {
    u32::try_from(elapsed.as_millis()).unwrap_or(u32::MAX)
}
