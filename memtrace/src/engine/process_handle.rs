//! A process by a descriptor, which cannot come to mean another one: its end, and signals to it.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use tokio::io::unix::AsyncFd;

use super::wait::readable;

/// A process, whatever becomes of its pid.
pub(crate) struct ProcessHandle(AsyncFd<OwnedFd>);

impl ProcessHandle {
    /// Of the process `pid`, which has not been waited for.
    ///
    /// # Errors
    /// Where there is none, or no room for descriptors.
    pub(crate) fn of(pid: u32) -> io::Result<Self> {
        Ok(Self(readable(open(pid)?)?))
    }

    /// Waits until the process has ended.
    pub(crate) async fn ended(&self) {
        // Readiness is kept, not cleared: an end does not pass. Should the reactor fail, the next tick
        // or signal still ends the run.
        if self.0.readable().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Whether the process has ended.
    pub(crate) fn has_ended(&self) -> bool {
        is_readable(self.0.get_ref())
    }

    /// Sends a signal, where there is one. That the process is gone is no error.
    pub(crate) fn send(&self, signal: Option<Signal>) {
        if let Some(signal) = signal {
            _ = pidfd_send_signal(self.0.get_ref(), signal);
        }
    }

    /// Lets the process go on that was stopped.
    pub(crate) fn resume(&self) {
        self.send(Some(Signal::CONT));
    }
}

/// Whether the process `pid` has ended.
pub(crate) fn has_ended(pid: u32) -> bool {
    open(pid).map_or(true, |descriptor| is_readable(&descriptor))
}

fn open(pid: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

fn is_readable(descriptor: &impl AsFd) -> bool {
    let mut polled = [PollFd::new(descriptor, PollFlags::IN)];
    poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready == 1)
}
