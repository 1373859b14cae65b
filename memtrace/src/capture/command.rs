//! Starting a program so that it can be traced from its first instruction.

use std::{
    ffi::OsString,
    io::{self, PipeWriter, Read, Write},
    os::{fd::AsRawFd, unix::process::CommandExt},
    process::{Child, Command},
    sync::mpsc::{Receiver, Sender, channel},
};

use rustix::process::{Signal, set_parent_process_death_signal};

/// A child that has been forked and waits, before its exec, to be released.
pub struct Waiting {
    /// The child's pid, which it keeps through the exec.
    pub pid: u32,
    release: PipeWriter,
    spawned: Receiver<io::Result<Child>>,
    hold: Sender<()>,
}

/// A child that runs its program.
pub struct Running {
    /// The child.
    pub child: Child,
    /// Keeps the thread that has made the child: its end would count as its parent's death.
    _hold: Sender<()>,
}

/// Forks a child that will run `command` once it is released.
///
/// # Errors
/// Where no child can be made.
pub fn fork(command: &[OsString]) -> io::Result<Waiting> {
    let (mut pid_reader, mut pid_writer) = io::pipe()?;
    let (mut release_reader, release) = io::pipe()?;
    let (program, arguments) =
        command.split_first().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no command"))?;
    let mut command = Command::new(program);
    command.args(arguments);
    let parent_end = release.as_raw_fd();
    let before_exec = move || {
        // Should memtrace die while it holds the child stopped, the child goes on alone. To the kernel, the
        // parent is the thread that has made the child: it must live as long as we do (prctl(2)).
        set_parent_process_death_signal(Some(Signal::CONT))?;
        pid_writer.write_all(&std::process::id().to_ne_bytes())?;
        // The child's own copy of the other end must go, or it would never see the end of the pipe.
        // SAFETY: the child never uses that descriptor again; the parent's is another one.
        unsafe { rustix::io::close(parent_end) };
        let mut go = [0];
        release_reader.read_exact(&mut go)
    };
    // SAFETY: the closure makes system calls only; between fork and exec it neither allocates nor locks.
    unsafe { command.pre_exec(before_exec) };
    let (send_spawned, spawned) = channel();
    let (hold, held) = channel::<()>();
    // `spawn` returns only after the exec, which waits for us: it needs a thread of its own.
    std::thread::spawn(move || {
        // Where nobody waits for the child any more, there is nobody to tell.
        _ = send_spawned.send(command.spawn());
        // Never anything comes: this ends with the other end.
        _ = held.recv();
    });
    let mut pid = [0; 4];
    match pid_reader.read_exact(&mut pid) {
        Ok(()) => Ok(Waiting { pid: u32::from_ne_bytes(pid), release, spawned, hold }),
        Err(error) => Err(receive(&spawned).err().unwrap_or(error)),
    }
}

impl Waiting {
    /// Lets the child go on to its exec.
    ///
    /// # Errors
    /// Where the program cannot be run.
    pub fn release(mut self) -> io::Result<Running> {
        self.release.write_all(&[1])?;
        drop(self.release);
        Ok(Running { child: receive(&self.spawned)?, _hold: self.hold })
    }
}

fn receive(spawned: &Receiver<io::Result<Child>>) -> io::Result<Child> {
    spawned.recv().map_err(|_| io::Error::other("the thread that starts the program panicked"))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_keeps_its_pid_and_runs_only_once_released() {
        let dir = tempfile::tempdir().unwrap();
        let mark = dir.path().join("ran");
        let waiting = fork(&["/bin/sh".into(), "-c".into(), format!("echo $$ > {}", mark.display()).into()]).unwrap();
        let pid = waiting.pid;
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert!(!mark.exists());
        assert!(waiting.release().unwrap().child.wait().unwrap().success());
        assert_eq!(std::fs::read_to_string(mark).unwrap().trim(), pid.to_string());
    }

    #[test]
    fn a_child_that_is_stopped_is_not_woken_by_the_thread_that_made_it() {
        let waiting = fork(&["/bin/sh".into(), "-c".into(), "kill -STOP $$; exit 3".into()]).unwrap();
        let mut running = waiting.release().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(300));
        assert!(running.child.try_wait().unwrap().is_none(), "it has gone on by itself");
        running.child.kill().unwrap();
        running.child.wait().unwrap();
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error() {
        let waiting = fork(&["/nonexistent/program".into()]).unwrap();
        assert_eq!(waiting.release().err().unwrap().kind(), io::ErrorKind::NotFound);
    }
}
