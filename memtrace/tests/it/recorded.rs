//! Outputs are the recorded ones: what users read and scripts parse stays as it is.
//!
//! `MEMTRACE_RECORD=1` writes the records anew.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use crate::support::{
    FRAME_POINTERS, InTime, Signal, Target, Tracing,
    cgroup::Cgroup,
    compile, memtrace,
    normaliser::{Figures, Normaliser, SOURCE, Sites},
    scratch,
};
use similar::TextDiff;
use tempfile::TempDir;

/// A kind of run, whose outputs are compared with the recorded ones.
struct Kind {
    name: &'static str,
    normaliser: Normaliser,
    folder: TempDir,
    differences: Vec<String>,
}

impl Kind {
    fn new(name: &'static str, figures: Figures, sites: Sites) -> Self {
        let folder = scratch();
        fs::copy(compile(SOURCE, &FRAME_POINTERS), folder.path().join("recorded")).unwrap();
        let normaliser = Normaliser::new(figures, sites, folder.path().to_str().unwrap());
        Self { name, normaliser, folder, differences: Vec::new() }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    /// The program in one of its modes, which waits.
    fn target(&self, mode: &str) -> Target {
        let mut target = Target::start(Command::new(self.path("recorded")).args([mode, "wait"]));
        assert_eq!(target.line(), "ready");
        target
    }

    /// Takes an output for this kind's: compares it with the recorded one, or records it.
    fn hold(&mut self, extension: &str, output: &str) {
        let normal = match extension {
            "json" => self.normaliser.json(output),
            "folded" => self.normaliser.folded(output),
            "table" => self.normaliser.table(output),
            _ => self.normaliser.messages(output),
        };
        let record = records().join(format!("{}.{extension}", self.name));
        if std::env::var_os("MEMTRACE_RECORD").is_some() {
            fs::create_dir_all(records()).unwrap();
            fs::write(record, normal).unwrap();
            return;
        }
        let recorded = fs::read_to_string(&record).unwrap_or_default();
        if recorded != normal {
            let difference = TextDiff::from_lines(&recorded, &normal);
            let name = record.file_name().unwrap().to_string_lossy().into_owned();
            self.differences.push(difference.unified_diff().header(&name, "this run").to_string());
        }
    }

    /// Of a command, in each format; `options` are before `--`. The status must be `expected`.
    fn command(&mut self, options: &[&str], mode: &str, expected: i32, formats: &[&str]) {
        for format in formats {
            let file = self.path("report");
            let program = self.path("recorded");
            let all = [options, &["--format", format, "-o", &file, "--", &program, mode]].concat();
            let output = memtrace().args(all).output_in_time();
            let messages = String::from_utf8(output.stderr).unwrap();
            assert_eq!((output.status.code(), &output.stdout[..]), (Some(expected), &b""[..]), "{messages}");
            self.hold(format, &fs::read_to_string(file).unwrap());
            if *format == "table" {
                self.hold("stderr", &messages);
            }
        }
    }

    /// Of a process, in each format, while it works in a mode.
    fn process(&mut self, options: &[&str], mode: &str) {
        for format in ["json", "table", "folded"] {
            let mut target = self.target(mode);
            let pid = target.pid().to_string();
            let tracing = Tracing::start(&[&["--format", format, "--pid", &pid], options].concat());
            target.say("go");
            assert_eq!(target.line(), "done");
            self.end(format, tracing);
        }
    }

    /// Ends tracing, and holds its outputs.
    fn end(&mut self, format: &str, tracing: Tracing) {
        tracing.signal(Signal::INT);
        let (status, output, messages) = tracing.finish();
        assert_eq!(status, 0, "{messages}");
        self.hold(format, &output);
        if format == "table" {
            self.hold("stderr", &messages);
        }
    }
}

impl Drop for Kind {
    fn drop(&mut self) {
        if !thread::panicking() {
            assert!(
                self.differences.is_empty(),
                "not as recorded (MEMTRACE_RECORD=1 records anew):\n{}",
                self.differences.join("\n")
            );
        }
    }
}

fn records() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/recorded")
}

#[test]
fn a_command_that_is_traced_exactly_is_told_as_recorded() {
    Kind::new("command", Figures::Exact, Sites::All).command(
        &["--tier", "exact"],
        "heap",
        0,
        &["json", "table", "folded"],
    );
}

#[test]
fn a_process_that_is_traced_exactly_is_told_as_recorded() {
    Kind::new("process", Figures::Exact, Sites::All).process(&["--tier", "exact"], "heap");
}

#[test]
fn samples_are_told_as_recorded() {
    let options = ["--tier", "sampled", "--sample-bytes", "16KiB"];
    Kind::new("sampled", Figures::Kinds, Sites::All).process(&options, "many");
}

#[test]
fn windows_are_told_as_recorded() {
    let mut kind = Kind::new("windowed", Figures::Windows, Sites::Of("replace"));
    for format in ["json", "table", "folded"] {
        let mut target = kind.target("on");
        let pid = target.pid().to_string();
        // Windows may have met as many frees as allocations, so that nothing is live.
        let options = ["--tier", "auto", "--weight", "alloc-space", "--format", format, "--pid", &pid];
        let mut tracing = Tracing::start(&options);
        target.say("go");
        tracing.wait_for("tier windowed from now on: ");
        // So that there are windows; it goes on allocating until the report is there.
        thread::sleep(Duration::from_secs(3));
        kind.end(format, tracing);
    }
}

#[test]
fn pages_by_stack_are_told_as_recorded() {
    Kind::new("growth", Figures::Kinds, Sites::Of("touch")).process(&["--tier", "growth"], "pages");
}

#[test]
fn pages_beside_blocks_are_told_as_recorded() {
    let options = ["--category", "heap,pages", "--tier", "exact"];
    Kind::new("pages", Figures::Kinds, Sites::Of("touch")).process(&options, "pages");
}

#[test]
fn mappings_are_told_as_recorded() {
    Kind::new("mmap", Figures::Exact, Sites::All).process(&["--category", "mmap", "--tier", "exact"], "map");
}

#[test]
fn the_kernels_memory_is_told_as_recorded() {
    Kind::new("kernel", Figures::Kinds, Sites::FirstOfKernel("alloc_pipe_info"))
        .process(&["--category", "kernel"], "pipes");
}

#[test]
fn the_processes_of_a_cgroup_are_told_as_recorded() {
    let mut kind = Kind::new("cgroup", Figures::Exact, Sites::All);
    for format in ["json", "table", "folded"] {
        let cgroup = Cgroup::make();
        let mut targets = ["heap", "lose"].map(|mode| kind.target(mode));
        for target in &targets {
            fs::write(cgroup.folder.join("cgroup.procs"), target.pid().to_string()).unwrap();
        }
        let path = cgroup.folder.to_str().unwrap();
        let tracing = Tracing::start(&["--tier", "exact", "--format", format, "--cgroup", path]);
        for target in &mut targets {
            target.say("go");
            assert_eq!(target.line(), "done");
        }
        kind.end(format, tracing);
        targets.iter_mut().for_each(Target::kill);
    }
}

#[test]
fn a_gate_is_told_as_recorded() {
    let mut kind = Kind::new("gate", Figures::Exact, Sites::All);
    let suppressions = kind.path("known");
    fs::write(&suppressions, "leak:lose_known\n").unwrap();
    let options = ["--fail-on-leak", "--suppressions", &suppressions];
    kind.command(&options, "lose", 3, &["json", "table", "folded", "junit"]);
}

#[test]
fn a_look_at_the_end_is_told_as_recorded() {
    Kind::new("at_exit", Figures::Exact, Sites::All).command(&["--at-exit"], "lose", 0, &["json", "table"]);
}

#[test]
fn a_threshold_that_is_reached_is_told_as_recorded() {
    let mut kind = Kind::new("watch", Figures::Exact, Sites::All);
    let mut target = kind.target("grow");
    let (pid, reports) = (target.pid().to_string(), kind.path("reports"));
    fs::create_dir(&reports).unwrap();
    let record = ["--on-threshold", "record", "-o", &reports, "--capture", "1h", "--once"];
    let mut watching = Tracing::watch(&[&["watch", "--pid", &pid, "--threshold", "12MiB"], &record[..]].concat());
    target.say("go");
    assert_eq!(target.line(), "grown");
    watching.wait_for("memtrace: tracing ");
    target.say("more");
    assert_eq!(target.line(), "done");
    watching.signal(Signal::INT);
    let (status, output, messages) = watching.finish();
    assert_eq!((status, output.as_str()), (0, ""), "{messages}");
    kind.hold("stderr", &messages);
    let written: Vec<PathBuf> = fs::read_dir(&reports).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(written.len(), 1, "{written:?}");
    kind.hold("json", &fs::read_to_string(&written[0]).unwrap());
}
