//! Analysis: from what was measured to what is said of it.
//!
//! In: histories, counts, readings. Out: verdicts, marks and outcomes. Knows nothing of BPF, symbols or output.

pub mod at_exit;
mod before_end;
pub mod finished;
pub mod gate;
pub(crate) mod health;
pub mod heap_looks;
pub(crate) mod identity;
mod merging;
mod one_sided;
pub(crate) mod process;
pub(crate) mod sites;
pub mod unexplained;
pub mod verdict;
pub(crate) mod view;

use std::sync::Arc;

use memtrace_common::wire::counters::Counter;

use self::{finished::Finished, identity::Identities};
use crate::{
    model::{
        code_place::Symbols,
        health::{HealthCounter, HealthKind},
        report::{Process, Report},
    },
    profile::{Profile, subject::SubjectProfile},
};

/// The report on what was measured; of processes that were `finished` before, the one from then.
#[must_use]
pub fn analyse(profile: &Profile, symbols: &dyn Symbols, finished: &mut Finished) -> Report {
    let identities = Identities::of(profile.images.iter().map(|image| &**image));
    let view = view::View {
        categories: &profile.categories,
        identities: &identities,
        now: profile.run.duration,
        trap: profile.trap,
        is_adaptive: profile.is_adaptive,
        tier: profile.run.tier,
    };
    let mut report =
        |subject: &Arc<SubjectProfile>| finished.report(subject, view.now, || process::report(subject, &view, symbols));
    let mut processes: Vec<Process> = profile.subjects.iter().map(&mut report).collect();
    finished.keep_only(&profile.subjects);
    processes.sort_by(|a, b| {
        let weight = |process: &Process| {
            let totals = process.figures.totals();
            (totals.live_bytes(), totals.alloc_bytes)
        };
        weight(b).cmp(&weight(a)).then(a.subject.pid().cmp(&b.subject.pid()))
    });
    let missed = |count| HealthCounter { name: "kernel_missed", count, kind: HealthKind::Loss };
    let mut health = health::health(&profile.counters, |counter: Counter| !counter.is_of_process());
    health.extend(profile.missed_runs.map(missed));
    Report { run: profile.run.clone(), health, processes, gate: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{
            category::{Category, KernelSource},
            code_place::CodePlace,
            figures::Figures,
            frame::{Frame, ImageName, Place, Reason},
            memory::{KernelUsage, Memory, Usage},
            run::{Run, Unlisted},
            subject::{self, Program, Subject},
            tier::Tier,
        },
        profile::{
            self,
            cpu_clock::Beginning,
            reading::{Counted, Counters, Placed, Reading, Time},
            stack::PlacedStack,
            subject::SubjectProfile,
        },
        report::json,
    };
    use memtrace_common::{
        ids::{ProcessSlot, SiteIndex, StackId},
        wire::{
            kernel_memory::Source,
            site::{Count, Generation, Site},
        },
    };
    use std::{
        cell::Cell,
        collections::HashMap,
        convert::Infallible,
        iter,
        time::{Duration, SystemTime},
    };

    /// Knows no names.
    struct Nameless;

    impl Symbols for Nameless {
        fn frames(&self, place: CodePlace) -> Arc<[Frame]> {
            let offset = match place {
                CodePlace::File { file_offset, .. } => file_offset,
                CodePlace::Kernel { offset, .. } => offset,
                CodePlace::Jit => 0,
                CodePlace::Address(address, _) => address,
            };
            Arc::new([Frame { place: Place::Address(offset), function: Err(Reason::NoSymbol) }])
        }
    }

    /// Forty seconds of a process of which one site keeps a kibibyte a second, and another comes and goes.
    fn process() -> SubjectProfile {
        let mut process = SubjectProfile::beginning(Beginning::Program);
        process.subject = Subject::Process(Program { pid: 7, comm: "leaky".into(), exe: String::new() });
        let mut sites = [1, 2].map(|stack| Site { stack: StackId(stack), process: ProcessSlot(1), ..Site::default() });
        for second in 1..=40u32 {
            let generation = Generation::at(second * 1000);
            let next = Generation::at((second + 1) * 1000);
            let one = Count { bytes: 1024, objects: 1 };
            for (index, site) in sites.iter_mut().enumerate() {
                let sums = &mut site.generations[Generation::place(generation)];
                sums.alloc = sums.alloc.plus(one);
                sums.freed = if index == 0 { sums.freed } else { sums.freed.plus(one) };
            }
            let indexed = [SiteIndex(1), SiteIndex(2)].into_iter().zip(sites);
            let time = Time { elapsed: Duration::from_secs(second.into()), generation, next };
            let counted = Counted { sites: indexed.collect(), ..Counted::default() };
            let reading = Reading {
                usage: Some(Usage { anon_bytes: (1 << 20) + u64::from(second) * 1024, ..Usage::default() }),
                cpu: Some(Duration::from_millis(second.into())),
                ..Reading::new(time, &counted)
            };
            let placed = process.read(&reading, |asked| {
                let places = vec![CodePlace::File { image: 0, file_offset: asked.stack.0 }];
                let stack = PlacedStack { places, ..PlacedStack::default() };
                Ok::<_, Infallible>(Some(Placed::At { stack, is_cut: false }))
            });
            placed.unwrap();
        }
        process
    }

    /// The same, once it has ended.
    fn ended() -> SubjectProfile {
        let mut process = process();
        process.ended = true;
        process
    }

    fn run(subjects: Vec<SubjectProfile>) -> Profile {
        Profile {
            version: profile::VERSION,
            run: Run {
                host: "host".into(),
                kernel: "6.1.0".into(),
                started_at: SystemTime::UNIX_EPOCH,
                duration: Duration::from_secs(40),
                tier: Tier::Exact,
                budget: None,
                not_seen: Vec::new(),
                unlisted: Unlisted::default(),
            },
            categories: vec![Category::Heap],
            trap: None,
            is_adaptive: false,
            images: vec![Arc::new(ImageName { path: "/bin/leaky".into(), build_id: Some("ab".into()) })],
            counters: Counters::default(),
            missed_runs: None,
            subjects: subjects.into_iter().map(Arc::new).collect(),
        }
    }

    #[test]
    fn a_profile_that_was_kept_is_judged_like_the_one_that_was_measured() {
        let profile = run(vec![process()]);
        let report = analyse(&profile, &Nameless, &mut Finished::default());
        let sites = &report.processes[0].sites;
        assert_eq!(sites.len(), 2);
        assert_eq!(sites[0].judgement.verdict.name(), "leak-suspect", "{:?}", sites[0].judgement);
        assert_eq!((sites[0].totals.live_bytes(), sites[1].totals.live_bytes()), (40 * 1024, 0));
        let kept: Profile =
            serde_json::from_slice(&serde_json::to_vec(&profile).unwrap()).expect("a profile reads what it writes");
        let rendered = |report| {
            let mut json = Vec::new();
            json::render(&report, None, &mut json).unwrap();
            String::from_utf8(json).unwrap()
        };
        assert_eq!(rendered(analyse(&kept, &Nameless, &mut Finished::default())), rendered(report));
    }

    /// Counts the places that it was asked to name.
    #[derive(Default)]
    struct Counting(Cell<usize>);

    impl Symbols for Counting {
        fn frames(&self, place: CodePlace) -> Arc<[Frame]> {
            self.0.set(self.0.get() + 1);
            Nameless.frames(place)
        }
    }

    #[test]
    fn a_process_that_has_ended_is_judged_and_named_once() {
        let mut profile = run(vec![process(), ended()]);
        let (mut finished, symbols) = (Finished::default(), Counting::default());
        // Each process has two sites, of one place each.
        let mut named_at = |seconds| {
            profile.run.duration = Duration::from_secs(seconds);
            let before = symbols.0.get();
            let report = analyse(&profile, &symbols, &mut finished);
            (report, symbols.0.get() - before)
        };
        // Time may yet change the verdict.
        assert_eq!([named_at(41).1, named_at(47).1], [4, 4]);
        let (first, named) = named_at(60);
        assert_eq!(named, 4);
        let (later, named) = named_at(600);
        assert_eq!(named, 2, "of the one that lives");
        let of_ended = |report: &Report| {
            let process = report.processes.iter().find(|process| process.ended).unwrap();
            process.sites.iter().map(|site| site.judgement.clone()).collect::<Vec<_>>()
        };
        assert_eq!(of_ended(&first), of_ended(&later));
        // Another one is another, though it is told like this one.
        profile.subjects.truncate(1);
        _ = analyse(&profile, &symbols, &mut finished);
        profile.subjects.push(Arc::new(ended()));
        let before = symbols.0.get();
        _ = analyse(&profile, &symbols, &mut finished);
        assert_eq!(symbols.0.get() - before, 4);
    }

    #[test]
    fn a_leak_at_the_end_of_a_recursion_is_one_site_and_a_suspect() {
        const DEPTHS: u32 = 20;
        let mut process = SubjectProfile::beginning(Beginning::Program);
        let site = |stack| Site { stack: StackId(stack), process: ProcessSlot(1), ..Site::default() };
        let mut sites: Vec<Site> = (1..=u64::from(DEPTHS)).map(site).collect();
        for second in 1..=40_u32 {
            let generation = Generation::at(second * 1000);
            // Each depth comes up twice.
            let site = &mut sites[(second * 7 % DEPTHS) as usize];
            let sums = &mut site.generations[Generation::place(generation)];
            sums.alloc = sums.alloc.plus(Count { bytes: 4096, objects: 1 });
            let indexed = (1..).map(SiteIndex).zip(sites.iter().copied());
            let is_open = |(_, site): &(SiteIndex, Site)| site.generations.iter().any(|sums| sums.alloc.objects > 0);
            let counted = Counted { sites: indexed.filter(is_open).collect(), ..Counted::default() };
            let (elapsed, next) = (Duration::from_secs(second.into()), Generation::at((second + 1) * 1000));
            let usage = Usage { anon_bytes: (1 << 20) + u64::from(second) * 4096, ..Usage::default() };
            let time = Time { elapsed, generation, next };
            let reading = Reading { usage: Some(usage), ..Reading::new(time, &counted) };
            let read = process.read(&reading, |asked| {
                let place = |file_offset| CodePlace::File { image: 0, file_offset };
                let recursion = iter::repeat_n(place(2), usize::try_from(asked.stack.0).unwrap());
                let places = iter::once(place(1)).chain(recursion).chain([place(3)]).collect();
                let stack = PlacedStack { places, ..PlacedStack::default() };
                Ok::<_, Infallible>(Some(Placed::At { stack, is_cut: false }))
            });
            read.unwrap();
        }
        let report = analyse(&run(vec![process]), &Nameless, &mut Finished::default());
        let sites = &report.processes[0].sites;
        assert_eq!(sites.len(), 1);
        assert_eq!((sites[0].stacks, sites[0].totals.live_objects(), sites[0].stack.frames().count()), (20, 40, 3));
        assert_eq!(sites[0].judgement.verdict.name(), "leak-suspect", "{:?}", sites[0].judgement);
    }

    #[test]
    fn the_kernels_memory_is_judged_from_a_profile_like_a_programs() {
        let site = |stack, source: Source, objects| {
            let mut site = Site { stack: StackId(stack), category: source as u32, ..Site::default() };
            site.generations[0].alloc = Count { bytes: 64 * objects, objects };
            site
        };
        // Of the first two, what differs lies within the allocator, and is left out.
        let sites = [site(1, Source::Slab, 1), site(2, Source::Slab, 2), site(3, Source::Vmalloc, 1)];
        let counted = Counted { sites: (1..).map(SiteIndex).zip(sites).collect(), ..Counted::default() };
        let mut kernel =
            SubjectProfile::of(Subject::Kernel { release: "6.1.0".into(), context: subject::Context::Host });
        for second in 1..=3 {
            let time = Time { elapsed: Duration::from_secs(second), generation: 0, next: 0 };
            let usage = KernelUsage { stack_bytes: 4096 * second, ..KernelUsage::default() };
            let reading = Reading { kernel_usage: Some(usage), ..Reading::new(time, &counted) };
            let read = kernel.read(&reading, |asked| {
                let places = vec![CodePlace::Kernel { image: 0, offset: asked.stack.0 / 3 }];
                let stack = PlacedStack { places, ..PlacedStack::default() };
                Ok::<_, Infallible>(Some(Placed::At { stack, is_cut: false }))
            });
            read.unwrap();
        }
        kernel.ended = true;
        kernel.read_blocks(|_| None, &HashMap::from([(SiteIndex(1), 9_000), (SiteIndex(2), 1_000)]));
        let categories = KernelSource::ALL.map(Category::Kernel).to_vec();
        let profile = Profile { categories, missed_runs: Some(5), ..run(vec![kernel]) };
        assert_eq!(profile.subjects[0].ended_at(), None, "what it has left behind is still read");
        let report = analyse(&profile, &Nameless, &mut Finished::default());
        let process = &report.processes[0];
        assert_eq!((process.subject.pid(), &*process.subject.comm(), process.subject.exe()), (0, "kernel", "6.1.0"));
        let told: Vec<_> = process.sites.iter().map(|site| (site.category, site.totals.live_objects())).collect();
        assert_eq!(told, [(Category::Kernel(KernelSource::Slab), 3), (Category::Kernel(KernelSource::Vmalloc), 1)]);
        assert_eq!(process.sites[0].oldest_age, Some(Duration::from_secs(39)));
        assert_eq!(process.memory.as_ref().map(Memory::bytes), Some(3 * 4096));
        assert_eq!(process.figures.totals().live_bytes(), 256);
        assert!(matches!(process.figures, Figures::Kernel(_)) && process.findings.is_empty());
        assert_eq!(report.health.last().map(|counter| (counter.name, counter.count)), Some(("kernel_missed", 5)));
    }
}
