//! Returns that are seen at instructions: every allocator exactly, allocators that switch stacks, and programs that look at
//! their own return addresses.

use std::{path::PathBuf, process::Command};

use serde_json::Value;

use crate::support::{self, FRAME_POINTERS, Signal, Target, Tracing, assert_truth, compile, compile_by, process};

const JEMALLOC: &str = "/usr/lib/x86_64-linux-gnu/libjemalloc.so.2";
const TCMALLOC: &str = "/usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4";
const MIMALLOC: &str = "/usr/lib/x86_64-linux-gnu/libmimalloc.so.2.0";

const AT_INSTRUCTIONS: [&str; 2] = ["--returns", "instruction"];

/// Traces a program that waits for a word, to its truth. Returns that, the report and what memtrace said.
fn traced(command: &mut Command, options: &[&str]) -> (Value, Value, String) {
    let mut target = Target::start(command);
    assert_eq!(target.line(), "ready");
    let pid = target.pid().to_string();
    let tracing = Tracing::start(&[options, &["--pid", &pid, "--format", "json"]].concat());
    target.say("go");
    let truth = serde_json::from_str(&target.line()).unwrap();
    tracing.signal(Signal::INT);
    let (status, output, messages) = tracing.finish();
    assert_eq!(status, 0, "{messages}");
    assert!(target.is_alive());
    (truth, serde_json::from_str(&output).unwrap(), messages)
}

fn hits(report: &Value) -> [u64; 3] {
    ["calls", "entries", "rets"].map(|kind| process(report)["overhead"][kind].as_u64().unwrap())
}

/// Eight threads that free one another's blocks, with return addresses left alone.
fn assert_exact_at_instructions(command: &mut Command) {
    let operations = support::scaled(200_000).to_string();
    let (truth, report, messages) = traced(command.args([&operations, "wait"]), &AT_INSTRUCTIONS);
    assert!(!messages.contains("warning"), "{messages}");
    assert_truth(&report, &truth, true);
    assert_eq!(process(&report)["health"]["unmatched_frees"], 0);
    let [calls, _, rets] = hits(&report);
    let allocated = process(&report)["alloc_objects"].as_u64().unwrap();
    assert!(calls == 0 && rets >= allocated, "{calls} by return probes, {rets} at instructions, of {allocated}");
}

#[test]
fn every_allocator_is_exact_at_instructions() {
    let program = compile("truth.c", &FRAME_POINTERS);
    assert_exact_at_instructions(&mut Command::new(&program));
    assert_exact_at_instructions(Command::new(&program).env("LD_PRELOAD", TCMALLOC));
    assert_exact_at_instructions(Command::new(&program).env("LD_PRELOAD", MIMALLOC));
    let program = compile("truth.c", &[&FRAME_POINTERS[..], &["-DNO_PVALLOC", "-DNO_CFREE"]].concat());
    assert_exact_at_instructions(Command::new(&program).env("LD_PRELOAD", JEMALLOC));
    for flags in [&["-DNO_PVALLOC"][..], &["-DNO_PVALLOC", "-static"]] {
        let program = compile_by("musl-gcc", "truth.c", &[&FRAME_POINTERS[..], flags].concat());
        assert_exact_at_instructions(&mut Command::new(program));
    }
}

/// The program whose allocator yields to other coroutines: its own malloc, or a pool that only the user can name.
fn yields(is_pool: bool) -> (PathBuf, Vec<String>) {
    let flags: &[&str] = if is_pool { &["-DPOOL"] } else { &["-fno-builtin"] };
    let program = compile("yields.c", &[&FRAME_POINTERS[..], flags].concat());
    let image = program.file_name().unwrap().to_str().unwrap();
    let pair = ["--alloc", "pool_get(size=arg0)->ret", "--free", "pool_put(ptr=arg0)"];
    let pair = pair.map(|text| if text.starts_with("--") { text.to_owned() } else { format!("{image}:{text}") });
    let options = if is_pool { pair.to_vec() } else { Vec::new() };
    (program, options)
}

#[test]
fn calls_that_switch_stacks_return_on_any_stack_in_any_thread_and_are_exact() {
    for is_pool in [false, true] {
        let (program, options) = yields(is_pool);
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        for mode in ["cooperative", "migrating", "preempted"] {
            let (truth, report, messages) = traced(Command::new(&program).args(["3000", mode]), &options);
            assert!(!messages.contains("warning"), "{messages}");
            // The loader of a thread's memory allocates as well, where two threads take turns.
            assert_truth(&report, &truth, false);
            let [_, _, rets] = hits(&report);
            assert!(rets >= truth["work"]["alloc_objects"].as_u64().unwrap(), "{mode}: {rets}");
        }
    }
}

#[test]
fn calls_that_switch_stacks_are_exact_while_a_budget_is_kept() {
    let (program, _) = yields(false);
    let auto = ["--tier", "auto", "--max-overhead", "100%"];
    // So few that they cost less than what a tier is left for, even if that is told too high.
    let (truth, report, _) = traced(Command::new(&program).args(["200", "migrating"]), &auto);
    assert_truth(&report, &truth, false);
    let [_, _, rets] = hits(&report);
    assert!(rets >= truth["work"]["alloc_objects"].as_u64().unwrap());
}

#[test]
fn calls_that_never_return_are_counted_as_lost() {
    let (program, _) = yields(false);
    let (truth, report, _) = traced(Command::new(&program).args(["3000", "abandoning"]), &[]);
    let abandoned = truth["abandoned"].as_u64().unwrap();
    assert!(abandoned > 2900);
    assert_eq!(support::losses(process(&report)), [("returns_unseen".to_owned(), abandoned)]);
}

#[test]
fn return_probes_would_end_a_program_whose_allocator_switches_stacks() {
    let (program, _) = yields(false);
    let mut target = Target::start(Command::new(program).args(["3000", "cooperative"]));
    assert_eq!(target.line(), "ready");
    let pid = target.pid().to_string();
    let tracing = Tracing::start(&["--returns", "trampoline", "--pid", &pid, "--format", "json"]);
    target.say("go");
    support::eventually("the program ends", || !target.is_alive());
    assert_eq!(tracing.finish().0, 0);
}

#[test]
fn return_probes_of_another_tracer_do_not_hide_returns() {
    let program = compile("truth.c", &FRAME_POINTERS);
    let operations = support::scaled(50_000).to_string();
    let mut target = Target::start(Command::new(program).args([&operations, "wait"]));
    assert_eq!(target.line(), "ready");
    let pid = target.pid().to_string();
    let tracing = Tracing::start(&["--returns", "instruction", "--pid", &pid, "--format", "json"]);
    let other = Tracing::start(&["--returns", "trampoline", "--pid", &pid, "--format", "json"]);
    target.say("go");
    let truth: Value = serde_json::from_str(&target.line()).unwrap();
    assert_truth(&other.stop(), &truth, true);
    assert_truth(&tracing.stop(), &truth, true);
    assert!(target.is_alive());
}

#[test]
fn a_programs_own_heap_profile_is_whole_while_it_is_traced_at_instructions() {
    let program = compile("profiled.c", &["-O2", "-Wl,--no-as-needed", JEMALLOC]);
    let folder = support::scratch();
    let file = folder.path().join("profile");
    let mut target = Target::start(
        Command::new(program).arg(&file).env("MALLOC_CONF", "prof:true,lg_prof_sample:12,prof_final:false"),
    );
    assert_eq!(target.line(), "ready");
    let tracing = Tracing::start(&["--returns", "instruction", "--pid", &target.pid().to_string(), "--format", "json"]);
    target.say("go");
    let functions: Vec<u64> = serde_json::from_str(&target.line()).unwrap();
    let report = tracing.stop();
    assert_eq!(support::sum_at(process(&report), "leaf", "alloc_bytes"), 3000 * 5000);
    assert_eq!(support::losses(process(&report)), []);

    // A stack of jemalloc's profile is a line of return addresses, innermost first, after an @.
    let profile = std::fs::read_to_string(file).unwrap();
    let function_of = |address: u64| {
        let begun = functions.iter().enumerate().filter(|(_, start)| (**start..**start + 1024).contains(&address));
        begun.max_by_key(|(_, start)| **start).map(|(index, _)| index)
    };
    let of_stack = |line: &str| -> Vec<usize> {
        let addresses = line.split(' ').filter_map(|word| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok());
        addresses.filter_map(function_of).collect()
    };
    let stacks: Vec<Vec<usize>> = profile.lines().filter_map(|line| Some(of_stack(line.strip_prefix("@ ")?))).collect();
    let is_whole = stacks.iter().any(|stack| stack.starts_with(&[0, 1, 2]));
    assert!(is_whole, "no stack leads from main by mid to leaf: {profile}");
}

/// A program that moves the code of its own allocator.
fn moves() -> PathBuf {
    compile_by("musl-gcc", "moves.c", &["-O2", "-static"])
}

#[test]
fn a_program_that_has_moved_its_allocators_code_is_refused_with_the_reason() {
    let mut target = Target::start(&mut Command::new(moves()));
    assert_eq!(target.line(), "ready");
    let (status, _, messages) = support::run(&["--pid", &target.pid().to_string(), "--duration", "1s"]);
    assert_eq!(status, 1, "{messages}");
    assert!(
        messages.contains(" to anonymous memory, where no probe can be placed") && messages.contains("hint: "),
        "{messages}"
    );
    target.say("go");
    assert_eq!(target.line(), "done");
}

#[test]
fn a_command_that_copies_its_allocators_code_lives_and_is_said_to_go_unseen() {
    let program = moves();
    let folder = support::scratch();
    let file = folder.path().join("report.json");
    let output = ["--format", "json", "-o", file.to_str().unwrap()];
    let (status, said, messages) = support::run(&[&output[..], &["--", program.to_str().unwrap(), "run"]].concat());
    assert_eq!((status, said.as_str()), (0, "ready\ndone\n"), "{messages}");
    assert!(messages.contains("its probes are out") && messages.contains("hint: "), "{messages}");
    assert_eq!(support::losses(process(&support::report(&file))), [("probes_taken_out".to_owned(), 1)]);
}
