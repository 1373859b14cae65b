//! A look at the heap of a process, by a process of memtrace's own that is begun for it: its program once more, with the lowest
//! priority, confined (`confine`), and ended at its deadline.
//!
//! In: a pid, and bounds. Out: the heap, or why it was not read. The process reads memory that a hostile program has arranged, and
//! may hang in the kernel where a thread could not be stopped. Its answer is checked as any input.

mod confine;
pub mod holders;
pub mod message;
pub mod pressure;
mod serve;

use std::{
    io::{self, Read, Write},
    net::Shutdown,
    os::{fd::BorrowedFd, unix::net::UnixStream, unix::process::ExitStatusExt},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

pub use message::Asked;
use message::{Answer, MAX_ANSWER_BYTES, Question};
pub use serve::serve;

use crate::{
    model::{heap::Heap, heap_report::NotRead},
    process::{cgroup::own_room, helper::Helper},
};

/// How memtrace's program is asked to be this process.
pub const COMMAND: &str = "look-at-heap";

/// The most memory that the process may take, in bytes: some 60 a block, for 60 million blocks. With holders it is more a block.
const MAX_MEMORY_BYTES: u64 = 4 << 30;
/// The least with which it is begun.
const LEAST_MEMORY_BYTES: u64 = 64 << 20;
/// The part of its time after which the process gives up by itself, and can still tell what it has.
const OWN_PART: (u32, u32) = (9, 10);
/// The shortest time that is waited for anything.
const LEAST_TIME: Duration = Duration::from_millis(1);
/// Bytes of an answer that are read at once.
const PIECE_BYTES: usize = 1 << 16;

/// The bounds of one look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long it may take, from its beginning to its end.
    pub time: Duration,
    /// The most bytes of the target that it may read.
    pub bytes: u64,
}

/// A look that is under way. The process that makes it ends with this.
#[derive(Debug)]
pub struct Look {
    helper: Helper,
    socket: UnixStream,
    begun: Instant,
    limits: Limits,
    memory_bytes: u64,
}

impl Look {
    /// Begins a look at a process.
    ///
    /// # Errors
    /// Where the process that is to look cannot be begun.
    pub fn begin(pid: u32, limits: Limits) -> Result<Self, NotRead> {
        Self::begin_for(pid, limits, Asked::default())
    }

    /// The same, for what is `asked` beside the heap's figures.
    ///
    /// # Errors
    /// As [`Look::begin`].
    pub fn begin_for(pid: u32, limits: Limits, asked: Asked) -> Result<Self, NotRead> {
        let begun = Instant::now();
        let memory_bytes = memory_bytes();
        let (part, of) = OWN_PART;
        let time = limits.time * part / of;
        let question = Question { pid, time, limit: limits.time, bytes: limits.bytes, memory_bytes, asked };
        let (helper, mut socket) = Helper::start(COMMAND).map_err(|error| failed("cannot be begun", &error))?;
        let text = serde_json::to_vec(&question).map_err(io::Error::from);
        // One that does not fit into the socket at once waits until it is read.
        let sent = socket.set_write_timeout(Some(limits.time.max(LEAST_TIME))).and(text);
        let sent = sent.and_then(|text| socket.write_all(&text)).and_then(|()| socket.shutdown(Shutdown::Write));
        sent.map_err(|error| failed("cannot be asked", &error))?;
        Ok(Self { helper, socket, begun, limits, memory_bytes })
    }

    /// Waits for the heap, until the look takes too long or `stop` can be read. Its duration is that of reading alone, which ends with
    /// the look: on a busy machine, a process of the lowest priority waits before.
    ///
    /// # Errors
    /// Where it was not read. The process is ended then.
    pub fn finish(mut self, stop: Option<BorrowedFd<'_>>) -> Result<Heap, NotRead> {
        let mut text = Vec::new();
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            self.wait(stop)?;
            let read = match self.socket.read(&mut piece) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // It ended without having read all of the question.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => 0,
                read => read.map_err(|error| failed("cannot be heard", &error))?,
            };
            if read == 0 {
                break;
            }
            text.extend_from_slice(piece.get(..read).unwrap_or_default());
            if text.len() > MAX_ANSWER_BYTES {
                return Err(NotRead::Failed { error: "the process that looks answers without an end".into() });
            }
        }
        if text.is_empty() {
            return Err(self.death());
        }
        let nonsense = || NotRead::Failed { error: "the process that looks gives no answer that makes sense".into() };
        match message::read(&text).ok_or_else(nonsense)? {
            Answer::Read(heap) => Ok(*heap),
            Answer::NotRead(why) => Err(why),
        }
    }

    /// Waits for a part of the answer.
    fn wait(&self, stop: Option<BorrowedFd<'_>>) -> Result<(), NotRead> {
        loop {
            let left = self.limits.time.saturating_sub(self.begun.elapsed());
            if left.is_zero() {
                return Err(NotRead::Late { limit: self.limits.time });
            }
            let timeout = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 });
            let mut polled = vec![PollFd::new(&self.socket, PollFlags::IN)];
            polled.extend(stop.map(|stop| PollFd::from_borrowed_fd(stop, PollFlags::IN)));
            match poll(&mut polled, Some(&timeout)) {
                Ok(0) | Err(Errno::INTR) => continue,
                Ok(_) => {}
                Err(error) => return Err(failed("cannot be waited for", &error.into())),
            }
            let mut ready = polled.iter().map(|polled| !polled.revents().is_empty());
            let (has_answer, is_stopped) = (ready.next() == Some(true), ready.next() == Some(true));
            match (is_stopped, has_answer) {
                (true, _) => return Err(NotRead::Stopped),
                (false, true) => return Ok(()),
                (false, false) => {}
            }
        }
    }

    /// How it has ended without an answer.
    fn death(&mut self) -> NotRead {
        // It has closed its end, and does not come back from that.
        self.helper.kill();
        let signal = self.helper.wait().ok().and_then(|status| status.signal());
        NotRead::Died { signal, memory_bytes: self.memory_bytes }
    }
}

/// Looks at a process, as [`Look::begin`] and [`Look::finish`] do.
///
/// # Errors
/// Where its heap was not read.
pub fn look(pid: u32, limits: Limits, stop: Option<BorrowedFd<'_>>) -> Result<Heap, NotRead> {
    Look::begin(pid, limits)?.finish(stop)
}

/// The same, for what is `asked` beside the heap's figures.
///
/// # Errors
/// As [`look`].
pub fn look_for(pid: u32, limits: Limits, asked: Asked, stop: Option<BorrowedFd<'_>>) -> Result<Heap, NotRead> {
    Look::begin_for(pid, limits, asked)?.finish(stop)
}

/// The memory that the process may take: half of the room in memtrace's own group at most.
fn memory_bytes() -> u64 {
    let room = own_room().map_or(u64::MAX, |room| room.free_bytes());
    (room / 2).clamp(LEAST_MEMORY_BYTES, MAX_MEMORY_BYTES)
}

fn failed(what: &str, error: &io::Error) -> NotRead {
    NotRead::Failed { error: format!("the process that looks {what}: {error}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// A look that a shell makes.
    fn look_by(script: &str, time: Duration) -> Look {
        let (socket, other) = UnixStream::pair().unwrap();
        let child = Command::new("/bin/sh")
            .args(["-c", script])
            .stdin(std::os::fd::OwnedFd::from(other.try_clone().unwrap()))
            .stdout(std::os::fd::OwnedFd::from(other))
            .spawn()
            .unwrap();
        let limits = Limits { time, bytes: 0 };
        Look { helper: Helper::of(child), socket, begun: Instant::now(), limits, memory_bytes: 7 }
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_look_that_takes_too_long_is_late_and_its_process_ends() {
        let limit = Duration::from_millis(50);
        let look = look_by("exec sleep 600", limit);
        let pid = look.helper.id();
        assert_eq!(look.finish(None), Err(NotRead::Late { limit }));
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn a_look_is_stopped_where_nobody_wants_it_any_more() {
        let (stop, other) = UnixStream::pair().unwrap();
        drop(other);
        let look = look_by("exec sleep 600", LONG);
        assert_eq!(look.finish(Some(std::os::fd::AsFd::as_fd(&stop))), Err(NotRead::Stopped));
    }

    #[test]
    fn a_process_that_ends_without_an_answer_tells_how() {
        let died = |signal| Err(NotRead::Died { signal, memory_bytes: 7 });
        assert_eq!(look_by("kill -ABRT $$", LONG).finish(None), died(Some(libc::SIGABRT)));
    }

    #[test]
    fn an_answer_that_makes_no_sense_is_a_failure() {
        for script in ["echo nonsense", "echo '{\"Read\":{}}'", "yes '        '"] {
            let outcome = look_by(script, LONG).finish(None);
            assert!(matches!(outcome, Err(NotRead::Failed { .. })), "{script}: {outcome:?}");
        }
    }
}
