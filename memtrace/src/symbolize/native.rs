//! Native code, through a confined process that reads symbols; the kernel's by its own list.

use std::{
    collections::{HashMap, HashSet},
    os::fd::BorrowedFd,
    sync::Arc,
    time::Duration,
};

use super::{
    debug_files,
    image::{ImageCode, NamedImage},
    reader::{
        Failure, PATIENCE, Reader,
        protocol::{Asked, FileKind, MAX_PLACES, Named, Problem},
    },
};
use crate::{
    model::{
        code_place::{CodePlace, Symbols},
        frame::{Frame, Function, Place, Reason},
    },
    process::{image::Image, status::printable},
};

/// The CPU time that each place adds to its image's limit in a run: twenty times as much as one takes.
const PATIENCE_A_PLACE: Duration = Duration::from_millis(1);
/// Images over which the reading process may be lost in a run. A host has some that are corrupt; more are made on purpose.
const MAX_LOST: usize = 8;

/// Resolves places, and remembers what it has resolved.
pub struct Symbolizer {
    /// The process that reads symbols; nothing once it was given up.
    reader: Option<Reader>,
    /// The images that have broken it, or that it cannot read.
    failed: HashMap<usize, Reason>,
    /// The images of which was told that a part of them cannot be read.
    told: HashSet<usize>,
    /// The CPU time that each image may take yet.
    left: HashMap<usize, Duration>,
    resolved: HashMap<CodePlace, Arc<[Frame]>>,
}

impl Symbols for Symbolizer {
    /// The frames of a place that was part of an earlier batch.
    fn frames(&self, place: CodePlace) -> Arc<[Frame]> {
        self.resolved.get(&place).cloned().unwrap_or_default()
    }
}

impl Symbolizer {
    /// Starts the process that reads symbols: before memtrace gives up its privileges, so that the other can do so as well.
    #[must_use]
    pub fn start() -> Self {
        Self {
            reader: start_reader(),
            failed: HashMap::new(),
            told: HashSet::new(),
            left: HashMap::new(),
            resolved: HashMap::new(),
        }
    }

    /// Resolves every place that is not resolved yet, one batch an image.
    pub fn symbolize(&mut self, images: &[Arc<NamedImage>], places: impl IntoIterator<Item = CodePlace>) {
        let mut by_image: HashMap<usize, Vec<u64>> = HashMap::new();
        let mut asked = HashSet::new();
        for place in places {
            if self.resolved.contains_key(&place) {
                continue;
            }
            match place {
                // Each is asked for only once.
                CodePlace::File { image, file_offset } if asked.insert(place) => {
                    by_image.entry(image).or_default().push(file_offset);
                }
                CodePlace::File { .. } => {}
                CodePlace::Kernel { image, offset } => {
                    if let ImageCode::Kernel(code) = &images[image].code {
                        self.resolved.insert(place, Arc::new([code.frame(image, offset)]));
                    }
                }
                CodePlace::Jit => {
                    let frame = Frame { place: Place::Jit, function: Err(Reason::Jit) };
                    self.resolved.insert(place, Arc::new([frame]));
                }
                CodePlace::Address(address, why) => {
                    self.resolved.insert(place, Arc::new([nowhere(address, why)]));
                }
            }
        }
        for (index, offsets) in by_image {
            self.symbolize_image(index, &images[index], &offsets);
        }
    }

    fn symbolize_image(&mut self, index: usize, named: &NamedImage, file_offsets: &[u64]) {
        let places = u32::try_from(file_offsets.len()).unwrap_or(u32::MAX);
        let left = self.left.get(&index).copied().unwrap_or(PATIENCE) + PATIENCE_A_PLACE * places;
        let begun = self.cpu_time();
        let used = |symbolizer: &Self| symbolizer.cpu_time().saturating_sub(begun);
        // A return address may belong to the next line, or even to the next function: the call is the instruction before it.
        let call = |image: &Image, offset: &u64| {
            let before = offset.saturating_sub(1);
            image.virtual_offset(before).unwrap_or(before)
        };
        for file_offsets in file_offsets.chunks(MAX_PLACES) {
            let functions = match named.file() {
                Some(image) => {
                    let calls = Asked::Functions(file_offsets.iter().map(|offset| call(image, offset)).collect());
                    let patience = left.saturating_sub(used(self));
                    self.ask(index, named, image, &calls, patience)
                }
                None => Err(Reason::ImageUnreadable),
            };
            let mut functions = functions.map(Vec::into_iter);
            for file_offset in file_offsets {
                let virtual_offset = named.file().and_then(|image| image.virtual_offset(*file_offset));
                let offset = virtual_offset.unwrap_or(*file_offset);
                let place = Place::Image { image: Arc::clone(&named.name), offset };
                let frames = match functions.as_mut().map(Iterator::next) {
                    Ok(Some(functions)) if !functions.is_empty() => frames_of(functions, &place),
                    Ok(_) => vec![Frame { place, function: Err(Reason::NoSymbol) }],
                    Err(why) => vec![Frame { place, function: Err(*why) }],
                };
                self.resolved.insert(CodePlace::File { image: index, file_offset: *file_offset }, frames.into());
            }
        }
        self.left.insert(index, left.saturating_sub(used(self)));
    }

    /// The CPU time of the process that reads symbols.
    fn cpu_time(&self) -> Duration {
        self.reader.as_ref().map(Reader::cpu_time).unwrap_or_default()
    }

    /// The names of variables, or of thread-local ones, at offsets of an image (virtual ones, or those in its thread-local data), and
    /// where they begin. Nothing where the image tells no name. `index` tells the image from others, as it does in places.
    pub fn variables(
        &mut self,
        index: usize,
        named: &NamedImage,
        is_thread_local: bool,
        offsets: &[u64],
    ) -> Vec<Option<(String, u64)>> {
        let kind = if is_thread_local { Asked::ThreadLocals } else { Asked::Variables };
        let mut names = Vec::with_capacity(offsets.len());
        for offsets in offsets.chunks(MAX_PLACES) {
            let begun = self.cpu_time();
            let left = self.left.get(&index).copied().unwrap_or(PATIENCE);
            let asked = kind(offsets.to_vec());
            let told = named.file().and_then(|image| self.ask(index, named, image, &asked, left).ok());
            self.left.insert(index, left.saturating_sub(self.cpu_time().saturating_sub(begun)));
            let mut told = told.into_iter().flatten();
            names.extend(offsets.iter().map(|_| {
                let named = told.next()?.into_iter().next()?;
                Some((printable(&named.name), named.begins_at?))
            }));
        }
        names
    }

    /// The names at places of an image, asked of the reading process. Where that is lost over the image, another takes its place.
    fn ask(
        &mut self,
        index: usize,
        named: &NamedImage,
        image: &Image,
        asked: &Asked,
        patience: Duration,
    ) -> Result<Vec<Vec<Named>>, Reason> {
        if let Some(why) = self.failed.get(&index) {
            return Err(*why);
        }
        // That it ends may be another's doing (no memory for all symbols together, say): once more, alone.
        let mut is_second_try = false;
        loop {
            let reader = self.reader.as_mut().ok_or(Reason::NoReader)?;
            let is_known = reader.knows(index, asked);
            let debug = if is_known { None } else { debug_files::of(image) };
            let own = (!is_known).then(|| (FileKind::Image, image.descriptor()));
            let debug = debug.as_ref().map(|(file, sum)| (FileKind::Debug { checksum: *sum }, file.descriptor()));
            let files: Vec<(FileKind, BorrowedFd<'_>)> = own.into_iter().chain(debug).collect();
            let failure = match reader.ask(index, &files, asked, patience) {
                Ok((functions, problems)) => {
                    self.tell(index, named, &problems);
                    return Ok(functions);
                }
                Err(failure) => failure,
            };
            if !matches!(failure, Failure::Told(_) | Failure::Closed(_)) {
                // The old one ends first: two may be more than there is memory for.
                self.reader = None;
                self.reader = start_reader();
            }
            if failure != Failure::Ended || std::mem::replace(&mut is_second_try, true) {
                return Err(self.give_up(index, named, &failure));
            }
        }
    }

    /// Says which parts of an image's files could not be read: once, also where the reading process is another by now.
    fn tell(&mut self, index: usize, named: &NamedImage, problems: &[Problem]) {
        if problems.is_empty() || !self.told.insert(index) {
            return;
        }
        for problem in problems {
            let (part, without, why) = match problem {
                Problem::Lines(why) => ("debug information", "its functions have no file and line", why),
                Problem::DebugFile(why) => ("debug file", "its functions may have no file and line", why),
                Problem::MiniDebugInfo(why) => (".gnu_debugdata", "only functions that it exports have names", why),
            };
            log::warn!("the {part} of {} cannot be read, {without}: {}", named.name.path, printable(why));
        }
    }

    /// Remembers that an image has no names, and says why.
    fn give_up(&mut self, index: usize, named: &NamedImage, failure: &Failure) -> Reason {
        let path = &named.name.path;
        let (why, what) = match failure {
            Failure::Told(why) => {
                log::info!("no symbols from {path}: {}", printable(why));
                self.failed.insert(index, Reason::ImageUnreadable);
                return Reason::ImageUnreadable;
            }
            Failure::Closed(why) => {
                log::warn!("no names from {path}: others than its owner may not read it, and {why}");
                eprintln!(
                    "hint: let others read the file (chmod o+r), or make it smaller (copies take 256 MiB at most)"
                );
                self.failed.insert(index, Reason::ImageUnreadable);
                return Reason::ImageUnreadable;
            }
            Failure::Ended => (Reason::ReaderEnded, "ended over it"),
            Failure::Late => (Reason::ReaderLate, "took too long for it"),
            Failure::Nonsense => (Reason::ReaderEnded, "gave no answer that can be understood"),
        };
        let hint = match why {
            Reason::ReaderLate => {
                "the machine is busy, or the file is made to take long; other images have their names"
            }
            _ => "the file is corrupt, changes, or is made to break its readers; compare it with its package's",
        };
        log::warn!("no names from {path}: the process that reads symbols {what}");
        eprintln!("hint: {hint}");
        self.failed.insert(index, why);
        if self.failed.values().filter(|why| matches!(why, Reason::ReaderEnded | Reason::ReaderLate)).count() > MAX_LOST
        {
            self.reader = None;
            log::warn!(
                "more than {MAX_LOST} images have broken the process that reads symbols: no more names from any"
            );
            eprintln!("hint: -v names the images; trace the processes that use none of these");
        }
        why
    }
}

/// The frame at an address that lies in no image.
fn nowhere(address: u64, why: Reason) -> Frame {
    let place = match why {
        Reason::KernelHidden | Reason::KernelUnlisted => Place::Kernel { image: None, offset: address },
        _ => Place::Address(address),
    };
    Frame { place, function: Err(why) }
}

fn start_reader() -> Option<Reader> {
    let started = Reader::start();
    started
        .map_err(|error| {
            log::warn!("no functions have names: the process that reads symbols does not start: {error}");
            eprintln!("hint: it needs /proc, memory for a second process, and a kernel with CONFIG_SECCOMP_FILTER");
        })
        .ok()
}

/// The functions at one place, from the innermost inlined one outwards.
fn frames_of(functions: Vec<Named>, place: &Place) -> Vec<Frame> {
    let last = functions.len() - 1;
    let frame = |(position, named): (usize, Named)| Frame {
        place: place.clone(),
        function: Ok(Function {
            name: printable(&named.name),
            file: named.file.map(|file| printable(&file)),
            line: named.line,
            inlined: position < last,
        }),
    };
    functions.into_iter().enumerate().map(frame).collect()
}
