//! The whole host for nearly nothing: among 200 processes, those that leak are told from those that only look like it at times.

use std::{collections::BTreeMap, path::Path, process::Command, time::Instant};

use serde_json::Value;

use crate::support::{self, FRAME_POINTERS, Target, Tracing, compile, patience};

/// The mode of a process, with the resident memory that it has before, in MiB, and how fast it leaks, in KiB a second.
struct Kind {
    mode: &'static str,
    base_mib: u32,
    argument: u32,
}

impl Kind {
    fn leak_kib_per_s(&self) -> Option<u32> {
        (self.mode == "leak").then_some(self.argument)
    }

    fn start(&self, program: &Path) -> Target {
        let arguments = [self.mode, &self.base_mib.to_string(), &self.argument.to_string()];
        let mut target = Target::start(Command::new(program).args(arguments));
        assert_eq!(target.line(), "ready");
        target
    }
}

/// Three that leak, seven that are hard to tell from them, and idle ones and some with jitter up to 200.
fn kinds() -> Vec<Kind> {
    let kind = |mode, base_mib, argument| Kind { mode, base_mib, argument };
    let mut kinds = vec![
        kind("leak", 100, 10),
        kind("leak", 2, 100),
        kind("leak", 20, 1000),
        kind("cache", 2, 20),
        kind("cache", 5, 30),
        kind("slow", 5, 25),
        kind("batch", 2, 7),
        kind("batch", 4, 20),
        kind("step", 2, 35),
        kind("warm", 2, 15),
    ];
    kinds.extend((0..60).map(|index| kind("jitter", 1, 1 + index * 5)));
    kinds.extend((kinds.len()..200).map(|_| kind("idle", 1, 0)));
    kinds
}

/// The memory that a process has made resident within a function, in bytes.
fn resident_at(process: &Value, function: &str) -> u64 {
    let is_within =
        |site: &&Value| site["frames"].as_array().unwrap().iter().any(|frame| frame["function"] == function);
    let sites = process["sites"].as_array().unwrap().iter().filter(is_within);
    sites.map(|site| site["alloc_bytes"].as_u64().unwrap()).sum()
}

#[test]
fn stacks_are_told_where_tracefs_is_not_mounted() {
    let program = compile("host.c", &[&FRAME_POINTERS[..], &["-lm"]].concat());
    let kind = Kind { mode: "leak", base_mib: 2, argument: 1000 };
    let target = kind.start(&program);
    let comm = comm(&target);
    // It becomes a target once it has grown, when memtrace has given up its privileges.
    let script = "umount -a -t tracefs,debugfs; exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh"]).arg(support::memtrace().get_program());
    command.args(["--comm", &comm, "--tier", "growth", "--interval", "1s", "--format", "json"]);
    let mut tracing = Tracing::run(&mut command);
    let begun = Instant::now();
    loop {
        let report = tracing.report();
        let mut processes = report["processes"].as_array().unwrap().iter();
        let process = processes.find(|process| process["pid"] == target.pid());
        if process.is_some_and(|process| resident_at(process, "leak_here") > 1 << 20) {
            break;
        }
        assert!(begun.elapsed() < patience(), "nothing at its stack within {:?}: {report:#}", patience());
    }
    tracing.stop_at_last();
}

#[test]
fn of_three_processes_the_one_that_leaks_is_increasing() {
    let program = compile("host.c", &[&FRAME_POINTERS[..], &["-lm"]].concat());
    let kinds = [("leak", 1000), ("idle", 0), ("idle", 0)];
    let targets = kinds.map(|(mode, argument)| Kind { mode, base_mib: 2, argument }.start(&program));
    let pids = targets.each_ref().map(|target| target.pid().to_string());
    let selected = pids.iter().flat_map(|pid| ["--pid", pid]);
    let options = ["--tier", "growth", "--duration", "20s", "--format", "json"];
    let (status, output, messages) = support::run(&options.into_iter().chain(selected).collect::<Vec<_>>());
    assert_eq!(status, 0, "{messages}");
    let report: Value = serde_json::from_str(&output).unwrap();
    let of = |target: &Target| {
        let mut processes = report["processes"].as_array().unwrap().iter();
        processes.find(|process| process["pid"] == target.pid()).unwrap()
    };
    let [leak, idle, other] = targets.each_ref().map(of);
    assert_eq!(leak["trend"], "increasing", "{}", leak["memory"]);
    assert!(resident_at(leak, "leak_here") > 1 << 20, "{}", leak["sites"]);
    for idle in [idle, other] {
        assert_ne!(idle["trend"], "increasing", "{}", idle["memory"]);
    }
}

/// The name of a process.
fn comm(target: &Target) -> String {
    std::fs::read_to_string(format!("/proc/{}/comm", target.pid())).unwrap().trim().to_owned()
}

/// The memory that a process of a report has made resident in `leak_here`, in bytes; 0 where it is not there.
fn leaked_by(report: &Value, target: &Target) -> u64 {
    let mut processes = report["processes"].as_array().unwrap().iter();
    processes.find(|process| process["pid"] == target.pid()).map_or(0, |process| resident_at(process, "leak_here"))
}

#[test]
fn a_leak_is_named_beside_a_busy_build_whose_processes_are_not_looked_at() {
    let program = compile("host.c", &[&FRAME_POINTERS[..], &["-lm"]].concat());
    let start = |mode, argument| Kind { mode, base_mib: 2, argument }.start(&program);
    let (build, leak) = (start("build", 0), start("leak", 1000));
    let comm = comm(&build);
    let options = ["--comm", &comm, "--tier", "growth", "--duration", "15s", "--top", "1000", "--format", "json"];
    let (status, output, messages) = support::run(&options);
    assert_eq!(status, 0, "{messages}");
    let report: Value = serde_json::from_str(&output).unwrap();
    assert!(leaked_by(&report, &leak) > 1 << 20, "{report:#}");
    // All others live for less time than it takes to be trusted.
    let is_looked_at = |process: &&Value| !process["sites"].as_array().unwrap().is_empty();
    let looked_at = report["processes"].as_array().unwrap().iter().filter(is_looked_at);
    assert_eq!(looked_at.map(|process| &process["pid"]).collect::<Vec<_>>(), [leak.pid()], "{report:#}");
}

#[test]
fn steady_growth_takes_over_the_slot_of_a_process_that_grew_once() {
    const SLOTS: usize = 2;
    let program = compile("host.c", &[&FRAME_POINTERS[..], &["-lm"]].concat());
    let start = |mode, argument| Kind { mode, base_mib: 2, argument }.start(&program);
    let steps: Vec<Target> = (0..SLOTS).map(|_| start("step", 5)).collect();
    let comm = comm(&steps[0]);
    let slots = SLOTS.to_string();
    let mut options = vec!["--comm", &comm, "--tier", "growth", "--max-processes", &slots];
    options.extend(["--interval", "1s", "--format", "json"]);
    let mut tracing = Tracing::start(&options);
    let begun = Instant::now();
    let mut wait_for = |what: &str, is_there: &dyn Fn(&Value) -> bool| loop {
        let report = tracing.report();
        if is_there(&report) {
            return report;
        }
        assert!(begun.elapsed() < patience(), "{what}: not within {:?}: {report:#}", patience());
    };
    let have_grown = |report: &Value| {
        let rss = |process: &&Value| process["rss_bytes"].as_u64() > Some(10 << 20);
        report["processes"].as_array().unwrap().iter().filter(rss).count() == SLOTS
    };
    wait_for("both have taken their memory", &have_grown);
    // They get their slots at the next scan.
    wait_for("another scan", &|_| true);
    wait_for("another scan", &|_| true);
    let leak = start("leak", 1000);
    let report = wait_for("a leak at its stack", &|report| leaked_by(report, &leak) > 1 << 20);
    assert_eq!(report["health"]["slots_taken_back"], 1, "{report:#}");
    assert_eq!(report["health"]["processes_full"], 1, "told once, until its growth was steady");
    tracing.stop_at_last();
}

#[test]
#[ignore = "long: the statistics of two hundred processes, for a minute"]
fn those_that_leak_are_told_from_all_others_within_a_minute() {
    let program = compile("host.c", &[&FRAME_POINTERS[..], &["-lm"]].concat());
    let processes: BTreeMap<u32, (Kind, Target)> = kinds()
        .into_iter()
        .map(|kind| {
            let target = kind.start(&program);
            (target.pid(), (kind, target))
        })
        .collect();
    let (status, output, messages) =
        support::run(&["--all", "--tier", "growth", "--duration", "60s", "--format", "json"]);
    assert_eq!(status, 0, "{messages}");
    let report: Value = serde_json::from_str(&output).unwrap();
    let (mut seen, mut found, mut false_alarms) = (0, 0, Vec::new());
    for process in report["processes"].as_array().unwrap() {
        let pid = u32::try_from(process["pid"].as_u64().unwrap()).unwrap();
        let Some((kind, _)) = processes.get(&pid) else { continue };
        seen += 1;
        let is_increasing = process["trend"] == "increasing";
        let told = format!(
            "{} {}: {} with {}, {:.1} KiB/s",
            kind.mode,
            kind.argument,
            process["trend"],
            process["trend_confidence"],
            process["rss_growth_bytes_per_s"].as_f64().unwrap() / 1024.0
        );
        match kind.leak_kib_per_s() {
            // Before Linux 6.2 a thread keeps up to 64 pages for itself before it counts: a step each 25 seconds.
            Some(rate) if rate < 64 && support::kernel_version() < (6, 2) => {
                println!("{told}");
                found += 1;
            }
            Some(rate) => {
                println!("{told}");
                assert!(is_increasing, "{told}: {}", process["memory"]);
                assert!(process["trend_confidence"].as_f64() > Some(0.95), "{told}");
                let slope = process["rss_growth_bytes_per_s"].as_f64().unwrap() / 1024.0;
                assert!((slope / f64::from(rate) - 1.0).abs() < 0.25, "{told}");
                // Since it was found to grow, which takes the slowest a quarter of a minute.
                let kib = resident_at(process, "leak_here") / 1024;
                assert!(kib > u64::from(rate) * 20, "{told}: {kib} KiB at its stack: {}", process["sites"]);
                found += 1;
            }
            None if is_increasing => false_alarms.push(format!("{told}: {}", process["memory"])),
            None if kind.mode == "idle" || kind.mode == "jitter" => {}
            None => println!("{told}"),
        }
    }
    assert_eq!((seen, found), (200, 3));
    assert!(false_alarms.is_empty(), "{false_alarms:#?}");
}
