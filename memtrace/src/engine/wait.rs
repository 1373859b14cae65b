//! Waiting in the loop: for signals, descriptors, a time.

use std::{io, os::fd::AsRawFd};

use rustix::process::Signal;
use tokio::{
    io::{Interest, unix::AsyncFd},
    signal::unix::{self, SignalKind, signal},
    time::Instant,
};

use super::error::PipelineError;
use crate::bpf::Bpf;

/// A request to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The first: a command that is traced is told and may end by itself.
    Politely(Option<Signal>),
    /// Any further one: stop now.
    AtOnce(Option<Signal>),
}

impl Stop {
    /// The signal to pass on to a command that is traced, if it has not had it already.
    pub(crate) fn signal(self) -> Option<Signal> {
        match self {
            Self::Politely(signal) | Self::AtOnce(signal) => signal,
        }
    }
}

/// The signals that ask memtrace to stop.
pub(crate) struct Signals {
    interrupt: unix::Signal,
    terminate: unix::Signal,
    hang_up: unix::Signal,
    had_one: bool,
}

impl Signals {
    pub(crate) fn new() -> Result<Self, PipelineError> {
        let listen = |kind| signal(kind).map_err(|source| PipelineError::Wait { what: "signals", source });
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hang_up: listen(SignalKind::hangup())?,
            had_one: false,
        })
    }

    pub(crate) async fn next(&mut self) -> Stop {
        let passed_on = tokio::select! {
            _ = self.interrupt.recv() => None,
            _ = self.terminate.recv() => Some(Signal::TERM),
            _ = self.hang_up.recv() => Some(Signal::HUP),
        };
        if std::mem::replace(&mut self.had_one, true) { Stop::AtOnce(passed_on) } else { Stop::Politely(passed_on) }
    }
}

/// Registers a descriptor with the event loop, to wait until it can be read.
pub(crate) fn readable<T: AsRawFd>(owner: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: every caller hands over the owner of the descriptor, which keeps it open, and always the
    // same one, for as long as it lives.
    unsafe { AsyncFd::register_with_interest(owner, Interest::READABLE) }.map_err(io::Error::from)
}

/// Waits until `deadline`; for ever without one.
pub(crate) async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Copies the BPF side's debug lines to the log as they come.
pub(crate) fn forward_debug_lines(bpf: &mut Bpf) -> Result<(), PipelineError> {
    let wait = |source| PipelineError::Wait { what: "debug lines of the BPF side", source };
    let lines = bpf.debug_lines().map_err(wait)?;
    let mut lines = readable(lines).map_err(wait)?;
    tokio::spawn(async move {
        while let Ok(mut ready) = lines.readable_mut().await {
            ready.get_inner_mut().forward();
            ready.clear_ready();
        }
    });
    Ok(())
}
