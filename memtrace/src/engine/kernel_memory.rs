//! One run over the kernel's own memory: from loading the programs to the last report.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use memtrace_common::{
    ids::ProcessSlot,
    wire::{control::Control, kernel_memory::KERNEL, site::Generation},
};
use tokio::sync::mpsc::UnboundedReceiver;

use super::{
    commands::Command,
    error::{KernelMemoryError, PipelineError},
    headroom::fitted,
    mailbox::Mailbox,
    options::Options,
    process_handle::has_ended,
    run::{kernel_release, this_run},
    schedule::{self, Run},
    session::{is_process, milliseconds},
    snapshot::{FIRST, Snapshot},
    wait::Signals,
};
use crate::{
    bpf::KernelMemory,
    capture::{
        privileges,
        selection::Selection,
        sources::{Source, kernel::KernelAllocators},
    },
    model::{
        category::Category,
        run,
        subject::{Context, Program, Subject},
        tier::Tier,
    },
    process::status,
    profile::{
        self, Profile,
        reading::{Counted, Reading, Time},
        subject::SubjectProfile,
    },
    report::words,
    symbolize::NamedImage,
};

/// A subject that the kernel's memory is charged to.
struct Charged {
    slot: ProcessSlot,
    profile: SubjectProfile,
}

/// A run over the kernel's memory.
struct KernelRun {
    bpf: KernelMemory,
    source: KernelAllocators,
    categories: Vec<Category>,
    charged: Vec<Charged>,
    control: Control,
    started: Instant,
    started_at: SystemTime,
    /// Where snapshots go.
    snapshots: Arc<Mailbox<Snapshot>>,
}

/// Traces the kernel's memory as `options` say, and puts snapshots into the mailbox.
///
/// # Errors
/// Where tracing cannot begin, or a report cannot be written. Nothing stays attached in any case.
pub(super) async fn run(
    options: &Options,
    signals: &mut Signals,
    commands: &mut UnboundedReceiver<Command>,
    snapshots: Arc<Mailbox<Snapshot>>,
) -> Result<(), PipelineError> {
    let mut run = KernelRun::start(options, snapshots)?;
    // The rest takes few privileges; the kernel's symbols are read by now. (No probe is a perf event here.)
    if let Err(error) = privileges::drop_unneeded(options.writes_a_file, false) {
        log::warn!("cannot give up privileges that are not needed any more: {error}");
    }
    schedule::follow(&mut run, options.into(), signals, commands).await
}

impl KernelRun {
    /// Loads the programs, attaches them, and begins to count.
    fn start(options: &Options, snapshots: Arc<Mailbox<Snapshot>>) -> Result<Self, PipelineError> {
        let mut source = KernelAllocators::find(&options.selection).map_err(KernelMemoryError::from)?;
        let mut bpf = source.load(fitted(options, source.tables())?.capacities)?;
        log::info!("kernel memory: {} KiB", bpf.memory_bytes().iter().map(|(_, bytes)| bytes).sum::<u64>() / 1024);
        if let Some(cgroup) = options.selection.open_cgroup()? {
            bpf.set_cgroup(&cgroup)?;
        }
        let mut charged = open_subjects(&options.selection, &mut bpf)?;
        source.attach(&mut bpf)?;
        if let Some(why) = bpf.refusal() {
            log::info!("the kernel takes no programs on its functions: {why}");
        }
        let allocators = KernelAllocators::allocators(&bpf);
        charged.iter_mut().for_each(|charged| charged.profile.allocators.clone_from(&allocators));
        eprintln!("memtrace: not seen: {}", words::not_seen::all(&source.not_seen(&bpf)));
        let control = Control { own_tgid: bpf.own_tgid(), comm: options.selection.comm(), ..Control::default() };
        let (started, started_at) = (Instant::now(), SystemTime::now());
        let categories = options.categories.clone();
        let mut begun = Self { bpf, source, categories, charged, control, started, started_at, snapshots };
        begun.set_control(true)?;
        begun.announce(&options.selection);
        Ok(begun)
    }

    fn announce(&self, selection: &Selection) {
        let allocators: Vec<&str> = self.bpf.tracepoints().iter().map(|(name, _)| *name).collect();
        let whose = whose(selection).map_or_else(String::new, |whose| format!(" in the context of {whose}"));
        eprintln!("memtrace: tracing the kernel's memory{whose}: {}, tier exact", allocators.join(", "));
    }

    fn set_control(&mut self, counting: bool) -> Result<(), PipelineError> {
        let now_ms = milliseconds(self.started.elapsed());
        self.control = Control { counting: u32::from(counting), now_ms, ..self.control };
        Ok(self.bpf.set_control(self.control)?)
    }

    /// Reads the programs' counters into the profiles.
    fn read(&mut self) -> Result<(), PipelineError> {
        let generation = Generation::at(self.control.now_ms);
        let time = Time { elapsed: self.started.elapsed(), generation, next: generation };
        let mut sites: HashMap<ProcessSlot, Vec<_>> = HashMap::new();
        for (index, site) in self.bpf.sites()? {
            sites.entry(site.process).or_default().push((index, site));
        }
        let Self { bpf, source, charged, .. } = self;
        for Charged { slot, profile } in charged {
            let counted = Counted { sites: sites.remove(slot).unwrap_or_default(), ..Counted::default() };
            let mut reading = Reading::new(time, &counted);
            source.read(bpf, *slot, &mut reading)?;
            profile.read(&reading, |asked| source.place(bpf, asked.stack, asked.category))?;
        }
        Ok(())
    }

    /// Notes which processes have ended: what they have left in the kernel is still theirs, but their pids are not.
    fn close_ended(&mut self) -> Result<(), PipelineError> {
        for Charged { slot, profile } in &mut self.charged {
            if let Some(program) = profile.subject.program()
                && !profile.ended
                && has_ended(program.pid)
            {
                profile.ended = true;
                self.bpf.close_process(*slot)?;
            }
        }
        Ok(())
    }

    /// Puts in the mailbox what was measured by now.
    fn put_snapshot(&mut self, now: Duration, is_last: bool) -> Result<(), PipelineError> {
        let slots: Vec<ProcessSlot> = self.charged.iter().map(|charged| charged.slot).collect();
        let oldest_born_ms = self.source.oldest_born_ms(&self.bpf, &slots);
        for Charged { profile, .. } in &mut self.charged {
            profile.read_blocks(|_| None, &oldest_born_ms);
        }
        let profile = Profile {
            version: profile::VERSION,
            run: run::Run { not_seen: self.source.not_seen(&self.bpf), ..this_run(self.started_at, now, Tier::Exact) },
            categories: self.categories.clone(),
            trap: None,
            is_adaptive: false,
            images: self.source.code().images().to_vec(),
            counters: self.bpf.process(ProcessSlot::NONE)?.counters,
            // Of the whole host, whoever is asked about.
            missed_runs: Some(self.bpf.missed_runs()),
            subjects: self.charged.iter().map(|charged| Arc::new(charged.profile.clone())).collect(),
        };
        let images = NamedImage::of_kernel(self.source.code());
        let profile = Box::new(profile);
        self.snapshots.put(Snapshot { profile, images, serial: FIRST, scanned: None, is_last });
        Ok(())
    }
}

impl Run for KernelRun {
    /// Nothing happens but what is counted.
    type Event = Infallible;

    fn is_over(&self) -> bool {
        self.charged.iter().all(|charged| charged.profile.ended)
    }

    async fn next(&mut self) -> Result<Infallible, PipelineError> {
        std::future::pending().await
    }

    fn handle(&mut self, event: Infallible) -> Result<(), PipelineError> {
        match event {}
    }

    fn tick(&mut self) -> Result<Duration, PipelineError> {
        let begun = status::own_cpu_time();
        self.set_control(true)?;
        self.read()?;
        self.close_ended()?;
        Ok(status::own_cpu_time().saturating_sub(begun))
    }

    fn report(&mut self) -> Result<(), PipelineError> {
        self.read()?;
        self.put_snapshot(self.started.elapsed(), false)
    }

    async fn finish(&mut self, _signals: &mut Signals) -> Result<(), PipelineError> {
        let elapsed = self.started.elapsed();
        self.set_control(false)?;
        self.read()?;
        self.put_snapshot(elapsed, true)
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

/// Each process that was named, or the kernel.
fn open_subjects(selection: &Selection, bpf: &mut KernelMemory) -> Result<Vec<Charged>, PipelineError> {
    let release = kernel_release();
    let charged = |slot, context| Charged {
        slot,
        profile: SubjectProfile::of(Subject::Kernel { release: release.clone(), context }),
    };
    let Selection::Pids(pids) = selection else {
        let context = whose(selection).map_or(Context::Host, Context::Selected);
        return Ok(vec![charged(KERNEL, context)]);
    };
    let mut all = Vec::with_capacity(pids.len());
    for pid in pids.iter().map(|pid| pid.get()) {
        is_process(pid)?;
        let comm = status::comm(pid).map_err(|_| KernelMemoryError::NoSuchProcess { pid })?;
        // Threads of the kernel run no program, and allocate all the same.
        let exe = status::exe(pid).map(|exe| status::printable(&exe.to_string_lossy())).unwrap_or_default();
        let Some(slot) = bpf.open_process(pid)? else {
            log::warn!("process {pid} is not traced: there are more than --max-processes");
            continue;
        };
        all.push(charged(slot, Context::Process(Program { pid, comm, exe })));
    }
    Ok(all)
}
