//! Starting a program so that it can be traced from its first instruction.

use std::{
    ffi::OsString,
    io::{self, PipeWriter, Read, Write},
    os::{fd::AsRawFd, unix::process::CommandExt},
    process::{Child, Command},
    thread::JoinHandle,
};

/// A child that has been forked and waits, before its exec, to be released.
pub struct Waiting {
    /// The child's pid, which it keeps through the exec.
    pub pid: u32,
    release: PipeWriter,
    spawning: JoinHandle<io::Result<Child>>,
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
        // Should memtrace die while it holds the child stopped, the child goes on alone.
        // SAFETY: a system call without pointers.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGCONT) };
        pid_writer.write_all(&std::process::id().to_ne_bytes())?;
        // The child's own copy of the other end must go, or it would never see the end of the pipe.
        // SAFETY: the child never uses that descriptor again; the parent's is another one.
        unsafe { libc::close(parent_end) };
        let mut go = [0];
        release_reader.read_exact(&mut go)
    };
    // SAFETY: the closure makes system calls only; between fork and exec it neither allocates nor locks.
    unsafe { command.pre_exec(before_exec) };
    // `spawn` returns only after the exec, which waits for us: it needs a thread of its own.
    let spawning = std::thread::spawn(move || command.spawn());
    let mut pid = [0; 4];
    match pid_reader.read_exact(&mut pid) {
        Ok(()) => Ok(Waiting { pid: u32::from_ne_bytes(pid), release, spawning }),
        Err(error) => match join(spawning) {
            Ok(_) => Err(error),
            Err(cause) => Err(cause),
        },
    }
}

impl Waiting {
    /// Lets the child go on to its exec.
    ///
    /// # Errors
    /// Where the program cannot be run.
    pub fn release(mut self) -> io::Result<Child> {
        self.release.write_all(&[1])?;
        drop(self.release);
        join(self.spawning)
    }
}

fn join(spawning: JoinHandle<io::Result<Child>>) -> io::Result<Child> {
    spawning.join().map_err(|_| io::Error::other("the thread that starts the program panicked"))?
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
        assert!(waiting.release().unwrap().wait().unwrap().success());
        assert_eq!(std::fs::read_to_string(mark).unwrap().trim(), pid.to_string());
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error() {
        let waiting = fork(&["/nonexistent/program".into()]).unwrap();
        assert_eq!(waiting.release().unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
