//! Allocators of every kind: the exactness program under each, by preload, by linking and statically.
//!
//! Where a program calls an allocator's own functions, every function that memtrace hooks in it must be
//! among those that were called: no hook goes without a test.

use std::{
    collections::HashSet,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use serde_json::Value;

use crate::support::{
    self, EXACT_TIERS, FRAME_POINTERS, Running, Signal, Target, Tracing, assert_truth, compile, compile_by, eventually,
    process,
};

const OPERATIONS: &str = "500000";

const LIBRARIES: &str = "/usr/lib/x86_64-linux-gnu";
const JEMALLOC: &str = "/usr/lib/x86_64-linux-gnu/libjemalloc.so.2";
const TCMALLOC_MINIMAL: &str = "/usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4";
const TCMALLOC: &str = "/usr/lib/x86_64-linux-gnu/libtcmalloc.so.4";
const MIMALLOC: &str = "/usr/lib/x86_64-linux-gnu/libmimalloc.so.2.0";

/// Traces a program that waits for a word, to its truth, and asserts that it is told exactly.
fn traced(command: &mut Command) -> (Value, Value) {
    let mut target = Target::start(command);
    assert_eq!(target.line(), "ready");
    let tracing = Tracing::start(&["--pid", &target.pid().to_string(), "--format", "json"]);
    target.say("go");
    let truth: Value = serde_json::from_str(&target.line()).unwrap();
    let report = tracing.stop();
    assert_truth(&report, &truth, true);
    assert_eq!(process(&report)["health"]["unmatched_frees"], 0);
    assert!(target.is_alive());
    (report, truth)
}

fn truth_of(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.args([OPERATIONS, "wait"]);
    command
}

/// The functions that are hooked in the images whose path contains `image`: the family's name and the functions.
fn hooked(report: &Value, image: &str) -> (Vec<String>, HashSet<String>) {
    let allocators = process(report)["allocators"].as_array().unwrap().iter();
    let of_image: Vec<&Value> =
        allocators.filter(|allocator| allocator["image"].as_str().unwrap().contains(image)).collect();
    let names = of_image.iter().map(|allocator| allocator["name"].as_str().unwrap().to_owned()).collect();
    let functions = of_image.iter().flat_map(|allocator| allocator["functions"].as_array().unwrap());
    (names, functions.map(|function| function.as_str().unwrap().to_owned()).collect())
}

fn called(truth: &Value) -> HashSet<String> {
    truth["called"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect()
}

/// The plain program with an allocator preloaded.
fn exact_when_preloaded(library: &str, family: &str, flags: &[&str]) {
    let program = compile("truth.c", &[&FRAME_POINTERS[..], flags].concat());
    let (report, _) = traced(truth_of(&program).env("LD_PRELOAD", library));
    let (names, _) = hooked(&report, library.trim_end_matches(|c: char| !c.is_alphabetic()));
    assert_eq!(names, [family]);
}

/// The program that calls an allocator's own functions as well, linked with it.
fn exact_when_linked(link: &[&str], image: &str, family: &str, flags: &[&str]) {
    let program =
        compile("truth.c", &[&FRAME_POINTERS[..], flags, &["-Wl,--no-as-needed"], link, &["-lstdc++", "-lm"]].concat());
    let (report, truth) = traced(&mut truth_of(&program));
    let (names, functions) = hooked(&report, image);
    assert_eq!(names[0], family, "{names:?}");
    let uncalled: Vec<_> = functions.difference(&called(&truth)).cloned().collect();
    assert!(uncalled.is_empty(), "hooked, but never called: {uncalled:?}");
}

const WITHOUT_PVALLOC: [&str; 2] = ["-DNO_PVALLOC", "-DNO_CFREE"];
const EXTRA_JEMALLOC: [&str; 3] = ["-DNO_PVALLOC", "-DNO_CFREE", "-DEXTRA=\"extra_jemalloc.h\""];

#[test]
fn jemalloc_preloaded() {
    exact_when_preloaded(JEMALLOC, "jemalloc", &WITHOUT_PVALLOC);
}

#[test]
fn jemalloc_linked_with_its_own_functions() {
    exact_when_linked(&[JEMALLOC], "libjemalloc", "jemalloc", &EXTRA_JEMALLOC);
}

#[test]
fn jemalloc_in_the_program_itself() {
    let library = format!("{LIBRARIES}/libjemalloc.a");
    exact_when_linked(&[&library], "truth_c", "jemalloc", &EXTRA_JEMALLOC);
}

#[test]
fn tcmalloc_preloaded() {
    exact_when_preloaded(TCMALLOC_MINIMAL, "tcmalloc", &[]);
    exact_when_preloaded(TCMALLOC, "tcmalloc", &[]);
}

#[test]
fn tcmalloc_linked_with_its_own_functions() {
    for library in [TCMALLOC_MINIMAL, TCMALLOC] {
        exact_when_linked(&[library], "libtcmalloc", "tcmalloc", &["-DEXTRA=\"extra_tcmalloc.h\""]);
    }
}

#[test]
fn tcmalloc_in_the_program_itself() {
    let library = format!("{LIBRARIES}/libtcmalloc_minimal.a");
    exact_when_linked(&[&library], "truth_c", "tcmalloc", &["-DNO_CFREE", "-DEXTRA=\"extra_tcmalloc.h\""]);
}

#[test]
fn mimalloc_preloaded() {
    exact_when_preloaded(MIMALLOC, "mimalloc", &[]);
}

#[test]
fn mimalloc_linked_with_its_own_functions() {
    exact_when_linked(&[MIMALLOC], "libmimalloc", "mimalloc", &["-DEXTRA=\"extra_mimalloc.h\""]);
}

#[test]
fn musl_allocates_exactly_shared_and_static() {
    for flags in [&["-DNO_PVALLOC"][..], &["-DNO_PVALLOC", "-static"]] {
        let program = compile_by("musl-gcc", "truth.c", &[&FRAME_POINTERS[..], flags].concat());
        let (report, _) = traced(&mut truth_of(&program));
        assert_eq!(hooked(&report, "").0, ["musl"]);
    }
}

/// The program whose `operator new` throws, with an allocator that defines it.
fn exact_where_it_throws(library: &str, choices: u32, tier: &[&str]) {
    let choices = format!("-DHANDLER_CHOICES={choices}");
    let program =
        compile_by("g++", "throws.cc", &[&FRAME_POINTERS[..], &[&choices, "-Wl,--no-as-needed", library]].concat());
    let mut target = Target::start(Command::new(program).arg("20000"));
    assert_eq!(target.line(), "ready");
    let tracing = Tracing::start(&[tier, &["--pid", &target.pid().to_string(), "--format", "json"]].concat());
    target.say("go");
    let truth: Value = serde_json::from_str(&target.line()).unwrap();
    let report = tracing.stop();
    // Exceptions are blocks too, but not the program's own.
    assert_truth(&report, &truth, false);
    assert!(hooked(&report, library).1.contains("_Znwm"));
    assert!(target.is_alive());
}

#[test]
fn exceptions_from_an_allocators_operator_new_pass_and_are_exact() {
    let [exact, auto] = EXACT_TIERS;
    exact_where_it_throws(JEMALLOC, 0, exact);
    exact_where_it_throws(JEMALLOC, 4, auto);
    exact_where_it_throws(TCMALLOC_MINIMAL, 0, auto);
    exact_where_it_throws(TCMALLOC_MINIMAL, 4, exact);
}

#[test]
fn a_return_probe_on_a_function_that_throws_would_end_the_program() {
    let program = compile_by(
        "g++",
        "throws.cc",
        &[&FRAME_POINTERS[..], &["-DHANDLER_CHOICES=0", "-Wl,--no-as-needed", JEMALLOC]].concat(),
    );
    let mut target = Target::start(Command::new(program).arg("20000"));
    assert_eq!(target.line(), "ready");
    let script = format!("uretprobe:{JEMALLOC}:_Znwm {{ @returns = count(); }}");
    let _bpftrace = Running::start(
        Command::new("bpftrace")
            .args(["-p", &target.pid().to_string(), "-e", &script])
            .stdin(Stdio::null())
            .stdout(Stdio::null()),
    );
    // The kernel maps its trampoline when the first hooked function is called.
    std::thread::sleep(std::time::Duration::from_secs(5));
    target.say("go");
    eventually("the program ends", || !target.is_alive());
}

/// A pool of the program's own, which nobody but the user can name.
fn pool(flags: &[&str]) -> std::path::PathBuf {
    compile("pool.c", &[&FRAME_POINTERS[..], flags].concat())
}

#[test]
fn pairs_that_the_user_names_are_exact() {
    let program = pool(&[]);
    let image = program.file_name().unwrap().to_str().unwrap();
    let pairs = [
        ("--alloc", "pool_get(size=arg1)->ret".to_owned()),
        ("--alloc", "pool_array(count=arg1,size=arg2)->ret".to_owned()),
        ("--alloc", "pool_store(out=arg0,size=arg2)".to_owned()),
        ("--alloc", "pool_resize(ptr=arg1,size=arg2)->ret".to_owned()),
        ("--free", "pool_put(ptr=arg1)".to_owned()),
    ];
    let pairs: Vec<(&str, String)> =
        pairs.into_iter().map(|(option, text)| (option, format!("{image}:{text}"))).collect();
    let mut target = Target::start(Command::new(&program).arg("100000"));
    assert_eq!(target.line(), "ready");
    let pid = target.pid().to_string();
    let mut arguments = vec!["--pid", &pid, "--format", "json"];
    arguments.extend(pairs.iter().flat_map(|(option, text)| [*option, text.as_str()]));
    let tracing = Tracing::start(&arguments);
    target.say("go");
    let truth: Value = serde_json::from_str(&target.line()).unwrap();
    let report = tracing.stop();
    assert_truth(&report, &truth, true);
    assert_eq!(process(&report)["health"]["unmatched_frees"], 0);
    let (names, functions) = hooked(&report, image);
    assert_eq!(names, [image]);
    assert_eq!(functions.len(), 5);
}

/// The size class of a size: what jemalloc 5 really gives (jemalloc(3), SIZE CLASSES; pages of 4 KiB, quanta
/// of 16 bytes, four classes to a doubling).
fn size_class(size: u64) -> u64 {
    if size <= 8 {
        return 8;
    }
    if size <= 128 {
        return size.next_multiple_of(16);
    }
    let doubling = size.next_power_of_two() / 2;
    size.next_multiple_of(doubling / 4)
}

#[test]
fn size_classes_are_those_of_the_manual() {
    for (size, class) in [(1, 8), (9, 16), (129, 160), (161, 192), (257, 320), (4097, 5120), (1 << 20, 1 << 20)] {
        assert_eq!(size_class(size), class);
    }
}

/// Live bytes as jemalloc rounds them: by the mean size of each site's blocks.
fn rounded_live_bytes(process: &Value) -> f64 {
    let sites = process["sites"].as_array().unwrap().iter();
    let of_site = |site: &Value| {
        let (bytes, objects) = (site["live_bytes"].as_u64().unwrap(), site["live_objects"].as_u64().unwrap());
        if objects == 0 { 0 } else { size_class(bytes.div_ceil(objects)) * objects }
    };
    sites.map(of_site).sum::<u64>() as f64
}

#[test]
fn redis_holds_what_it_says_it_holds() {
    const KEYS: u32 = 20_000;
    let server = support::load::redis_idle();
    let mut client = support::load::RedisClient::connect(server.port);
    // Its first call of each command costs a histogram of latencies for good.
    client.all(["SET k v", "HSET h k v", "HDEL h k", "DEL k", "FLUSHALL SYNC"].map(str::to_owned));
    client.used_memory();
    let folder = support::scratch();
    let file = folder.path().join("reports");
    let pid = server.target.pid().to_string();
    let tracing =
        Tracing::start(&["--pid", &pid, "--format", "json", "--interval", "1s", "-o", file.to_str().unwrap()]);
    let before = client.used_memory();
    let (value, other) = ("v".repeat(100), "w".repeat(100));
    client.all((0..KEYS).map(|key| format!("SET key:{key:08} {value}")));
    client.all((0..KEYS).map(|key| format!("HSET hash field:{key:08} {value}")));
    // Overwrites of all, by strings of the same length and by longer ones; then a quarter goes.
    client.all((0..KEYS).map(|key| format!("SET key:{key:08} {}", other.repeat(4))));
    client.all((0..KEYS).map(|key| format!("SET key:{key:08} {other}")));
    client.all((0..KEYS).step_by(4).map(|key| format!("DEL key:{key:08}")));
    client.all((0..KEYS).step_by(4).map(|key| format!("HDEL hash field:{key:08}")));
    // It tidies up in the background.
    let full = settled(&mut client);
    // The second from now on is of nothing but this.
    let count = || support::reports_so_far(&file, tracing.pid()).lines().count();
    let enough = count() + 2;
    eventually("two more reports", || count() >= enough);
    let full_until = std::time::SystemTime::now();
    client.all(["FLUSHALL SYNC".to_owned()]);
    let flushed = settled(&mut client);
    tracing.signal(Signal::INT);
    let (status, _, messages) = tracing.finish();
    assert_eq!(status, 0, "{messages}");
    let output = std::fs::read_to_string(file).unwrap();
    let reports: Vec<Value> = output.lines().map(|line| serde_json::from_str(line).unwrap()).collect();

    let ended_at = |report: &Value| {
        let started = humantime::parse_rfc3339(report["started_at"].as_str().unwrap()).unwrap();
        started + std::time::Duration::from_nanos(report["duration_ns"].as_u64().unwrap())
    };
    let at_full = process(reports.iter().rfind(|report| ended_at(report) < full_until).unwrap());
    let at_end = process(reports.last().unwrap());
    assert_eq!(support::losses(at_end), []);
    assert!(hooked(reports.last().unwrap(), "libjemalloc").0 == ["jemalloc"]);
    let grown = (full - before) as f64;
    let (counted, left) = (rounded_live_bytes(at_full), rounded_live_bytes(at_end));
    eprintln!(
        "used_memory grew by {grown}, live bytes as rounded {counted}; after FLUSHALL {} and {left}",
        flushed - before
    );
    assert!((counted - grown).abs() < 0.01 * grown, "live {counted}, used_memory grew by {grown}");
    assert!((flushed - before) as f64 <= 0.01 * grown, "used_memory was {before} and is {flushed}");
    assert!(left < 0.01 * grown, "{left} bytes are live after FLUSHALL");
}

/// The memory that redis says it holds, once that stays the same for a second.
fn settled(client: &mut support::load::RedisClient) -> u64 {
    let mut last = client.used_memory();
    eventually("redis has tidied up", || {
        std::thread::sleep(std::time::Duration::from_secs(1));
        let before = std::mem::replace(&mut last, client.used_memory());
        before == last
    });
    last
}

/// The bytes and objects of the sites through which the function's calls went.
fn sum_through(process: &Value, function: &str, figure: &str) -> u64 {
    let sites = process["sites"].as_array().unwrap().iter();
    let through =
        sites.filter(|site| site["frames"].as_array().unwrap().iter().any(|frame| frame["function"] == function));
    through.map(|site| site[figure].as_u64().unwrap()).sum()
}

#[test]
fn rust_programs_are_exact_with_jemalloc_inside_and_with_the_systems_allocator() {
    for (allocator, image, family) in [("jemalloc", "rust-truth", "jemalloc"), ("system", "libc.so", "glibc")] {
        // `cargo xtask test` builds it with each.
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("rust-{allocator}"));
        let mut target = Target::start(Command::new(folder.join("release/rust-truth")).arg(OPERATIONS));
        assert_eq!(target.line(), "ready");
        let tracing = Tracing::start(&["--pid", &target.pid().to_string(), "--format", "json"]);
        target.say("go");
        let truth: Value = serde_json::from_str(&target.line()).unwrap();
        let report = tracing.stop();
        let process = process(&report);
        assert_eq!(support::losses(process), []);
        for (name, counts) in truth.as_object().unwrap() {
            for figure in support::FIGURES {
                let expected = counts[figure].as_u64().unwrap();
                assert_eq!(sum_through(process, name, figure), expected, "{figure} of {name} with {family}");
            }
        }
        support::assert_sums(process);
        assert_eq!(hooked(&report, image).0, [family]);
    }
}

#[test]
fn an_allocator_that_nobody_knows_is_hooked_as_such_once_it_is_loaded() {
    let library = compile("own.c", &["-O2", "-shared", "-fPIC", "-DLIBRARY"]);
    let program = compile("own.c", &[&FRAME_POINTERS[..], &["-ldl"]].concat());
    let mut target = Target::start(Command::new(program).arg(&library));
    assert_eq!(target.line(), "running");
    let mut tracing = Tracing::start(&["-v", "--pid", &target.pid().to_string(), "--format", "json"]);
    target.say("load");
    assert_eq!(target.line(), "loaded");
    let loaded = Instant::now();
    // Some milliseconds; but whoever detaches probes elsewhere at this moment makes the kernel keep us waiting.
    tracing.wait_for("hooked other");
    println!("hooked {:?} after it was loaded", loaded.elapsed());
    target.say("allocate");
    let truth: Value = serde_json::from_str(&target.line()).unwrap();
    let report = tracing.stop();
    let process = process(&report);
    let (names, functions) = hooked(&report, library.file_name().unwrap().to_str().unwrap());
    assert_eq!(names, ["other"]);
    assert_eq!(functions, ["malloc", "free"].map(str::to_owned).into());
    for figure in support::FIGURES {
        assert_eq!(
            support::sum_at(process, "site_own", figure),
            truth["site_own"][figure].as_u64().unwrap(),
            "{figure}"
        );
    }
    // It has mapped 64 MiB besides, which no allocator knows of.
    assert!(process["unexplained_rss_bytes"].as_u64().unwrap() > 60 << 20, "{}", process["unexplained_rss_bytes"]);
}

#[test]
fn what_a_wrapper_hands_on_counts_once_and_is_no_unmatched_free() {
    // Recorded for good, and where that may change.
    let tiers = [&["--tier", "exact"][..], &["--tier", "auto", "--max-overhead", "100%"]];
    for (header, tier) in ["-DHEADER=0", "-DHEADER=16"].into_iter().flat_map(|header| tiers.map(|tier| (header, tier)))
    {
        let library = compile("wrapper.c", &["-O2", "-shared", "-fPIC", "-DLIBRARY", header]);
        let mut command = Command::new(compile("wrapper.c", &FRAME_POINTERS));
        let mut target = Target::start(command.env("LD_PRELOAD", &library));
        assert_eq!(target.line(), "ready");
        let pid = target.pid().to_string();
        let tracing = Tracing::start(&[tier, &["--pid", &pid, "--format", "json"]].concat());
        target.say("go");
        let truth: Value = serde_json::from_str(&target.line()).unwrap();
        let report = tracing.stop();
        let process = process(&report);
        assert_eq!(hooked(&report, library.file_name().unwrap().to_str().unwrap()).0, ["other"]);
        for figure in support::FIGURES {
            let expected = truth["site_wrapped"][figure].as_u64().unwrap();
            assert_eq!(support::sum_at(process, "site_wrapped", figure), expected, "{figure} with {header} {tier:?}");
        }
        // A hundred blocks from before attach were freed.
        assert_eq!(process["health"]["unmatched_frees"], 100, "with {header} {tier:?}");
        assert_eq!(support::losses(process), []);
    }
}
