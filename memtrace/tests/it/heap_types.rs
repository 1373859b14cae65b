//! Types of blocks, as `memtrace heap` tells them, against programs that know theirs; and what they cost.

use std::{collections::BTreeMap, path::Path, process::Command};

use serde_json::Value;

use crate::{
    heap_reader::Truth,
    support::{self, InTime, Target, compile, compile_by, gate::assert_keeps_to, scaled, told},
};

/// The types of a process by name: blocks, and objects inside others.
type Told = BTreeMap<String, (u64, u64)>;

/// The heap of a process by `memtrace heap`.
fn looked_at(pid: u32) -> Value {
    let arguments = ["heap", "--pid", &pid.to_string(), "--format", "json"];
    let (status, output, messages) = told(&support::memtrace().args(arguments).output_in_time());
    assert_eq!((status, messages.as_str()), (0, ""), "{output}");
    let mut report: Value = serde_json::from_str(&output).unwrap();
    assert_keeps_to("schema-heap.json", &report);
    report["processes"][0]["heap"].take()
}

/// The types of a heap, all of which were told.
fn types(heap: &Value) -> Told {
    assert_eq!((&heap["types_left_out"], &heap["types_passed_over"]), (&0.into(), &0.into()), "{heap:#}");
    types_of(heap)
}

fn types_of(heap: &Value) -> Told {
    assert_eq!(heap["types_not_told"], Value::Null);
    let number = |of: &Value, field: &str| of[field].as_u64().unwrap();
    let rows = heap["types"].as_array().unwrap();
    let sums = |field: &str| rows.iter().map(|row| number(row, field)).sum::<u64>();
    let live = |field: &str| heap["allocators"].as_array().unwrap().iter().map(|one| number(one, field)).sum::<u64>();
    assert!(sums("objects") <= live("live_objects") && sums("bytes") <= live("live_bytes"), "{heap:#}");
    let row = |row: &Value| {
        let name = row["name"].as_str().unwrap().to_owned();
        (name, (number(row, "objects"), number(row, "inside_objects")))
    };
    let types: Told = rows.iter().map(row).collect();
    assert_eq!(types.len(), rows.len(), "each is told once: {rows:#?}");
    types
}

/// A program that has told its truth, with what memtrace says of it.
fn known(program: &Path) -> (Target, Value, Told) {
    let mut target = Target::start(&mut Command::new(program));
    let truth = serde_json::from_str(&target.line()).unwrap();
    let types = types(&looked_at(target.pid()));
    (target, truth, types)
}

fn pair(truth: &Value) -> (u64, u64) {
    (truth[0].as_u64().unwrap(), truth[1].as_u64().unwrap())
}

/// Takes symbols and all that is not needed to run from a copy of a program.
fn stripped(program: &Path) -> std::path::PathBuf {
    let copy = program.with_extension("stripped");
    let status = Command::new("strip").arg("--strip-all").arg("-o").arg(&copy).arg(program).status_in_time();
    assert!(status.success(), "cannot strip {}", program.display());
    copy
}

/// Asserts that every type has as many objects as the program says, and that it has no class besides. Names of templates may go on.
fn assert_classes(case: &str, truth: &Value, types: &Told) {
    for (name, expected) in truth.as_object().unwrap() {
        let is_it = |told: &&String| *told == name || told.starts_with(&format!("{name}<"));
        let found = types.iter().find(|(told, _)| is_it(told)).map(|(_, counts)| *counts);
        assert_eq!(found, Some(pair(expected)), "{case}: {name} in {types:#?}");
    }
    let is_known = |told: &String| truth.as_object().unwrap().keys().any(|name| told.starts_with(name.as_str()));
    let others: Vec<_> = types.iter().filter(|(told, _)| !is_known(told)).collect();
    assert!(others.iter().all(|(_, (objects, inside))| objects + inside < 16), "{case}: {others:#?}");
}

#[test]
fn classes_of_cxx_are_told_to_the_object_with_symbols_and_without() {
    let shared = compile_by("g++", "types.cc", &["-O2"]);
    let fixed = compile_by("g++", "types.cc", &["-O1", "-static", "-no-pie"]);
    let cases = [
        ("shared", shared.clone()),
        ("shared, stripped", stripped(&shared)),
        ("static", fixed.clone()),
        ("static, stripped", stripped(&fixed)),
    ];
    for (case, program) in cases {
        let (mut target, truth, types) = known(&program);
        assert_classes(case, &truth, &types);
        assert!(target.is_alive(), "{case}");
    }
}

#[test]
fn without_descriptions_symbols_of_virtual_tables_tell_classes() {
    let program = compile_by("g++", "types.cc", &["-O2", "-fno-rtti"]);
    let (_target, mut truth, types) = known(&program);
    // Nodes are known as such, but not by what they hold.
    let truth = truth.as_object_mut().unwrap();
    for (node, class) in
        [("list node", "list node with zoo::Fish at +16"), ("tree node", "tree node with zoo::Horse at +40")]
    {
        let more = truth.remove(class).unwrap()[0].as_u64().unwrap();
        truth[node][0] = (truth[node][0].as_u64().unwrap() + more).into();
    }
    assert_classes("no descriptions", &Value::Object(truth.clone()), &types);
    // Without symbols either, they are tables at some place, with as many objects.
    let (_target, _, types) = known(&stripped(&program));
    let table =
        |objects| types.iter().filter(|(name, counts)| name.starts_with("table at ") && counts.0 == objects).count();
    for class in ["zoo::Dog", "zoo::Wolf", "zoo::Keeper<long>", "std::_Sp_counted_ptr_inplace"] {
        assert_eq!(table(pair(&truth[class]).0), 1, "{class}: {types:#?}");
    }
}

#[test]
fn tables_of_functions_tell_structures_of_c() {
    let program = compile("types_ops.c", &["-O2"]);
    let (_target, truth, types) = known(&program);
    let image = program.file_name().unwrap().to_str().unwrap();
    for (symbol, objects) in truth.as_object().unwrap() {
        let name = format!("table {symbol} in {image}");
        assert_eq!(types.get(&name).copied(), Some((objects.as_u64().unwrap(), 0)), "{name}: {types:#?}");
    }
    assert_eq!(types.keys().filter(|name| name.starts_with("table ")).count(), 3, "{types:#?}");
    let (_target, truth, types) = known(&stripped(&program));
    for (symbol, objects) in truth.as_object().unwrap() {
        let is_it = |(name, counts): &(&String, &(u64, u64))| {
            name.starts_with("table at ") && counts.0 == objects.as_u64().unwrap()
        };
        assert_eq!(types.iter().filter(is_it).count(), 1, "{symbol}: {types:#?}");
    }
}

#[test]
fn classes_are_told_in_the_heap_of_another_allocator() {
    let program = compile_by("g++", "types.cc", &["-O2"]);
    let library = "/usr/lib/x86_64-linux-gnu/libjemalloc.so.2";
    let mut target = Target::start(Command::new(program).env("LD_PRELOAD", library));
    let truth = serde_json::from_str(&target.line()).unwrap();
    assert_classes("jemalloc", &truth, &types(&looked_at(target.pid())));
}

#[test]
#[ignore = "long: node is started with many buffers"]
fn buffers_of_node_are_told_by_a_symbol() {
    const BUFFERS: u64 = 20_000;
    let script = format!(
        "const kept = []; for (let i = 0; i < {BUFFERS}; i++) kept.push(Buffer.alloc(9000));\n\
         console.log(kept.length); process.stdin.resume();"
    );
    let mut target = Target::start(Command::new("node").args(["-e", &script]));
    assert_eq!(target.line(), BUFFERS.to_string());
    let types = types_of(&looked_at(target.pid()));
    let is_it = |name: &&String| {
        name.starts_with("std::_Sp_counted_deleter<v8::internal::BackingStore") && !name.contains(" with ")
    };
    let found: u64 = types.iter().filter(|(name, _)| is_it(name)).map(|(_, counts)| counts.0).sum();
    // It has some of its own.
    assert!((BUFFERS..BUFFERS + 200).contains(&found), "{found}: {types:#?}");
}

#[test]
#[ignore = "long: a heap of a GiB"]
fn with_types_two_million_blocks_take_less_than_two_seconds_of_cpu_time() {
    let blocks = scaled(2_000_000).to_string();
    let truth = Truth::start(&[&compile("heap.c", &["-O2"])], None, &[&blocks, "6000", "0"]);
    let program = std::env::var("MEMTRACE").unwrap();
    let pid = truth.target.pid();
    let script = format!("TIMEFORMAT='%R %U %S'; time {program} heap --pid {pid} --format json");
    let (status, output, times) = told(&Command::new("/bin/bash").args(["-c", &script]).output_in_time());
    assert_eq!(status, 0, "{times}");
    let report: Value = serde_json::from_str(&output).unwrap();
    types_of(&report["processes"][0]["heap"]);
    let times: Vec<f64> = times.split_whitespace().map(|time| time.parse().unwrap()).collect();
    let [wall, user, system] = times[..] else { panic!("{times:?}") };
    println!("two million blocks: {wall} s, of these {user} + {system} s of CPU time");
    assert!(user + system < 2.0, "{times:?}");
}

#[test]
fn the_table_names_types() {
    let program = compile_by("g++", "types.cc", &["-O2"]);
    let mut target = Target::start(&mut Command::new(program));
    target.line();
    let pid = target.pid().to_string();
    let (status, output, messages) = told(&support::memtrace().args(["heap", "--pid", &pid]).output_in_time());
    assert_eq!(status, 0, "{messages}");
    for text in ["types      of ", "TYPE", "zoo::Dog", "more types (--top N shows more)"] {
        assert!(output.contains(text), "{text:?}: {output}");
    }
}
