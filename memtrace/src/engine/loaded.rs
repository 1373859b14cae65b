//! The BPF side with what goes with it from one run to the next.

use tokio::io::unix::AsyncFd;

use memtrace_common::wire::{address_space::AddressSpaceLayout, control::Adoption};

use super::{
    error::PipelineError,
    headroom::{self, Fitted},
    options::Options,
    process_scan::is_scanned,
    wait,
};
use crate::{
    bpf::{AttachMethod, Bpf, Events, Extras, MappingEvents, Settings, point::Scope},
    capture::{
        calibration::calibrate,
        images::Images,
        prepared::Preparation,
        selection::Selection,
        sources::{Source, Sources},
    },
    model::{overhead::TrapCost, tier::Tier},
    process::task_type::{self, TaskOffsets},
};

/// How many images are kept open from run to run, before the BPF side is loaded anew.
const MOST_IMAGES: usize = 1000;

/// The BPF side, loaded, with the images that it knows. Nothing is hooked and there is no target yet.
pub(super) struct Loaded {
    pub(super) bpf: Bpf,
    pub(super) images: Images,
    /// The sources of what is told of targets.
    pub(super) sources: Sources<Bpf>,
    pub(super) events: AsyncFd<Events>,
    /// Changes of address spaces.
    pub(super) mapping_events: AsyncFd<MappingEvents>,
    /// The cost of a probe, where that could be tried.
    pub(super) trap: Option<TrapCost>,
    /// How many were loaded before: indices of images are this one's.
    pub(super) serial: u64,
}

impl Loaded {
    /// Loads the BPF side as `options` say.
    pub(super) fn load(options: &Options, serial: u64) -> Result<Self, PipelineError> {
        let is_growth = options.tier == Tier::Growth;
        let is_scanned = is_scanned(options);
        let mut sources = Sources::of_programs(&options.categories, !is_growth, is_scanned);
        // The look at an end has to know which memory is the allocators' own.
        let extras = sources.tables().plus(Extras { address_spaces: options.at_exit, ..Extras::default() });
        let Fitted { capacities, verified_at_once } = headroom::fitted(options, extras)?;
        let Options { selection, follow, .. } = options;
        let preparation = match selection {
            Selection::Pids(pids) if !is_growth => {
                Preparation::begin(pids.clone(), options.custom.clone(), options.returns)
            }
            _ => Preparation::none(),
        };
        // Each image stays open, and each process that is only looked at. (A command was forked before, and keeps its own limit.)
        if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
            log::info!("cannot have more files open than usual: {error}");
        }
        let forks = adoption(options) != Adoption::default();
        let cgroup = selection.open_cgroup()?;
        let settings = Settings {
            capacities,
            unwind: options.unwind,
            debug_lines: options.debug_lines,
            task: if forks { TaskOffsets::read()? } else { TaskOffsets::default() },
            address_space: if sources.tables().address_spaces {
                address_space()
            } else {
                AddressSpaceLayout::default()
            },
            links: options.links,
            sample_bytes: options.sample_bytes(),
            is_adaptive: options.budget.is_some(),
            extras,
            hooks: !is_growth,
            verified_at_once,
        };
        let mut bpf = headroom::load(settings, &options.asked)?;
        log_memory(&bpf);
        let trap = if is_growth { None } else { trap_cost(&mut bpf) };
        if !is_growth {
            log::info!("probes are attached by {}", bpf.links());
        }
        if matches!(options.tier, Tier::Sampled { .. }) && bpf.links() != AttachMethod::Session {
            eprintln!("memtrace: this kernel cannot skip the return of a call (Linux 6.13 can): sampling saves little");
        }
        if options.debug_lines {
            wait::forward_debug_lines(&mut bpf)?;
        }
        if let Some(cgroup) = cgroup {
            bpf.set_cgroup(&cgroup)?;
        }
        follow_host(&mut bpf, options, &mut sources, forks)?;
        let wait = |source| PipelineError::Wait { what: "events of the kernel side", source };
        let (events, mapping_events) = bpf.take_events()?;
        let (events, mapping_events) =
            (wait::readable(events).map_err(wait)?, wait::readable(mapping_events).map_err(wait)?);
        let scope = if is_scanned { Scope::Targets } else { selection.scope(*follow) };
        let Options { at_exit, returns, unwind, .. } = *options;
        let mut images = Images::new(scope, options.programs(), options.custom.clone(), at_exit, returns, unwind);
        images.take_prepared(preparation.finish());
        Ok(Self { bpf, images, sources, events, mapping_events, trap, serial })
    }

    /// Whether another run can begin with it: a probe that stays in every process, or rows that find no room, would be
    /// the next run's as well.
    pub(super) fn can_serve_again(&self) -> bool {
        !self.bpf.has_probes() && !self.images.lacks_rows() && self.images.all().len() <= MOST_IMAGES
    }
}

/// Where the kernel holds what is read of address spaces; nothing where it does not say.
fn address_space() -> AddressSpaceLayout {
    task_type::address_space_layout()
        .inspect_err(|error| log::warn!("System V segments are not told: {error}"))
        .unwrap_or_default()
}

/// Which processes that begin later are targets, as the BPF side decides.
pub(super) fn adoption(options: &Options) -> Adoption {
    // Without probes, nothing need be in place before a program begins: `/proc` is soon enough.
    if is_scanned(options) { Adoption::default() } else { options.selection.adoption(options.follow) }
}

/// Attaches the programs that follow the host's tasks and system calls, and those of the sources.
fn follow_host(bpf: &mut Bpf, options: &Options, sources: &mut Sources<Bpf>, forks: bool) -> Result<(), PipelineError> {
    bpf.follow_tasks(forks)?;
    if matches!(options.selection, Selection::Command(_)) {
        bpf.follow_mappings()?;
    }
    sources.attach(bpf)?;
    if options.at_exit {
        bpf.follow_areas()?;
    }
    Ok(())
}

/// The cost of a probe, measured on memtrace itself.
fn trap_cost(bpf: &mut Bpf) -> Option<TrapCost> {
    calibrate(bpf)
        .inspect_err(|error| log::warn!("cannot tell what tracing costs: {error}"))
        .inspect(|TrapCost { entry_ns, call_ns, ret_ns }| {
            log::info!("a probe costs {entry_ns:.0} ns, with the return {call_ns:.0}, at a `ret` {ret_ns:.0}");
        })
        .ok()
}

fn log_memory(bpf: &Bpf) {
    let maps = bpf.memory_bytes();
    let total: u64 = maps.iter().map(|(_, bytes)| bytes).sum();
    let parts: Vec<String> =
        maps.iter().map(|(name, bytes)| format!("{} {} KiB", name.to_lowercase(), bytes / 1024)).collect();
    log::info!("kernel memory: {} KiB ({})", total / 1024, parts.join(", "));
}
