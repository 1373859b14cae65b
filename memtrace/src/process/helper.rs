//! Processes that memtrace starts for work that it does not do itself: its own program once more, under a hidden command, with a
//! socket as stdin. None of them is ever a target.

use std::{
    io,
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream, process::CommandExt},
    },
    process::{Child, Command, ExitStatus, Stdio},
    sync::Mutex,
};

/// The pids of these processes: no targets, as memtrace is none.
static OWN: Mutex<Vec<u32>> = Mutex::new(Vec::new());

/// Whether a process is one that this memtrace has started for itself.
#[must_use]
pub fn is_helper(pid: u32) -> bool {
    OWN.lock().is_ok_and(|own| own.contains(&pid))
}

/// A process of memtrace's own program. It ends with this.
#[derive(Debug)]
pub struct Helper(Child);

impl Helper {
    /// Starts memtrace's program under a command, and returns the other end of its stdin.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn start(command: &str) -> io::Result<(Self, UnixStream)> {
        let (socket, other) = UnixStream::pair()?;
        let child = Command::new("/proc/self/exe")
            .arg(command)
            .env_clear()
            .stdin(OwnedFd::from(other))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        Ok((Self::of(child), socket))
    }

    /// The same for a process that was started.
    #[must_use]
    pub fn of(child: Child) -> Self {
        if let Ok(mut own) = OWN.lock() {
            own.push(child.id());
        }
        Self(child)
    }

    /// Its pid.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Waits for the end of a process that is about to end, and says how it did.
    ///
    /// # Errors
    /// Where that is not to be known.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        self.0.wait()
    }

    /// Ends it, whatever it does.
    pub fn kill(&mut self) {
        _ = self.0.kill();
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // It may be busy with what it will never finish.
        self.kill();
        _ = self.0.wait();
        // Not before: until then, the pid is its own.
        if let Ok(mut own) = OWN.lock() {
            own.retain(|pid| *pid != self.0.id());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_helper_is_known_until_it_goes_and_ends_with_that() {
        let helper = Helper::of(Command::new("sleep").arg("600").spawn().unwrap());
        let pid = helper.id();
        assert!(is_helper(pid) && !is_helper(std::process::id()));
        drop(helper);
        assert!(!is_helper(pid) && !std::path::Path::new(&format!("/proc/{pid}")).exists());
    }
}
