//! One report for the tests of every format.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde_json::Value;

use crate::model::{
    category::Category,
    figures::{Allocator, BlockFigures, Figures, Peak},
    finding::{Finding, ResidentKind},
    frame::{Frame, Function, ImageName, Place, Reason},
    health::{HealthCounter, HealthKind},
    ledger::Ledger,
    memory::{Limit, Memory, Series, Usage},
    overhead::{Hits, Overhead},
    report::{FreedAt, Process, Report, Site},
    run::{Run, Unlisted},
    sizes::SizeHistogram,
    stats::trend::{self, Trend},
    subject::{Program, Subject},
    survival::{Amount, Cohort, Survival},
    tier::Tier,
    totals::Totals,
    truncation::Truncation,
    verdict::{Judgement, Verdict},
    verdict_reason::{Pace, Survivors, VerdictReason},
};

include!("../../tests/it/support/strict_schema.rs");

fn resolved(name: &str, line: u32, inlined: bool) -> Frame {
    let image = Arc::new(ImageName { path: "/usr/bin/demo".into(), build_id: Some("abcd".into()) });
    Frame {
        place: Place::Image { image, offset: 0x1000 + u64::from(line) },
        function: Ok(Function { name: name.into(), file: Some("/src/demo.c".into()), line: Some(line), inlined }),
    }
}

/// Growing by a MiB a second, to 5 MiB.
fn memory() -> Memory {
    let usage = |second: u64| Usage {
        anon_bytes: second << 20,
        file_bytes: 1 << 20,
        shmem_bytes: 0,
        swap_bytes: 1 << 18,
        vms_bytes: 20 << 20,
    };
    Memory {
        judgement: trend::Judgement { trend: Trend::Increasing, confidence: 0.987, slope_per_s: 1024.0 },
        limit: Some(Limit { max_bytes: 512 << 20, used_bytes: 200 << 20 }),
        time_to_limit: Some(Duration::from_secs(7800)),
        series: Series::OfProcess((0..5).map(|second| (Duration::from_secs(second), usage(second))).collect()),
    }
}

fn sizes() -> SizeHistogram {
    let mut sizes = SizeHistogram::default();
    [1000, 1000, 1048, 1048].into_iter().for_each(|bytes| sizes.add(bytes));
    sizes
}

fn survival() -> Survival {
    let amount = |objects| Amount { bytes: objects * 1024, objects };
    let mut survival = Survival { older_freed: amount(1), ..Survival::default() };
    survival.generations[3] = Cohort { born: amount(4), live: amount(4) };
    survival
}

fn block_figures(totals: Totals) -> BlockFigures {
    BlockFigures {
        allocators: vec![Allocator {
            name: "glibc".into(),
            number: 0,
            image: "/lib/libc.so.6".into(),
            functions: vec!["free".into(), "malloc".into()],
        }],
        totals,
        uncertainty: None,
        growth_bytes_per_s: 409.6,
        peak: Some(Peak { at: Duration::from_secs(9), live_bytes: 4100 }),
        ledger: Some(Ledger {
            rss_at_attach_bytes: 1 << 20,
            rss_bytes: 5 << 20,
            live_heap_bytes: 4196,
            live_mmap_bytes: 0,
            lost_events: 3,
            unmatched_frees: 7,
        }),
        overhead: Some(Overhead {
            hits: Hits { calls: 12_000, entries: 7_000, rets: 0 },
            cost: Duration::from_millis(25),
            cpu: Duration::from_secs(2),
        }),
    }
}

/// The figures of the report's process.
pub(crate) fn blocks(process: &mut Process) -> &mut BlockFigures {
    match &mut process.figures {
        Figures::Blocks(figures) => figures,
        others => panic!("{others:?}"),
    }
}

/// Two sites: one resolved, one cut and without symbols. The process's name wants escaping.
pub(crate) fn report() -> Report {
    let image = Arc::new(ImageName { path: "/lib/libfoo.so".into(), build_id: None });
    let leak = Site {
        id: 0xfeed,
        category: Category::Heap,
        totals: Totals::new(8192, 8, 4096, 4),
        uncertainty: None,
        growth_bytes_per_s: 409.6,
        judgement: Judgement {
            verdict: Verdict::LeakSuspect,
            confidence: 0.98,
            reason: VerdictReason::StillLive {
                survivors: Survivors {
                    youngest_s: 8.192,
                    oldest_s: 32.768,
                    live_objects: 4,
                    born_objects: 4,
                    older_objects: 0,
                    older_freed_objects: 0,
                },
                pace: Pace { slope_per_s: 409.6, of_process: None },
            },
        },
        before_end: None,
        unreachable: None,
        suppressed_by: None,
        in_baseline: false,
        survival: Some(survival()),
        short_lived_objects: Some(2),
        at_peak_bytes: 4000,
        sizes: sizes(),
        freed_at: vec![FreedAt {
            samples: 97,
            stack: [vec![resolved("free", 20, false)], vec![resolved("conn_close", 60, false)]]
                .map(Arc::from)
                .into_iter()
                .collect(),
        }],
        oldest_age: Some(Duration::from_millis(9500)),
        truncation: None,
        inferred: false,
        stacks: 1,
        stack: [
            vec![resolved("keep", 30, true), resolved("handle_request", 40, false)],
            vec![resolved("main", 50, false)],
        ]
        .map(Arc::from)
        .into_iter()
        .collect(),
    };
    let other = Site {
        id: 0xbeef,
        totals: Totals::new(100, 1, 0, 0),
        growth_bytes_per_s: 0.0,
        judgement: Judgement {
            verdict: Verdict::Stable,
            confidence: 0.9,
            reason: VerdictReason::Holds { held_bytes: 100, seconds: 10.0 },
        },
        survival: None,
        short_lived_objects: None,
        at_peak_bytes: 100,
        sizes: SizeHistogram::default(),
        freed_at: Vec::new(),
        truncation: Some(Truncation::NoRule),
        inferred: true,
        oldest_age: None,
        stack: [Arc::from([Frame { place: Place::Image { image, offset: 0x1234 }, function: Err(Reason::NoSymbol) }])]
            .into_iter()
            .collect(),
        ..leak.clone()
    };
    Report {
        run: Run {
            host: "host".into(),
            kernel: "6.18.0".into(),
            started_at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
            duration: Duration::from_secs(10),
            tier: Tier::Exact,
            budget: None,
            not_seen: Vec::new(),
            unlisted: Unlisted::default(),
        },
        health: vec![HealthCounter { name: "events_full", count: 0, kind: HealthKind::Loss }],
        processes: vec![Process {
            subject: Subject::Process(Program { pid: 42, comm: "demo;1".into(), exe: "/usr/bin/demo".into() }),
            tier: Tier::Exact,
            chose_tier: false,
            windows: 0,
            memory: Some(memory()),
            figures: Figures::Blocks(Box::new(block_figures(leak.totals.plus(&other.totals)))),
            findings: vec![Finding::UnexplainedGrowth {
                bytes: 3 << 20,
                kind: ResidentKind::Anonymous,
                with_mappings: false,
            }],
            health: vec![
                HealthCounter { name: "blocks_full", count: 3, kind: HealthKind::Loss },
                HealthCounter { name: "sites_full", count: 0, kind: HealthKind::Loss },
                HealthCounter { name: "unmatched_frees", count: 7, kind: HealthKind::Unmatched },
                HealthCounter { name: "unwind_no_rule", count: 2, kind: HealthKind::CutStack },
            ],
            sites: vec![leak, other],
            ended: false,
        }],
        gate: None,
    }
}
