//! The process that reads symbols: memtrace's own program once more, confined (`confine`), because images and their debug
//! files are made by others, and mapping and unpacking them is what a hostile one would attack.
//!
//! In: open files and offsets. Out: functions, or objects. A file that breaks the process costs that file's names: the process is ended
//! and another one started.

mod confine;
mod copies;
pub mod protocol;
mod serve;

use std::{
    collections::HashSet,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::{Duration, Instant},
};

use copies::MAX_COPIED_BYTES;
use protocol::{Answer, Asked, FileKind, Found, Question};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
pub use serve::serve;

use crate::process::{helper::Helper, status};

/// How memtrace's program is asked to be this process.
pub const COMMAND: &str = "read-symbols";
/// The CPU time that one image may take in a run; its places have some of their own beside that.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// How much longer a question may take than its CPU time, on a busy machine.
const BUSY: u32 = 6;
/// The shortest wait for an answer: CPU time is told in ticks.
const LEAST_WAIT: Duration = Duration::from_millis(10);
/// How long the process may take to begin.
const BEGINNING: Duration = Duration::from_secs(10);

/// Why an image has no names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The process said why.
    Told(String),
    /// It may not open the image, and there is no copy of that.
    Closed(String),
    /// The process ended over it.
    Ended,
    /// It took too long.
    Late,
    /// The process answers what is no answer.
    Nonsense,
}

/// A confined process that answers questions.
pub struct Reader {
    process: Helper,
    socket: UnixStream,
    /// The images that it has.
    known: HashSet<(usize, bool)>,
    /// How many bytes of copies it may be sent yet.
    left_to_copy: u64,
}

impl Reader {
    /// Starts the process and waits until it has confined itself.
    ///
    /// # Errors
    /// Where it cannot be started, or not be confined.
    pub fn start() -> io::Result<Self> {
        let (process, socket) = Helper::start(COMMAND)?;
        let mut reader = Self { process, socket, known: HashSet::new(), left_to_copy: MAX_COPIED_BYTES };
        match reader.receive(Instant::now() + BEGINNING) {
            Ok(Answer::Confined) => Ok(reader),
            Ok(Answer::Failed(why)) => Err(io::Error::other(format!("it cannot confine itself: {why}"))),
            Ok(Answer::Functions { .. } | Answer::Closed(_)) | Err(Failure::Nonsense) => {
                Err(io::Error::other("it is another program"))
            }
            Err(Failure::Late) => Err(io::ErrorKind::TimedOut.into()),
            Err(Failure::Told(_) | Failure::Closed(_) | Failure::Ended) => Err(io::Error::other("it ended")),
        }
    }

    /// Whether it has an image's files already, for what is asked.
    #[must_use]
    pub fn knows(&self, image: usize, asked: &Asked) -> bool {
        self.known.contains(&(image, asked.is_of_functions()))
    }

    /// Asks for names of an image, with the image's files where it does not know it.
    ///
    /// # Errors
    /// Where there is no answer within `patience`, a CPU time. After any but [`Failure::Told`] and [`Failure::Closed`] the process is of
    /// no use.
    pub fn ask(
        &mut self,
        image: usize,
        files: &[(FileKind, BorrowedFd<'_>)],
        asked: &Asked,
        patience: Duration,
    ) -> Result<Found, Failure> {
        let mut answer = self.answer(image, files, asked, patience)?;
        if let Answer::Closed(closed) = answer {
            let opened = self.with_copies(files, &closed)?;
            let files: Vec<_> = opened.iter().map(|(kind, file)| (*kind, file.as_fd())).collect();
            answer = self.answer(image, &files, asked, patience)?;
            if let Answer::Closed(_) = answer {
                return Err(Failure::Closed("its copy neither".into()));
            }
        }
        let found = protocol::checked(answer, asked.count()).ok_or(Failure::Nonsense)?.map_err(Failure::Told)?;
        self.known.insert((image, asked.is_of_functions()));
        Ok(found)
    }

    /// The files, those that are closed to the process as copies. A debug file of which there is none is left out.
    fn with_copies(
        &mut self,
        files: &[(FileKind, BorrowedFd<'_>)],
        closed: &[usize],
    ) -> Result<Vec<(FileKind, OwnedFd)>, Failure> {
        let mut opened = Vec::new();
        for (index, (kind, file)) in files.iter().enumerate() {
            let is_closed = closed.contains(&index);
            let file = if is_closed { copies::copy(*file, &mut self.left_to_copy) } else { file.try_clone_to_owned() };
            match file {
                Ok(file) => opened.push((*kind, file)),
                Err(error) if *kind == FileKind::Image => {
                    return Err(Failure::Closed(format!("there is no copy of it: {error}")));
                }
                Err(error) => log::info!("a debug file is for its owner alone, and is not copied: {error}"),
            }
        }
        Ok(opened)
    }

    fn answer(
        &mut self,
        image: usize,
        files: &[(FileKind, BorrowedFd<'_>)],
        asked: &Asked,
        patience: Duration,
    ) -> Result<Answer, Failure> {
        let (kinds, descriptors): (Vec<FileKind>, Vec<BorrowedFd<'_>>) = files.iter().copied().unzip();
        let question = Question { image, files: kinds, asked: asked.clone() };
        // A question is shorter than what the socket holds: this waits only where earlier ones were not read.
        self.socket.set_write_timeout(Some(patience.max(LEAST_WAIT))).map_err(|error| failure(&error))?;
        protocol::send(&self.socket, &question, &descriptors).map_err(|error| failure(&error))?;
        self.wait(patience)?;
        // It is all there by now, or will be at once.
        self.receive(Instant::now() + PATIENCE)
    }

    /// Waits for the beginning of an answer.
    fn wait(&self, patience: Duration) -> Result<(), Failure> {
        let (begun, used) = (Instant::now(), self.cpu_time());
        loop {
            // It cannot take more CPU time than passes.
            let left = patience.saturating_sub(self.cpu_time().saturating_sub(used));
            if left.is_zero() || begun.elapsed() > patience * BUSY {
                return Err(Failure::Late);
            }
            let timeout = Timespec::try_from(left.max(LEAST_WAIT)).map_err(|_| Failure::Late)?;
            match poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&timeout)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(error) => return Err(failure(&error.into())),
            }
        }
    }

    /// The CPU time that the process has taken until now.
    #[must_use]
    pub fn cpu_time(&self) -> Duration {
        status::cpu_time(self.process.id()).unwrap_or_default()
    }

    fn receive(&mut self, deadline: Instant) -> Result<Answer, Failure> {
        match protocol::receive(&self.socket, Some(deadline)) {
            Ok(Some((answer, _))) => Ok(answer),
            Ok(None) => Err(Failure::Ended),
            Err(error) => Err(failure(&error)),
        }
    }
}

fn failure(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Failure::Late,
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof => Failure::Ended,
        _ => Failure::Nonsense,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_process_that_does_not_answer_is_late_and_ended() {
        let (socket, other) = UnixStream::pair().unwrap();
        let process = Helper::of(Command::new("sleep").arg("600").spawn().unwrap());
        let pid = process.id();
        let mut reader = Reader { process, socket, known: HashSet::new(), left_to_copy: 0 };
        let functions = Asked::Functions(vec![1]);
        let asked = reader.ask(0, &[], &functions, Duration::from_millis(50));
        assert_eq!(asked, Err(Failure::Late));
        drop(other);
        assert_eq!(reader.ask(0, &[], &functions, PATIENCE), Err(Failure::Ended));
        drop(reader);
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }
}
