//! A run over programs, as its schedule has it: what happens to its targets, and what is done at times.

use std::time::{Duration, Instant};

use memtrace_common::{
    ids::ProcessSlot,
    wire::{counters::Counter, site::Generation},
};
use tokio::{sync::mpsc::UnboundedReceiver, time::Instant as Deadline};

use super::{
    attached::AttachedTarget,
    closing::{Close, ProgramEnd},
    commands::Command,
    daemons::CommandSession,
    error::PipelineError,
    govern::{RunGovernor, basis},
    looks::LookEvent,
    options::Options,
    process_handle::ProcessHandle,
    process_scan::ProcessScan,
    run::this_run,
    schedule::{self, Run},
    session::{Session, milliseconds},
    snapshot::Snapshot,
    unfollowed,
    wait::{self, Signals, Stop},
};
use crate::{
    bpf::BpfError,
    capture::selection::Selection,
    model::{run, target_id::TargetId},
    profile::{self, Profile},
};

/// How long targets that have ended wait for others, so that they are finished together.
const CLOSING: Duration = Duration::from_millis(100);

/// How long events wait while a target's looks are put off: at 20,000 a second, their buffer holds a quarter of a second's.
const REST: Duration = Duration::from_millis(10);

/// A run over programs, with what only its schedule needs.
struct ProgramRun<'a> {
    session: &'a mut Session,
    /// The command that was started, and its process.
    child: Option<(CommandSession, &'a ProcessHandle)>,
    /// When targets are finished that have ended.
    closing: Option<Deadline>,
    /// When `/proc` is scanned again.
    next_scan: Option<Deadline>,
    /// When the governor has something to do.
    next_act: Option<Deadline>,
    /// When events were handled last.
    handled: Deadline,
}

/// Something that happens while programs are followed.
enum ProgramEvent {
    /// The kernel side has told events.
    Events,
    /// It has told changes of address spaces.
    MappingEvents,
    /// A look has come to a step.
    Look(LookEvent),
    /// The process of a target has ended.
    End(TargetId),
    /// Targets that have ended have waited for others.
    Closing,
}

impl Session {
    /// Follows the targets until they have ended, time is up, or somebody asks to stop; then makes the last report.
    pub(super) async fn follow(
        &mut self,
        options: &Options,
        signals: &mut Signals,
        commands: &mut UnboundedReceiver<Command>,
        child: Option<(u32, &ProcessHandle)>,
    ) -> Result<(), PipelineError> {
        let session = |pid| CommandSession::of(pid, options.follow, options.waits_for_daemons);
        let child = child.map(|(pid, process)| (session(pid), process));
        let next_scan = self.scan.as_ref().map(|_| schedule::due_again(Duration::ZERO));
        self.read()?;
        let next_act = self.next_act();
        let handled = Deadline::now();
        let mut run = ProgramRun { session: self, child, closing: None, next_scan, next_act, handled };
        schedule::follow(&mut run, options.into(), signals, commands).await
    }

    /// Waits for the looks that are under way, each of which has a limit, unless a signal asks not to.
    async fn finish_looks(&mut self, signals: &mut Signals) {
        while !self.looks.are_over() {
            tokio::select! {
                biased;
                _ = signals.next() => return,
                look = self.looks.next() => self.handle_look(look),
            }
        }
    }

    /// Whether there is nothing left to follow.
    fn is_done(&self, command: Option<&CommandSession>) -> bool {
        let pids = || self.targets.live().map(|followed| followed.target.pid);
        let is_over = command.is_some_and(|command| command.is_over(pids()));
        !self.selection.begins_by_itself() && (pids().next().is_none() || is_over)
    }

    /// Stops counting, reads everything once more and makes the last report.
    fn finish(&mut self, command: Option<&CommandSession>) -> Result<(), PipelineError> {
        let elapsed = self.started.elapsed();
        self.set_control(false)?;
        self.govern(RunGovernor::end)?;
        self.handle_mapping_events()?;
        if self.stops_on_image {
            // Some may have been stopped in the moment between, children that were only just told of included.
            self.targets.live().for_each(AttachedTarget::resume);
        }
        // Not from `ends`: whoever waits for an end to tell of it may not have had his turn yet.
        let ended = self.targets.live().filter(|followed| followed.has_ended());
        self.over.extend(ended.map(|followed| (followed.id, ProgramEnd::Ended)));
        self.finish_targets()?;
        if let Some(command) = command {
            self.targets.leave(|target| command.why_left(target));
            command.tell_daemons(self.targets.live().map(|followed| &followed.target), self.looks_at_exit);
        }
        self.read()?;
        self.read_scan(elapsed)?;
        Ok(self.put_snapshot(elapsed, true)?)
    }

    /// Puts in the mailbox what was measured by now.
    fn put_snapshot(&mut self, now: Duration, is_last: bool) -> Result<(), BpfError> {
        self.note_unfollowed(unfollowed::FOR_A_REPORT);
        let tier = self.governor.as_ref().map_or(self.tier, RunGovernor::tier);
        let profile = Profile {
            version: profile::VERSION,
            run: run::Run {
                budget: self.governor.as_ref().map(RunGovernor::log),
                not_seen: self.targets.images.never_mapped().into_iter().chain(self.unfollowed()).collect(),
                ..this_run(self.started_at, now, tier)
            },
            categories: self.targets.categories().to_vec(),
            trap: self.trap,
            is_adaptive: self.bpf.is_adaptive(),
            images: Vec::new(),
            counters: self.bpf.process(ProcessSlot::NONE)?.counters,
            missed_runs: None,
            subjects: Vec::new(),
        };
        let profile = Box::new(self.targets.profile(&mut self.bpf, profile));
        self.snapshots.put(Snapshot {
            profile,
            images: self.targets.images.all().to_vec(),
            serial: self.serial,
            scanned: self.scan.as_ref().map(ProcessScan::processes),
            is_last,
        });
        Ok(())
    }

    /// The work of each second. Returns the CPU time of what is done each time: that a new image is compiled, or that others
    /// keep the CPU, is no reason to look more seldom.
    fn tick(&mut self) -> Result<Duration, PipelineError> {
        let lost_events = self.bpf.process(ProcessSlot::NONE)?.counters[Counter::EventsFull as usize];
        self.make_up_for_lost_events(lost_events)?;
        self.targets.follow_leaders(&mut self.bpf);
        self.note_unfollowed(unfollowed::EACH_SECOND);
        if self.scan.is_none() && matches!(self.selection, Selection::Cgroup(_)) {
            // Processes can be moved into a cgroup while they run.
            self.add_selected()?;
        }
        let now_ms = milliseconds(self.started.elapsed());
        let read = self.read_until(Generation::at(now_ms))?;
        self.control.follows_frees = u32::from(self.targets.want_frees(&mut self.bpf));
        self.set_time(now_ms)?;
        Ok(read)
    }

    pub(super) fn finish_targets(&mut self) -> Result<(), PipelineError> {
        self.handle_mapping_events()?;
        let over = std::mem::take(&mut self.over);
        let time = self.time(Generation::at(self.control.now_ms));
        let Self { governor, targets, bpf, tier, started, .. } = self;
        let now = time.elapsed;
        let window = |group, target| governor.as_ref()?.window(group, now, target);
        let basis = |group| basis(governor.as_ref(), group, now);
        targets.close(&over, bpf, &Close { time, started: *started, tier: *tier, window: &window, basis: &basis })?;
        if let Some(governor) = governor {
            governor.let_gone_go(targets);
        }
        Ok(())
    }

    /// Lets go of the targets and waits for the command's end, passing on what we are told meanwhile.
    pub(super) async fn outlive(self, signals: &mut Signals, process: &ProcessHandle) {
        drop(self);
        loop {
            tokio::select! {
                () = process.ended() => return,
                stop = signals.next() => process.send(stop.signal()),
            }
        }
    }
}

impl Run for ProgramRun<'_> {
    type Event = ProgramEvent;

    fn is_over(&self) -> bool {
        self.session.is_done(self.child.as_ref().map(|(command, _)| command))
    }

    fn prepare(&mut self) -> Result<(), PipelineError> {
        self.session.look_before_ends()?;
        if !self.session.over.is_empty() {
            self.closing.get_or_insert_with(|| Deadline::now() + CLOSING);
        }
        Ok(())
    }

    async fn next(&mut self) -> Result<ProgramEvent, PipelineError> {
        let failed = |source| PipelineError::Wait { what: "events", source };
        // A target that maps code all the time does not keep memtrace awake all the time.
        let rests = self.session.next_look().map(|_| self.handled + REST);
        let Session { events, mapping_events, looks, ends, .. } = &mut *self.session;
        let ready = async {
            if let Some(rested) = rests {
                tokio::time::sleep_until(rested).await;
            }
            events.readable_mut().await
        };
        tokio::select! {
            biased;
            ready = ready => {
                ready.map_err(failed)?.clear_ready();
                Ok(ProgramEvent::Events)
            }
            ready = mapping_events.readable_mut() => {
                ready.map_err(failed)?.clear_ready();
                Ok(ProgramEvent::MappingEvents)
            }
            look = looks.next() => Ok(ProgramEvent::Look(look)),
            Some(id) = ends.recv() => Ok(ProgramEvent::End(id)),
            () = wait::until(self.closing) => Ok(ProgramEvent::Closing),
        }
    }

    fn handle(&mut self, event: ProgramEvent) -> Result<(), PipelineError> {
        match event {
            ProgramEvent::Events => {
                self.session.handle_events()?;
                self.handled = Deadline::now();
            }
            ProgramEvent::MappingEvents => self.session.handle_mapping_events()?,
            ProgramEvent::Look(look) => self.session.handle_look(look),
            ProgramEvent::End(id) => {
                self.session.targets.note_end(id);
                self.session.over.push((id, ProgramEnd::Ended));
            }
            ProgramEvent::Closing => {
                self.closing = None;
                let begun = Instant::now();
                self.session.finish_targets()?;
                log::debug!("finished targets in {:?}", begun.elapsed());
            }
        }
        Ok(())
    }

    fn passes_on(&mut self, stop: Stop) -> bool {
        // A terminal sends its signals to the command as well; it decides when to end.
        match (&self.child, stop) {
            (Some((command, process)), Stop::Politely(signal)) if self.session.targets.has_pid(command.pid()) => {
                process.send(signal);
                true
            }
            _ => false,
        }
    }

    fn tick(&mut self) -> Result<Duration, PipelineError> {
        self.session.tick()
    }

    fn next_work(&self) -> Option<Deadline> {
        self.next_scan.into_iter().chain(self.next_act).chain(self.session.next_look()).min()
    }

    fn work(&mut self) -> Result<(), PipelineError> {
        let is_due = |at: Option<Deadline>| at.is_some_and(|at| at <= Deadline::now());
        if is_due(self.next_scan) {
            self.next_scan = Some(schedule::due_again(self.session.take_scan()?));
        }
        self.session.make_up_for_looks()?;
        if is_due(self.next_act) {
            self.session.govern(RunGovernor::act)?;
            self.next_act = self.session.next_act();
        }
        Ok(())
    }

    fn report(&mut self) -> Result<(), PipelineError> {
        self.session.finish_targets()?;
        self.session.read()?;
        self.session.take_scan()?;
        Ok(self.session.put_snapshot(self.session.started.elapsed(), false)?)
    }

    async fn finish(&mut self, signals: &mut Signals) -> Result<(), PipelineError> {
        self.session.finish_looks(signals).await;
        self.session.finish(self.child.as_ref().map(|(command, _)| command))
    }
}
