//! The engine: a thread that owns the BPF side and every target. Commands go in, snapshots come out.
//!
//! The owner of the engine makes reports of its snapshots at its own pace: symbols, verdicts and the output never hold up the
//! thread, and so no target that waits for it.

use std::{
    ffi::OsString,
    io,
    num::NonZeroU32,
    panic::resume_unwind,
    process::ExitStatus,
    sync::Arc,
    thread::{Builder, JoinHandle},
};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::{
    commands::Command,
    error::PipelineError,
    kernel_memory,
    loaded::Loaded,
    mailbox::Mailbox,
    options::{Options, Sink},
    process_handle::ProcessHandle,
    session::{self, Session},
    snapshot::{FIRST, Reporter, Snapshot},
    wait::Signals,
};
use crate::{
    capture::{command, privileges, selection::Selection, target::Target},
    model::figures::FigureKind,
    process::oom,
    report::words::units,
};

/// How a run has ended: with the status of the command that was traced, where there was one.
type Outcome = Result<Option<ExitStatus>, PipelineError>;

/// A thread that traces, one run after the other.
pub struct Engine {
    reporter: Reporter,
    writes_a_file: bool,
    commands: UnboundedSender<Command>,
    outcomes: UnboundedReceiver<Outcome>,
    snapshots: Arc<Mailbox<Snapshot>>,
    thread: Option<JoinHandle<()>>,
}

impl Engine {
    /// Starts the thread, for runs that differ from `options` in their selection at most. Nothing is loaded yet. Where there are
    /// to be `several`, the BPF side stays loaded in between.
    ///
    /// # Errors
    /// Where there is no thread to be had.
    pub fn start(options: &Options, several: bool) -> Result<Self, PipelineError> {
        let reporter = Reporter::start();
        let (commands, asked) = unbounded_channel();
        let (ended, outcomes) = unbounded_channel();
        let snapshots = Arc::new(Mailbox::default());
        let (its_options, its_snapshots) = (options.clone(), Arc::clone(&snapshots));
        let work = move || {
            let worker =
                Worker { options: its_options, several, loaded: None, count: 0, snapshots: its_snapshots, asked };
            worker.work(&ended);
        };
        let thread = Builder::new()
            .name("engine".to_owned())
            .spawn(work)
            .map_err(|source| PipelineError::Wait { what: "a thread of memtrace", source })?;
        let writes_a_file = options.writes_a_file;
        Ok(Self { reporter, writes_a_file, commands, outcomes, snapshots, thread: Some(thread) })
    }

    /// Traces these and hands each report to `sink`. Returns how the command that was traced ended, where there was one.
    ///
    /// # Errors
    /// Where tracing cannot begin, or a report cannot be written. No target is left in any case.
    pub async fn trace(&mut self, selection: Selection, sink: Sink<'_>) -> Outcome {
        // Where the thread is gone, there is no outcome either.
        _ = self.commands.send(Command::Trace(selection));
        // The thread has its own; here, reports are written.
        give_up_privileges(self.writes_a_file, false);
        let mut unwritten = None;
        let outcome = loop {
            tokio::select! {
                biased;
                snapshot = self.snapshots.take() => unwritten = self.write(snapshot, sink, unwritten),
                outcome = self.outcomes.recv() => break outcome,
            }
        };
        // A run ends after its last snapshot.
        if let Some(snapshot) = self.snapshots.try_take() {
            unwritten = self.write(snapshot, sink, unwritten);
        }
        let replaced = self.snapshots.take_replaced();
        if replaced > 0 {
            let replaced = units::count(replaced);
            eprintln!("memtrace: reports left out because the output was not read in time: {replaced}");
        }
        match outcome {
            None => self.panicked(),
            Some(outcome) => unwritten.map_or(outcome, Err),
        }
    }

    /// Makes a report and writes it, unless one before could not be written. Returns why not.
    fn write(&mut self, snapshot: Snapshot, sink: Sink<'_>, unwritten: Option<PipelineError>) -> Option<PipelineError> {
        if unwritten.is_some() {
            return unwritten;
        }
        let is_last = snapshot.is_last;
        let mut report = self.reporter.report(snapshot);
        let error = sink(&mut report, is_last).err()?;
        _ = self.commands.send(Command::Stop);
        Some(PipelineError::Write(error))
    }

    /// The thread has ended though nobody had asked for that.
    fn panicked(&mut self) -> Outcome {
        match self.thread.take().map(JoinHandle::join) {
            Some(Err(panic)) => resume_unwind(panic),
            _ => Err(PipelineError::Wait { what: "a thread of memtrace", source: io::ErrorKind::BrokenPipe.into() }),
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Another end is that of all commands.
        let (commands, _) = unbounded_channel();
        drop(std::mem::replace(&mut self.commands, commands));
        if let Some(thread) = self.thread.take() {
            // Nothing of it stays in the kernel then. Whether it has panicked does not matter any more.
            _ = thread.join();
        }
    }
}

/// The state of the thread.
struct Worker {
    options: Options,
    several: bool,
    /// The BPF side, between runs.
    loaded: Option<Loaded>,
    /// How many were loaded.
    count: u64,
    snapshots: Arc<Mailbox<Snapshot>>,
    asked: UnboundedReceiver<Command>,
}

impl Worker {
    /// Traces until nobody can ask for more. Each outcome goes to `ended`.
    fn work(mut self, ended: &UnboundedSender<Outcome>) {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(source) => return drop(ended.send(Err(PipelineError::Wait { what: "anything", source }))),
        };
        runtime.block_on(async {
            while let Some(command) = self.asked.recv().await {
                // A run may have ended by itself before it was asked to.
                let Command::Trace(selection) = command else { continue };
                self.options.selection = selection;
                let outcome = self.trace().await;
                // Nobody listens any more where memtrace ends.
                _ = ended.send(outcome);
            }
        });
        // A look at a target that was left has nobody to tell.
        runtime.shutdown_background();
    }

    async fn trace(&mut self) -> Outcome {
        let mut signals = Signals::new()?;
        if FigureKind::of(&self.options.categories) == FigureKind::Kernel {
            volunteer();
            kernel_memory::run(&self.options, &mut signals, &mut self.asked, Arc::clone(&self.snapshots)).await?;
            return Ok(None);
        }
        match self.options.selection.clone() {
            Selection::Command(command) => self.trace_command(&command, &mut signals).await,
            _ => self.trace_running(&mut signals).await.map(|()| None),
        }
    }

    /// Traces what runs already, or begins by itself.
    async fn trace_running(&mut self, signals: &mut Signals) -> Result<(), PipelineError> {
        // Before anything else: a wrong pid must not cost the loading of programs.
        if let Selection::Pids(pids) = &self.options.selection {
            pids.iter().try_for_each(|pid| session::find(*pid).map(drop))?;
        }
        volunteer();
        let mut session = self.session()?;
        session.attach()?;
        session.count(false)?;
        give_up_privileges(self.options.writes_a_file, session.opens_perf_events());
        session.announce();
        session.follow(&self.options, signals, &mut self.asked, None).await?;
        if self.several {
            self.loaded = Some(session.release()?).filter(Loaded::can_serve_again);
        }
        Ok(())
    }

    /// Starts a command, and traces it from its first instruction.
    async fn trace_command(&mut self, command: &[OsString], signals: &mut Signals) -> Outcome {
        let failed = |source| PipelineError::Command { program: command[0].to_string_lossy().into_owned(), source };
        let waiting = command::fork(command).map_err(failed)?;
        let pid = NonZeroU32::new(waiting.pid).ok_or_else(|| failed(io::Error::other("the child has no pid")))?;
        let process = ProcessHandle::of(pid.get()).map_err(failed)?;
        volunteer();
        let mut session = self.session()?;
        session.add(Target::find(pid)?)?;
        session.count(true)?;
        give_up_privileges(self.options.writes_a_file, session.opens_perf_events());
        let mut running = waiting.release().map_err(failed)?;
        let child = Some((pid.get(), &process));
        let outcome = session.follow(&self.options, signals, &mut self.asked, child).await;
        // It goes on without us, if it has not ended, and is waited for whatever happened here.
        session.outlive(signals, &process).await;
        let status = running.child.wait().map_err(|source| PipelineError::Wait { what: "the command", source })?;
        outcome.map(|()| Some(status))
    }

    /// A run over a BPF side without targets.
    fn session(&mut self) -> Result<Session, PipelineError> {
        let loaded = match self.loaded.take() {
            Some(loaded) => loaded,
            None => {
                let serial = FIRST + self.count;
                self.count += 1;
                Loaded::load(&self.options, serial)?
            }
        };
        Ok(Session::new(&self.options, loaded, Arc::clone(&self.snapshots)))
    }
}

/// Where memory is short, memtrace goes before its targets do. (The command, where there is one, was forked before.)
fn volunteer() {
    if let Err(error) = oom::volunteer() {
        log::warn!("cannot be the first to go where memory is short: {error}");
    }
}

/// The calling thread keeps few of its privileges. (The command, where there is one, was forked before, and keeps what it had.)
fn give_up_privileges(writes_a_file: bool, opens_perf_events: bool) {
    if let Err(error) = privileges::drop_unneeded(writes_a_file, opens_perf_events) {
        log::warn!("cannot give up privileges that are not needed any more: {error}");
    }
}
