//! The threads of a process that is about to end, held where they are (ptrace(2)), and what their registers hold.

use std::{
    fs, io,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::{
        ptrace::{self, Options},
        signal::Signal,
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use thiserror::Error;

use super::{arch, leader};

/// How long to wait for a thread that is held up in the kernel.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why a process's threads cannot be held.
#[derive(Debug, Error)]
pub enum HoldError {
    /// Another program traces it, or tracing is forbidden.
    #[error("its registers cannot be read: {0}")]
    Refused(#[source] io::Error),
    /// A thread does not come to rest.
    #[error("its thread {0} does not stop")]
    Busy(i32),
    /// It has ended.
    #[error("it was killed meanwhile")]
    Gone,
}

/// Threads that are held. They go on where this is dropped, or stay stopped if the process was.
#[derive(Debug)]
pub struct Held(Vec<HeldThread>);

/// One of them.
#[derive(Debug)]
pub struct HeldThread {
    tid: Pid,
    /// The signal that it was about to get when it was held.
    signal: Option<Signal>,
    /// Where its stack ends.
    pub stack_pointer: u64,
    /// The content of its registers. Of a thread that ends the process, only the stack pointer: it needs nothing else any more.
    pub words: Vec<u64>,
}

impl Held {
    /// Holds every thread of the process `pid`, of which `ending` is about to end it.
    ///
    /// # Errors
    /// Where one cannot be held, or is not at rest after two seconds.
    pub fn hold(pid: u32, ending: u32) -> Result<Self, HoldError> {
        let mut held = Self(Vec::new());
        // Until there is none that is not held: each may have made another before it was.
        loop {
            let before = held.0.len();
            for tid in tids(pid).map_err(|_| HoldError::Gone)? {
                if held.0.iter().all(|thread| thread.tid != tid) {
                    held.0.extend(hold(tid, ending)?);
                }
            }
            if held.0.len() == before {
                return if before == 0 { Err(HoldError::Gone) } else { Ok(held) };
            }
        }
    }

    /// The threads.
    #[must_use]
    pub fn threads(&self) -> &[HeldThread] {
        &self.0
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for thread in &self.0 {
            // One that was killed meanwhile need not be let go.
            _ = ptrace::detach(thread.tid, thread.signal);
        }
    }
}

/// The threads that a process has at the moment.
fn tids(pid: u32) -> io::Result<Vec<Pid>> {
    let tid = |entry: io::Result<fs::DirEntry>| entry.ok()?.file_name().to_str()?.parse().ok().map(Pid::from_raw);
    Ok(fs::read_dir(format!("/proc/{pid}/task"))?.filter_map(tid).collect())
}

/// Holds a thread; nothing where it has ended.
fn hold(tid: Pid, ending: u32) -> Result<Option<HeldThread>, HoldError> {
    let failed = |error: Errno| HoldError::Refused(error.into());
    match ptrace::seize(tid, Options::empty()) {
        Ok(()) => {}
        Err(Errno::ESRCH) => return Ok(None),
        // As of a main thread that has ended before the others.
        Err(Errno::EPERM) if !leader::goes_on(tid.as_raw().unsigned_abs()) => return Ok(None),
        Err(error) => return Err(failed(error)),
    }
    // From here on it is let go whatever happens.
    let mut thread = HeldThread { tid, signal: None, stack_pointer: 0, words: Vec::new() };
    let read = ptrace::interrupt(tid).map_err(failed).and_then(|()| wait(tid)).and_then(|signal| {
        thread.signal = signal;
        let ends = tid.as_raw().unsigned_abs() == ending;
        (thread.stack_pointer, thread.words) = arch::registers_of(tid, ends).map_err(failed)?;
        Ok(())
    });
    match read {
        Ok(()) => Ok(Some(thread)),
        Err(error) => {
            drop(Held(vec![thread]));
            Err(error)
        }
    }
}

/// Waits until a thread is at rest. Returns the signal that it was about to be told.
fn wait(tid: Pid) -> Result<Option<Signal>, HoldError> {
    let begun = Instant::now();
    loop {
        match waitpid(tid, Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG)) {
            // It has been stopped on our behalf, and that stop is over with us.
            Ok(WaitStatus::Stopped(_, Signal::SIGSTOP) | WaitStatus::PtraceEvent(..)) => return Ok(None),
            Ok(WaitStatus::Stopped(_, signal)) => return Ok(Some(signal)),
            Ok(WaitStatus::StillAlive) if begun.elapsed() < PATIENCE => std::thread::sleep(Duration::from_micros(200)),
            Ok(WaitStatus::StillAlive) => return Err(HoldError::Busy(tid.as_raw())),
            Ok(_) | Err(Errno::ECHILD | Errno::ESRCH) => return Err(HoldError::Gone),
            Err(error) => return Err(HoldError::Refused(error.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_process_that_is_held_goes_on_afterwards_and_its_stack_is_where_it_is() {
        let mut child = Command::new("/bin/cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(50));
        let held = Held::hold(child.id(), 0).unwrap();
        let maps = fs::read_to_string(format!("/proc/{}/maps", child.id())).unwrap();
        let stack = maps.lines().find(|line| line.ends_with("[stack]")).unwrap();
        let (start, end) = stack.split_once(' ').unwrap().0.split_once('-').unwrap();
        let [start, end] = [start, end].map(|address| u64::from_str_radix(address, 16).unwrap());
        let [thread] = held.threads() else { panic!("{held:?}") };
        assert!(start <= thread.stack_pointer && thread.stack_pointer < end);
        assert!(thread.words.len() > 12);
        drop(held);
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
    }

    #[test]
    fn what_is_not_there_cannot_be_held() {
        assert!(matches!(Held::hold(4_194_305, 0), Err(HoldError::Gone)));
    }
}
