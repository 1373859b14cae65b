//! A program that frees its blocks on its way out is judged as of before that: what grew until then is told as growth, what did
//! not is left alone, and what was counted stays what was counted.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
    thread::{self, ScopedJoinHandle},
    time::Duration,
};

use serde_json::Value;

use crate::support::{self, FRAME_POINTERS, InTime, Target, Tracing, assert_sums, compile, process, programs, scratch};

/// For how long programs grow: blocks must grow old, and go on to; on a busy machine some readings come late.
const SECONDS: &str = "50";
/// A start of memtrace takes half a second of a CPU.
const BETWEEN: Duration = Duration::from_millis(700);

/// The outcome of a run.
struct Run {
    status: i32,
    report: Value,
    messages: String,
    /// The program's own words.
    truth: String,
}

impl Run {
    /// `memtrace OPTIONS -- COMMAND`.
    fn of_command(options: &[&str], command: &[&str]) -> Self {
        let folder = scratch();
        let file = folder.path().join("report.json");
        let all = [&["--format", "json", "-o", file.to_str().unwrap()], options, &["--"], command].concat();
        let output = support::memtrace().args(all).output_in_time();
        let messages = String::from_utf8_lossy(&output.stderr).into_owned();
        let report = std::fs::read(&file).unwrap_or_else(|error| panic!("{command:?}: {error}: {messages}"));
        let truth = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
        Self {
            status: output.status.code().unwrap(),
            report: serde_json::from_slice(&report).unwrap(),
            messages,
            truth,
        }
    }

    /// `memtrace OPTIONS --pid N`, until the program ends or memtrace does.
    fn of_process(options: &[&str], command: &[&str]) -> Self {
        let mut target = Target::start(Command::new(command[0]).args(&command[1..]));
        let pid = target.pid().to_string();
        let tracing = Tracing::start(&[options, &["--format", "json", "--pid", &pid]].concat());
        target.say("go");
        let (status, output, messages) = tracing.finish();
        let report = serde_json::from_str(&output).unwrap_or_else(|error| panic!("{command:?}: {error}: {messages}"));
        Self { status, report, messages, truth: target.line() }
    }

    fn truth(&self, figure: &str) -> u64 {
        serde_json::from_str::<Value>(&self.truth).unwrap()[figure].as_u64().unwrap()
    }

    /// The site whose stack has this function.
    fn site(&self, function: &str) -> &Value {
        let is_on =
            |site: &&Value| site["frames"].as_array().unwrap().iter().any(|frame| frame["function"] == function);
        let sites = process(&self.report)["sites"].as_array().unwrap();
        sites.iter().find(is_on).unwrap_or_else(|| panic!("{function}: {:#}", self.report))
    }

    fn suspects(&self) -> Vec<&Value> {
        let sites = self.report["processes"].as_array().unwrap().iter().flat_map(|of| of["sites"].as_array().unwrap());
        sites.filter(|site| site["verdict"] == "leak-suspect").collect()
    }

    /// Asserts that the growth of a site is told although its program has freed it.
    fn assert_freed_at_end(&self, function: &str) -> &Value {
        let (site, process) = (self.site(function), process(&self.report));
        let told = format!("{site:#}\n{}", self.messages);
        assert_eq!((&site["verdict"], &site["freed_at_end"]), (&"leak-suspect".into(), &true.into()), "{told}");
        assert!(site["reason"].as_str().unwrap().ends_with("were freed at the end"), "{told}");
        assert!(site["growth_bytes_per_s"].as_f64() > Some(0.0), "{told}");
        assert_eq!(process["ended"], true);
        // Counted figures are not changed by what is thought.
        if process["interval_95"].is_null() {
            assert_sums(process);
        }
        assert!(site["before_end"]["live_bytes"].as_u64() > site["live_bytes"].as_u64(), "{told}");
        site
    }

    /// Asserts that nothing is held against it.
    fn assert_innocent(&self) {
        let told =
            self.suspects().into_iter().map(|site| format!("{}: {}", site["frames"][0]["function"], site["reason"]));
        assert_eq!(told.collect::<Vec<_>>(), Vec::<String>::new(), "{}", self.messages);
    }
}

/// The bytes and objects that a site held before its end.
fn held(site: &Value) -> (u64, u64) {
    let figure = |name: &str| site["before_end"][name].as_u64().unwrap();
    (figure("live_bytes"), figure("live_objects"))
}

/// A CPython that pyenv has installed, in which `sys.exit` does not come by `Py_FinalizeEx`: one from 3.13 on.
fn newer_python() -> Option<PathBuf> {
    let root = std::env::var_os("PYENV_ROOT").map(PathBuf::from);
    let folder = root.or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".pyenv")))?.join("versions");
    let versions = std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    let minor = |path: &Path| path.file_name()?.to_str()?.strip_prefix("3.")?.split('.').next()?.parse().ok();
    let newer = versions.filter(|path| minor(path).is_some_and(|minor: u32| minor >= 13));
    newer.map(|path| path.join("bin/python3")).find(|path| path.exists())
}

/// A source that a compiler is busy with for a second: it frees what it has built for each function.
fn big_source() -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("teardown_big.c");
    let function = |number: u32| {
        format!(
            "int f{number}(int *a, int n) {{ int s = {number}; for (int i = 0; i < n; i++) {{ s += a[i] * s; \
             if (s % {}) s ^= a[n - i - 1]; else s -= i; }} return s; }}\n",
            number + 2
        )
    };
    std::fs::write(&path, (0..200).map(function).collect::<String>()).unwrap();
    path
}

/// All runs at the same time: the programs sleep mostly.
struct Runs {
    gated_main: Run,
    gated_atexit: Run,
    gated_python: Run,
    attached_main: Run,
    destructor: Run,
    pools: Run,
    sampled: Run,
    broken_off: Run,
    newer_python: Option<Run>,
    stays: Run,
    early: Run,
    rounds: Run,
    phases: Run,
    tests: Run,
    compiler: Run,
}

static RUNS: LazyLock<Runs> = LazyLock::new(|| {
    let program = compile("teardown.c", &FRAME_POINTERS).to_str().unwrap().to_owned();
    let script = programs().join("teardown.py").to_str().unwrap().to_owned();
    let newer = newer_python().map(|path| path.to_str().unwrap().to_owned());
    let source = big_source();
    // In an emulator, everything takes some twenty times longer.
    let between = if support::is_emulated() { BETWEEN * 20 } else { BETWEEN };
    thread::scope(|scope| {
        let mut begun = 0;
        let mut start = |run: Box<dyn FnOnce() -> Run + Send>| -> ScopedJoinHandle<'_, Run> {
            begun += 1;
            scope.spawn(move || {
                thread::sleep(between * begun);
                run()
            })
        };
        let of = |way: &str| [program.clone(), way.to_owned(), SECONDS.to_owned()];
        let of_python = |python: &str, way: &str| {
            [python.to_owned(), "-B".to_owned(), script.clone(), way.to_owned(), SECONDS.to_owned()]
        };
        let command = |options: &'static [&'static str], command: Vec<String>| -> Box<dyn FnOnce() -> Run + Send> {
            Box::new(move || Run::of_command(options, &command.iter().map(String::as_str).collect::<Vec<_>>()))
        };
        let attached = |options: &'static [&'static str], command: Vec<String>| -> Box<dyn FnOnce() -> Run + Send> {
            Box::new(move || Run::of_process(options, &command.iter().map(String::as_str).collect::<Vec<_>>()))
        };
        let compiling = ["cc", "-O2", "-c", "-o", "/dev/null", source.to_str().unwrap()].map(str::to_owned).to_vec();
        let gated_main = start(command(&["--fail-on-leak"], of("main").to_vec()));
        let gated_atexit = start(command(&["--fail-on-leak"], of("atexit").to_vec()));
        let gated_python = start(command(&["--fail-on-leak"], of_python("/usr/bin/python3", "list").to_vec()));
        let attached_main = start(attached(&[], of("main").to_vec()));
        let destructor = start(attached(&[], of("destructor").to_vec()));
        let pools = start(attached(&["--category", "heap,mmap"], of("pools").to_vec()));
        let sampled = start(attached(&["--tier", "sampled", "--sample-bytes", "2KiB"], of("main").to_vec()));
        let broken_off = start(attached(&["--duration", "56s"], of("slowly").to_vec()));
        let newer_python = newer.map(|python| start(attached(&[], of_python(&python, "exit").to_vec())));
        let stays = start(attached(&[], of("stays").to_vec()));
        let early = start(attached(&[], of("early").to_vec()));
        let rounds = start(command(&["--fail-on-leak"], of("rounds").to_vec()));
        let phases = start(command(&["--fail-on-leak"], of("phases").to_vec()));
        let tests = start(command(&["--fail-on-leak"], of_python("/usr/bin/python3", "tests").to_vec()));
        let compiler = start(command(&["--tier", "exact", "--follow"], compiling));
        let done = |run: ScopedJoinHandle<'_, Run>| run.join().unwrap();
        Runs {
            gated_main: done(gated_main),
            gated_atexit: done(gated_atexit),
            gated_python: done(gated_python),
            attached_main: done(attached_main),
            destructor: done(destructor),
            pools: done(pools),
            sampled: done(sampled),
            broken_off: done(broken_off),
            newer_python: newer_python.map(done),
            stays: done(stays),
            early: done(early),
            rounds: done(rounds),
            phases: done(phases),
            tests: done(tests),
            compiler: done(compiler),
        }
    })
});

#[test]
fn what_main_frees_before_it_returns_is_told_as_growth_and_fails_the_gate() {
    let Run { status, messages, .. } = &RUNS.gated_main;
    let site = RUNS.gated_main.assert_freed_at_end("keep");
    assert_eq!(*status, 3, "{messages}");
    assert!(messages.contains("were freed at the end"), "{messages}");
    assert_eq!((&site["live_bytes"], &site["unreachable_bytes"]), (&0.into(), &0.into()));
    let (bytes, objects) = held(site);
    // As of the reading before: each block is whole.
    assert_eq!(bytes, objects * 1008);
    let most = RUNS.gated_main.truth("live_objects");
    assert!(objects <= most && objects > most / 2, "{objects} of {most}");
    assert_eq!(site["alloc_objects"], most);
}

#[test]
fn under_the_gate_a_program_is_read_to_the_byte_when_it_begins_to_end() {
    let run = &RUNS.gated_atexit;
    let site = run.assert_freed_at_end("keep");
    assert_eq!(run.status, 3, "{}", run.messages);
    assert_eq!(held(site), (run.truth("live_bytes"), run.truth("live_objects")));
    // Resident memory and live bytes are told of that moment as well, not of `_exit`, where it was stopped again.
    let process = process(&run.report);
    let (before, ledger) = (&process["before_end"], &process["ledger"]);
    assert!(before["live_bytes"].as_u64().unwrap() >= run.truth("live_bytes"), "{before}");
    assert_eq!((&before["rss_bytes"], &before["live_bytes"]), (&ledger["rss_bytes"], &ledger["live_heap_bytes"]));
    assert_eq!(process["unexplained_rss_bytes"], Value::Null);
}

#[test]
fn what_an_interpreter_frees_as_it_is_finalised_is_told_as_growth() {
    let run = &RUNS.gated_python;
    assert_eq!(run.status, 3, "{}", run.messages);
    let count: u64 = run.truth.parse().unwrap();
    let freed = process(&run.report)["sites"].as_array().unwrap().iter().filter(|site| site["freed_at_end"] == true);
    // Each has its list's slot besides, which is in another block.
    let of_blocks = freed.max_by_key(|site| site["before_end"]["live_objects"].as_u64()).unwrap();
    assert_eq!(of_blocks["verdict"], "leak-suspect", "{of_blocks:#}");
    assert!(held(of_blocks).1.abs_diff(count) <= count / 20, "{of_blocks:#}");
    assert!(of_blocks["live_objects"].as_u64().unwrap() < count / 10, "{of_blocks:#}");
}

#[test]
fn a_process_that_is_attached_to_is_judged_as_of_before_its_end() {
    for run in [&RUNS.attached_main, &RUNS.destructor] {
        let site = run.assert_freed_at_end("keep");
        let process = process(&run.report);
        assert_eq!(site["live_bytes"], 0);
        // RSS is from before, and so are the live bytes beside it: most of what is resident is explained.
        let (before, ledger) = (&process["before_end"], &process["ledger"]);
        assert_eq!(before["live_bytes"], ledger["live_heap_bytes"]);
        assert!(before["live_bytes"].as_u64().unwrap() > run.truth("live_bytes") / 2, "{before}");
        let unexplained = ledger["unexplained_bytes"].as_i64().unwrap().unsigned_abs();
        assert!(unexplained < run.truth("live_bytes") / 4, "{ledger}");
        assert_eq!(process["unexplained_rss_bytes"], Value::Null, "{}", run.messages);
    }
}

#[test]
fn pools_that_are_unmapped_at_the_end_are_told_as_growth() {
    let site = RUNS.pools.assert_freed_at_end("keep_pool");
    assert_eq!((&site["category"], &site["live_bytes"]), (&"mmap".into(), &0.into()));
    let (bytes, objects) = held(site);
    assert_eq!(bytes, objects * (64 << 10));
}

#[test]
fn estimates_are_judged_as_of_before_the_end_as_well() {
    let site = RUNS.sampled.assert_freed_at_end("keep");
    assert!(site["interval_95"].is_object());
}

#[test]
fn a_run_that_ends_while_a_program_frees_tells_what_it_held_before() {
    let run = &RUNS.broken_off;
    let (site, process) = (run.site("keep"), process(&run.report));
    assert_eq!(process["ended"], false, "it frees for half a minute: {}", run.messages);
    assert_eq!(site["live_bytes"].as_u64().unwrap() % 1008, 0);
    assert_eq!((&site["verdict"], &site["freed_at_end"]), (&"leak-suspect".into(), &true.into()), "{site:#}");
    assert!(held(site).0 > site["live_bytes"].as_u64().unwrap() * 2, "{site:#}");
    assert_eq!(process["before_end"], Value::Null);
}

#[test]
fn a_newer_interpreter_that_ends_by_sys_exit_is_known_by_that() {
    let Some(run) = &RUNS.newer_python else {
        println!("skipped: pyenv has installed no CPython from 3.13 on");
        return;
    };
    let count: u64 = run.truth.parse().unwrap();
    let freed = process(&run.report)["sites"].as_array().unwrap().iter().filter(|site| site["freed_at_end"] == true);
    let most = freed.filter_map(|site| site["before_end"]["live_objects"].as_u64()).max();
    assert!(most.is_some_and(|most| most > count / 2), "{most:?} of {count}: {}", run.messages);
}

#[test]
fn what_is_never_freed_is_judged_as_it_was() {
    let site = RUNS.stays.site("keep");
    assert_eq!((&site["verdict"], &site["freed_at_end"]), (&"leak-suspect".into(), &false.into()), "{site:#}");
    assert_eq!(site["before_end"], Value::Null);
    assert!(!site["reason"].as_str().unwrap().contains("freed"), "{site:#}");
}

#[test]
fn ordinary_work_that_frees_is_no_teardown() {
    for (name, run) in [("early", &RUNS.early), ("rounds", &RUNS.rounds), ("phases", &RUNS.phases)] {
        run.assert_innocent();
        let site = run.site("keep");
        assert_eq!(site["freed_at_end"], false, "{name}: {site:#}");
        assert_eq!(run.status, 0, "{name}: {}", run.messages);
    }
}

#[test]
fn a_test_run_and_a_compiler_are_innocent() {
    RUNS.tests.assert_innocent();
    assert_eq!(RUNS.tests.status, 0, "{}", RUNS.tests.messages);
    RUNS.compiler.assert_innocent();
    let processes = RUNS.compiler.report["processes"].as_array().unwrap();
    assert!(processes.iter().any(|process| process["comm"] == "cc1"), "{}", RUNS.compiler.messages);
}
