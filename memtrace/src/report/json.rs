//! JSON, one object a report: schema `memtrace/1`, described in docs/schema.json.
//!
//! The types here are the schema's; the model may change without it.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    io::{self, Write},
};

use serde::Serialize;

pub(super) use self::figures::nanoseconds;
use self::{
    before_end::JsonBeforeEnd,
    figures::{JsonIntervals, JsonTotals},
    gate::JsonGate,
    memory::{JsonKernelMemory, JsonLedger, JsonMemory, json_kernel_memory, json_memory},
    site::JsonSites,
};
use super::words;
use crate::model::{
    at_exit::AtExit,
    figures::BlockFigures,
    finding::OneSided,
    health::HealthCounter,
    memory::Memory,
    overhead::{Hits, Overhead},
    report::{Process, Report},
    tier::{BudgetLog, Tier, TierChange},
};

mod before_end;
mod figures;
mod gate;
mod memory;
mod site;

/// The name of the schema, with its version.
pub(super) const SCHEMA: &str = "memtrace/1";

#[derive(Serialize)]
struct JsonReport<'a> {
    schema: &'static str,
    host: &'a str,
    kernel: &'a str,
    /// RFC 3339, UTC.
    started_at: String,
    duration_ns: u64,
    tier: &'static str,
    /// The mean bytes between samples; nothing where every allocation is counted.
    sample_bytes: Option<u64>,
    /// The budget and what came of it; nothing where the tier was asked for.
    auto: Option<JsonBudget>,
    health: BTreeMap<&'static str, u64>,
    /// The blind spots on this machine, in words for people.
    not_seen: Vec<String>,
    processes: Vec<JsonProcess<'a>>,
    /// Targets that have ended and are not among `processes`.
    unlisted: JsonUnlisted,
    gate: Option<JsonGate<'a>>,
}

#[derive(Serialize)]
struct JsonBudget {
    max_overhead: f64,
    windows: u32,
    tiers: Vec<JsonTier>,
}

#[derive(Serialize)]
struct JsonTier {
    at_ns: u64,
    pid: Option<u32>,
    tier: &'static str,
    sample_bytes: Option<u64>,
    reason: String,
}

impl From<&BudgetLog> for JsonBudget {
    fn from(log: &BudgetLog) -> Self {
        let tier = |change: &TierChange| JsonTier {
            at_ns: nanoseconds(change.at),
            pid: change.pid,
            tier: change.tier.name(),
            sample_bytes: change.tier.sample_bytes(),
            reason: words::tier::reason(&change.reason),
        };
        let tiers = log.changes.iter().map(tier).collect();
        Self { max_overhead: log.max_overhead, windows: log.windows, tiers }
    }
}

#[derive(Serialize)]
struct JsonUnlisted {
    processes: u64,
    suspects: usize,
    unchecked: u64,
    #[serde(flatten)]
    totals: JsonTotals,
}

#[derive(Serialize)]
struct JsonProcess<'a> {
    pid: u32,
    comm: Cow<'a, str>,
    exe: &'a str,
    ended: bool,
    tier: &'static str,
    /// As of the report.
    sample_bytes: Option<u64>,
    /// Whether memtrace chose the tier.
    auto: bool,
    allocators: Vec<JsonAllocator<'a>>,
    rss_bytes: Option<u64>,
    rss_growth_bytes_per_s: f64,
    unexplained_rss_bytes: Option<u64>,
    trend: &'static str,
    trend_confidence: f64,
    ledger: Option<JsonLedger>,
    peak: Option<JsonPeak>,
    memory: Option<JsonMemory>,
    kernel_memory: Option<JsonKernelMemory>,
    #[serde(flatten)]
    totals: JsonTotals,
    /// Nothing unless nothing but pages is traced.
    resident_change_bytes: Option<i64>,
    interval_95: Option<JsonIntervals>,
    growth_bytes_per_s: f64,
    overhead: Option<JsonOverhead>,
    health: BTreeMap<&'static str, u64>,
    one_sided: Vec<JsonOneSided<'a>>,
    at_exit: Option<JsonAtExit>,
    /// Nothing unless the process has ended.
    before_end: Option<JsonBeforeEnd>,
    sites: JsonSites<'a>,
    sites_left_out: usize,
}

#[derive(Serialize)]
struct JsonPeak {
    at_ns: u64,
    live_bytes: u64,
}

/// The cost of tracing to the process.
#[derive(Serialize)]
struct JsonOverhead {
    calls: u64,
    entries: u64,
    rets: u64,
    cost_ns: u64,
    cpu_ns: u64,
    share: f64,
}

impl From<Overhead> for JsonOverhead {
    fn from(overhead: Overhead) -> Self {
        let Hits { calls, entries, rets } = overhead.hits;
        let (cost_ns, cpu_ns) = (nanoseconds(overhead.cost), nanoseconds(overhead.cpu));
        Self { calls, entries, rets, cost_ns, cpu_ns, share: overhead.share() }
    }
}

#[derive(Serialize)]
struct JsonAllocator<'a> {
    name: &'a str,
    image: &'a str,
    functions: &'a [String],
}

/// Sites that each of several processes shows in tier `growth` unless told otherwise: every process of a host has a thousand
/// stacks that have touched a page, and with their frames a minute of compiling would be most of a gigabyte.
pub const TOP_OF_SEVERAL: usize = 100;

/// Writes the report as one line. With `top`, each process shows its first sites only; totals are of all.
///
/// # Errors
/// Where `out` refuses.
pub fn render(report: &Report, top: Option<usize>, out: &mut dyn Write) -> io::Result<()> {
    let is_of_several = report.run.tier == Tier::Growth && report.processes.len() > 1;
    let top = top.unwrap_or(if is_of_several { TOP_OF_SEVERAL } else { usize::MAX });
    let json = JsonReport {
        schema: SCHEMA,
        host: &report.run.host,
        kernel: &report.run.kernel,
        started_at: humantime::format_rfc3339_millis(report.run.started_at).to_string(),
        duration_ns: nanoseconds(report.run.duration),
        tier: report.run.tier.name(),
        sample_bytes: report.run.tier.sample_bytes(),
        auto: report.run.budget.as_ref().map(JsonBudget::from),
        health: counters(&report.health),
        not_seen: report.run.not_seen.iter().map(words::not_seen::not_seen).collect(),
        processes: report.processes.iter().map(|process| json_process(process, top)).collect(),
        unlisted: JsonUnlisted {
            processes: report.run.unlisted.processes,
            suspects: report.run.unlisted.suspects,
            unchecked: report.run.unlisted.unchecked,
            totals: (&report.run.unlisted.totals).into(),
        },
        gate: report.gate.as_ref().map(JsonGate::from),
    };
    serde_json::to_writer(&mut *out, &json)?;
    writeln!(out)
}

fn json_process(process: &Process, top: usize) -> JsonProcess<'_> {
    let judgement = process.trend();
    let figures = &process.figures;
    let blocks = figures.blocks();
    let (shown, left_out) = process.sites.split_at(top.min(process.sites.len()));
    JsonProcess {
        pid: process.subject.pid(),
        comm: process.subject.comm(),
        exe: process.subject.exe(),
        ended: process.ended,
        tier: process.tier.name(),
        sample_bytes: process.tier.sample_bytes(),
        auto: process.chose_tier,
        allocators: figures
            .allocators()
            .iter()
            .map(|allocator| JsonAllocator {
                name: &allocator.name,
                image: &allocator.image,
                functions: &allocator.functions,
            })
            .collect(),
        rss_bytes: process.memory.as_ref().map(Memory::bytes),
        rss_growth_bytes_per_s: judgement.slope_per_s,
        unexplained_rss_bytes: process.unexplained_bytes(),
        trend: judgement.trend.name(),
        trend_confidence: judgement.confidence,
        ledger: blocks.and_then(|blocks| blocks.ledger.as_ref()).map(JsonLedger::from),
        peak: figures.peak().map(|peak| JsonPeak { at_ns: nanoseconds(peak.at), live_bytes: peak.live_bytes }),
        memory: process.memory.as_ref().and_then(json_memory),
        kernel_memory: process.memory.as_ref().and_then(json_kernel_memory),
        totals: (&figures.totals()).into(),
        resident_change_bytes: figures.pages().map(|pages| pages.change.bytes()),
        interval_95: blocks.and_then(BlockFigures::intervals).map(JsonIntervals::from),
        growth_bytes_per_s: figures.growth_bytes_per_s(),
        overhead: blocks.and_then(|blocks| blocks.overhead).map(JsonOverhead::from),
        health: counters(&process.health),
        one_sided: process.one_sided().iter().map(JsonOneSided::from).collect(),
        at_exit: process.at_exit().map(JsonAtExit::from),
        before_end: process.before_end().copied().map(JsonBeforeEnd::from),
        sites: JsonSites(shown),
        sites_left_out: left_out.len(),
    }
}

/// An allocator of which only one side is seen.
#[derive(Serialize)]
struct JsonOneSided<'a> {
    allocator: &'a str,
    image: &'a str,
    seen: &'static str,
    events: u64,
}

impl<'a> From<&'a OneSided> for JsonOneSided<'a> {
    fn from(found: &'a OneSided) -> Self {
        let OneSided { allocator, image, seen, events } = found;
        Self { allocator, image, seen: seen.name(), events: *events }
    }
}

/// The look at the process when it was about to end.
#[derive(Serialize)]
struct JsonAtExit {
    checked: bool,
    /// Why not, for scripts and for people.
    cause: Option<&'static str>,
    reason: Option<String>,
    unreachable_bytes: Option<u64>,
    unreachable_objects: Option<u64>,
    read_bytes: Option<u64>,
    held_ns: Option<u64>,
}

impl From<&AtExit> for JsonAtExit {
    fn from(at_exit: &AtExit) -> Self {
        let (checked, why) = match at_exit {
            AtExit::Checked(checked) => (Some(checked), None),
            AtExit::Unchecked(why) => (None, Some(why)),
        };
        Self {
            checked: checked.is_some(),
            cause: why.map(|why| why.cause().name()),
            reason: why.map(words::unchecked::reason),
            unreachable_bytes: checked.map(|checked| checked.unreachable.bytes),
            unreachable_objects: checked.map(|checked| checked.unreachable.objects),
            read_bytes: checked.map(|checked| checked.read_bytes),
            held_ns: checked.map(|checked| nanoseconds(checked.held)),
        }
    }
}

fn counters(health: &[HealthCounter]) -> BTreeMap<&'static str, u64> {
    health.iter().map(|counter| (counter.name, counter.count)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{
            figures::{Figures, PageFigures},
            finding::Finding,
            resident_change::ResidentChange,
            stats::{
                estimate::{Uncertainty, Variances},
                teardown::BeforeEnd,
            },
            survival::Amount,
            tier::{Payer, TierReason},
            totals::Totals,
        },
        report::fixture,
    };
    use serde_json::Value;
    use std::time::Duration;

    fn rendered(top: Option<usize>) -> Value {
        let mut out = Vec::new();
        render(&fixture::report(), top, &mut out).unwrap();
        serde_json::from_slice(&out).unwrap()
    }

    /// A report as it is rendered, which keeps to the published schema.
    fn valid(report: &Report) -> Value {
        let mut out = Vec::new();
        render(report, None, &mut out).unwrap();
        let report = serde_json::from_slice(&out).unwrap();
        let schema = fixture::strict_schema(include_str!("../../../docs/schema.json"));
        assert!(jsonschema::is_valid(&schema, &report));
        report
    }

    #[test]
    fn the_report_keeps_to_its_published_schema() {
        let schema = fixture::strict_schema(include_str!("../../../docs/schema.json"));
        let validator = jsonschema::validator_for(&schema).unwrap();
        let errors: Vec<String> = validator.iter_errors(&rendered(None)).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{errors:#?}");
    }

    #[test]
    fn estimates_have_intervals_and_keep_to_the_schema() {
        let mut sampled = fixture::report();
        sampled.run.tier = Tier::Sampled { sample_bytes: 4096 };
        let variances = Variances::of_samples([4e6, 9.0], [2e6, 4.0]);
        let process = &mut sampled.processes[0];
        process.sites[0].uncertainty = Some(Uncertainty { variances, ..Uncertainty::default() });
        fixture::blocks(process).uncertainty =
            Some(Uncertainty { variances, alloc_is_exact: true, ..Uncertainty::default() });
        let mut out = Vec::new();
        render(&sampled, None, &mut out).unwrap();
        let report: Value = serde_json::from_slice(&out).unwrap();
        let schema = fixture::strict_schema(include_str!("../../../docs/schema.json"));
        assert!(jsonschema::is_valid(&schema, &report), "{report:#}");
        assert_eq!(report["sample_bytes"], 4096);
        let process = &report["processes"][0];
        assert_eq!(process["interval_95"]["alloc_bytes"][0], process["alloc_bytes"]);
        let live = &process["sites"][0]["interval_95"]["live_bytes"];
        assert!(live[0].as_u64() < Some(4096) && Some(4096) < live[1].as_u64(), "{live}");
        assert_eq!(process["sites"][1]["interval_95"], Value::Null);
    }

    #[test]
    fn the_tiers_that_a_budget_led_to_are_told() {
        let mut report = fixture::report();
        report.run.tier = Tier::Windowed;
        (report.processes[0].tier, report.processes[0].chose_tier) = (Tier::Windowed, true);
        let (before, share, max_overhead) = (Tier::Exact, 0.2, 0.1);
        let dear = TierReason::TooDear { before, share, payer: Payer::Passing, max_overhead };
        let changes = vec![
            TierChange { at: Duration::ZERO, pid: None, tier: Tier::Exact, reason: TierReason::AsAskedFor },
            TierChange { at: Duration::from_secs(3), pid: None, tier: Tier::Windowed, reason: dear },
        ];
        report.run.budget = Some(BudgetLog { max_overhead: 0.1, changes, windows: 7 });
        let mut out = Vec::new();
        render(&report, None, &mut out).unwrap();
        let json: Value = serde_json::from_slice(&out).unwrap();
        let schema = fixture::strict_schema(include_str!("../../../docs/schema.json"));
        assert!(jsonschema::is_valid(&schema, &json), "{json:#}");
        assert_eq!(json["auto"]["tiers"][1]["tier"], "windowed");
        assert_eq!(json["auto"]["tiers"][1]["at_ns"], 3_000_000_000u64);
        assert_eq!((&json["processes"][0]["tier"], &json["processes"][0]["auto"]), (&"windowed".into(), &true.into()));
        let asked_for = &rendered(None)["processes"][0];
        assert_eq!((&asked_for["tier"], &asked_for["auto"]), (&"exact".into(), &false.into()));
    }

    #[test]
    fn memory_is_told_over_time_and_to_its_limit() {
        let report = rendered(None);
        let memory = &report["processes"][0]["memory"];
        assert_eq!(
            (&memory["limit_bytes"], &memory["seconds_to_limit"]),
            (&Value::from(512 << 20), &Value::from(7800.0))
        );
        let series = memory["series"].as_array().unwrap();
        assert_eq!((series.len(), &series[4]["at_ns"]), (5, &Value::from(4_000_000_000u64)));
        assert_eq!(series[4]["rss_bytes"], report["processes"][0]["rss_bytes"]);
        let mut unread = fixture::report();
        unread.processes[0].memory = None;
        let mut out = Vec::new();
        render(&unread, None, &mut out).unwrap();
        let schema = fixture::strict_schema(include_str!("../../../docs/schema.json"));
        assert!(jsonschema::is_valid(&schema, &serde_json::from_slice(&out).unwrap()));
    }

    #[test]
    fn what_was_held_before_an_end_is_told_beside_what_was_counted() {
        let mut report = fixture::report();
        let before =
            BeforeEnd { at: Duration::from_secs(9), live_bytes: 8192, live_objects: 8, rss_bytes: Some(1 << 20) };
        let process = &mut report.processes[0];
        process.findings.push(Finding::BeforeEnd(before));
        let site = &mut process.sites[0];
        (site.totals, site.before_end) = (Totals::new(8192, 8, 8192, 8), Some(BeforeEnd { rss_bytes: None, ..before }));
        let report = valid(&report);
        let process = &report["processes"][0];
        assert_eq!(
            (&process["before_end"]["live_bytes"], &process["before_end"]["rss_bytes"]),
            (&8192.into(), &(1 << 20).into())
        );
        let [freed, other] = [0, 1].map(|index| &process["sites"][index]);
        assert_eq!((&freed["freed_at_end"], &freed["live_bytes"]), (&true.into(), &0.into()));
        assert_eq!(
            (&freed["before_end"]["live_objects"], &freed["before_end"]["at_ns"]),
            (&8.into(), &9_000_000_000_u64.into())
        );
        assert_eq!(freed["before_end"]["growth_bytes_per_s"], freed["growth_bytes_per_s"]);
        assert_eq!((&other["freed_at_end"], &other["before_end"]), (&false.into(), &Value::Null));
    }

    #[test]
    fn what_a_process_has_given_back_of_what_it_had_before_is_told() {
        let mut report = fixture::report();
        let given_back = Amount { bytes: 42 << 20, objects: 42 << 8 };
        let change = ResidentChange { given_back, ..ResidentChange::default() };
        report.processes[0].figures = Figures::Pages(PageFigures { change, ..PageFigures::default() });
        let report = valid(&report);
        let process = &report["processes"][0];
        assert_eq!((&process["resident_change_bytes"], &process["live_bytes"]), (&(-(42 << 20)).into(), &0.into()));
        assert_eq!(rendered(None)["processes"][0]["resident_change_bytes"], Value::Null);
    }

    #[test]
    fn the_schema_refuses_what_is_not_in_it() {
        let schema = fixture::strict_schema(include_str!("../../../docs/schema.json"));
        let mut report = rendered(None);
        report["processes"][0]["sites"][0]["frames"][0]["surprise"] = Value::from(1);
        assert!(!jsonschema::is_valid(&schema, &report));
    }

    #[test]
    fn frames_run_from_the_allocation_outwards_and_say_why_they_are_unresolved() {
        let report = rendered(None);
        let frames = &report["processes"][0]["sites"][0]["frames"];
        assert_eq!(frames[0]["function"], "keep");
        assert_eq!(frames[2]["function"], "main");
        let unresolved = &report["processes"][0]["sites"][1]["frames"][0];
        assert_eq!(unresolved["function"], Value::Null);
        assert_eq!(unresolved["unresolved"], "the image has no symbol here");
    }

    #[test]
    fn totals_are_of_all_sites_whatever_is_shown() {
        let report = rendered(Some(1));
        assert_eq!(report["processes"][0]["sites"].as_array().unwrap().len(), 1);
        assert_eq!(report["processes"][0]["sites_left_out"], 1);
        assert_eq!(report["processes"][0]["live_bytes"], 4196);
    }

    #[test]
    fn of_several_processes_by_pages_the_first_sites_are_told_and_how_many_more_there_are() {
        let mut report = fixture::report();
        let site = report.processes[0].sites[0].clone();
        report.processes[0].sites = vec![site; 250];
        report.processes.push(report.processes[0].clone());
        let told = |report: &Report, top| {
            let mut out = Vec::new();
            render(report, top, &mut out).unwrap();
            let json: Value = serde_json::from_slice(&out).unwrap();
            let process = &json["processes"][1];
            (process["sites"].as_array().unwrap().len(), process["sites_left_out"].as_u64().unwrap())
        };
        assert_eq!(told(&report, None), (250, 0));
        report.run.tier = Tier::Growth;
        assert_eq!(told(&report, None), (TOP_OF_SEVERAL, 150));
        assert_eq!(told(&report, Some(240)), (240, 10));
    }
}
