//! The side of the process that reads symbols.

use std::{
    collections::HashMap,
    fs::File,
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{fs::FileExt, net::UnixStream},
    },
    panic::{self, AssertUnwindSafe},
    path::Path,
    process::ExitCode,
};

use object::{CompressionFormat, Endianness, Object, ObjectSection, read::elf::ElfFile64};

use super::{
    confine::confine,
    protocol::{self, Answer, Asked, FileKind, MAX_PLACES, MAX_PROBLEMS, Named, Problem, Question},
};
use crate::{
    process::{bounded::BoundedFile, confinement},
    symbolize::{
        demangle::{VIRTUAL_TABLE, class, demangled},
        names::{AddError, Names},
        symbol_table::Variables,
    },
};

/// More than the largest files with debug information have, in bytes.
const MAX_FILE_BYTES: u64 = 16 << 30;
/// Larger files must have content: reading the holes of a file in a tmpfs takes memory.
const MAX_HOLES_BYTES: u64 = 256 << 20;
/// How many times as long as what it takes a file may be that its file system compresses.
const MAX_COMPRESSION: u64 = 16;
/// The most that a file's compressed sections may become together, in bytes: all the memory that there is (`confine`).
const MAX_UNPACKED_BYTES: u64 = 1 << 30;

/// Why there is no answer on an image.
const NOT_SENT: &str = "it was not sent";

/// Confines itself, then answers the questions that come through stdin until that closes.
#[must_use]
pub fn serve() -> ExitCode {
    let Ok(socket) = confinement::begin() else { return ExitCode::FAILURE };
    let confined = confine();
    let hello = confined.as_ref().map_or_else(|error| Answer::Failed(error.to_string()), |_| Answer::Confined);
    let told = protocol::send(&socket, &hello, &[]);
    match (told, confined) {
        (Ok(()), Ok(own_files)) if answer_all(&socket, own_files).is_ok() => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// The images that were asked about, by memtrace's number.
#[derive(Default)]
struct Images {
    functions: HashMap<usize, Names>,
    /// Of each of the image's files, the image itself first.
    variables: HashMap<usize, Vec<Variables>>,
}

/// Answers until the other side has closed.
fn answer_all(socket: &UnixStream, own_files: &Path) -> io::Result<()> {
    let mut images = Images::default();
    while let Some((question, files)) = protocol::receive::<Question>(socket, None)? {
        let answered = panic::catch_unwind(AssertUnwindSafe(|| answer(&mut images, &question, files, own_files)));
        let answer = answered.unwrap_or_else(|_| Answer::Failed("reading it fails on an assertion".into()));
        protocol::send(socket, &answer, &[])?;
    }
    Ok(())
}

fn answer(images: &mut Images, question: &Question, files: Vec<OwnedFd>, own_files: &Path) -> Answer {
    match &question.asked {
        Asked::Functions(offsets) => functions(&mut images.functions, question, files, own_files, offsets),
        Asked::Variables(offsets) => variables(&mut images.variables, question, files, (false, offsets)),
        Asked::ThreadLocals(offsets) => variables(&mut images.variables, question, files, (true, offsets)),
        Asked::Classes(names) => {
            answered(names.iter().map(|name| Some(Named { name: class(name)?, ..Named::default() })))
        }
    }
}

fn functions(
    images: &mut HashMap<usize, Names>,
    question: &Question,
    files: Vec<OwnedFd>,
    own_files: &Path,
    offsets: &[u64],
) -> Answer {
    if !question.files.is_empty() {
        match open(&question.files, files, own_files) {
            Ok(names) => _ = images.insert(question.image, names),
            Err(answer) => return answer,
        }
    }
    let Some(names) = images.get_mut(&question.image) else { return Answer::Failed(NOT_SENT.into()) };
    let at = |offset: &u64| {
        let mut place = names.at(*offset);
        protocol::shorten(&mut place);
        place
    };
    let places = offsets.iter().take(MAX_PLACES).map(at).collect();
    let problems = names.take_problems().into_iter().take(MAX_PROBLEMS).map(Problem::shortened).collect();
    Answer::Functions { places, problems }
}

fn variables(
    images: &mut HashMap<usize, Vec<Variables>>,
    question: &Question,
    files: Vec<OwnedFd>,
    (are_thread_local, offsets): (bool, &[u64]),
) -> Answer {
    if !question.files.is_empty() {
        match open_variables(&question.files, files) {
            Ok(variables) => _ = images.insert(question.image, variables),
            Err(why) => return Answer::Failed(why),
        }
    }
    let Some(files) = images.get(&question.image) else { return Answer::Failed(NOT_SENT.into()) };
    answered(offsets.iter().map(|offset| {
        let (symbol, begins_at) = files.iter().find_map(|file| file.at(are_thread_local, *offset))?;
        let name = if symbol.starts_with(VIRTUAL_TABLE) { symbol.to_owned() } else { demangled(symbol) };
        Some(Named { name, begins_at: Some(begins_at), ..Named::default() })
    }))
}

/// An answer of one name a place, or none.
fn answered(names: impl Iterator<Item = Option<Named>>) -> Answer {
    let place = |named: Option<Named>| {
        let mut place: Vec<Named> = named.into_iter().collect();
        protocol::shorten(&mut place);
        place
    };
    Answer::Functions { places: names.take(MAX_PLACES).map(place).collect(), problems: Vec::new() }
}

/// The variables that an image's files tell. Those of a debug file that is of no use are left out.
fn open_variables(kinds: &[FileKind], descriptors: Vec<OwnedFd>) -> Result<Vec<Variables>, String> {
    let mut all = Vec::new();
    for (kind, file) in kinds.iter().zip(descriptors) {
        let file = File::from(file);
        let variables = is_possible(&file).map_err(|error| error.to_string()).and_then(|()| Variables::read(&file));
        match variables {
            Ok(variables) if !is_other(&file, *kind) => all.push(variables),
            Err(why) if *kind == FileKind::Image => return Err(why),
            Ok(_) | Err(_) => {}
        }
    }
    Ok(all)
}

/// Takes in what an image's files tell. They stay mapped until the process ends, as the images of memtrace stay open.
fn open(kinds: &[FileKind], descriptors: Vec<OwnedFd>, own_files: &Path) -> Result<Names, Answer> {
    if kinds.len() != descriptors.len() {
        return Err(Answer::Failed("not all of its files have come".into()));
    }
    let (mut names, mut closed) = (Names::default(), Vec::new());
    for (index, (kind, file)) in kinds.iter().zip(descriptors).enumerate() {
        let file = File::from(file);
        let why = match is_possible(&file) {
            Ok(()) if is_other(&file, *kind) => continue,
            // The path leads to this very file: all that this process can open is what it was sent.
            Ok(()) => {
                let path = own_files.join(file.as_raw_fd().to_string());
                match names.add(path, &file, !claims_too_much(&file)) {
                    Ok(()) => continue,
                    Err(AddError::Closed) => {
                        closed.push(index);
                        continue;
                    }
                    Err(AddError::Refused(error)) => error.to_string(),
                }
            }
            Err(error) => error.to_string(),
        };
        // A debug file that is of no use costs what it would tell.
        match kind {
            FileKind::Image => return Err(Answer::Failed(why)),
            FileKind::Debug { .. } => names.note(Problem::DebugFile(why)),
        }
    }
    if closed.is_empty() { Ok(names) } else { Err(Answer::Closed(closed)) }
}

/// Checks that the file can be as large as it says: it will be mapped.
fn is_possible(file: &File) -> io::Result<()> {
    let stat = rustix::fs::fstat(file)?;
    let length = u64::try_from(stat.st_size).unwrap_or(u64::MAX);
    let taken = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
    if length > MAX_FILE_BYTES {
        return Err(io::Error::other(format!("it has {length} bytes, more than any real one")));
    }
    if length > MAX_HOLES_BYTES && length / MAX_COMPRESSION > taken {
        return Err(io::Error::other("most of it is holes"));
    }
    Ok(())
}

/// Whether it is another image's debug file, by the checksum that it should have.
fn is_other(file: &File, kind: FileKind) -> bool {
    let FileKind::Debug { checksum: Some(expected) } = kind else { return false };
    let (mut checksum, mut piece, mut at) = (crc32fast::Hasher::new(), vec![0; 1 << 16], 0);
    loop {
        match file.read_at(&mut piece, at) {
            Ok(0) => return checksum.finalize() != expected,
            Ok(read) => {
                checksum.update(&piece[..read]);
                at += read as u64;
            }
            Err(_) => return true,
        }
    }
}

/// Whether unpacking its sections takes more memory than there is, by what these say: blazesym asks for it all at once.
fn claims_too_much(file: &File) -> bool {
    let bounded = BoundedFile::new(file);
    let Ok(elf) = ElfFile64::<Endianness, _>::parse(&bounded) else { return false };
    let ranges = elf.sections().filter_map(|section| section.compressed_file_range().ok());
    let packed = ranges.filter(|range| range.format != CompressionFormat::None);
    packed.fold(0, |sum: u64, range| sum.saturating_add(range.uncompressed_size)) > MAX_UNPACKED_BYTES
}
