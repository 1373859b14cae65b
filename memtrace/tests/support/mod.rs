//! What the tests with real BPF share: programs that are compiled, targets that end with their test,
//! memtrace as users run it, and its JSON.
#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "tests")]

pub(crate) mod corpus;
pub(crate) mod load;

use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio},
    thread,
    time::{Duration, Instant, SystemTime},
};

use serde_json::Value;

/// How long anything may take before it counts as hung, on a noisy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// The first two numbers of the running kernel's release.
pub(crate) fn kernel_version() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map(|number| number.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

/// A number of operations, or the part of it that `MEMTRACE_TEST_SCALE` asks for on a slow machine.
pub(crate) fn scaled(operations: u64) -> u64 {
    let divisor = std::env::var("MEMTRACE_TEST_SCALE").map_or(1, |scale| scale.parse().unwrap());
    operations / divisor
}

/// Whether the machine is an emulator's: what depends on how long things take is another there.
pub(crate) fn is_emulated() -> bool {
    std::env::var_os("MEMTRACE_TEST_SCALE").is_some()
}

/// The binary that users run, built by `cargo xtask test`.
pub(crate) fn memtrace() -> Command {
    let path = std::env::var_os("MEMTRACE").expect("run the tests with `cargo xtask test`");
    let mut command = Command::new(path);
    command.stdin(Stdio::null());
    command
}

/// Compiles a program of `tests/programs`, once for each set of flags.
pub(crate) fn compile(source: &str, flags: &[&str]) -> PathBuf {
    compile_by("cc", source, flags)
}

/// The same by a compiler of one's choice.
pub(crate) fn compile_by(compiler: &str, source: &str, flags: &[&str]) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let name: String = format!("{compiler}{source}{}", flags.concat())
        .trim_start_matches("cc")
        .chars()
        .map(|c| if c.is_alphanumeric() { c } else { '_' })
        .collect();
    let program = folder.join(name);
    if is_newer_than_all_of(&programs(), &program) {
        return program;
    }
    // A compiler that is broken off leaves nothing under the final name.
    let partial = program.with_extension("partial");
    let source = programs().join(source);
    let status = Command::new(compiler)
        .args(["-g", "-Wall", "-Wextra", "-Werror", "-pthread", "-o"])
        .arg(&partial)
        .arg(&source)
        .args(flags)
        .status()
        .unwrap();
    assert!(status.success(), "cannot compile {}", source.display());
    fs::rename(&partial, &program).unwrap();
    program
}

/// Whether a file is there that is newer than every file of a folder.
fn is_newer_than_all_of(folder: &Path, file: &Path) -> bool {
    let Ok(made) = changed(file) else { return false };
    fs::read_dir(folder).unwrap().all(|entry| changed(&entry.unwrap().path()).unwrap() < made)
}

/// When a file was last written.
fn changed(path: &Path) -> io::Result<SystemTime> {
    fs::metadata(path)?.modified()
}

/// The folder of the programs that tests trace.
pub(crate) fn programs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs")
}

/// Flags with which frames can be walked by frame pointers.
pub(crate) const FRAME_POINTERS: [&str; 3] = ["-O2", "-fno-omit-frame-pointer", "-fno-optimize-sibling-calls"];

/// A cgroup that goes with the test.
pub(crate) struct Cgroup(pub(crate) PathBuf);

impl Cgroup {
    pub(crate) fn make() -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let root = mounts.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            (fields[2] == "cgroup2").then(|| PathBuf::from(fields[1]))
        });
        let folder = match root {
            Some(root) => root,
            None => {
                let folder = PathBuf::from("/run/memtrace-cgroup2");
                fs::create_dir_all(&folder).unwrap();
                let mounted = Command::new("mount").args(["-t", "cgroup2", "none"]).arg(&folder).status().unwrap();
                assert!(mounted.success());
                folder
            }
        };
        let group = folder.join(format!("memtrace-test-{}", std::process::id()));
        fs::create_dir(&group).unwrap();
        Self(group)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        _ = fs::remove_dir(&self.0);
    }
}

/// A process to be traced. It ends with its test.
pub(crate) struct Target {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Target {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { input: child.stdin.take(), output, child }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line that it prints.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "the target ended early: {:?}", self.child.try_wait());
        line.trim_end().to_owned()
    }

    pub(crate) fn say(&mut self, line: &str) {
        // In one piece: a target that reads what there is must not take half of a line for a line.
        self.input.as_mut().unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    pub(crate) fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.pid().to_string()]).status().unwrap().success());
    }

    pub(crate) fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub(crate) fn kill(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.kill();
    }
}

/// memtrace while it runs.
pub(crate) struct Tracing {
    child: Child,
    messages: BufReader<std::process::ChildStderr>,
    heard: String,
}

impl Tracing {
    /// Starts memtrace and waits until it says that it traces.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let mut tracing = Self::spawn(&in_a_tier(arguments));
        tracing.wait_for("memtrace: tracing ");
        tracing
    }

    /// The same for `memtrace watch`, until it says that it watches.
    pub(crate) fn watch(arguments: &[&str]) -> Self {
        let mut watching = Self::spawn(arguments);
        watching.wait_for("memtrace: watching ");
        watching
    }

    fn spawn(arguments: &[&str]) -> Self {
        Self::run(memtrace().args(arguments))
    }

    /// memtrace as `command` starts it.
    pub(crate) fn run(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let messages = BufReader::new(child.stderr.take().unwrap());
        Self { child, messages, heard: String::new() }
    }

    /// Waits until memtrace says `text` on stderr.
    pub(crate) fn wait_for(&mut self, text: &str) {
        loop {
            let mut line = String::new();
            self.messages.read_line(&mut line).unwrap();
            assert!(!line.is_empty(), "memtrace ended without saying {text:?}: {}", self.heard);
            self.heard.push_str(&line);
            if line.contains(text) {
                return;
            }
        }
    }

    /// Asserts that memtrace has said `text` by now.
    pub(crate) fn assert_heard(&self, text: &str) {
        assert!(self.heard.contains(text), "{text:?}: {}", self.heard);
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.pid().to_string()]).status().unwrap().success());
    }

    /// Lets memtrace end by itself. Returns its status, stdout and stderr.
    pub(crate) fn finish(mut self) -> (i32, String, String) {
        let mut output = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut output).unwrap();
        self.messages.read_to_string(&mut self.heard).unwrap();
        let status = self.child.wait().unwrap();
        (status.code().unwrap_or(-1), output, self.heard.clone())
    }

    /// Asks memtrace to stop, as Ctrl-C does, and takes its JSON.
    pub(crate) fn stop(self) -> Value {
        self.signal("-INT");
        let (status, output, messages) = self.finish();
        assert_eq!(status, 0, "{messages}");
        serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {output}"))
    }
}

/// The arguments, with the exact tier where they trace something and name none: what keeps to a budget is tested by
/// itself.
fn in_a_tier<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    let mut all = arguments.to_vec();
    let targets = ["--pid", "--comm", "--cgroup", "--all", "--"];
    if !all.contains(&"watch") && all.iter().any(|argument| targets.contains(argument)) && !all.contains(&"--tier") {
        all.splice(0..0, ["--tier", "exact"]);
    }
    all
}

/// Tiers that count every allocation: asked for, and chosen because nothing is too dear.
pub(crate) const EXACT_TIERS: [&[&str]; 2] = [&["--tier", "exact"], &["--tier", "auto", "--max-overhead", "100%"]];

/// Runs memtrace to its end.
pub(crate) fn run(arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = memtrace().args(in_a_tier(arguments)).output().unwrap();
    (
        status.code().unwrap_or(-1),
        String::from_utf8_lossy(&stdout).into_owned(),
        String::from_utf8_lossy(&stderr).into_owned(),
    )
}

/// The figures that a truth and a report share.
pub(crate) const FIGURES: [&str; 6] =
    ["alloc_bytes", "alloc_objects", "freed_bytes", "freed_objects", "live_bytes", "live_objects"];

/// The one process of a report.
pub(crate) fn process(report: &Value) -> &Value {
    let processes = report["processes"].as_array().unwrap();
    assert_eq!(processes.len(), 1);
    &processes[0]
}

/// The sums of a figure over the sites whose allocation's caller is `function`.
pub(crate) fn sum_at(process: &Value, function: &str, figure: &str) -> u64 {
    sites_at(process, function).into_iter().map(|site| site[figure].as_u64().unwrap()).sum()
}

/// The sites whose allocation's caller is `function`.
pub(crate) fn sites_at<'a>(process: &'a Value, function: &str) -> Vec<&'a Value> {
    let sites = process["sites"].as_array().unwrap();
    sites.iter().filter(|site| site["frames"][0]["function"] == function).collect()
}

/// The causes of loss that a process's report counts, with their counts.
pub(crate) fn losses(process: &Value) -> Vec<(String, u64)> {
    let health = process["health"].as_object().unwrap();
    let counts = health.iter().map(|(name, count)| (name.clone(), count.as_u64().unwrap()));
    counts.filter(|(name, count)| name != "unmatched_frees" && !name.starts_with("unwind_") && *count > 0).collect()
}

/// Asserts that what a report says of the program `truth` is its truth, by site and, with `total`, in total.
pub(crate) fn assert_truth(report: &Value, truth: &Value, total: bool) {
    assert_truth_of(process(report), truth, total);
}

/// The same of one process of several.
pub(crate) fn assert_truth_of(process: &Value, truth: &Value, total: bool) {
    assert_eq!(losses(process), [], "something was lost");
    let of_sites = truth.as_object().unwrap().iter().filter(|(_, counts)| counts.is_object());
    for (name, counts) in of_sites {
        for figure in FIGURES {
            let expected = counts[figure].as_u64().unwrap();
            if name != "total" {
                assert_eq!(sum_at(process, name, figure), expected, "{figure} of {name}");
            } else if total {
                assert_eq!(process[figure].as_u64().unwrap(), expected, "{figure} in total");
            }
        }
    }
    assert_sums(process);
}

/// Asserts what holds for every report: sites sum up to their process, and live is allocated minus freed.
pub(crate) fn assert_sums(process: &Value) {
    for figure in FIGURES {
        let sum: u64 = process["sites"].as_array().unwrap().iter().map(|site| site[figure].as_u64().unwrap()).sum();
        assert_eq!(process[figure].as_u64().unwrap(), sum, "{figure} is not the sum over sites");
    }
    for of in process["sites"].as_array().unwrap().iter().chain([process]) {
        for what in ["bytes", "objects"] {
            let figure = |name: &str| of[format!("{name}_{what}")].as_u64().unwrap();
            assert_eq!(figure("live"), figure("alloc") - figure("freed"));
        }
    }
    // Where it is counted, what lives is told by age as well, to the block.
    for site in process["sites"].as_array().unwrap().iter().filter(|site| site["interval_95"].is_null()) {
        let Some(generations) = site["survival"]["generations"].as_array() else { continue };
        for what in ["live_bytes", "live_objects"] {
            let apart: u64 = generations.iter().map(|generation| generation[what].as_u64().unwrap()).sum();
            let older = site["survival"][format!("older_{what}")].as_u64().unwrap();
            assert_eq!(site[what], apart + older, "{site:#}");
        }
    }
}

/// The ids of the BPF programs that memtrace's own processes hold in the kernel.
pub(crate) fn kernel_programs() -> Vec<String> {
    const OURS: [&str; 8] = [
        "alloc_entry",
        "alloc_return",
        "free_entry",
        "process_exec",
        "process_end",
        "syscall_exit",
        "area_mapped",
        "kmem_",
    ];
    let output = Command::new("bpftool").args(["prog", "list"]).output().unwrap();
    assert!(output.status.success(), "bpftool: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter(|line| OURS.iter().any(|name| line.contains(name))).map(str::to_owned).collect()
}

/// Waits until `condition` holds; the kernel lets go of things in its own time.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// A file in a folder that goes with the test.
pub(crate) fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// Reads a report from a file.
pub(crate) fn report(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// How often the truth lay within the interval, and how far estimates were off.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) covered: u32,
    pub(crate) of: u32,
    pub(crate) estimates: f64,
    pub(crate) truths: f64,
}

impl Tally {
    pub(crate) fn add(&mut self, estimate: u64, interval: &Value, truth: u64) {
        let [low, high] = [0, 1].map(|end| interval[end].as_u64().unwrap());
        assert!(low <= estimate && estimate <= high, "{estimate} in {interval}");
        self.covered += u32::from(low <= truth && truth <= high);
        self.of += 1;
        self.estimates += estimate as f64;
        self.truths += truth as f64;
    }

    pub(crate) fn coverage(&self) -> f64 {
        f64::from(self.covered) / f64::from(self.of)
    }
}
