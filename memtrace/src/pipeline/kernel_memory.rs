//! One run over the kernel's own memory: from loading the programs to the last report.

use std::time::{Duration, Instant, SystemTime};

use memtrace_common::{
    control::Control,
    kernel_memory::Scope,
    process::{Counter, ProcessSlot},
};
use thiserror::Error;
use tokio::time::Instant as Deadline;

use super::{
    Options, PipelineError, Sink,
    kernel_book::{Book, Owner},
    profile::health,
    session::{is_process, milliseconds, read_line},
    watch::{self, Signals},
};
use crate::{
    capture::{
        kernel::{KernelMemory, MemorySettings, NEVER_SEEN},
        privileges,
        selection::Selection,
    },
    model::{
        frame::KERNEL_IMAGE,
        report::{Allocator, HealthCounter, HealthKind, Process, Report, Tier, Unlisted},
    },
    process::{
        kernel_pages,
        kernel_types::{KernelTypes, KernelTypesError},
        status,
    },
    symbolize::KernelSymbolizer,
};

/// How often the programs' counters are read.
const TICK: Duration = Duration::from_secs(1);

/// Why the kernel's memory cannot be traced.
#[derive(Debug, Error)]
pub enum KernelMemoryError {
    /// This kernel is not one that memtrace knows.
    #[error("cannot trace the kernel's memory: {0}")]
    Types(#[from] KernelTypesError),
    /// A process that was named is not there.
    #[error("cannot trace process {pid}: no such process")]
    NoSuchProcess {
        /// The pid.
        pid: u32,
    },
}

/// One run.
struct Session {
    kernel: KernelMemory,
    symbolizer: KernelSymbolizer,
    books: Vec<Book>,
    control: Control,
    /// What nobody can see on this machine.
    not_seen: Vec<String>,
    started: Instant,
    started_at: SystemTime,
}

/// Traces the kernel's memory as `options` say, and hands each report to `sink`.
///
/// # Errors
/// Where tracing cannot begin, or a report cannot be written. Whatever happens, nothing stays attached.
pub(super) async fn run(options: &Options, signals: &mut Signals, sink: Sink<'_>) -> Result<(), PipelineError> {
    let mut session = Session::start(options)?;
    // What is left to do takes few; the kernel's symbols are read by now. (No probe is a perf event here.)
    if let Err(error) = privileges::drop_unneeded(options.writes_a_file, false) {
        log::warn!("cannot give up privileges that are not needed any more: {error}");
    }
    session.follow(options, signals, sink).await
}

impl Session {
    /// Loads the programs, attaches them, and begins to count.
    fn start(options: &Options) -> Result<Self, PipelineError> {
        let types = KernelTypes::read().map_err(KernelMemoryError::from)?;
        let (mut symbolizer, hidden) = KernelSymbolizer::new();
        if let Some(problem) = hidden {
            eprintln!(
                "memtrace: {problem}: stacks have no names, and pages and vmalloc are left out, since pages of slabs cannot \
                 be told from others"
            );
            eprintln!("hint: sysctl kernel.kptr_restrict=1 (or 0), and CAP_SYSLOG");
        }
        let page_frames = kernel_pages::frames().filter(|_| symbolizer.has_names());
        let mut kernel = KernelMemory::load(MemorySettings {
            capacities: options.capacities,
            scope: scope(&options.selection),
            types,
            page_frames,
            interrupts: symbolizer.interrupts(),
        })?;
        log::info!("kernel memory: {} KiB", kernel.memory_bytes() / 1024);
        if let Some(cgroup) = options.selection.open_cgroup()? {
            kernel.set_cgroup(&cgroup)?;
        }
        let books = open_books(&options.selection, &mut kernel)?;
        kernel.attach()?;
        if let Some(why) = kernel.refusal() {
            log::info!("the kernel takes no programs on its functions: {why}");
        }
        symbolizer.counts_areas = kernel.counts_areas();
        let not_seen: Vec<String> = kernel.not_seen().into_iter().chain([NEVER_SEEN.to_owned()]).collect();
        eprintln!("memtrace: not seen: {}", not_seen.join("; "));
        let control = Control { own_tgid: kernel.own_tgid(), comm: options.selection.comm(), ..Control::default() };
        let (started, started_at) = (Instant::now(), SystemTime::now());
        let mut session = Self { kernel, symbolizer, books, control, not_seen, started, started_at };
        session.set_control(true)?;
        session.announce(&options.selection);
        Ok(session)
    }

    fn announce(&self, selection: &Selection) {
        let allocators: Vec<&str> = self.kernel.tracepoints().iter().map(|(name, _)| *name).collect();
        let whose = whose(selection).map_or_else(String::new, |whose| format!(" in the context of {whose}"));
        eprintln!("memtrace: tracing the kernel's memory{whose}: {}, tier exact", allocators.join(", "));
    }

    fn set_control(&mut self, counting: bool) -> Result<(), PipelineError> {
        let now_ms = milliseconds(self.started.elapsed());
        self.control = Control { counting: u32::from(counting), now_ms, ..self.control };
        Ok(self.kernel.set_control(self.control)?)
    }

    /// Follows until time is up, a signal asks to stop, or every process that was named has ended; then makes the last report.
    async fn follow(&mut self, options: &Options, signals: &mut Signals, sink: Sink<'_>) -> Result<(), PipelineError> {
        let deadline = options.duration.map(|duration| Deadline::now() + duration);
        let mut next_tick = Deadline::now() + TICK;
        let mut next_report = options.interval.map(|interval| Deadline::now() + interval);
        while self.books.iter().any(|book| !book.has_ended) {
            tokio::select! {
                biased;
                () = watch::until(deadline) => break,
                _ = signals.next() => break,
                () = tokio::time::sleep_until(next_tick) => {
                    let begun = status::own_cpu_time();
                    self.set_control(true)?;
                    self.read()?;
                    self.close_ended()?;
                    next_tick = Deadline::now() + TICK.max(status::own_cpu_time().saturating_sub(begun) * 100);
                }
                () = watch::until(next_report) => {
                    self.read()?;
                    let mut report = self.report(self.started.elapsed())?;
                    sink(&mut report, false).map_err(PipelineError::Write)?;
                    next_report = options.interval.map(|interval| Deadline::now() + interval);
                }
            }
        }
        let elapsed = self.started.elapsed();
        self.set_control(false)?;
        self.read()?;
        let mut report = self.report(elapsed)?;
        sink(&mut report, true).map_err(PipelineError::Write)
    }

    /// Reads the programs' counters into the books.
    fn read(&mut self) -> Result<(), PipelineError> {
        let (elapsed, sites) = (self.started.elapsed(), self.kernel.sites()?);
        for book in &mut self.books {
            let slot = book.slot;
            let of_book = sites.iter().filter(|(_, site)| site.process == slot);
            book.read(of_book, &self.kernel, &self.symbolizer, elapsed)?;
        }
        Ok(())
    }

    /// Notes which processes have ended: what they have left in the kernel is still theirs, but their pids are not.
    fn close_ended(&mut self) -> Result<(), PipelineError> {
        for book in &mut self.books {
            if let Owner::Process { pid, .. } = book.owner
                && !book.has_ended
                && watch::has_ended(pid)
            {
                book.has_ended = true;
                self.kernel.close_process(book.slot)?;
            }
        }
        Ok(())
    }

    fn report(&mut self, now: Duration) -> Result<Report, PipelineError> {
        let release = read_line("/proc/sys/kernel/osrelease");
        let oldest = self.kernel.oldest_born_ms();
        let allocators = self.allocators();
        let mut processes = Vec::with_capacity(self.books.len());
        for book in &mut self.books {
            book.note_ages(&oldest);
            let counted = self.kernel.process(book.slot)?;
            let mut process = book.report(&mut self.symbolizer, now);
            if process.exe.is_empty() {
                process.exe.clone_from(&release);
            }
            process.allocators.clone_from(&allocators);
            process.health = health(&counted, Counter::is_of_process);
            processes.push(process);
        }
        processes.sort_by_key(|process: &Process| (std::cmp::Reverse(process.totals.live_bytes()), process.pid));
        let mut health = health(&self.kernel.process(ProcessSlot::NONE)?, |counter: Counter| !counter.is_of_process());
        health.push(self.missed());
        Ok(Report {
            host: read_line("/proc/sys/kernel/hostname"),
            kernel: release,
            started_at: self.started_at,
            duration: now,
            tier: Tier::Exact,
            steered: None,
            health,
            not_seen: self.not_seen.clone(),
            processes,
            unlisted: Unlisted::default(),
        })
    }

    /// Events that no program was run for: of the whole host, whoever is asked about.
    fn missed(&self) -> HealthCounter {
        HealthCounter { name: "kernel_missed", count: self.kernel.missed_runs(), kind: HealthKind::Loss }
    }

    fn allocators(&self) -> Vec<Allocator> {
        let allocator = |(name, functions): (&str, Vec<String>)| Allocator {
            name: name.to_owned(),
            image: KERNEL_IMAGE.to_owned(),
            functions,
        };
        self.kernel.tracepoints().into_iter().map(allocator).collect()
    }
}

/// In whose context counts what the kernel allocates; nothing where everything does.
fn whose(selection: &Selection) -> Option<String> {
    match selection {
        Selection::Pids(pids) if pids.len() == 1 => Some(format!("process {}", pids[0])),
        Selection::Pids(pids) => Some(format!("{} processes", pids.len())),
        Selection::Comm(name) => Some(format!("processes called {name}")),
        Selection::Cgroup(path) => Some(format!("processes in {}", path.display())),
        Selection::All | Selection::Command(_) => None,
    }
}

fn scope(selection: &Selection) -> Scope {
    match selection {
        Selection::Pids(_) => Scope::Targets,
        Selection::Comm(_) => Scope::Comm,
        Selection::Cgroup(_) => Scope::Cgroup,
        Selection::All | Selection::Command(_) => Scope::Host,
    }
}

/// A book for each process that was named, or one for the kernel.
fn open_books(selection: &Selection, kernel: &mut KernelMemory) -> Result<Vec<Book>, PipelineError> {
    let Selection::Pids(pids) = selection else {
        let owner = whose(selection).map_or(Owner::Kernel, Owner::Selected);
        return Ok(vec![Book::new(owner, kernel.open_kernel()?)]);
    };
    let mut books = Vec::with_capacity(pids.len());
    for pid in pids.iter().map(|pid| pid.get()) {
        is_process(pid)?;
        let comm = status::comm(pid).map_err(|_| KernelMemoryError::NoSuchProcess { pid })?;
        // Threads of the kernel run no program, and allocate all the same.
        let exe = status::exe(pid).map(|exe| status::printable(&exe.to_string_lossy())).unwrap_or_default();
        let Some(slot) = kernel.open_process(pid)? else {
            log::warn!("process {pid} is not traced: there are more than --max-processes");
            continue;
        };
        books.push(Book::new(Owner::Process { pid, comm, exe }, slot));
    }
    Ok(books)
}
