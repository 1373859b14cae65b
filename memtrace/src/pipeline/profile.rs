//! The profile of one target: what the kernel side counted, with its history, and the report made of it.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use memtrace_common::{
    process::{Counter, CounterKind},
    site::{Site as KernelSite, SiteIndex},
    stack::{StackId, mix},
};

use crate::{
    capture::{
        kernel::{Kernel, KernelError},
        target::Target,
    },
    model::{
        frame::{Frame, Reason},
        growth::History,
        report::{Category, HealthCounter, HealthKind, Process, Report, Site, Tier, Totals, Verdict},
        unexplained::unexplained_rss_bytes,
    },
    process::status,
    symbolize::{CodePlace, Symbolizer},
};

/// A stack that was made independent of its process.
struct PlacedStack {
    places: Vec<CodePlace>,
    complete: bool,
    /// Whether the mappings that it was looked up in may have been too old.
    tentative: bool,
}

/// A site of the kernel side, as last read.
struct TrackedSite {
    latest: KernelSite,
    live_bytes: History,
}

/// What is known of a target so far.
pub(super) struct Profile {
    started_at: SystemTime,
    exec_generation: u64,
    stacks: HashMap<StackId, PlacedStack>,
    has_tentative: bool,
    sites: HashMap<SiteIndex, TrackedSite>,
    live_bytes: History,
    rss: History,
    rss_bytes: Option<u64>,
    symbolizer: Symbolizer,
}

impl Profile {
    pub(super) fn new(started_at: SystemTime) -> Self {
        Self {
            started_at,
            exec_generation: 0,
            stacks: HashMap::new(),
            has_tentative: false,
            sites: HashMap::new(),
            live_bytes: History::default(),
            rss: History::default(),
            rss_bytes: None,
            symbolizer: Symbolizer::default(),
        }
    }

    /// The target has become another program for the `generation`-th time.
    pub(super) fn start_afresh(&mut self, generation: u64) {
        *self = Self { exec_generation: generation, ..Self::new(SystemTime::now()) };
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sites.is_empty()
    }

    /// Whether some stack left the code that is known: the mappings may be out of date.
    pub(super) fn has_tentative_stacks(&self) -> bool {
        self.has_tentative
    }

    /// Takes in what the kernel side has counted by now, `elapsed` after the start.
    pub(super) fn read(&mut self, kernel: &Kernel, target: &Target, elapsed: Duration) -> Result<(), KernelError> {
        self.has_tentative = false;
        let mut live_bytes = 0;
        for (id, site) in kernel.sites()? {
            if site.process != target.slot || u64::from(site.exec_generation) != self.exec_generation {
                continue;
            }
            self.place(kernel, target, site.stack)?;
            let live = totals(&site).live_bytes();
            live_bytes += live;
            let tracked = self.sites.entry(id).or_insert_with(|| {
                let mut history = History::default();
                // Before its first allocation it held nothing.
                history.push(Duration::ZERO, 0);
                TrackedSite { latest: site, live_bytes: history }
            });
            tracked.latest = site;
            tracked.live_bytes.push(elapsed, live);
        }
        self.live_bytes.push(elapsed, live_bytes);
        if let Some(rss_bytes) = status::rss_bytes(target.pid.get()) {
            self.rss.push(elapsed, rss_bytes);
            self.rss_bytes = Some(rss_bytes);
        }
        Ok(())
    }

    /// Makes a stack independent of its process while that is there. Where it leaves the code that is
    /// known, it is tried once more after the next look at the mappings.
    fn place(&mut self, kernel: &Kernel, target: &Target, id: StackId) -> Result<(), KernelError> {
        let is_second_try = match self.stacks.get(&id) {
            Some(stack) if !stack.tentative => return Ok(()),
            known => known.is_some(),
        };
        let Some(stack) = kernel.stack(id)? else { return Ok(()) };
        let (places, complete) = target.normalise(&stack);
        let tentative = !is_second_try && (places.len() < stack.used().len() || starts_nowhere(&places));
        self.has_tentative |= tentative;
        self.stacks.insert(id, PlacedStack { places, complete, tentative });
        Ok(())
    }

    /// The report on all that was read.
    pub(super) fn report(
        &mut self,
        target: &Target,
        kernel: &Kernel,
        duration: Duration,
        ended: bool,
    ) -> Result<Report, KernelError> {
        let oldest = oldest_ages(kernel, duration)?;
        let sites = self.merged_sites(&oldest, target);
        let totals = sites.iter().fold(Totals::default(), |sum, site| sum.plus(&site.totals));
        let process = Process {
            pid: target.pid.get(),
            comm: target.comm.clone(),
            exe: target.exe.clone(),
            allocators: target.allocators.clone(),
            rss_bytes: self.rss_bytes,
            rss_growth_bytes_per_s: self.rss.slope_per_s(),
            unexplained_rss_bytes: self.unexplained_rss_bytes(totals.live_bytes()),
            trend: self.rss.trend(),
            totals,
            growth_bytes_per_s: self.live_bytes.slope_per_s(),
            health: health(target, kernel)?,
            sites,
            ended,
        };
        Ok(Report {
            host: read_line("/proc/sys/kernel/hostname"),
            kernel: read_line("/proc/sys/kernel/osrelease"),
            started_at: self.started_at,
            duration,
            tier: Tier::Exact,
            processes: vec![process],
        })
    }

    fn unexplained_rss_bytes(&self, live_bytes: u64) -> Option<u64> {
        unexplained_rss_bytes(self.rss.first()?, self.rss_bytes?, live_bytes)
    }

    /// The sites, those of the same places taken together, most live bytes first.
    fn merged_sites(&mut self, oldest: &HashMap<SiteIndex, Duration>, target: &Target) -> Vec<Site> {
        let places = self.stacks.values().flat_map(|stack| stack.places.iter().copied());
        self.symbolizer.symbolize(&target.images, places);
        let mut merged: HashMap<(&[CodePlace], bool), Site> = HashMap::new();
        let nowhere = PlacedStack { places: Vec::new(), complete: false, tentative: false };
        for (id, tracked) in &self.sites {
            let stack = self.stacks.get(&tracked.latest.stack).unwrap_or(&nowhere);
            let site = merged.entry((&stack.places, stack.complete)).or_insert_with(|| {
                let frames: Vec<Frame> =
                    stack.places.iter().flat_map(|place| self.symbolizer.frames(*place).to_vec()).collect();
                Site {
                    id: site_id(&stack.places, target),
                    category: Category::Heap,
                    totals: Totals::default(),
                    growth_bytes_per_s: 0.0,
                    verdict: Verdict::TooEarly,
                    confidence: 0.0,
                    oldest_age: None,
                    truncated: !stack.complete,
                    frames,
                }
            });
            site.totals = site.totals.plus(&totals(&tracked.latest));
            site.growth_bytes_per_s += tracked.live_bytes.slope_per_s();
            site.oldest_age = site.oldest_age.max(oldest.get(id).copied());
        }
        let mut sites: Vec<Site> = merged.into_values().collect();
        sites.sort_by(|a, b| {
            let weight = |site: &Site| (site.totals.live_bytes(), site.totals.alloc_bytes);
            weight(b).cmp(&weight(a)).then(a.id.cmp(&b.id))
        });
        sites
    }
}

/// Whether the allocation's caller itself lies in no mapping.
fn starts_nowhere(places: &[CodePlace]) -> bool {
    matches!(places.first(), Some(CodePlace::Address(_, Reason::Unmapped)))
}

fn totals(site: &KernelSite) -> Totals {
    Totals::new(site.alloc_bytes, site.alloc_objects, site.freed_bytes, site.freed_objects)
}

/// A hash over build ids (or paths) and offsets: it does not depend on where images were loaded.
fn site_id(places: &[CodePlace], target: &Target) -> u64 {
    let take = |hash: u64, bytes: &[u8]| bytes.iter().fold(hash, |hash, byte| mix(hash ^ u64::from(*byte)));
    places.iter().fold(0, |hash, place| match place {
        CodePlace::File { image, file_offset } => {
            let name = &target.images[*image].name;
            let identity = name.build_id.as_ref().unwrap_or(&name.path);
            take(take(hash, identity.as_bytes()), &file_offset.to_le_bytes())
        }
        CodePlace::Address(address, _) => take(hash, &address.to_le_bytes()),
    })
}

/// The age of each site's oldest live block at the time `now` after the start.
fn oldest_ages(kernel: &Kernel, now: Duration) -> Result<HashMap<SiteIndex, Duration>, KernelError> {
    let mut oldest: HashMap<SiteIndex, Duration> = HashMap::new();
    for block in kernel.blocks()?.into_values() {
        let age = now.saturating_sub(Duration::from_millis(block.born_ms.into()));
        let known = oldest.entry(block.site).or_default();
        *known = age.max(*known);
    }
    Ok(oldest)
}

fn health(target: &Target, kernel: &Kernel) -> Result<Vec<HealthCounter>, KernelError> {
    let counters = kernel.process(target.slot)?.counters;
    Ok(Counter::ALL
        .iter()
        .zip(counters)
        .map(|(counter, count)| HealthCounter { name: counter.name(), count, kind: kind(*counter) })
        .collect())
}

fn kind(counter: Counter) -> HealthKind {
    match counter.kind() {
        CounterKind::Loss => HealthKind::Loss,
        CounterKind::Unmatched => HealthKind::Unmatched,
        CounterKind::CutStack => HealthKind::CutStack,
    }
}

fn read_line(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}
