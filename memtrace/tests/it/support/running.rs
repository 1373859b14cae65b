//! Processes that tests start. Every wait for one has a limit, and each ends with what holds it.

use std::{
    fs::{self, File},
    io::{Read, Write},
    mem,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    process::{Child, Command, ExitStatus, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open},
};

use super::is_emulated;

/// How much of what a process has said is shown where it is waited for in vain, in bytes.
const SHOWN: usize = 4000;

/// The bytes that can be written to a pipe that has room without waiting for its reader: PIPE_BUF of pipe(7).
const AT_ONCE: usize = 4096;

/// How long anything may take before it counts as hung, on a noisy machine.
pub(crate) fn patience() -> Duration {
    Duration::from_secs(180) * if is_emulated() { 5 } else { 1 }
}

/// Waits until `condition` holds; the kernel lets go of things in its own time.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < patience(), "{what}: not within {:?}", patience());
        thread::sleep(Duration::from_millis(50));
    }
}

/// The state of a process: the third field of proc_pid_stat(5). Nothing where it is gone.
pub(crate) fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Sends a signal to a process, which must be there.
pub(crate) fn signal(pid: u32, signal: Signal) {
    let process = i32::try_from(pid).ok().and_then(Pid::from_raw).unwrap();
    kill_process(process, signal).unwrap_or_else(|error| panic!("cannot send {signal:?} to process {pid}: {error}"));
}

/// Commands that run to their end.
pub(crate) trait InTime {
    /// Runs a command to the end of what it writes. Fails the test where that takes longer than anything may.
    fn output_in_time(&mut self) -> Output;

    /// Runs a command that writes to where this process does, and returns its status.
    fn status_in_time(&mut self) -> ExitStatus {
        self.status_within(patience())
    }

    /// The same of one that may take this long.
    fn status_within(&mut self, limit: Duration) -> ExitStatus;
}

impl InTime for Command {
    fn output_in_time(&mut self) -> Output {
        Running::start(self.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped())).finish()
    }

    fn status_within(&mut self, limit: Duration) -> ExitStatus {
        Running::start(self.stdin(Stdio::null())).within(limit).wait()
    }
}

/// One of a process's streams that is a pipe.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stream {
    Output,
    Messages,
}

/// The text that a process has written to a pipe so far.
#[derive(Default)]
struct Pipe {
    /// Until its end.
    end: Option<File>,
    read: Vec<u8>,
    /// How much of that was taken as lines.
    taken: usize,
}

impl Pipe {
    fn of(end: Option<impl Into<OwnedFd>>) -> Self {
        Self { end: end.map(|end| File::from(end.into())), ..Self::default() }
    }

    /// The descriptor that says that there is something, until the end.
    fn polled(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        Some((self.end.as_ref()?.as_fd(), PollFlags::IN))
    }

    /// Takes what there is, which is something or the end.
    fn take(&mut self) {
        let Some(end) = &mut self.end else { return };
        let mut some = [0; 1 << 16];
        match end.read(&mut some) {
            Ok(0) | Err(_) => self.end = None,
            Ok(length) => self.read.extend_from_slice(&some[..length]),
        }
    }

    /// The next whole line, or the rest at the end, without its newline.
    fn line(&mut self) -> Option<String> {
        let rest = &self.read[self.taken..];
        let length = match rest.iter().position(|byte| *byte == b'\n') {
            Some(at) => at + 1,
            None if self.end.is_none() && !rest.is_empty() => rest.len(),
            None => return None,
        };
        let line = String::from_utf8_lossy(&rest[..length]).trim_end().to_owned();
        self.taken += length;
        Some(line)
    }
}

/// A process that is killed, if it has not ended, when this goes.
pub(crate) struct Running {
    child: Child,
    command: String,
    output: Pipe,
    messages: Pipe,
    limit: Duration,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let (output, messages) = (Pipe::of(child.stdout.take()), Pipe::of(child.stderr.take()));
        Self { child, command: format!("{command:?}"), output, messages, limit: patience() }
    }

    /// The same with another limit to each wait.
    pub(crate) fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    fn pipe(&mut self, stream: Stream) -> &mut Pipe {
        match stream {
            Stream::Output => &mut self.output,
            Stream::Messages => &mut self.messages,
        }
    }

    /// The next line that it writes, without its newline; nothing where it has ended before.
    pub(crate) fn line(&mut self, stream: Stream) -> Option<String> {
        let until = Instant::now() + self.limit;
        loop {
            if let Some(line) = self.pipe(stream).line() {
                return Some(line);
            }
            self.pipe(stream).end.as_ref()?;
            self.listen_until(until, &format!("a line of its {stream:?}"));
        }
    }

    /// All that it has written to stderr.
    pub(crate) fn heard(&self) -> String {
        String::from_utf8_lossy(&self.messages.read).into_owned()
    }

    /// Gives it something to read, a line at least. Text that fits into a pipe at once is read at once.
    pub(crate) fn say(&mut self, text: &str) {
        let until = Instant::now() + self.limit;
        let mut input = self.child.stdin.take().unwrap();
        for piece in text.as_bytes().chunks(AT_ONCE) {
            loop {
                match self.listen(Some((input.as_fd(), PollFlags::OUT)), until) {
                    Heard::Ready => break,
                    Heard::Something => {}
                    Heard::Nothing => panic!("{}", self.in_vain("room for what it is to read")),
                }
            }
            input.write_all(piece).unwrap();
        }
        self.child.stdin = Some(input);
    }

    /// Lets it read the end.
    pub(crate) fn say_no_more(&mut self) {
        self.child.stdin = None;
    }

    /// Lets it write until its end, and returns what it has written since the last line that was taken of stdout, and all that it
    /// has written to stderr.
    pub(crate) fn finish(mut self) -> Output {
        let until = Instant::now() + self.limit;
        while self.output.end.is_some() || self.messages.end.is_some() {
            self.listen_until(until, "its end");
        }
        let status = self.wait();
        let stdout = self.output.read.split_off(self.output.taken);
        Output { status, stdout, stderr: mem::take(&mut self.messages.read) }
    }

    /// Waits for its end, and for no other's that may have its pipes.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let until = Instant::now() + self.limit;
        assert!(self.has_ended_by(until), "{}", self.in_vain("its end"));
        self.child.wait().unwrap()
    }

    /// Listens to it until it ends, or until a moment. Returns whether it has ended.
    fn has_ended_by(&mut self, until: Instant) -> bool {
        if self.child.try_wait().is_ok_and(|status| status.is_some()) {
            return true;
        }
        let Ok(process) = pidfd_open(Pid::from_child(&self.child), PidfdFlags::empty()) else { return false };
        loop {
            match self.listen(Some((process.as_fd(), PollFlags::IN)), until) {
                Heard::Ready => return true,
                Heard::Something => {}
                Heard::Nothing => return false,
            }
        }
    }

    /// Listens to it once, and fails the test where it is silent until a moment.
    fn listen_until(&mut self, until: Instant, what: &str) {
        if matches!(self.listen(None, until), Heard::Nothing) {
            panic!("{}", self.in_vain(what));
        }
    }

    /// Takes what it writes to either pipe, so that neither holds it up, until something else is ready or a moment is over.
    fn listen(&mut self, other: Option<(BorrowedFd, PollFlags)>, until: Instant) -> Heard {
        let left = Timespec::try_from(until.saturating_duration_since(Instant::now())).unwrap();
        let ends = [self.output.polled(), self.messages.polled(), other];
        let mut polled: Vec<PollFd> =
            ends.iter().flatten().map(|(end, flags)| PollFd::from_borrowed_fd(*end, *flags)).collect();
        match poll(&mut polled, Some(&left)) {
            Ok(0) => return Heard::Nothing,
            Err(Errno::INTR) => return Heard::Something,
            ready => ready.unwrap(),
        };
        let mut ready = polled.iter().map(|polled| !polled.revents().is_empty());
        let [output, messages, other] = ends.map(|end| end.is_some() && ready.next().unwrap());
        if output {
            self.output.take();
        }
        if messages {
            self.messages.take();
        }
        if other && !output && !messages { Heard::Ready } else { Heard::Something }
    }

    /// That it was waited for in vain, and what it has said.
    fn in_vain(&self, what: &str) -> String {
        let end = |pipe: &Pipe| {
            let from = pipe.read.len().saturating_sub(SHOWN);
            String::from_utf8_lossy(&pipe.read[from..]).into_owned()
        };
        format!(
            "waited {:?} for {what}: {}\nstdout so far: {}\nstderr so far: {}",
            self.limit,
            self.command,
            end(&self.output),
            end(&self.messages)
        )
    }

    /// Asks it to end, if it has not, and gives it so long. Its output until then is taken.
    pub(crate) fn ask_to_end(&mut self, limit: Duration) {
        let process = Pid::from_child(&self.child);
        if self.child.try_wait().is_ok_and(|status| status.is_none()) && kill_process(process, Signal::INT).is_ok() {
            // One that is stopped would not hear it.
            _ = kill_process(process, Signal::CONT);
            self.has_ended_by(Instant::now() + limit);
        }
    }

    pub(crate) fn kill(&mut self) {
        _ = self.child.kill();
        if self.has_ended_by(Instant::now() + self.limit) {
            _ = self.child.wait();
        } else {
            eprintln!("process {} cannot be killed: {}", self.pid(), self.command);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The result of listening.
enum Heard {
    /// It has written, or ended a stream.
    Something,
    /// It has not, and the other thing is ready.
    Ready,
    /// Until the moment was over.
    Nothing,
}
