//! One run: from loading the kernel side to the last report.

use std::{
    num::NonZeroU32,
    process::Child,
    time::{Duration, Instant, SystemTime},
};

use aya::maps::{MapData, RingBuf};
use memtrace_common::{
    control::{Adoption, Control},
    event::{Event, EventKind},
    process::{Counter, ProcessSlot},
    site::Generation,
    vm::VmEvent,
};
use tokio::{
    io::unix::AsyncFd,
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    time::Instant as Deadline,
};

use super::{
    Look, Options, PipelineError, Sink,
    census::Census,
    code_copy,
    daemons::CommandSession,
    headroom,
    profile::{Time, health},
    steering::{Helm, Steering},
    targets::{Beginning, Over, Stopped, TargetId, Targets},
    watch::{self, Exit, Signals, Stop},
};
use crate::{
    capture::{
        calibration::calibrate,
        images::{Images, Scope},
        kernel::{Kernel, KernelError, Links, Settings},
        preflight,
        selection::Selection,
        target::{Target, TargetError},
    },
    model::{
        overhead::TrapCost,
        report::{Category, Report, Tier},
        units,
    },
    process::{leader, status, task_type::TaskOffsets},
    symbolize::{Symbolizer, reader::is_reader},
};

/// How often the kernel side is read, for histories and for stacks whose process may end. Longer where
/// reading takes more than a hundredth of it.
const TICK: Duration = Duration::from_secs(1);
/// How long targets that have ended wait for others, so that their books are closed together.
const CLOSING: Duration = Duration::from_millis(100);

/// A process of a census whose resident memory has grown by this much is looked at by stack: more than programs that do
/// nothing new come by, and a leak of 10 KiB a second in a quarter of a minute.
const WORTH_A_LOOK_BYTES: u64 = 128 << 10;

/// What a probe costs where that cannot be tried: as much as on a slow machine.
const GUESSED: TrapCost = TrapCost { entry_ns: 1000.0, call_ns: 2500.0, ret_ns: 2500.0 };

/// One run.
pub(super) struct Session {
    kernel: Kernel,
    targets: Targets,
    selection: Selection,
    adoption: Adoption,
    events: AsyncFd<RingBuf<MapData>>,
    /// Changes of address spaces.
    vm_events: AsyncFd<RingBuf<MapData>>,
    ends: UnboundedReceiver<TargetId>,
    /// Targets whose process has ended, and whose books are to be closed.
    over: Vec<(TargetId, Over)>,
    started: Instant,
    started_at: SystemTime,
    tier: Tier,
    /// What keeps to the budget, where there is one.
    steering: Option<Steering>,
    /// What the kernel side was told last.
    control: Control,
    stops_on_image: bool,
    /// Whether it is looked at what programs leave behind that have begun under our eyes.
    looks_at_exit: bool,
    /// Those that are stopped before they free their blocks.
    leaving: Vec<ProcessSlot>,
    /// Those that are stopped before they end: where, by which thread, and why.
    ending: Vec<(ProcessSlot, u32, Stopped)>,
    /// Every process that is selected, where probes find none of them: those that grow become targets.
    census: Option<Census>,
    /// Whether stacks of those that grow are told: the kernel may refuse, maybe days after the start.
    tells_stacks: bool,
    /// What a probe costs, where that could be tried.
    trap: Option<TrapCost>,
    /// Notices that found no room, as of the last reading.
    lost_events: u64,
}

impl Session {
    /// Loads the kernel side. There are no targets yet, and nothing is hooked or counted.
    pub(super) fn start(options: &Options) -> Result<Self, PipelineError> {
        let Options { selection, follow, .. } = options;
        // Each image stays open, and each process that is only looked at. (A command was forked before, and keeps its own limit.)
        if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
            log::info!("cannot have more files open than usual: {error}");
        }
        let is_growth = options.look == Look::Fixed(Tier::Growth);
        // Without probes, nothing need be in place before a program begins: `/proc` is soon enough.
        let mut census = (is_growth && selection.begins_by_itself()).then(Census::default);
        let adoption = if census.is_some() { Adoption::default() } else { selection.adoption(*follow) };
        let forks = adoption != Adoption::default();
        let cgroup = selection.open_cgroup()?;
        let (sample_bytes, is_adaptive) = match options.look {
            Look::Fixed(tier) => (tier.sample_bytes(), false),
            Look::Within { sample_bytes, .. } => (Some(sample_bytes), true),
        };
        // It begins before anything of memtrace's is in the kernel: nothing there takes it for a target.
        let symbolizer = Symbolizer::start();
        let settings = Settings {
            capacities: options.capacities,
            unwind: options.unwind,
            debug_lines: options.debug_lines,
            task: if forks { TaskOffsets::read()? } else { TaskOffsets::default() },
            links: options.links,
            sample_bytes,
            is_adaptive,
            address_spaces: options.categories.contains(&Category::Mmap) || options.at_exit,
            pages: options.categories.iter().any(|category| category.is_pages()),
            hooks: !is_growth,
        };
        let mut kernel = headroom::load(settings, &options.asked)?;
        log_memory(&kernel);
        census.iter_mut().for_each(|census| census.tables_bytes = kernel.tables_bytes());
        let trap = if is_growth { None } else { what_a_probe_costs(&mut kernel) };
        if !is_growth {
            log::info!("probes are attached by {}", kernel.links());
        }
        if matches!(options.look, Look::Fixed(Tier::Sampled { .. })) && kernel.links() != Links::Session {
            eprintln!("memtrace: this kernel cannot skip the return of a call (Linux 6.13 can): sampling saves little");
        }
        if options.debug_lines {
            watch::forward_debug_lines(&mut kernel)?;
        }
        if let Some(cgroup) = cgroup {
            kernel.set_cgroup(&cgroup)?;
        }
        if census.is_some() {
            kernel.find_page_event()?;
        } else if options.categories.iter().any(|category| category.is_pages()) {
            kernel.follow_pages()?;
        }
        kernel.follow_tasks(forks)?;
        if matches!(selection, Selection::Command(_)) {
            kernel.follow_mappings()?;
        }
        if options.categories.contains(&Category::Mmap) {
            kernel.follow_address_spaces()?;
        }
        if options.at_exit {
            kernel.follow_areas()?;
        }
        let wait = |source| PipelineError::Wait { what: "events of the kernel side", source };
        let events = watch::readable(kernel.take_ring("EVENTS")?).map_err(wait)?;
        let vm_events = watch::readable(kernel.take_ring("VM_EVENTS")?).map_err(wait)?;
        let steering = steering(options, trap, kernel.links());
        let scope = if census.is_some() { Scope::Targets } else { selection.scope(*follow) };
        let images = Images::new(scope, options.programs, options.custom.clone(), options.at_exit, options.returns);
        let (ends_sender, ends) = unbounded_channel();
        let own_tgid = kernel.own_tgid();
        Ok(Self {
            kernel,
            targets: Targets::new(images, symbolizer, options.categories.clone(), ends_sender),
            selection: selection.clone(),
            adoption,
            events,
            vm_events,
            ends,
            over: Vec::new(),
            started: Instant::now(),
            started_at: SystemTime::now(),
            tier: if let Look::Fixed(tier) = options.look { tier } else { Tier::Exact },
            steering,
            control: Control { adoption: adoption.0, own_tgid, comm: selection.comm(), ..Control::default() },
            trap,
            tells_stacks: true,
            census,
            stops_on_image: false,
            looks_at_exit: options.at_exit,
            leaving: Vec::new(),
            ending: Vec::new(),
            lost_events: 0,
        })
    }

    /// Whether perf events will be opened later that take more than CAP_PERFMON: for probes, or for the tracepoints about pages.
    pub(super) fn opens_perf_events(&self) -> bool {
        self.kernel.links() == Links::PerfEvent || (self.census.is_some() && preflight::restricts_perf_events())
    }

    /// Makes a process a target, without hooking it.
    pub(super) fn add(&mut self, target: Target) -> Result<Option<ProcessSlot>, PipelineError> {
        let is_first = self.targets.live().next().is_none();
        let Some(slot) = self.kernel.open_process(target.pid.get(), is_first)? else { return Ok(None) };
        self.follow_new(target, slot, Beginning::Before);
        Ok(Some(slot))
    }

    /// Makes what is selected now targets, and hooks every allocator in them. Whatever begins from now on is
    /// found by the kernel side.
    pub(super) fn attach(&mut self) -> Result<(), PipelineError> {
        self.set_control(false)?;
        if self.census.is_some() {
            return Ok(());
        }
        self.add_selected()?;
        if self.adoption != Adoption::default() && self.targets.images.are_hooked() {
            self.hook_in_advance();
        }
        Ok(())
    }

    /// Hooks the allocators of the host's own libraries, so that programs which begin later are exact from
    /// their first instruction: whichever the first process of the host and our own have mapped.
    fn hook_in_advance(&mut self) {
        for pid in [NonZeroU32::MIN, NonZeroU32::new(std::process::id()).unwrap_or(NonZeroU32::MIN)] {
            let looked = Target::find(pid)
                .and_then(|mut target| target.hook(&mut self.targets.images, &mut self.kernel).map(drop));
            if let Err(error) = looked {
                log::info!("{error}");
            }
        }
    }

    fn add_selected(&mut self) -> Result<(), PipelineError> {
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

    fn add_and_hook(&mut self, pid: NonZeroU32) -> Result<(), PipelineError> {
        if self.targets.has_pid(pid) {
            return Ok(());
        }
        let Some(slot) = self.add(find(pid)?)? else { return Ok(()) };
        self.targets.look(slot, &mut self.kernel).map_err(|error| unless_ended(pid, error))?;
        let Some(followed) = self.targets.get(slot).filter(|_| self.targets.images.are_hooked()) else { return Ok(()) };
        followed.target.check_custom(&self.targets.images)?;
        if followed.target.allocators.is_empty() {
            return Err(followed.target.no_allocator(&self.targets.images).into());
        }
        Ok(())
    }

    /// The targets in which something is hooked; where nothing is to be, all.
    fn hooked(&self) -> impl Iterator<Item = &Target> {
        let all = !self.targets.images.are_hooked();
        self.targets.live().map(|followed| &followed.target).filter(move |target| all || !target.allocators.is_empty())
    }

    pub(super) fn count(&mut self, stop_on_image: bool) -> Result<(), PipelineError> {
        self.stops_on_image = stop_on_image;
        self.started = Instant::now();
        self.started_at = SystemTime::now();
        if let Some(steering) = &self.steering {
            self.control.watch = steering.watch() as u32;
        }
        self.control.now_ms = 0;
        self.set_control(true)?;
        self.take_census()?;
        self.steer(Steering::begin)
    }

    /// Lets what keeps to the budget act, where there is a budget.
    fn steer(
        &mut self,
        act: impl FnOnce(&mut Steering, &mut Helm<'_>) -> Result<(), PipelineError>,
    ) -> Result<(), PipelineError> {
        let Some(steering) = &mut self.steering else { return Ok(()) };
        let Self { kernel, targets, control, started, .. } = self;
        act(steering, &mut Helm { kernel, targets, control, started: *started })
    }

    /// See [`Steering::scale`].
    fn scale(&self) -> f64 {
        self.steering.as_ref().map_or(1.0, Steering::scale)
    }

    /// Tells the kernel side whether to count.
    fn set_control(&mut self, counting: bool) -> Result<(), KernelError> {
        let (counting, stop_on_image) = (u32::from(counting), u32::from(counting && self.stops_on_image));
        self.control = Control { counting, stop_on_image, ..self.control };
        self.kernel.set_control(self.control)
    }

    /// Tells the kernel side what time it is.
    fn set_time(&mut self, now_ms: u32) -> Result<(), KernelError> {
        self.control.now_ms = now_ms;
        self.kernel.set_control(self.control)
    }

    fn tier_in_words(&self) -> String {
        match &self.steering {
            None => format!("tier {}", self.tier.name()),
            Some(steering) => format!(
                "tier {} while that takes no more than {:.1} % of CPU time",
                steering.tier().name(),
                steering.max_overhead() * 100.0
            ),
        }
    }

    pub(super) fn announce(&self) {
        /// More targets than this are told as a sum.
        const TOLD: usize = 4;
        let tier = self.tier_in_words();
        if let Some(census) = &self.census {
            let count = units::processes(census.count() as u64);
            return eprintln!("memtrace: tracing the memory of {count}, and of those that begin later, {tier}");
        }
        let count = self.hooked().count();
        for target in self.hooked().take(if count > TOLD { 0 } else { TOLD }) {
            if target.allocators.is_empty() {
                eprintln!("memtrace: tracing {} (pid {}), {tier}", target.comm, target.pid);
            }
            for allocator in &target.allocators {
                eprintln!(
                    "memtrace: tracing {} (pid {}): {} functions of {} in {}, {tier}",
                    target.comm,
                    target.pid,
                    allocator.functions.len(),
                    allocator.name,
                    allocator.image
                );
            }
        }
        match &self.selection {
            Selection::Comm(name) if count == 0 => {
                eprintln!("memtrace: tracing every program called {name}, of which there is none yet, {tier}");
            }
            _ if count == 0 => eprintln!("memtrace: tracing what begins from now on, {tier}"),
            _ if count > TOLD => eprintln!("memtrace: tracing {count} processes, {tier}"),
            _ => {}
        }
    }

    /// Follows the targets until they have ended, time is up, or a signal asks to stop; then makes the last
    /// report.
    pub(super) async fn follow(
        &mut self,
        options: &Options,
        signals: &mut Signals,
        sink: Sink<'_>,
        child: Option<&Child>,
    ) -> Result<(), PipelineError> {
        let command = child.map(|child| CommandSession::of(child.id(), options.follow, options.waits_for_daemons));
        let deadline = options.duration.map(|duration| Deadline::now() + duration);
        let mut next_tick = Deadline::now() + TICK;
        let mut next_report = options.interval.map(|interval| Deadline::now() + interval);
        let mut next_census = self.census.as_ref().map(|_| Deadline::now() + TICK);
        let mut closing = None;
        self.read()?;
        let mut next_act = self.steering.as_ref().map(Steering::deadline);
        while !self.is_done(command.as_ref()) {
            self.look_before_ends()?;
            if !self.over.is_empty() {
                closing.get_or_insert_with(|| Deadline::now() + CLOSING);
            }
            tokio::select! {
                biased;
                () = watch::until(deadline) => break,
                stop = signals.next() => {
                    // A terminal sends its signals to the command as well; it decides when to end.
                    match (child, stop) {
                        (Some(child), Stop::Politely(_)) if self.is_there(child.id()) => {
                            watch::forward(child.id(), stop.signal());
                        }
                        _ => break,
                    }
                }
                ready = self.events.readable_mut() => {
                    ready.map_err(|source| PipelineError::Wait { what: "events", source })?.clear_ready();
                    self.handle_events()?;
                }
                ready = self.vm_events.readable_mut() => {
                    ready.map_err(|source| PipelineError::Wait { what: "events", source })?.clear_ready();
                    self.handle_vm_events()?;
                }
                Some(id) = self.ends.recv() => {
                    self.targets.note_end(id);
                    self.over.push((id, Over::Ended));
                }
                () = watch::until(closing) => {
                    closing = None;
                    let begun = Instant::now();
                    self.close_books()?;
                    log::debug!("closed books in {:?}", begun.elapsed());
                }
                () = tokio::time::sleep_until(next_tick) => {
                    let cost = self.tick()?;
                    next_tick = Deadline::now() + TICK.max(cost * 100);
                }
                () = watch::until(next_census) => {
                    let cost = self.take_census()?;
                    next_census = Some(Deadline::now() + TICK.max(cost * 100));
                }
                () = watch::until(next_act) => {
                    self.steer(Steering::steer)?;
                    next_act = self.steering.as_ref().map(Steering::deadline);
                }
                () = watch::until(next_report) => {
                    self.close_books()?;
                    self.read()?;
                    self.take_census()?;
                    let mut report = self.report(self.started.elapsed())?;
                    sink(&mut report, false).map_err(PipelineError::Write)?;
                    next_report = options.interval.map(|interval| Deadline::now() + interval);
                }
            }
        }
        self.finish(command.as_ref(), sink)
    }

    /// Whether there is nothing left to follow.
    fn is_done(&self, command: Option<&CommandSession>) -> bool {
        let pids = || self.targets.live().map(|followed| followed.target.pid);
        let is_over = command.is_some_and(|command| command.is_over(pids()));
        !self.selection.begins_by_itself() && (pids().next().is_none() || is_over)
    }

    fn is_there(&self, pid: u32) -> bool {
        NonZeroU32::new(pid).is_some_and(|pid| self.targets.has_pid(pid))
    }

    /// Stops counting, reads everything once more and makes the last report.
    fn finish(&mut self, command: Option<&CommandSession>, sink: Sink<'_>) -> Result<(), PipelineError> {
        let elapsed = self.started.elapsed();
        self.set_control(false)?;
        self.steer(Steering::end)?;
        self.handle_vm_events()?;
        if self.stops_on_image {
            // Some may have been stopped in the moment between, children that were only just told of included.
            self.targets.live().for_each(|followed| watch::resume(followed.target.pid.get()));
        }
        // Not from `ends`: whoever waits for an end to tell of it may not have had his turn yet.
        let ended = self.targets.live().filter(|followed| watch::has_ended(followed.target.pid.get()));
        self.over.extend(ended.map(|followed| (followed.id, Over::Ended)));
        self.close_books()?;
        if let Some(command) = command {
            self.targets.leave(|target| command.why_left(target));
            command.tell_daemons(self.targets.live().map(|followed| &followed.target), self.looks_at_exit);
        }
        self.read()?;
        self.read_census(elapsed)?;
        let mut report = self.report(elapsed)?;
        sink(&mut report, true).map_err(PipelineError::Write)
    }

    fn report(&mut self, now: Duration) -> Result<Report, KernelError> {
        let scale = self.scale();
        let (mut processes, unlisted) = self.targets.report(&mut self.kernel, now, self.trap, scale)?;
        if let Some(census) = &self.census {
            processes = census.with_targets(processes);
        }
        Ok(Report {
            host: read_line("/proc/sys/kernel/hostname"),
            kernel: read_line("/proc/sys/kernel/osrelease"),
            started_at: self.started_at,
            duration: now,
            tier: self.steering.as_ref().map_or(self.tier, Steering::tier),
            steered: self.steering.as_ref().map(Steering::steered),
            health: health(&self.kernel.process(ProcessSlot::NONE)?, |counter: Counter| !counter.is_of_process()),
            not_seen: self.targets.images.never_mapped(),
            processes,
            unlisted,
            gate: None,
        })
    }

    /// What is to be done each second. Returns the CPU time of what is done each time: that a new image is compiled, or that others
    /// keep the CPU, is no reason to look more seldom.
    fn tick(&mut self) -> Result<Duration, PipelineError> {
        let lost_events = self.kernel.process(ProcessSlot::NONE)?.counters[Counter::EventsFull as usize];
        self.make_up_for_lost_events(lost_events)?;
        self.targets.follow_leaders(&mut self.kernel);
        if self.census.is_none() && matches!(self.selection, Selection::Cgroup(_)) {
            // Processes can be moved into a cgroup while they run.
            self.add_selected()?;
        }
        let now_ms = milliseconds(self.started.elapsed());
        let read = self.read_until(Generation::at(now_ms))?;
        self.control.follows_frees = u32::from(self.targets.want_frees(&mut self.kernel));
        self.set_time(now_ms)?;
        Ok(read)
    }

    /// Looks at the memory of every selected process. Those that have grown become targets: from then on it is told which
    /// of their stacks make it grow. Returns how long the look took.
    fn take_census(&mut self) -> Result<Duration, PipelineError> {
        let begun = status::own_cpu_time();
        self.read_census(self.started.elapsed())?;
        let cost = status::own_cpu_time().saturating_sub(begun);
        let Some(census) = &self.census else { return Ok(cost) };
        let grown: Vec<NonZeroU32> =
            census.grown_by(WORTH_A_LOOK_BYTES).filter(|pid| !self.targets.has_pid(*pid)).collect();
        if grown.is_empty() || !self.tells_stacks {
            return Ok(cost);
        }
        if let Err(error) = self.kernel.follow_pages() {
            log::warn!("{error}: which stacks make processes grow is not told");
            self.tells_stacks = false;
            return Ok(cost);
        }
        for pid in grown {
            if let Err(error) = self.add_and_hook(pid) {
                // It may have ended, or may not be looked into.
                log::info!("{error}");
            }
        }
        Ok(cost)
    }

    /// Reads the memory of every selected process, where that is looked at.
    fn read_census(&mut self, elapsed: Duration) -> Result<(), PipelineError> {
        if let Some(census) = &mut self.census {
            census.read(&self.selection.processes()?, elapsed);
        }
        Ok(())
    }

    /// The time of a reading after which blocks belong to generation `next`.
    fn time(&self, next: u32) -> Time {
        Time { elapsed: self.started.elapsed(), generation: Generation::at(self.control.now_ms), next }
    }

    /// Reads the kernel side and `/proc` into the profiles.
    fn read(&mut self) -> Result<(), PipelineError> {
        self.read_until(Generation::at(self.control.now_ms)).map(drop)
    }

    /// The same at the end of a generation of blocks, where another is `next`. Returns how long it took, but for looks at what
    /// targets map.
    fn read_until(&mut self, next: u32) -> Result<Duration, PipelineError> {
        self.handle_vm_events()?;
        for slot in self.targets.due_for_a_look() {
            self.look_again(slot)?;
        }
        let begun = status::own_cpu_time();
        self.targets.read(&self.kernel, self.time(next), self.scale())?;
        Ok(status::own_cpu_time().saturating_sub(begun))
    }

    /// Looks at a target that is being followed. That it ends meanwhile is no error; that a library of
    /// its cannot be hooked is worth a warning.
    fn look_again(&mut self, slot: ProcessSlot) -> Result<(), PipelineError> {
        let Some(pid) = self.targets.get(slot).map(|followed| followed.target.pid) else { return Ok(()) };
        match self.targets.look(slot, &mut self.kernel) {
            Ok(()) | Err(TargetError::NoSuchProcess { .. }) => {}
            Err(_) if watch::has_ended(pid.get()) => {}
            Err(TargetError::Kernel(error)) => return Err(error.into()),
            Err(error) => log::warn!("{error}"),
        }
        Ok(())
    }

    fn close_books(&mut self) -> Result<(), PipelineError> {
        self.handle_vm_events()?;
        let over = std::mem::take(&mut self.over);
        let time = self.time(Generation::at(self.control.now_ms));
        let (window, scale) = (|who| self.steering.as_ref()?.window(who), self.scale());
        Ok(self.targets.close(&over, &mut self.kernel, time, window, scale)?)
    }

    /// Lets go of the targets and waits for the command's end, passing on what we are told meanwhile.
    pub(super) async fn outlive(self, signals: &mut Signals, exit: Exit, pid: u32) {
        drop(self);
        loop {
            tokio::select! {
                () = exit.wait() => return,
                stop = signals.next() => watch::forward(pid, stop.signal()),
            }
        }
    }

    /// A target that was stopped, but whose notice found no room, would wait for ever.
    fn make_up_for_lost_events(&mut self, lost_events: u64) -> Result<(), PipelineError> {
        if std::mem::replace(&mut self.lost_events, lost_events) < lost_events {
            let slots: Vec<ProcessSlot> = self.targets.live().map(|followed| followed.target.slot).collect();
            for slot in slots {
                self.look_again(slot)?;
                self.resume(slot);
            }
        }
        Ok(())
    }

    /// Lets a target go on that was stopped on mapping an image.
    fn resume(&self, slot: ProcessSlot) {
        if let Some(followed) = self.targets.get(slot).filter(|_| self.stops_on_image) {
            watch::resume(followed.target.pid.get());
        }
    }

    /// Handles every notice that is there by now.
    fn handle_events(&mut self) -> Result<(), PipelineError> {
        self.targets.read_log();
        let mut events = Vec::new();
        while let Some(record) = self.events.get_mut().next() {
            events.extend(Event::from_bytes(&record));
        }
        for event in &events {
            match EventKind::try_from(event.kind) {
                Ok(EventKind::Exec) => self.begin_program(event)?,
                Ok(EventKind::ExecByThread) => {
                    self.targets.unbind(event.previous, &mut self.kernel);
                    self.begin_program(event)?;
                }
                Ok(EventKind::Forked) => {
                    // It was not stopped: an answer could take back its first stop, or the one before its end.
                    self.begin_child(event);
                    continue;
                }
                Ok(EventKind::ImageMapped) => self.look_again(event.slot)?,
                Ok(EventKind::CodeCopy) => {
                    if let Some(followed) = self.targets.get(event.slot) {
                        code_copy::let_go(followed, self.targets.images.scope(), &mut self.kernel)?;
                    }
                }
                Ok(kind @ (EventKind::Ending | EventKind::Replacing)) => {
                    // Let go once it was looked at.
                    let why = if kind == EventKind::Ending { Stopped::ToEnd } else { Stopped::ToBeReplaced };
                    self.ending.push((event.slot, event.tgid, why));
                    continue;
                }
                Ok(EventKind::Leaving) => {
                    self.note_way_out(event.slot);
                    continue;
                }
                Err(unknown) => log::warn!("unknown event {}", unknown.0),
            }
            self.resume(event.slot);
        }
        Ok(())
    }

    /// Takes in every change of an address space that is there by now.
    fn handle_vm_events(&mut self) -> Result<(), PipelineError> {
        let events = self.take_vm_events();
        // A target's beginning was told before anything that it did.
        self.handle_events()?;
        self.targets.change_address_spaces(&events);
        Ok(())
    }

    fn take_vm_events(&mut self) -> Vec<VmEvent> {
        let mut events = Vec::new();
        while let Some(record) = self.vm_events.get_mut().next() {
            events.extend(VmEvent::from_bytes(&record));
        }
        events
    }

    /// A target begins to end. Where it waits, it is read first.
    fn note_way_out(&mut self, slot: ProcessSlot) {
        if self.looks_at_exit && self.stops_on_image {
            self.leaving.push(slot);
        } else {
            self.targets.note_way_out(slot, self.started.elapsed());
        }
    }

    /// Looks at what those hold and leave behind that are stopped before they free it and before they end, and lets them go.
    fn look_before_ends(&mut self) -> Result<(), PipelineError> {
        if !self.leaving.is_empty() {
            self.read()?;
        }
        for slot in std::mem::take(&mut self.leaving) {
            self.targets.note_way_out(slot, self.started.elapsed());
            self.resume(slot);
        }
        let ending = std::mem::take(&mut self.ending);
        if ending.iter().any(|(slot, ..)| self.targets.waits_for_a_last_look(*slot)) {
            self.read()?;
            // All that they have mapped was told before their ends were, and is there by now.
            let events = self.take_vm_events();
            self.targets.change_address_spaces(&events);
        }
        for (slot, thread, why) in ending {
            if self.targets.waits_for_a_last_look(slot) {
                self.targets.look_before_end(slot, thread, why, &self.kernel);
            }
            self.resume(slot);
        }
        Ok(())
    }

    /// A process runs another program.
    fn begin_program(&mut self, event: &Event) -> Result<(), PipelineError> {
        let Some(pid) = NonZeroU32::new(event.tgid) else { return Ok(()) };
        if is_reader(event.tgid) && event.slot != ProcessSlot::NONE {
            // It was begun anew, and is no target, whatever is selected.
            self.kernel.close_processes(&[event.slot])?;
            self.kernel.sweep();
            return Ok(self.kernel.recycle(&[event.slot])?);
        }
        let before = self.targets.get(event.previous);
        let next = match before {
            Some(followed) => followed.target.successor(),
            None => Target::find(pid),
        };
        // It may have ended already.
        let next = next.unwrap_or_else(|_| Target::vanished(pid));
        if let Some(followed) = before {
            let was_named = self.adoption == Adoption::default();
            if was_named && (!self.stops_on_image || !followed.profile.is_empty()) {
                let (was, is) = (&followed.target.exe, &next.exe);
                eprintln!("memtrace: process {pid} now runs {is} (was {was}): its figures start afresh");
            }
            let replaced = followed.id;
            // Its process may be known to have ended by now, but that was the end of the next program.
            self.over.retain(|(id, _)| *id != replaced);
            self.over.push((replaced, Over::Replaced));
        }
        if event.slot != ProcessSlot::NONE {
            self.follow_new(next, event.slot, Beginning::Program);
            self.look_again(event.slot)?;
        }
        Ok(())
    }

    /// A target has a child that is a target.
    fn begin_child(&mut self, event: &Event) {
        let Some(pid) = NonZeroU32::new(event.tgid) else { return };
        let child = match self.targets.get(event.previous) {
            Some(parent) => parent.target.child(pid),
            None => Target::find(pid).unwrap_or_else(|_| Target::vanished(pid)),
        };
        self.follow_new(child, event.slot, Beginning::Forked);
    }

    fn follow_new(&mut self, mut target: Target, slot: ProcessSlot, beginning: Beginning) {
        target.slot = slot;
        let (id, is_there) = self.targets.add(target, beginning, self.looks_at_exit);
        if !is_there {
            self.over.push((id, Over::Ended));
        }
    }
}

/// Looks at a process that is to be a target, without touching it.
pub(super) fn find(pid: NonZeroU32) -> Result<Target, TargetError> {
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

/// What failed: that the process has ended meanwhile, if it has.
fn unless_ended(pid: NonZeroU32, error: TargetError) -> TargetError {
    let pid = pid.get();
    if watch::has_ended(pid) { TargetError::NoSuchProcess { pid } } else { error }
}

/// What keeps to the budget, where there is one.
fn steering(options: &Options, trap: Option<TrapCost>, links: Links) -> Option<Steering> {
    let Look::Within { budget, closest, sample_bytes } = options.look else { return None };
    let trap = trap.unwrap_or_else(|| {
        log::warn!("what tracing costs is guessed, to keep to --max-overhead");
        GUESSED
    });
    let attaches = !matches!(options.selection, Selection::Command(_));
    Some(Steering::new(budget, closest, sample_bytes, trap, links == Links::Session, attaches))
}

/// What memtrace measures on itself.
fn what_a_probe_costs(kernel: &mut Kernel) -> Option<TrapCost> {
    calibrate(kernel)
        .inspect_err(|error| log::warn!("cannot tell what tracing costs: {error}"))
        .inspect(|TrapCost { entry_ns, call_ns, ret_ns }| {
            log::info!("a probe costs {entry_ns:.0} ns, with the return {call_ns:.0}, at a `ret` {ret_ns:.0}");
        })
        .ok()
}

/// Whether other targets may do better.
fn is_of_one_process(error: &PipelineError) -> bool {
    use TargetError::{Bits32, Closed, MovedCode, NoAllocator, NoProgram, NoSuchProcess, Thread};
    match error {
        PipelineError::Kernel(error) => matches!(error, KernelError::NoSuchProcess { .. }),
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

pub(super) fn read_line(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn log_memory(kernel: &Kernel) {
    let maps = kernel.memory_bytes();
    let total: u64 = maps.iter().map(|(_, bytes)| bytes).sum();
    let parts: Vec<String> =
        maps.iter().map(|(name, bytes)| format!("{} {} KiB", name.to_lowercase(), bytes / 1024)).collect();
    log::info!("kernel memory: {} KiB ({})", total / 1024, parts.join(", "));
}
