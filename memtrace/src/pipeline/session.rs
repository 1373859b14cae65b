//! One run over one target: from loading the kernel side to the last report.

use std::{
    process::Child,
    time::{Duration, Instant, SystemTime},
};

use aya::maps::{MapData, RingBuf};
use memtrace_common::{
    control::Control,
    event::{Event, EventKind},
    process::Counter,
};
use tokio::io::unix::AsyncFd;

use super::{
    Options, PipelineError, Selection, Sink,
    profile::Profile,
    watch::{self, Exit, Signals, Stop},
};
use crate::capture::{
    kernel::{Kernel, KernelError},
    target::{Target, TargetError},
};

/// How often the kernel side is read, for histories and for stacks whose process may end. Longer where
/// reading takes more than a hundredth of it.
const TICK: Duration = Duration::from_secs(1);

/// One run over one target.
pub(super) struct Session {
    kernel: Kernel,
    target: Target,
    profile: Profile,
    events: AsyncFd<RingBuf<MapData>>,
    exit: Exit,
    started: Instant,
    stops_on_image: bool,
    /// Notices that found no room, as of the last reading.
    lost_events: u64,
    /// Stacks that were cut at unknown code, as of the last reading.
    cut_stacks: u64,
}

impl Session {
    /// Loads the kernel side. Nothing is hooked or counted yet.
    pub(super) fn start(options: &Options, mut target: Target) -> Result<Self, PipelineError> {
        target.custom.clone_from(&options.custom);
        let pid = target.pid.get();
        let exit = Exit::of(pid).map_err(|_| TargetError::NoSuchProcess { pid })?;
        let mut kernel = Kernel::load(options.capacities, options.unwind, options.debug_lines)?;
        log_memory(&kernel);
        if options.debug_lines {
            watch::forward_debug_lines(&mut kernel)?;
        }
        kernel.add_process(pid, target.slot)?;
        kernel.follow_tasks()?;
        if matches!(options.selection, Selection::Command(_)) {
            kernel.follow_mappings()?;
        }
        let events = watch::readable(kernel.take_events()?)
            .map_err(|source| PipelineError::Wait { what: "events of the kernel side", source })?;
        let profile = Profile::new(SystemTime::now());
        Ok(Self {
            kernel,
            target,
            profile,
            events,
            exit,
            started: Instant::now(),
            stops_on_image: false,
            lost_events: 0,
            cut_stacks: 0,
        })
    }

    /// Hooks every allocator that is there now; there must be one.
    pub(super) fn attach(&mut self) -> Result<(), PipelineError> {
        match self.target.look(&mut self.kernel).and_then(|()| self.target.check_custom()) {
            Ok(()) if self.target.allocators.is_empty() => Err(self.target.no_allocator().into()),
            Ok(()) => Ok(()),
            // Whatever failed, it failed because the process ended meanwhile.
            Err(_) if self.exit.has_come() => Err(TargetError::NoSuchProcess { pid: self.target.pid.get() }.into()),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn count(&mut self, stop_on_image: bool) -> Result<(), KernelError> {
        self.stops_on_image = stop_on_image;
        self.started = Instant::now();
        self.profile = Profile::new(SystemTime::now());
        self.set_control(true)
    }

    /// Tells the kernel side whether to count, and what time it is.
    fn set_control(&mut self, counting: bool) -> Result<(), KernelError> {
        self.kernel.set_control(Control {
            counting: u32::from(counting),
            stop_on_image: u32::from(counting && self.stops_on_image),
            first_tgid: self.target.pid.get(),
            now_ms: milliseconds(self.started.elapsed()),
        })
    }

    pub(super) fn announce(&self) {
        let Target { pid, comm, allocators, .. } = &self.target;
        for allocator in allocators {
            eprintln!(
                "memtrace: tracing {comm} (pid {pid}): {} functions of {} in {}, tier exact",
                allocator.functions.len(),
                allocator.name,
                allocator.image
            );
        }
    }

    /// Follows the target until it ends, time is up, or a signal asks to stop; then makes the last
    /// report.
    pub(super) async fn follow(
        &mut self,
        options: &Options,
        signals: &mut Signals,
        sink: Sink<'_>,
        child: Option<&Child>,
    ) -> Result<(), PipelineError> {
        let deadline = options.duration.map(|duration| tokio::time::Instant::now() + duration);
        let mut next_tick = tokio::time::Instant::now() + TICK;
        let mut next_report = options.interval.map(|interval| tokio::time::Instant::now() + interval);
        self.read()?;
        loop {
            tokio::select! {
                biased;
                () = watch::until(deadline) => break,
                stop = signals.next() => {
                    // A terminal sends its signals to the command as well; it decides when to end.
                    match (child, stop) {
                        (Some(child), Stop::Politely(_)) => watch::forward(child.id(), stop.signal()),
                        _ => break,
                    }
                }
                ready = self.events.readable_mut() => {
                    let mut ready = ready.map_err(|source| PipelineError::Wait { what: "events", source })?;
                    let mut events = Vec::new();
                    while let Some(record) = ready.get_inner_mut().next() {
                        events.extend(Event::from_bytes(&record));
                    }
                    ready.clear_ready();
                    self.handle(&events)?;
                }
                () = self.exit.wait() => break,
                () = tokio::time::sleep_until(next_tick) => {
                    self.set_control(true)?;
                    let counters = self.kernel.process(self.target.slot)?.counters;
                    self.resume_unnoticed(counters[Counter::EventsFull as usize])?;
                    self.look_at_unknown_code(counters[Counter::UnwindNoCode as usize])?;
                    let cost = self.read()?;
                    next_tick = tokio::time::Instant::now() + TICK.max(cost * 100);
                }
                () = watch::until(next_report) => {
                    self.read()?;
                    let report = self.profile.report(&self.target, &self.kernel, self.started.elapsed(), false)?;
                    sink(&report, false).map_err(PipelineError::Write)?;
                    next_report = options.interval.map(|interval| tokio::time::Instant::now() + interval);
                }
            }
        }
        self.finish(sink)
    }

    /// Stops counting, reads everything once more and makes the last report.
    fn finish(&mut self, sink: Sink<'_>) -> Result<(), PipelineError> {
        let elapsed = self.started.elapsed();
        self.set_control(false)?;
        if self.stops_on_image {
            // It may have been stopped in the moment between.
            watch::resume(self.target.pid.get());
        }
        self.read()?;
        let ended = self.exit.has_come();
        let report = self.profile.report(&self.target, &self.kernel, elapsed, ended)?;
        sink(&report, true).map_err(PipelineError::Write)
    }

    /// Reads the kernel side and `/proc` into the profile. Returns how long that took.
    fn read(&mut self) -> Result<Duration, PipelineError> {
        let begun = Instant::now();
        if self.target.wants_look() || self.profile.has_tentative_stacks() {
            self.look_again()?;
        }
        self.profile.read(&self.kernel, &self.target, self.started.elapsed())?;
        Ok(begun.elapsed())
    }

    /// Looks at a target that is being followed. That it ends meanwhile is no error; that a library of
    /// its cannot be hooked is worth a warning.
    fn look_again(&mut self) -> Result<(), PipelineError> {
        let known = self.target.allocators.len();
        match self.target.look(&mut self.kernel) {
            Ok(()) => {}
            Err(_) if self.exit.has_come() => {}
            Err(TargetError::Kernel(error)) => return Err(error.into()),
            Err(error) => log::warn!("{error}"),
        }
        for allocator in &self.target.allocators[known..] {
            log::info!("hooked {} in {}", allocator.name, allocator.image);
        }
        Ok(())
    }

    /// Lets go of the target and waits for its end, passing on what we are told meanwhile.
    pub(super) async fn outlive(self, signals: &mut Signals, pid: u32) {
        let Self { kernel, exit, .. } = self;
        drop(kernel);
        loop {
            tokio::select! {
                () = exit.wait() => return,
                stop = signals.next() => watch::forward(pid, stop.signal()),
            }
        }
    }

    /// A target that was stopped, but whose notice found no room, would wait for ever.
    fn resume_unnoticed(&mut self, lost_events: u64) -> Result<(), PipelineError> {
        if self.stops_on_image && lost_events > self.lost_events {
            self.look_again()?;
            watch::resume(self.target.pid.get());
        }
        self.lost_events = lost_events;
        Ok(())
    }

    /// Code that nobody announces (a just-in-time compiler's, say) shows in stacks that were cut there.
    fn look_at_unknown_code(&mut self, cut_stacks: u64) -> Result<(), PipelineError> {
        if cut_stacks > self.cut_stacks {
            self.look_again()?;
        }
        self.cut_stacks = cut_stacks;
        Ok(())
    }

    fn handle(&mut self, events: &[Event]) -> Result<(), PipelineError> {
        if events.is_empty() {
            return Ok(());
        }
        for event in events {
            match EventKind::try_from(event.kind) {
                Ok(EventKind::Exec) => self.start_afresh()?,
                Ok(EventKind::ImageMapped) => {}
                Err(unknown) => log::warn!("unknown event {}", unknown.0),
            }
        }
        self.look_again()?;
        if self.stops_on_image {
            watch::resume(self.target.pid.get());
        }
        Ok(())
    }

    fn start_afresh(&mut self) -> Result<(), PipelineError> {
        let before = std::mem::take(&mut self.target.exe);
        if self.target.start_afresh().is_err() {
            // It has ended already: the loop will hear of it.
            return Ok(());
        }
        if !self.stops_on_image || !self.profile.is_empty() {
            eprintln!(
                "memtrace: process {} now runs {} (was {before}): its figures start afresh",
                self.target.pid, self.target.exe
            );
        }
        let generation = self.kernel.process(self.target.slot)?.exec_generation;
        self.kernel.forget_before_exec(self.target.slot, generation)?;
        self.profile.start_afresh(generation);
        Ok(())
    }
}

/// As the kernel side keeps times: 49 days, then no further.
fn milliseconds(elapsed: Duration) -> u32 {
    u32::try_from(elapsed.as_millis()).unwrap_or(u32::MAX)
}

fn log_memory(kernel: &Kernel) {
    let maps = kernel.memory_bytes();
    let total: u64 = maps.iter().map(|(_, bytes)| bytes).sum();
    let parts: Vec<String> =
        maps.iter().map(|(name, bytes)| format!("{} {} KiB", name.to_lowercase(), bytes / 1024)).collect();
    log::info!("kernel memory: {} KiB ({})", total / 1024, parts.join(", "));
}
