//! Pid namespaces that end with their test, and processes in them.

use std::{
    fs,
    process::{Command, Output, Stdio},
};

use rustix::process::{Pid, kill_process};
use serde_json::Value;

use super::{InTime, Running, Signal, Target, Tracing, eventually};

/// A pid namespace with a `/proc` of its own, which ends with its test.
pub(crate) struct Namespace {
    /// It ends once that has.
    unshare: Running,
    /// Its first process, as the tests see it.
    first: u32,
}

impl Namespace {
    pub(crate) fn new() -> Self {
        let unshare = Running::start(&mut unshare(&["sleep", "infinity"]));
        let first = child_of(unshare.pid());
        let namespace = Self { unshare, first };
        // Until `/proc` is mounted there.
        eventually("the namespace is there", || namespace.run(&["test", "-e", "/proc/1/exe"]).status.success());
        namespace
    }

    /// A command that starts `arguments` in it.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.first.to_string(), "-p", "-m", "--"]).args(arguments).stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output_in_time()
    }

    /// memtrace in it, once it traces.
    pub(crate) fn trace(&self, arguments: &[&str]) -> Tracing {
        let exact = ["--tier", "exact", "--format", "json"];
        let tier: &[&str] = if arguments.contains(&"--tier") { &exact[2..] } else { &exact };
        let mut tracing = Tracing::run(&mut self.command(&[&[path_of_memtrace().as_str()], tier, arguments].concat()));
        tracing.wait_for("memtrace: tracing ");
        tracing
    }

    /// A target in it, once it is ready.
    pub(crate) fn start(&self, command: &[&str]) -> Inside {
        Inside::start(&mut self.command(command), 1)
    }

    /// The same in a namespace of its own below.
    pub(crate) fn start_below(&self, command: &[&str]) -> Inside {
        Inside::start(&mut self.command(&[&UNSHARE[..], command].concat()), 2)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // All that is in it ends with its first process.
        kill(self.first, Signal::KILL);
        self.unshare.kill();
    }
}

/// A target in a namespace.
pub(crate) struct Inside {
    pub(crate) target: Target,
    /// As its test sees it, and as memtrace does.
    pub(crate) outside: u32,
    pub(crate) pid: u32,
}

impl Inside {
    /// `depth` is how many programs lead to it, each the child of the one before.
    pub(crate) fn start(command: &mut Command, depth: u32) -> Self {
        let mut target = Target::start(command);
        assert_eq!(target.line(), "ready");
        let outside = (0..depth).fold(target.pid(), |pid, _| child_of(pid));
        let status = fs::read_to_string(format!("/proc/{outside}/status")).unwrap();
        let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap();
        let pid = numbers.split_whitespace().nth(1).unwrap().parse().unwrap();
        Self { target, outside, pid }
    }

    pub(crate) fn go(&mut self) -> Value {
        self.target.say("go");
        serde_json::from_str(&self.target.line()).unwrap()
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        kill(self.outside, Signal::KILL);
    }
}

pub(crate) const UNSHARE: [&str; 5] = ["unshare", "-p", "-f", "--mount-proc", "--kill-child"];

pub(crate) fn unshare(command: &[&str]) -> Command {
    let mut unshare = Command::new(UNSHARE[0]);
    unshare.args(&UNSHARE[1..]).args(command).stdin(Stdio::null());
    unshare
}

pub(crate) fn path_of_memtrace() -> String {
    super::memtrace().get_program().to_str().unwrap().to_owned()
}

/// Sends a signal to a process that may have ended.
fn kill(pid: u32, signal: Signal) {
    let process = i32::try_from(pid).ok().and_then(Pid::from_raw).unwrap();
    _ = kill_process(process, signal);
}

/// The only child of a process, once it has one.
fn child_of(pid: u32) -> u32 {
    let child = || fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?.trim().parse().ok();
    eventually("a child is there", || child().is_some());
    child().unwrap()
}

/// Asks a memtrace that was started in a namespace to stop, and takes its JSON.
pub(crate) fn stop(tracing: Tracing) -> Value {
    kill(child_of(tracing.pid()), Signal::INT);
    let (status, output, messages) = tracing.finish();
    assert_eq!(status, 0, "{messages}");
    serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {output}"))
}
