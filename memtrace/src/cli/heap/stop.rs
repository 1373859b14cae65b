//! Requests to stop, as a descriptor that can be waited for beside others: Ctrl-C, SIGTERM, SIGHUP.

use std::{
    io::{self, BufWriter, Write},
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, Instant},
};

use nix::sys::{
    signal::{SigSet, Signal},
    signalfd::{SfdFlags, SignalFd},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

/// The signals that ask memtrace to stop. From then on, none of them ends it by itself.
pub(super) struct StopSignals(SignalFd);

impl StopSignals {
    pub(super) fn listen() -> io::Result<Self> {
        let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
        signals.thread_block()?;
        Ok(Self(SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?))
    }

    /// Waits for so long, or until somebody asks to stop. Returns whether somebody has, and forgets it: the next request is
    /// another one.
    pub(super) fn wait(&self, pause: Duration) -> io::Result<bool> {
        let until = Instant::now() + pause;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 });
            match poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&timeout)) {
                Ok(0) => return Ok(false),
                Ok(_) => return Ok(self.0.read_signal()?.is_some()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl StopSignals {
    /// Writes to stdout. A reader that takes nothing does not keep memtrace from stopping: it counts as gone then.
    pub(super) fn write(&self, render: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
        let mut out = BufWriter::with_capacity(1 << 16, Interruptible(self));
        let written = render(&mut out).and_then(|()| out.flush());
        // Not once more at its end: that would wait for the reader.
        _ = out.into_parts();
        written
    }
}

/// Stdout, as long as nobody asks to stop.
struct Interruptible<'a>(&'a StopSignals);

impl Write for Interruptible<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        /// The bytes that a pipe which has room takes at once: PIPE_BUF of pipe(7).
        const AT_ONCE: usize = 4096;
        let out = io::stdout();
        loop {
            let mut polled = [PollFd::new(&out, PollFlags::OUT), PollFd::new(self.0, PollFlags::IN)];
            match poll(&mut polled, None) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            let [has_room, is_stopped] = polled.map(|polled| !polled.revents().is_empty());
            if has_room {
                // Not through the buffer that std has: memtrace would wait there for the end of a line.
                return Ok(rustix::io::write(&out, bytes.get(..AT_ONCE).unwrap_or(bytes))?);
            }
            if is_stopped {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for StopSignals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
