//! Stacks that walks find hard: of coroutines, below code made at run time, and on another stack than the caller's.

use std::process::Command;

use serde_json::Value;

use crate::support::{Signal, Target, Tracing, compile, losses, process};

/// How often `stacks.c` leaks at each place for a line of its stdin, and the lines that it gets.
const ROUNDS: u64 = 64;
const LINES: u64 = 3;

fn traced() -> (Value, String) {
    let mut target = Target::start(&mut Command::new(compile("stacks.c", &["-O2", "-fno-optimize-sibling-calls"])));
    assert_eq!(target.line(), "ready");
    let pid = target.pid().to_string();
    let tracing = Tracing::start(&["--tier", "exact", "--format", "json", "--pid", &pid]);
    for _ in 0..LINES {
        target.say("go");
        assert_eq!(target.line(), "done");
    }
    tracing.signal(Signal::INT);
    let (status, output, messages) = tracing.finish();
    assert_eq!(status, 0, "{messages}");
    (serde_json::from_str(&output).unwrap(), messages)
}

/// The only site with a function, which must have all of its leaks, of so many bytes each: why its stack is cut, and the functions
/// from that one outwards.
fn site<'a>(process: &'a Value, function: &str, bytes: u64) -> (Option<&'a str>, Vec<&'a str>) {
    let is_in = |site: &&Value| site["frames"].as_array().unwrap().iter().any(|frame| frame["function"] == function);
    let sites: Vec<&Value> = process["sites"].as_array().unwrap().iter().filter(is_in).collect();
    let [site] = sites[..] else { panic!("{} sites of {function}: {:#}", sites.len(), process["sites"]) };
    assert_eq!(site["live_objects"], LINES * ROUNDS, "{site:#}");
    assert_eq!(site["live_bytes"], LINES * ROUNDS * bytes, "{site:#}");
    assert_eq!(site["truncated"], !site["truncation"].is_null(), "{site:#}");
    let name = |frame: &'a Value| match frame["kind"].as_str().unwrap() {
        "jit" => "[jit]",
        _ => frame["function"].as_str().unwrap_or("?"),
    };
    let frames = site["frames"].as_array().unwrap().iter().map(name);
    (site["truncation"].as_str(), frames.skip_while(|name| *name != function).collect())
}

#[test]
fn each_is_one_site_that_is_whole_or_says_why_it_is_not() {
    let (report, messages) = traced();
    let process = process(&report);
    assert_eq!(losses(process), [], "{messages}");
    // A hundred compilations, of one to four frames, are the same site.
    let (why, stack) = site(process, "leak_below_jit", 100);
    assert_eq!((why, &stack[..4]), (None, &["leak_below_jit", "[jit]", "call_jit", "main"][..]));
    // makecontext(3); its first code is named where the C library has symbols.
    let (why, stack) = site(process, "leak_in_coroutine", 200);
    assert_eq!((why, &stack[..2]), (None, &["leak_in_coroutine", "body"][..]));
    assert!(matches!(stack[2..], ["?" | "__start_context"]), "{stack:?}");
    // A return address that was put there by hand, as libco does.
    let (why, stack) = site(process, "leak_by_hand", 300);
    assert_eq!((why, &stack[..]), (None, &["leak_by_hand", "first_by_hand", "never_returned_to"][..]));
    // The caller's stack pointer is in a register that no row tells.
    let (why, stack) = site(process, "leak_on_another_stack", 400);
    assert_eq!((why, &stack[..]), (Some("stack-switch"), &["leak_on_another_stack", "call_on"][..]));
    assert_eq!(process["health"]["unwind_stack_switch"], LINES * ROUNDS);
    // The frame pointer leads back.
    let (why, stack) = site(process, "leak_with_frame_pointer", 500);
    assert_eq!((why, &stack[..3]), (None, &["leak_with_frame_pointer", "call_framed", "main"][..]));
}

#[test]
fn ids_of_sites_below_code_made_at_run_time_do_not_depend_on_the_run() {
    let id = |(report, _): &(Value, String)| {
        let sites = process(report)["sites"].as_array().unwrap();
        let below =
            sites.iter().find(|site| site["frames"].as_array().unwrap().iter().any(|frame| frame["kind"] == "jit"));
        below.unwrap()["id"].as_str().unwrap().to_owned()
    };
    assert_eq!(id(&traced()), id(&traced()));
}
