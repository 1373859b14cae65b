//! `memtrace heap --holders`: who holds the blocks of programs that know it, of C and C++, with symbols and without, with glibc and with
//! jemalloc; and of redis.

use std::{collections::BTreeMap, process::Command, time::Instant};

use serde_json::Value;

use crate::support::{
    self, InTime, Target, compile, compile_by, eventually,
    gate::assert_keeps_to,
    load::{RedisClient, redis_idle},
    scaled, told,
};

const JEMALLOC: &str = "/usr/lib/x86_64-linux-gnu/libjemalloc.so.2";
/// How many there are of each, as the program has it.
const SESSIONS: u64 = 20_000;
const LIST: u64 = 5_000;
const TREE: u64 = 3_000;
const SLOTS: u64 = 600;
const STACK: u64 = 40;
const LOST: u64 = 50;

/// The heap of a process, with its holders. It keeps to the published schema.
fn looked_at(pid: u32, more: &[&str]) -> Value {
    let pid = pid.to_string();
    let arguments = [&["heap", "--pid", &pid, "--format", "json"], more].concat();
    let (status, output, messages) = told(&support::memtrace().args(arguments).output_in_time());
    assert_eq!((status, messages.as_str()), (0, ""), "{output}");
    let report: Value = serde_json::from_str(&output).unwrap();
    assert_keeps_to("schema-heap.json", &report);
    let heap = report["processes"][0]["heap"].clone();
    assert!(heap["no_holders"].is_null(), "{heap:#}");
    assert_adds_up(&heap);
    heap
}

fn number(of: &Value, field: &str) -> u64 {
    of[field].as_u64().unwrap_or_else(|| panic!("{field} of {of:#}"))
}

/// Every block is somewhere, once.
fn assert_adds_up(heap: &Value) {
    let (holders, summary) = (heap["holders"].as_array().unwrap(), &heap["holders_summary"]);
    for kind in ["objects", "bytes"] {
        let below = format!("below_{kind}");
        let told: u64 = holders.iter().map(|holder| number(holder, kind) + number(holder, &below)).sum();
        let reached = number(summary, &format!("reached_{kind}"));
        assert_eq!(told + number(summary, &format!("elsewhere_{kind}")), reached, "{summary:#}");
    }
}

/// The ways of a report as `label > label`, with the number of objects and bytes at their ends.
fn ways(heap: &Value) -> BTreeMap<String, (u64, u64)> {
    let way = |holder: &Value| {
        let steps = holder["path"].as_array().unwrap().iter().map(|step| step["label"].as_str().unwrap());
        (steps.collect::<Vec<_>>().join(" > "), (number(holder, "objects"), number(holder, "bytes")))
    };
    heap["holders"].as_array().unwrap().iter().map(way).collect()
}

/// The label of blocks of a usable size.
fn label(bytes: u64) -> String {
    match bytes {
        0..=1024 => format!("{bytes} B"),
        _ => format!("up to {}.0 KiB", bytes.next_power_of_two() / 1024),
    }
}

/// A program that has told who holds its blocks.
struct Known {
    target: Target,
    truth: Value,
}

impl Known {
    fn start(mut command: Command) -> Self {
        let mut target = Target::start(&mut command);
        let truth = serde_json::from_str(&target.line()).unwrap();
        // Both threads sleep then.
        target.say("go");
        assert_eq!(target.line(), "ready");
        Self { target, truth }
    }

    fn size(&self, of: &str) -> String {
        label(number(&self.truth, of))
    }

    /// Asserts who holds what, where these are the names of the variables.
    fn assert_held(&self, heap: &Value, [sessions, list, tree, slots]: [&str; 4]) {
        let found = ways(heap);
        let size = |of: &str| self.size(of);
        let (table, buckets, session) = (size("table"), size("buckets"), size("session"));
        let to_sessions = format!("{sessions} > {table} > {buckets} > {session}");
        let worker = thread(self.target.pid(), "worker");
        let expected = [
            (format!("{sessions} > {table}"), 1),
            (format!("{sessions} > {table} > {buckets}"), 1),
            (to_sessions.clone(), SESSIONS),
            (format!("{to_sessions} > {}", size("name")), SESSIONS),
            (format!("{list} > {}", size("link")), LIST),
            (format!("{tree} > {}", size("tree")), TREE),
            (format!("{slots} > {}", size("slot")), SLOTS),
            (format!("{worker} > {}", size("held")), STACK),
            (format!("epoll descriptor {} > {}", number(&self.truth, "epoll"), size("waiting")), 1),
        ];
        for (way, objects) in expected {
            assert_eq!(found.get(&way).map(|(objects, _)| *objects), Some(objects), "{way}: {found:#?}");
        }
        let summary = &heap["holders_summary"];
        // Stale copies of pointers may be anywhere.
        let unreached = number(summary, "unreached_objects");
        assert!((LOST - 5..=LOST + 20).contains(&unreached), "{unreached}: {summary:#}, {found:#?}");
        assert!(number(heap, "threads_without_registers") <= 2);
    }
}

/// The label of a thread of a process by its name.
fn thread(pid: u32, name: &str) -> String {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let of_name = threads
        .map(|thread| thread.unwrap())
        .find(|thread| std::fs::read_to_string(thread.path().join("comm")).is_ok_and(|comm| comm.trim() == name));
    format!("thread {name} ({})", of_name.unwrap().file_name().to_str().unwrap())
}

const NAMES: [&str; 4] = ["g_sessions", "g_list", "g_tree", "g_slots"];

#[test]
fn each_block_is_under_the_variable_thread_or_descriptor_that_holds_it() {
    for flags in [&["-O1"][..], &["-O1", "-static"]] {
        let known = Known::start(Command::new(compile("holders.c", flags)));
        let heap = looked_at(known.target.pid(), &["--holders"]);
        known.assert_held(&heap, NAMES);
        let local = format!("t_cache of {} > {}", thread(known.target.pid(), "worker"), known.size("local"));
        assert!(ways(&heap).contains_key(&local), "{local}: {:#?}", ways(&heap));
        let of_sessions =
            heap["holders"].as_array().unwrap().iter().find(|one| one["path"][0]["label"] == "g_sessions");
        let root = &of_sessions.unwrap()["path"][0];
        assert_eq!(root["kind"], "global");
        // Virtual offsets begin at the program's own address, where it asks for one.
        let begins_at = if flags.contains(&"-static") { 0x40_0000 } else { 0 };
        assert_eq!(number(root, "offset"), begins_at + number(&known.truth, "sessions_at"));
        assert!(root["image"].as_str().unwrap().contains("holders"), "{root:#}");
    }
}

#[test]
fn without_symbols_variables_go_by_image_and_offset() {
    let program = compile("holders.c", &["-O1", "-s"]);
    let name = program.file_name().unwrap().to_str().unwrap().to_owned();
    let known = Known::start(Command::new(&program));
    let heap = looked_at(known.target.pid(), &["--holders"]);
    let places = ["sessions_at", "list_at", "tree_at", "slots_at"];
    let names = places.map(|place| format!("{name}+{:#x}", number(&known.truth, place)));
    known.assert_held(&heap, names.each_ref().map(String::as_str));
}

#[test]
fn blocks_of_jemalloc_have_holders() {
    let mut command = Command::new(compile("holders.c", &["-O1"]));
    command.env("LD_PRELOAD", JEMALLOC);
    let known = Known::start(command);
    let found = ways(&looked_at(known.target.pid(), &["--holders"]));
    let [table, buckets, session, name] = ["table", "buckets", "session", "name"].map(|of| known.size(of));
    let way = format!("g_sessions > {table} > {buckets} > {session} > {name}");
    assert_eq!(found.get(&way).map(|(objects, _)| *objects), Some(SESSIONS), "{found:#?}");
    for (variable, of, objects) in [("g_list", "link", LIST), ("g_tree", "tree", TREE), ("g_slots", "slot", SLOTS)] {
        let way = format!("{variable} > {}", known.size(of));
        assert_eq!(found.get(&way).map(|(objects, _)| *objects), Some(objects), "{way}: {found:#?}");
    }
}

#[test]
fn a_table_retains_all_that_hangs_from_it() {
    let known = Known::start(Command::new(compile("holders.c", &["-O1"])));
    let heap = looked_at(known.target.pid(), &["--retained"]);
    known.assert_held(&heap, NAMES);
    let [table, buckets, session, name] = ["table", "buckets", "session", "name"].map(|of| number(&known.truth, of));
    let below = table + buckets + SESSIONS * (session + name);
    let retained = |steps: usize| {
        let holders = heap["holders"].as_array().unwrap();
        let path = |one: &&Value| {
            let path = one["path"].as_array().unwrap();
            path[0]["label"] == "g_sessions" && path.len() == steps
        };
        number(holders.iter().find(path).unwrap(), "retained_bytes")
    };
    assert_eq!([2, 3, 4, 5].map(retained), [below, below - table, below - table - buckets, SESSIONS * name]);
}

#[test]
fn containers_of_cxx_have_holders() {
    let mut target = Target::start(&mut Command::new(compile_by("g++", "holders_cxx.cc", &["-O1"])));
    assert_eq!(target.line(), "ready");
    let found = ways(&looked_at(target.pid(), &["--holders"]));
    let objects = |way: &str| found.get(way).unwrap_or_else(|| panic!("{way}: {found:#?}")).0;
    // The vector's buffer, the counts of shared pointers and what they point to; the map's nodes and theirs.
    assert_eq!(objects("g_widgets > up to 256.0 KiB"), 1);
    assert_eq!(objects("g_widgets > up to 256.0 KiB > 232 B"), 8000);
    assert_eq!(objects("g_widgets > up to 256.0 KiB > 24 B"), 8000);
    assert_eq!((objects("g_by_number > 56 B"), objects("g_by_number > 56 B > 360 B")), (3000, 3000));
}

#[test]
fn keys_of_redis_are_held_by_its_server() {
    let redis = redis_idle();
    let mut client = RedisClient::connect(redis.port);
    client.all((0..50_000).map(|key| format!("SET key:{key} {}", "v".repeat(100))));
    let mut shares = (0.0, Value::Null);
    // Its table grows step by step.
    eventually("most of redis hangs from its database", || {
        let heap = looked_at(redis.target.pid(), &["--holders"]);
        let holders = heap["holders"].as_array().unwrap().iter();
        let of_image = holders.filter(|holder| {
            let root = &holder["path"][0];
            root["kind"] == "global" && root["image"].as_str().is_some_and(|image| image.contains("redis"))
        });
        let share: f64 = of_image.map(|holder| holder["share"].as_f64().unwrap()).sum();
        shares = (share, heap["holders_summary"].clone());
        share > 0.8
    });
    println!("redis: {shares:?}");
}

#[test]
fn the_table_shows_holders_as_a_tree() {
    let known = Known::start(Command::new(compile("holders.c", &["-O1"])));
    let pid = known.target.pid().to_string();
    let arguments = ["heap", "--pid", &pid, "--holders", "--top", "8"];
    let (status, output, messages) = told(&support::memtrace().args(arguments).output_in_time());
    assert_eq!((status, messages.as_str()), (0, ""), "{output}");
    println!("{output}");
    for text in ["HELD BY, ONE WAY", "g_sessions in holders", "20,000 x 200 B", "unreached "] {
        assert!(output.contains(text), "{text}: {output}");
    }
}

#[test]
#[ignore = "long: ten million blocks"]
fn ten_million_blocks_have_their_holders_within_ten_seconds() {
    let sessions = scaled(5_000_000);
    let mut command = Command::new(compile("holders.c", &["-O1"]));
    command.arg(sessions.to_string());
    let known = Known::start(command);
    for more in ["--holders", "--retained"] {
        let begun = Instant::now();
        let heap = looked_at(known.target.pid(), &[more]);
        let took = begun.elapsed();
        println!("{more}: {sessions} sessions with their names: {took:?}; {:#}", heap["holders_summary"]);
        let found = ways(&heap);
        let way = found.iter().find(|(way, _)| way.ends_with("> 200 B > 56 B")).unwrap_or_else(|| panic!("{found:#?}"));
        assert_eq!(way.1.0, sessions);
        assert!(more == "--retained" || took.as_secs_f64() < 10.0, "{took:?}");
    }
}

#[test]
fn a_program_that_takes_an_interruption_for_fatal_is_left_alone() {
    // It ends where a system call of its fails with EINTR.
    let mut target = Target::start(&mut Command::new(compile("holders_eintr.c", &["-O1"])));
    assert_eq!(target.line(), "ready");
    for _ in 0..20 {
        looked_at(target.pid(), &["--retained"]);
    }
    assert!(target.is_alive());
    target.say("go");
    assert_eq!(target.line(), "ready", "none of its calls was interrupted");
}
