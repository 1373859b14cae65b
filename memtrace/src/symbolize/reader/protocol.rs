//! The messages between memtrace and the process that reads symbols: a length, then so much JSON. Files travel as open
//! descriptors beside the length.
//!
//! The answers come from a process that has read hostile files, and are as untrusted as these.

use std::{
    io::{self, IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::Instant,
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// The most that one message may have, in bytes.
pub const MAX_MESSAGE_BYTES: u32 = 32 << 20;
/// The most places that one question asks for: an answer then takes some milliseconds.
pub const MAX_PLACES: usize = 256;
/// The most files that one image's symbols are in.
pub const MAX_FILES: usize = 2;
/// The longest name that is told, in bytes: some C++ has such.
const MAX_NAME_BYTES: usize = 16 << 10;
/// The most problems that are told of one image: three of each of its files.
pub(super) const MAX_PROBLEMS: usize = 2 * 3;
/// The longest reason that is told, in bytes.
const MAX_REASON_BYTES: usize = 256;
/// The most functions at one place.
const MAX_FUNCTIONS: usize = 256;

/// The kind of an image's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileKind {
    /// The image itself.
    Image,
    /// Its debug information, with the checksum that it must have where it is known by no build id.
    Debug {
        /// The CRC-32 of the whole file.
        checksum: Option<u32>,
    },
}

/// Symbols that are asked for, at most [`MAX_PLACES`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Asked {
    /// Functions, at virtual offsets of the image.
    Functions(Vec<u64>),
    /// Variables and constants there. A table of virtual functions keeps the name that linkers see.
    Variables(Vec<u64>),
    /// Thread-local variables, at offsets in the image's thread-local data.
    ThreadLocals(Vec<u64>),
    /// C++ classes, by their mangled names; of no image.
    Classes(Vec<String>),
}

impl Asked {
    /// How many.
    #[must_use]
    pub fn count(&self) -> usize {
        match self {
            Self::Functions(offsets) | Self::Variables(offsets) | Self::ThreadLocals(offsets) => offsets.len(),
            Self::Classes(names) => names.len(),
        }
    }

    /// Whether functions are asked for.
    #[must_use]
    pub fn is_of_functions(&self) -> bool {
        matches!(self, Self::Functions(_))
    }
}

/// A question of memtrace's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Which image, by a number of memtrace's choice.
    pub image: usize,
    /// The kinds of the descriptors that come with the question; none where the image was asked for before.
    pub files: Vec<FileKind>,
    /// The symbols that are wanted.
    pub asked: Asked,
}

/// A function, or a variable, at a place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// Its demangled name.
    pub name: String,
    /// The source file.
    pub file: Option<String>,
    /// The line in it.
    pub line: Option<u32>,
    /// Where a variable begins, as an offset of the question's kind.
    pub begins_at: Option<u64>,
}

/// A part of an image's file that could not be read, with the reason. Others of its parts could.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Problem {
    /// Its debug information: functions have no file and line.
    Lines(String),
    /// Its compressed symbols (`.gnu_debugdata`): only exported functions have names.
    MiniDebugInfo(String),
    /// Its debug file.
    DebugFile(String),
}

impl Problem {
    fn reason(&mut self) -> &mut String {
        match self {
            Self::Lines(reason) | Self::MiniDebugInfo(reason) | Self::DebugFile(reason) => reason,
        }
    }

    /// With no more of a reason than any answer may have.
    pub(super) fn shortened(mut self) -> Self {
        let reason = self.reason();
        reason.truncate(reason.floor_char_boundary(MAX_REASON_BYTES));
        self
    }
}

/// An answer of the other process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// It has given up all it can, and waits for questions. Said once, at first.
    Confined,
    /// The names that were asked for.
    Functions {
        /// For each place the functions there, the innermost inlined one first; the one object there; or the class.
        places: Vec<Vec<Named>>,
        /// The parts of the image's files that could not be read, if not told before.
        problems: Vec<Problem>,
    },
    /// Which of the question's files, by index, the kernel lets it not open: it wants copies.
    Closed(Vec<usize>),
    /// Why there are none of this image, or why the process is not confined.
    Failed(String),
}

/// Sends a message, with descriptors.
///
/// # Errors
/// Where the other side is gone, or does not read.
pub fn send<T: Serialize>(socket: &UnixStream, message: &T, files: &[BorrowedFd<'_>]) -> io::Result<()> {
    let body = serde_json::to_vec(message)?;
    let length = u32::try_from(body.len()).ok().filter(|length| *length <= MAX_MESSAGE_BYTES);
    let length = length.ok_or_else(|| io::Error::other("a message of more than the most"))?.to_le_bytes();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
    let mut rights = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !rights.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(io::Error::other("too many files for one message"));
    }
    let sent = sendmsg(socket, &[IoSlice::new(&length)], &mut rights, SendFlags::NOSIGNAL)?;
    let mut socket = socket;
    socket.write_all(&length[sent..])?;
    socket.write_all(&body)
}

/// A socket that is read until a deadline, however slowly the other side writes.
struct Timed<'a> {
    socket: &'a UnixStream,
    deadline: Option<Instant>,
}

impl Timed<'_> {
    fn wait(&self) -> io::Result<()> {
        let Some(deadline) = self.deadline else { return Ok(()) };
        let left = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero());
        self.socket.set_read_timeout(Some(left.ok_or(io::ErrorKind::TimedOut)?))
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.wait()?;
        let mut socket = self.socket;
        socket.read(buffer)
    }
}

/// Receives a message with the descriptors that came with it; `None` where the other side has closed.
///
/// # Errors
/// Where the other side breaks off, sends what is no message, or is not done by `deadline`.
pub fn receive<T: DeserializeOwned>(
    socket: &UnixStream,
    deadline: Option<Instant>,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut timed = Timed { socket, deadline };
    timed.wait()?;
    let mut length = [0; 4];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
    let mut rights = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(socket, &mut [IoSliceMut::new(&mut length)], &mut rights, RecvFlags::CMSG_CLOEXEC)?.bytes;
    if received == 0 {
        return Ok(None);
    }
    let messages = rights.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(files) => Some(files),
        _ => None,
    });
    let files: Vec<OwnedFd> = messages.flatten().collect();
    timed.read_exact(&mut length[received..])?;
    let length = u32::from_le_bytes(length);
    if length > MAX_MESSAGE_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message of more than the most"));
    }
    // As it comes, not as it is claimed.
    let mut body = Vec::new();
    let read = timed.take(u64::from(length)).read_to_end(&mut body)?;
    if read < length as usize {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some((serde_json::from_slice(&body)?, files)))
}

/// The names in an answer: the functions at each offset, and what could not be read.
pub type Found = (Vec<Vec<Named>>, Vec<Problem>);

/// The names of an answer to a question for `count` names, if it is one.
#[must_use]
pub fn checked(answer: Answer, count: usize) -> Option<Result<Found, String>> {
    let is_short = |text: &str| text.len() <= MAX_NAME_BYTES;
    match answer {
        Answer::Confined | Answer::Closed(_) => None,
        Answer::Failed(why) => Some(Err(why)),
        Answer::Functions { places, mut problems } => {
            let is_right = |named: &Named| is_short(&named.name) && named.file.as_deref().is_none_or(is_short);
            let are_right = |place: &Vec<Named>| place.len() <= MAX_FUNCTIONS && place.iter().all(is_right);
            let are_few = problems.len() <= MAX_PROBLEMS
                && problems.iter_mut().all(|problem| problem.reason().len() <= MAX_REASON_BYTES);
            (are_few && places.len() == count && places.iter().all(are_right)).then_some(Ok((places, problems)))
        }
    }
}

/// Cuts what no answer may have.
pub(super) fn shorten(place: &mut Vec<Named>) {
    place.truncate(MAX_FUNCTIONS);
    for named in place {
        for text in [Some(&mut named.name), named.file.as_mut()].into_iter().flatten() {
            text.truncate(text.floor_char_boundary(MAX_NAME_BYTES));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs::File, os::fd::AsFd, thread, time::Duration};

    fn named(name: &str) -> Named {
        Named { name: name.into(), file: Some("a.c".into()), line: Some(7), begins_at: None }
    }

    #[test]
    fn a_question_arrives_with_its_files() {
        let (one, other) = UnixStream::pair().unwrap();
        let files = vec![FileKind::Image, FileKind::Debug { checksum: Some(1) }];
        let question = Question { image: 3, files, asked: Asked::Functions(vec![1, u64::MAX]) };
        let file = File::open("/proc/self/exe").unwrap();
        send(&one, &question, &[file.as_fd(), file.as_fd()]).unwrap();
        let (received, descriptors) = receive::<Question>(&other, None).unwrap().unwrap();
        assert_eq!((received, descriptors.len()), (question, 2));
        drop(one);
        assert!(receive::<Question>(&other, None).unwrap().is_none());
    }

    #[test]
    fn an_answer_that_is_longer_than_any_is_not_waited_for() {
        let (one, other) = UnixStream::pair().unwrap();
        (&other).write_all(&u32::MAX.to_le_bytes()).unwrap();
        assert_eq!(receive::<Answer>(&one, None).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn an_answer_that_comes_byte_by_byte_is_late_all_the_same() {
        let (one, mut other) = UnixStream::pair().unwrap();
        let writer = thread::spawn(move || {
            _ = other.write_all(&100u32.to_le_bytes());
            while other.write_all(b" ").is_ok() {
                thread::sleep(Duration::from_millis(5));
            }
        });
        let answer = receive::<Answer>(&one, Some(Instant::now() + Duration::from_millis(100)));
        assert!(matches!(answer.unwrap_err().kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut));
        drop(one);
        writer.join().unwrap();
    }

    fn functions(places: Vec<Vec<Named>>) -> Answer {
        Answer::Functions { places, problems: Vec::new() }
    }

    #[test]
    fn only_answers_to_the_question_are_taken() {
        let right = vec![vec![named("f")], vec![]];
        assert_eq!(checked(functions(right.clone()), 2), Some(Ok((right.clone(), Vec::new()))));
        assert_eq!(checked(functions(right), 3), None);
        assert_eq!((checked(Answer::Confined, 0), checked(Answer::Closed(Vec::new()), 0)), (None, None));
        assert_eq!(checked(Answer::Failed("corrupt".into()), 1), Some(Err("corrupt".into())));
        let long = named(&"x".repeat(MAX_NAME_BYTES + 1));
        assert_eq!(checked(functions(vec![vec![long.clone()]]), 1), None);
        let many = vec![named("f"); MAX_FUNCTIONS + 1];
        assert_eq!(checked(functions(vec![many.clone()]), 1), None);
        for mut place in [vec![long], many] {
            shorten(&mut place);
            assert!(checked(functions(vec![place]), 1).is_some());
        }
    }

    #[test]
    fn reasons_are_few_and_short() {
        let long = Problem::Lines("x".repeat(MAX_REASON_BYTES + 1));
        let answer = |problems| Answer::Functions { places: Vec::new(), problems };
        assert_eq!(checked(answer(vec![long.clone()]), 0), None);
        let short = long.shortened();
        assert!(checked(answer(vec![short.clone()]), 0).is_some());
        assert_eq!(checked(answer(vec![short; MAX_PROBLEMS + 1]), 0), None);
    }
}
