//! memtrace while it runs, and the processes that it traces.

use std::{
    io::PipeReader,
    process::{Command, Output, Stdio},
    time::Duration,
};

use rustix::process::Signal;
use serde_json::Value;

use super::{
    is_emulated, memtrace,
    running::{InTime, Running, Stream, eventually, signal, state},
};

/// How long memtrace may take to let go of everything where nobody waits for its report.
const TO_LET_GO: Duration = Duration::from_secs(10);

/// A process to be traced. It ends with its test.
pub(crate) struct Target(Running);

impl Target {
    pub(crate) fn start(command: &mut Command) -> Self {
        Self(Running::start(command.stdin(Stdio::piped()).stdout(Stdio::piped())))
    }

    /// One that reads `input`, and writes to `output`.
    pub(crate) fn fed(command: &mut Command, input: PipeReader, output: Stdio) -> Self {
        Self(Running::start(command.stdin(input).stdout(output)))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.pid()
    }

    /// The next line that it prints.
    pub(crate) fn line(&mut self) -> String {
        self.0.line(Stream::Output).unwrap_or_else(|| panic!("the target ended early: {:?}", self.0.wait()))
    }

    pub(crate) fn say(&mut self, line: &str) {
        // In one piece: a target that reads what there is must not take half of a line for a line.
        self.0.say(&format!("{line}\n"));
    }

    pub(crate) fn signal(&self, name: Signal) {
        signal(self.pid(), name);
    }

    pub(crate) fn is_alive(&mut self) -> bool {
        self.0.is_alive()
    }

    pub(crate) fn kill(&mut self) {
        self.0.kill();
    }
}

/// memtrace while it runs. Where its test fails, it is asked to end, and killed if it does not.
pub(crate) struct Tracing(Option<Running>);

impl Tracing {
    /// Starts memtrace and waits until it says that it traces.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let mut tracing = Self::run(memtrace().args(in_a_tier(arguments)));
        tracing.wait_for("memtrace: tracing ");
        tracing
    }

    /// The same for `memtrace watch`, until it says that it watches.
    pub(crate) fn watch(arguments: &[&str]) -> Self {
        let mut watching = Self::run(memtrace().args(arguments));
        watching.wait_for("memtrace: watching ");
        watching
    }

    /// memtrace as `command` starts it.
    pub(crate) fn run(command: &mut Command) -> Self {
        Self(Some(Running::start(command.stdout(Stdio::piped()).stderr(Stdio::piped()))))
    }

    /// memtrace as `command` starts it, with its output where that says.
    pub(crate) fn run_to(command: &mut Command) -> Self {
        Self(Some(Running::start(command.stderr(Stdio::piped()))))
    }

    fn running(&mut self) -> &mut Running {
        self.0.as_mut().unwrap()
    }

    /// Waits until memtrace says `text` on stderr.
    pub(crate) fn wait_for(&mut self, text: &str) {
        loop {
            match self.running().line(Stream::Messages) {
                Some(line) if line.contains(text) => return,
                Some(_) => {}
                None => panic!("memtrace ended without saying {text:?}: {}", self.running().heard()),
            }
        }
    }

    /// Asserts that memtrace has said `text` by now.
    pub(crate) fn assert_heard(&self, text: &str) {
        let heard = self.0.as_ref().unwrap().heard();
        assert!(heard.contains(text), "{text:?}: {heard}");
    }

    /// The next report of several, as JSON on stdout.
    pub(crate) fn report(&mut self) -> Value {
        let Some(line) = self.running().line(Stream::Output) else {
            panic!("memtrace ended without a further report: {}", self.running().heard());
        };
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.as_ref().unwrap().pid()
    }

    pub(crate) fn signal(&self, name: Signal) {
        signal(self.pid(), name);
    }

    /// Stops memtrace, until it is told to go on.
    pub(crate) fn hold(&self) {
        self.signal(Signal::STOP);
        eventually("memtrace stops", || state(self.pid()) == Some('T'));
    }

    /// Lets what memtrace runs as a command read the end of its input.
    pub(crate) fn say_no_more(&mut self) {
        self.running().say_no_more();
    }

    /// Lets memtrace end by itself. Returns its status, stdout and stderr.
    pub(crate) fn finish(mut self) -> (i32, String, String) {
        told(&self.0.take().unwrap().finish())
    }

    /// Asks memtrace to stop, as Ctrl-C does, and takes its JSON.
    pub(crate) fn stop(self) -> Value {
        let output = self.stopped();
        serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {output}"))
    }

    /// The same of several reports: takes the last.
    pub(crate) fn stop_at_last(self) -> Value {
        let output = self.stopped();
        let last = output.lines().last().unwrap_or_default();
        serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {output}"))
    }

    fn stopped(self) -> String {
        self.signal(Signal::INT);
        let (status, output, messages) = self.finish();
        assert_eq!(status, 0, "{messages}");
        output
    }
}

impl Drop for Tracing {
    fn drop(&mut self) {
        if let Some(running) = &mut self.0 {
            running.ask_to_end(TO_LET_GO * if is_emulated() { 5 } else { 1 });
        }
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

/// Runs memtrace to its end. Returns its status, stdout and stderr.
pub(crate) fn run(arguments: &[&str]) -> (i32, String, String) {
    told(&memtrace().args(in_a_tier(arguments)).output_in_time())
}

/// A status, stdout and stderr, as tests compare them.
pub(crate) fn told(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}
