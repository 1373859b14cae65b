//! The side of the process that reads symbols.

use std::{
    collections::HashMap,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    panic::{self, AssertUnwindSafe},
    process::ExitCode,
};

use memmap2::MmapOptions;

use super::{
    confine::confine,
    protocol::{self, Answer, FileKind, MAX_PLACES, Named, Question},
};
use crate::symbolize::names::{Files, Names, Sections};

/// More than the largest files with debug information have, in bytes.
const MAX_FILE_BYTES: u64 = 16 << 30;
/// Larger files must have content: reading the holes of a file in a tmpfs takes memory.
const MAX_HOLES_BYTES: u64 = 256 << 20;
/// How many times as long as what it takes a file may be that its file system compresses.
const MAX_COMPRESSION: u64 = 16;

/// Confines itself, then answers the questions that come through stdin until that closes.
#[must_use]
pub fn serve() -> ExitCode {
    // Nobody reads it, and the filter lets nobody write it.
    panic::set_hook(Box::new(|_| {}));
    close_all_but_the_standard_ones();
    let Ok(socket) = io::stdin().as_fd().try_clone_to_owned().map(UnixStream::from) else { return ExitCode::FAILURE };
    let confined = confine();
    let hello = confined.as_ref().map_or_else(|error| Answer::Failed(error.to_string()), |()| Answer::Confined);
    if protocol::send(&socket, &hello, &[]).is_err() || confined.is_err() {
        return ExitCode::FAILURE;
    }
    match answer_all(&socket) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Whatever memtrace, or who started it, has left open for programs that it starts.
fn close_all_but_the_standard_ones() {
    // SAFETY: a system call on descriptors of which nothing here knows.
    unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
}

/// Answers until the other side has closed.
fn answer_all(socket: &UnixStream) -> io::Result<()> {
    let mut images = HashMap::new();
    while let Some((question, files)) = protocol::receive::<Question>(socket, None)? {
        let answered = panic::catch_unwind(AssertUnwindSafe(|| answer(&mut images, &question, files)));
        let answer = match answered {
            Ok(Ok(places)) => Answer::Functions(places),
            Ok(Err(why)) => Answer::Failed(why),
            Err(_) => Answer::Failed("reading it fails on an assertion".into()),
        };
        protocol::send(socket, &answer, &[])?;
    }
    Ok(())
}

fn answer(
    images: &mut HashMap<usize, Names<'static>>,
    question: &Question,
    files: Vec<OwnedFd>,
) -> Result<Vec<Vec<Named>>, String> {
    if !question.files.is_empty() {
        images.insert(question.image, open(&question.files, files).map_err(|error| error.to_string())?);
    }
    let names = images.get(&question.image).ok_or("it was not sent")?;
    let at = |offset: &u64| {
        let mut place = names.at(*offset);
        protocol::shorten(&mut place);
        place
    };
    Ok(question.offsets.iter().take(MAX_PLACES).map(at).collect())
}

/// Maps an image's files and takes in what they tell. They stay until the process ends, as the images of memtrace do.
fn open(kinds: &[FileKind], descriptors: Vec<OwnedFd>) -> io::Result<Names<'static>> {
    if kinds.len() != descriptors.len() {
        return Err(io::Error::other("not all of its files have come"));
    }
    let mut files = Files::default();
    for (kind, descriptor) in kinds.iter().zip(descriptors) {
        let bytes = map(&descriptor)?;
        match kind {
            FileKind::Image => files.image = bytes,
            FileKind::Debug { checksum } => {
                files.debug = checksum.is_none_or(|sum| crc32fast::hash(bytes) == sum).then_some(bytes);
            }
            FileKind::Supplementary => files.supplementary = Some(bytes),
            FileKind::Package => files.package = Some(bytes),
        }
    }
    let sections: &'static Sections<'static> = Box::leak(Box::new(Sections::load(&files).map_err(io::Error::other)?));
    Names::new(&files, sections).map_err(io::Error::other)
}

fn map(descriptor: &OwnedFd) -> io::Result<&'static [u8]> {
    let stat = rustix::fs::fstat(descriptor)?;
    let length = u64::try_from(stat.st_size).unwrap_or(u64::MAX);
    let taken = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
    if length > MAX_FILE_BYTES {
        return Err(io::Error::other(format!("it has {length} bytes, more than any real one")));
    }
    if length > MAX_HOLES_BYTES && length / MAX_COMPRESSION > taken {
        return Err(io::Error::other("most of it is holes"));
    }
    let length = usize::try_from(length).map_err(io::Error::other)?;
    // SAFETY: whoever changes the file changes these bytes, and whoever shortens it ends this process: it holds nothing else.
    let mapped = unsafe { MmapOptions::new().len(length).map(descriptor) }?;
    Ok(Box::leak(Box::new(mapped)))
}
