//! JSON, one object a report: schema `memtrace-heap/1`, described in docs/schema-heap.json.
//!
//! The types here are the schema's; the model may change without it.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::Value;

use super::{
    holders::{JsonHolder, JsonHoldersSummary, json_holders, summary},
    largest,
};
use crate::{
    model::{
        heap::{Allocator, Arena, FreeKind, Heap, SizeClass},
        heap_report::{HeapProcess, HeapReport, NotRead},
        heap_types::{NotTold, TypeFigures, TypeKind},
        holders::NoHolders,
    },
    report::{json::nanoseconds, words},
};

/// The name of the schema, with its version.
const SCHEMA: &str = "memtrace-heap/1";

#[derive(Serialize)]
struct JsonReport<'a> {
    schema: &'static str,
    host: &'a str,
    /// RFC 3339, UTC.
    started_at: String,
    duration_ns: u64,
    processes: Vec<JsonProcess<'a>>,
}

#[derive(Serialize)]
struct JsonProcess<'a> {
    pid: u32,
    comm: &'a str,
    exe: &'a str,
    ended: bool,
    rss_bytes: Option<u64>,
    /// Interpreters: none is read yet.
    runtimes: [Value; 0],
    heap: Option<JsonHeap<'a>>,
    not_read: Option<JsonNotRead>,
}

#[derive(Serialize)]
struct JsonNotRead {
    cause: &'static str,
    reason: String,
}

impl From<&NotRead> for JsonNotRead {
    fn from(why: &NotRead) -> Self {
        Self { cause: why.cause(), reason: words::heap::not_read(why) }
    }
}

/// A heap, in the report on heaps and in that of a run.
#[derive(Serialize)]
pub(crate) struct JsonHeap<'a> {
    looks: u32,
    duration_ns: u64,
    retries: u64,
    skipped_bytes: u64,
    swapped_bytes: u64,
    threads_without_registers: u32,
    resident: JsonResident,
    allocators: Vec<JsonAllocator<'a>>,
    types: Vec<JsonType>,
    types_left_out: u64,
    types_passed_over: u64,
    types_not_told: Option<JsonNotTold>,
    /// None is told yet.
    holders: Vec<JsonHolder>,
    holders_summary: Option<JsonHoldersSummary>,
    no_holders: Option<&'static str>,
    unreachable: [Value; 0],
}

/// A type of blocks.
#[derive(Serialize)]
struct JsonType {
    name: String,
    kind: TypeKind,
    objects: u64,
    bytes: u64,
    inside_objects: u64,
}

#[derive(Serialize)]
struct JsonNotTold {
    cause: &'static str,
    reason: String,
}

impl From<NotTold> for JsonNotTold {
    fn from(why: NotTold) -> Self {
        Self { cause: words::heap_types::not_told_cause(why), reason: words::heap_types::not_told(why) }
    }
}

#[derive(Serialize)]
struct JsonResident {
    live_bytes: u64,
    free_bytes: u64,
    returnable_bytes: u64,
    python_bytes: u64,
    files_bytes: u64,
    stacks_bytes: u64,
    other_bytes: u64,
    swap_bytes: u64,
}

#[derive(Serialize)]
struct JsonAllocator<'a> {
    name: &'a str,
    version: Option<&'a str>,
    image: Option<&'a str>,
    recognised: bool,
    reason: Option<&'a str>,
    live_bytes: u64,
    live_objects: u64,
    free_bytes: u64,
    free: Vec<JsonFree>,
    returnable_bytes: u64,
    fragmented_bytes: u64,
    resident_bytes: u64,
    growth_bytes_per_s: Option<f64>,
    arenas: Vec<JsonArena>,
    size_classes: Vec<JsonSizeClass>,
    size_classes_left_out: usize,
}

#[derive(Serialize)]
struct JsonFree {
    kind: FreeKind,
    bytes: u64,
}

#[derive(Serialize)]
struct JsonArena {
    live_bytes: u64,
    live_objects: u64,
    free_bytes: u64,
}

#[derive(Serialize)]
struct JsonSizeClass {
    size_bytes: u64,
    live_objects: u64,
    growth_objects_per_s: Option<f64>,
}

/// Writes a report, in one line; of each allocator the `top` size classes with most bytes, and of each process so many types; all
/// without it.
///
/// # Errors
/// Where `out` refuses.
pub fn render(report: &HeapReport, top: Option<usize>, out: &mut dyn Write) -> io::Result<()> {
    let top = top.unwrap_or(usize::MAX);
    let json = JsonReport {
        schema: SCHEMA,
        host: &report.host,
        started_at: humantime::format_rfc3339(report.started_at).to_string(),
        duration_ns: nanoseconds(report.duration),
        processes: report.processes.iter().map(|process| json_process(process, top)).collect(),
    };
    serde_json::to_writer(&mut *out, &json)?;
    writeln!(out)
}

fn json_process(process: &HeapProcess, top: usize) -> JsonProcess<'_> {
    JsonProcess {
        pid: process.program.pid,
        comm: &process.program.comm,
        exe: &process.program.exe,
        ended: process.ended,
        rss_bytes: process.rss_bytes,
        runtimes: [],
        heap: process.heap.as_ref().map(|heap| json_heap(heap, top)),
        not_read: process.not_read.as_ref().map(JsonNotRead::from),
    }
}

pub(crate) fn json_heap(heap: &Heap, top: usize) -> JsonHeap<'_> {
    let resident = &heap.resident;
    JsonHeap {
        looks: heap.looks,
        duration_ns: nanoseconds(heap.duration),
        retries: heap.consistency.retries,
        skipped_bytes: heap.consistency.skipped_bytes,
        swapped_bytes: heap.consistency.swapped_bytes,
        threads_without_registers: heap.consistency.threads_without_registers,
        resident: JsonResident {
            live_bytes: resident.live_bytes,
            free_bytes: resident.free_bytes,
            returnable_bytes: resident.returnable_bytes,
            python_bytes: resident.python_bytes,
            files_bytes: resident.files_bytes,
            stacks_bytes: resident.stacks_bytes,
            other_bytes: resident.other_bytes,
            swap_bytes: resident.swap_bytes,
        },
        allocators: heap.allocators.iter().map(|allocator| json_allocator(allocator, top)).collect(),
        types: heap.types.rows.iter().take(top).map(json_type).collect(),
        types_left_out: heap.types.left_out.saturating_add(heap.types.rows.len().saturating_sub(top) as u64),
        types_passed_over: heap.types.passed_over,
        types_not_told: heap.types.not_told.map(JsonNotTold::from),
        holders: heap.holders.as_ref().map(|holders| json_holders(holders, top)).unwrap_or_default(),
        holders_summary: heap.holders.as_ref().map(|holders| summary(holders, top)),
        no_holders: heap.no_holders.map(NoHolders::cause),
        unreachable: [],
    }
}

fn json_type(row: &TypeFigures) -> JsonType {
    JsonType {
        name: words::heap_types::type_name(&row.name),
        kind: row.name.kind(),
        objects: row.objects,
        bytes: row.bytes,
        inside_objects: row.inside_objects,
    }
}

fn json_allocator(allocator: &Allocator, top: usize) -> JsonAllocator<'_> {
    // By size, as the allocator has them, unless only the largest are wanted.
    let mut classes = largest(allocator, top);
    classes.sort_by_key(|class| class.size_bytes);
    let class = |class: &SizeClass| JsonSizeClass {
        size_bytes: class.size_bytes,
        live_objects: class.live_objects,
        growth_objects_per_s: class.growth_objects_per_s,
    };
    let arena = |arena: &Arena| JsonArena {
        live_bytes: arena.live_bytes,
        live_objects: arena.live_objects,
        free_bytes: arena.free_bytes,
    };
    JsonAllocator {
        name: &allocator.name,
        version: allocator.version.as_deref(),
        image: allocator.image.as_deref(),
        recognised: allocator.is_recognised(),
        reason: allocator.reason.as_deref(),
        live_bytes: allocator.live_bytes,
        live_objects: allocator.live_objects,
        free_bytes: allocator.free_bytes(),
        free: allocator.free.iter().map(|free| JsonFree { kind: free.kind, bytes: free.bytes }).collect(),
        returnable_bytes: allocator.returnable_bytes,
        fragmented_bytes: allocator.fragmented_bytes,
        resident_bytes: allocator.resident_bytes,
        growth_bytes_per_s: allocator.growth_bytes_per_s,
        arenas: allocator.arenas.iter().map(arena).collect(),
        size_classes_left_out: allocator.size_classes.len().saturating_sub(classes.len()),
        size_classes: classes.into_iter().map(class).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{fixture::strict_schema, heap::fixture};

    fn valid(report: &HeapReport, top: Option<usize>) -> Value {
        let mut out = Vec::new();
        render(report, top, &mut out).unwrap();
        assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 1);
        let json: Value = serde_json::from_slice(&out).unwrap();
        let schema = strict_schema(include_str!("../../../../docs/schema-heap.json"));
        let validator = jsonschema::validator_for(&schema).unwrap();
        let errors: Vec<String> = validator.iter_errors(&json).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{errors:#?}\n{json:#}");
        json
    }

    #[test]
    fn the_report_keeps_to_its_published_schema() {
        let json = valid(&fixture::report(), None);
        assert_eq!(json["schema"], "memtrace-heap/1");
        let [process, closed] = [0, 1].map(|index| &json["processes"][index]);
        let [glibc, other] = [0, 1].map(|index| &process["heap"]["allocators"][index]);
        assert_eq!((&glibc["recognised"], &glibc["reason"]), (&true.into(), &Value::Null));
        assert_eq!(glibc["free_bytes"], (100 + 1024 + 2) << 20);
        assert_eq!(glibc["free"][2]["kind"], "thread-cache");
        assert_eq!((&other["recognised"], other["reason"].is_string()), (&false.into(), true));
        assert_eq!((&closed["heap"], &closed["not_read"]["cause"]), (&Value::Null, &"refused".into()));
    }

    #[test]
    fn ways_to_blocks_begin_at_roots_and_add_up() {
        let json = valid(&fixture::held(), None);
        let heap = &json["processes"][0]["heap"];
        let (ways, summary) = (heap["holders"].as_array().unwrap(), &heap["holders_summary"]);
        let largest = &ways[0];
        let labels: Vec<_> = largest["path"].as_array().unwrap().iter().map(|step| step["label"].clone()).collect();
        assert_eq!(labels, ["g_sessions", "24 B", "up to 1.00 MiB", "104 B"]);
        assert_eq!((&largest["path"][0]["kind"], &largest["path"][0]["offset"]), (&"global".into(), &0x5120.into()));
        assert_eq!((&largest["objects"], &largest["retained_bytes"]), (&10_000_000.into(), &1_063_999_976.into()));
        let sum: u64 =
            ways.iter().map(|way| way["bytes"].as_u64().unwrap() + way["below_bytes"].as_u64().unwrap()).sum();
        assert_eq!(sum + 300, summary["reached_bytes"]);
        assert_eq!((&summary["unreached_objects"], &summary["left_out"]), (&2000.into(), &0.into()));
        let thread = ways.iter().find(|way| way["path"][0]["kind"] == "thread" && way["below_objects"] == 1).unwrap();
        assert_eq!((&thread["retained_bytes"], &thread["path"][0]["image"]), (&Value::Null, &Value::Null));
        let json = valid(&fixture::held(), Some(2));
        let heap = &json["processes"][0]["heap"];
        assert_eq!((heap["holders"].as_array().unwrap().len(), &heap["holders_summary"]["left_out"]), (2, &4.into()));
    }

    #[test]
    fn where_holders_are_not_told_a_cause_is() {
        let mut report = fixture::report();
        report.processes[0].heap.as_mut().unwrap().no_holders = Some(NoHolders::TooManyBlocks { most: 7 });
        let heap = &valid(&report, None)["processes"][0]["heap"];
        assert_eq!((&heap["no_holders"], &heap["holders_summary"]), (&"too-many-blocks".into(), &Value::Null));
        assert_eq!(heap["holders"].as_array().unwrap().len(), 0);
    }

    #[test]
    fn growth_is_null_after_one_look_and_a_number_after_two() {
        let class = |json: &Value| json["processes"][0]["heap"]["allocators"][0]["size_classes"][1].clone();
        assert_eq!(class(&valid(&fixture::report(), None))["growth_objects_per_s"], Value::Null);
        assert_eq!(class(&valid(&fixture::grown(), None))["growth_objects_per_s"], 10_000.0);
    }

    #[test]
    fn of_many_size_classes_the_largest_are_kept_in_order_of_size() {
        let json = valid(&fixture::report(), Some(2));
        let allocator = &json["processes"][0]["heap"]["allocators"][0];
        let sizes: Vec<u64> = allocator["size_classes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|class| class["size_bytes"].as_u64().unwrap())
            .collect();
        assert_eq!(sizes, [104, 1_048_568]);
        assert_eq!(allocator["size_classes_left_out"], 1);
    }
}
