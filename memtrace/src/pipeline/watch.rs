//! What the loop waits for: signals, the end of a process, a time; and the signals it sends.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use tokio::{
    io::{Interest, unix::AsyncFd},
    signal::unix::{Signal, SignalKind, signal},
    time::Instant,
};

use super::PipelineError;
use crate::capture::kernel::Kernel;

/// A request to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The first: a command that is traced is told and may end by itself.
    Politely(Option<i32>),
    /// Any further one: stop now.
    AtOnce(Option<i32>),
}

impl Stop {
    /// The signal to pass on to a command that is traced, if it has not had it already.
    pub(super) fn signal(self) -> Option<i32> {
        match self {
            Self::Politely(signal) | Self::AtOnce(signal) => signal,
        }
    }
}

/// The signals that ask memtrace to stop.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
    had_one: bool,
}

impl Signals {
    pub(super) fn new() -> Result<Self, PipelineError> {
        let listen = |kind| signal(kind).map_err(|source| PipelineError::Wait { what: "signals", source });
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hang_up: listen(SignalKind::hangup())?,
            had_one: false,
        })
    }

    pub(super) async fn next(&mut self) -> Stop {
        let passed_on = tokio::select! {
            _ = self.interrupt.recv() => None,
            _ = self.terminate.recv() => Some(libc::SIGTERM),
            _ = self.hang_up.recv() => Some(libc::SIGHUP),
        };
        if std::mem::replace(&mut self.had_one, true) { Stop::AtOnce(passed_on) } else { Stop::Politely(passed_on) }
    }
}

/// The end of a process.
pub(super) struct Exit(AsyncFd<OwnedFd>);

impl Exit {
    /// Watches the process `pid`.
    pub(super) fn of(pid: u32) -> io::Result<Self> {
        Ok(Self(readable(pidfd(pid)?)?))
    }

    /// Waits until the process has ended.
    pub(super) async fn wait(&self) {
        // Readiness is kept, not cleared: an end does not pass. Should the reactor fail, the next tick
        // or signal still ends the run.
        if self.0.readable().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Whether the process has ended.
pub(super) fn has_ended(pid: u32) -> bool {
    let Ok(descriptor) = pidfd(pid) else { return true };
    let mut poll = libc::pollfd { fd: descriptor.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid `pollfd`, which lives through the call.
    unsafe { libc::poll(&raw mut poll, 1, 0) == 1 }
}

/// A descriptor of the process `pid`, which cannot come to mean another one.
fn pidfd(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: a system call without pointers; it gives a new descriptor or -1.
    let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let descriptor = i32::try_from(descriptor).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Registers a descriptor with the event loop, to wait until it can be read.
pub(super) fn readable<T: AsRawFd>(owner: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: every caller hands over the owner of the descriptor, which keeps it open, and always the
    // same one, for as long as it lives.
    unsafe { AsyncFd::register_with_interest(owner, Interest::READABLE) }.map_err(io::Error::from)
}

/// Waits until `deadline`; for ever without one.
pub(super) async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Passes a signal on to a command that is traced.
pub(super) fn forward(pid: u32, signal: Option<i32>) {
    if let Some(signal) = signal {
        send(pid, signal);
    }
}

/// Lets a process that was stopped on mapping an image go on.
pub(super) fn resume(pid: u32) {
    send(pid, libc::SIGCONT);
}

fn send(pid: u32, signal: i32) {
    if let Ok(pid) = i32::try_from(pid) {
        // SAFETY: a system call without pointers. That the process is gone is no error here.
        unsafe { libc::kill(pid, signal) };
    }
}

/// Copies the BPF side's debug lines to the log as they come.
pub(super) fn forward_debug_lines(kernel: &mut Kernel) -> Result<(), PipelineError> {
    let wait = |source| PipelineError::Wait { what: "debug lines of the BPF side", source };
    let lines = kernel.debug_lines().map_err(wait)?;
    let mut lines = readable(lines).map_err(wait)?;
    tokio::spawn(async move {
        while let Ok(mut ready) = lines.readable_mut().await {
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    });
    Ok(())
}
