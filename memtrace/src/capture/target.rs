//! One target: a program in a process, its code and what is hooked in it, kept up to date while it lives.

use std::{
    collections::HashSet,
    io,
    num::NonZeroU32,
    ops::{Range, RangeInclusive},
    path::Path,
};

use memtrace_common::{
    ids::ProcessSlot,
    wire::{code::CodeRange, counters::Counter, stack::StackRecord},
};
use thiserror::Error;

use super::{
    attach::AttachError,
    images::Images,
    normalise::{Code, FilePlace, KnownCode, NormalisedStack, normalise},
};
use crate::{
    bpf::{Bpf, BpfError},
    model::{figures::Allocator, unchecked::NothingHooked},
    process::{
        code_map::CodeMap,
        image::Image,
        jit_code,
        mapping_log::MappedCode,
        maps::{self, Mapping, MapsError},
        moved_code, status,
    },
};

/// Why a process cannot be a target.
#[derive(Debug, Error)]
pub enum TargetError {
    /// There is no process of that pid, or not any more.
    #[error("cannot trace process {pid}: no such process")]
    NoSuchProcess {
        /// The pid.
        pid: u32,
    },
    /// The pid names a thread, which is not the first of its process.
    #[error("cannot trace process {tid}: it is a thread of process {pid}")]
    Thread {
        /// The number that was given as pid.
        tid: u32,
        /// The process.
        pid: u32,
    },
    /// It is a 32-bit program.
    #[error(
        "cannot trace process {pid} ({comm}): it is a 32-bit program, whose calls and stacks memtrace does not understand"
    )]
    Bits32 {
        /// The pid.
        pid: u32,
        /// Its short name.
        comm: String,
    },
    /// The pid names a thread of the kernel, or a zombie: it has no program.
    #[error("cannot trace process {pid} ({comm}): it runs no program")]
    NoProgram {
        /// The pid.
        pid: u32,
        /// Its short name.
        comm: String,
    },
    /// Its files under `/proc` may not be read.
    #[error("cannot look into process {pid}: {source}")]
    Closed {
        /// The pid.
        pid: u32,
        /// The system's error.
        source: io::Error,
    },
    /// Its mappings cannot be told.
    #[error(transparent)]
    Maps(#[from] MapsError),
    /// Nothing that it has mapped is an allocator that memtrace knows.
    #[error(
        "cannot trace process {pid} ({comm}): none of its {images} images defines an allocator that memtrace knows"
    )]
    NoAllocator {
        /// The pid.
        pid: u32,
        /// Its short name.
        comm: String,
        /// How many images were searched.
        images: usize,
        /// Whether it is one static image whose symbols have been stripped.
        stripped: bool,
    },
    /// The code of an image is in no file, so that nothing in it can be hooked.
    #[error(
        "cannot trace process {pid} ({comm}): it has moved the code of {image} to anonymous memory, where no probe can be placed"
    )]
    MovedCode {
        /// The pid.
        pid: u32,
        /// Its short name.
        comm: String,
        /// The image, as the process sees it.
        image: String,
    },
    /// An image that the user named is not there.
    #[error("cannot hook `{function}` of {image}: process {pid} ({comm}) has no such image mapped")]
    NoImage {
        /// The pid.
        pid: u32,
        /// Its short name.
        comm: String,
        /// The image as the user named it.
        image: String,
        /// The function as the user named it.
        function: String,
    },
    /// A probe was refused.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The kernel side failed.
    #[error(transparent)]
    Kernel(#[from] BpfError),
}

/// A target and what is known of it.
pub struct Target {
    /// Its thread group id.
    pub pid: NonZeroU32,
    /// Where the kernel side keeps it; [`ProcessSlot::NONE`] until it does.
    pub slot: ProcessSlot,
    /// Its own short name.
    pub comm: String,
    /// The program it runs.
    pub exe: String,
    /// The allocators that are hooked in it.
    pub allocators: Vec<Allocator>,
    /// Its images, by index.
    images: HashSet<usize>,
    /// The images that are hooked in its process, whatever program it ran then.
    hooked: HashSet<usize>,
    code: CodeMap,
    published: Vec<CodeRange>,
    knows_trampoline: bool,
    /// The images whose code it has moved to anonymous memory, as it sees them.
    moved: Vec<String>,
    /// The ranges of addresses to which it was moved.
    moved_parts: Vec<Range<u64>>,
}

impl Target {
    /// Looks at a process that is to be a target, without touching it.
    ///
    /// # Errors
    /// Where it is not there, runs no program, or may not be looked into.
    pub fn find(pid: NonZeroU32) -> Result<Self, TargetError> {
        let mut target = Self::vanished(pid);
        target.rename()?;
        Ok(target)
    }

    /// A process that had ended before it could be looked at.
    #[must_use]
    pub fn vanished(pid: NonZeroU32) -> Self {
        Self {
            pid,
            slot: ProcessSlot::NONE,
            comm: "?".to_owned(),
            exe: String::new(),
            allocators: Vec::new(),
            images: HashSet::new(),
            hooked: HashSet::new(),
            code: CodeMap::default(),
            published: Vec::new(),
            knows_trampoline: false,
            moved: Vec::new(),
            moved_parts: Vec::new(),
        }
    }

    /// The child that this target has forked: the same program with the same code, and no blocks yet. (A function that
    /// was hooked in the parent alone is not hooked there.)
    #[must_use]
    pub fn child(&self, pid: NonZeroU32) -> Self {
        Self {
            comm: self.comm.clone(),
            exe: self.exe.clone(),
            allocators: self.allocators.clone(),
            images: self.images.clone(),
            code: self.code.forked(),
            moved_parts: self.moved_parts.clone(),
            knows_trampoline: self.knows_trampoline,
            ..Self::vanished(pid)
        }
    }

    /// The program that its process runs next, after an exec. Probes in files that both have mapped stay.
    ///
    /// # Errors
    /// As [`Target::find`].
    pub fn successor(&self) -> Result<Self, TargetError> {
        Ok(Self { hooked: self.hooked.clone(), ..Self::find(self.pid)? })
    }

    /// Forgets what is hooked in the process alone: a thread of it runs another program, which the kernel does not know to be
    /// the same process.
    pub fn unbind(&mut self, images: &mut Images, bpf: &mut Bpf) {
        images.unbind(self.pid, bpf);
        self.hooked.clear();
    }

    /// Reads what the process calls itself and which program it runs.
    fn rename(&mut self) -> Result<(), TargetError> {
        let pid = self.pid.get();
        self.comm = status::comm(pid).map_err(|_| TargetError::NoSuchProcess { pid })?;
        self.exe = match status::exe(pid) {
            Ok(path) => status::printable(&path.to_string_lossy()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(TargetError::NoProgram { pid, comm: self.comm.clone() });
            }
            Err(source) => return Err(TargetError::Closed { pid, source }),
        };
        Ok(())
    }

    /// Looks at the mappings, attaches to every allocator that is not hooked yet, and tells the kernel side
    /// where the code is.
    ///
    /// # Errors
    /// Where the process has ended, or the kernel refuses a probe.
    pub fn look(&mut self, images: &mut Images, bpf: &mut Bpf) -> Result<(), TargetError> {
        let (mappings, moment) = self.hook(images, bpf)?;
        self.learn_trampoline(&mappings, bpf)?;
        self.code.update(mappings, moment);
        for _ in 0..self.code.take_forgotten() {
            bpf.count(self.slot, Counter::CodeForgotten);
        }
        self.publish_code(images, bpf)?;
        Ok(())
    }

    /// Attaches to every allocator that is mapped and not hooked yet. Returns the mappings, and of which moment they are
    /// ([`CodeMap::update`]).
    ///
    /// # Errors
    /// As [`Target::look`].
    pub fn hook(&mut self, images: &mut Images, bpf: &mut Bpf) -> Result<(Vec<Mapping>, Option<u64>), TargetError> {
        let before = bpf.process(self.slot)?.code_changes;
        let mappings = self.mappings()?;
        let moment = (bpf.process(self.slot)?.code_changes == before).then_some(before);
        self.note_moved_code(&mappings);
        for mapping in mappings.iter().filter(|mapping| mapping.executable) {
            let Some(index) = images.of_mapping(self.pid, mapping, bpf) else { continue };
            if !images.is_file(index) || !self.images.insert(index) {
                continue;
            }
            if self.hooked.insert(index) {
                let allocators = images.hook(index, self.pid, bpf)?;
                if !allocators.is_empty() {
                    bpf.note_hooked_code(&(mapping.start..mapping.end))?;
                }
                self.allocators.extend(allocators);
            } else {
                self.allocators.extend(images.allocators(index));
            }
        }
        Ok((mappings, moment))
    }

    /// Says, once for each image, that its code is in no file any more.
    fn note_moved_code(&mut self, mappings: &[Mapping]) {
        for (path, part) in moved_code::parts(mappings) {
            if !self.moved_parts.contains(&part) {
                self.moved_parts.push(part);
            }
            let image = status::printable(&path.to_string_lossy());
            if self.moved.contains(&image) {
                continue;
            }
            let Self { pid, comm, .. } = self;
            log::warn!(
                "{comm} (pid {pid}) has moved the code of {image} to anonymous memory: what it allocates there is not seen, and \
                 stacks end there"
            );
            self.moved.push(image);
        }
    }

    /// Takes in what the process has told of itself, which has ended before it could be looked at.
    pub fn learn(&mut self, told: MappedCode, images: &mut Images, bpf: &mut Bpf) {
        for mapping in &told.mappings {
            if let Some(index) = images.of_mapping(self.pid, mapping, bpf)
                && self.images.insert(index)
            {
                self.allocators.extend(images.allocators(index));
            }
        }
        if self.exe.is_empty() {
            self.comm = told.comm.unwrap_or_else(|| std::mem::take(&mut self.comm));
            self.exe =
                told.mappings.first().map(|first| status::printable(&first.path.to_string_lossy())).unwrap_or_default();
        }
        self.code.learn(told.mappings);
    }

    fn mappings(&self) -> Result<Vec<Mapping>, TargetError> {
        let pid = self.pid.get();
        match maps::read(pid) {
            // A process that has ended but was not waited for still has an empty maps file.
            Ok(mappings) if mappings.is_empty() => Err(TargetError::NoSuchProcess { pid }),
            Err(MapsError::Read { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {
                Err(TargetError::Closed { pid, source })
            }
            Err(MapsError::Read { .. }) => Err(TargetError::NoSuchProcess { pid }),
            other => Ok(other?),
        }
    }

    /// Tells the kernel side what code there is, if that has changed.
    fn publish_code(&mut self, images: &Images, bpf: &mut Bpf) -> Result<(), BpfError> {
        let ranges: Vec<CodeRange> = self.code.mappings().iter().map(|mapping| code_range(mapping, images)).collect();
        if ranges != self.published && bpf.set_code(self.slot, &ranges)? {
            self.published = ranges;
        }
        Ok(())
    }

    /// The kernel maps the page to which hooked functions return once the first of them is called.
    fn learn_trampoline(&mut self, mappings: &[Mapping], bpf: &mut Bpf) -> Result<(), BpfError> {
        if self.knows_trampoline {
            return Ok(());
        }
        if let Some(page) = mappings.iter().find(|mapping| mapping.path.as_os_str() == "[uprobes]") {
            bpf.set_trampoline(self.slot, page.start)?;
            self.knows_trampoline = true;
        }
        Ok(())
    }

    /// Whether a look is due although nothing was announced.
    #[must_use]
    pub fn wants_look(&self) -> bool {
        !self.knows_trampoline
    }

    /// Checks that the images which the user named are there.
    ///
    /// # Errors
    /// Where one is not.
    pub fn check_custom(&self, images: &Images) -> Result<(), TargetError> {
        let names = || self.images.iter().map(|index| Path::new(&images.all()[*index].name.path));
        match images.custom().iter().find(|function| !names().any(|path| function.is_in(path))) {
            None => Ok(()),
            Some(function) => Err(TargetError::NoImage {
                pid: self.pid.get(),
                comm: self.comm.clone(),
                image: function.image.clone(),
                function: function.function.clone(),
            }),
        }
    }

    /// The error for a target in which [`Target::look`] has found nothing to hook.
    #[must_use]
    pub fn no_allocator(&self, images: &Images) -> TargetError {
        if self.is_32_bit() {
            return TargetError::Bits32 { pid: self.pid.get(), comm: self.comm.clone() };
        }
        if let Some(image) = self.moved.first() {
            return TargetError::MovedCode { pid: self.pid.get(), comm: self.comm.clone(), image: image.clone() };
        }
        let opened: Vec<&Image> = self.images.iter().filter_map(|index| images.image(*index)).collect();
        TargetError::NoAllocator {
            pid: self.pid.get(),
            comm: self.comm.clone(),
            images: opened.len(),
            stripped: opened.iter().all(|image| !image.has_interpreter() && !image.has_symbols()),
        }
    }

    /// Whether all of its code lies where 32-bit addresses lead. (The vdso of a 64-bit program lies beside its stack, at the end.)
    fn is_32_bit(&self) -> bool {
        let mappings = self.code.mappings();
        !mappings.is_empty() && mappings.iter().all(|mapping| mapping.end <= 1 << 32)
    }

    /// Why nothing is hooked in it.
    #[must_use]
    pub fn why_nothing_is_hooked(&self, images: &Images) -> NothingHooked {
        let opened: Vec<&Image> = self.images.iter().filter_map(|index| images.image(*index)).collect();
        match (self.images.len(), opened.len()) {
            (0, _) => NothingHooked::EndedEarly,
            _ if self.is_32_bit() => NothingHooked::Is32Bit,
            (_, 0) => NothingHooked::NoImages,
            _ if opened.iter().all(|image| !image.has_interpreter() && !image.has_symbols()) => NothingHooked::Stripped,
            (_, images) => NothingHooked::NoAllocator { images },
        }
    }

    /// How often addresses of its code were found at which there was another image before.
    #[must_use]
    pub fn contests(&self) -> u64 {
        self.code.contests()
    }

    /// Whether a frame of a stack is where several images have been.
    #[must_use]
    pub fn is_contested(&self, stack: &StackRecord) -> bool {
        stack.used().iter().any(|address| self.code.is_contested(address.wrapping_sub(1)))
    }

    /// A stack that was walked `during` these moments of its code, independent of the process.
    #[must_use]
    pub fn normalise(&self, stack: &StackRecord, during: &RangeInclusive<u64>, images: &Images) -> NormalisedStack {
        let stack = normalise(stack, (&self.code, during), &TargetCode { images, moved: &self.moved_parts });
        // Nothing rests on how the outermost frame would be left.
        let inner = stack.places.split_last().map_or(&[][..], |(_, inner)| inner);
        let is_inferred = inner.iter().any(|place| images.is_left_by_inference(place));
        NormalisedStack { is_inferred, ..stack }
    }
}

/// The code of one target.
struct TargetCode<'a> {
    images: &'a Images,
    moved: &'a [Range<u64>],
}

impl KnownCode for TargetCode<'_> {
    fn of(&self, mapping: &Mapping) -> Code {
        let is_moved = || self.moved.iter().any(|part| part.start < mapping.end && mapping.start < part.end);
        match self.images.known(mapping) {
            Some(image) if self.images.is_jit(image) => Code::Jit,
            Some(image) => Code::Image(image),
            None if jit_code::is_in_memory(mapping) && !is_moved() => Code::Jit,
            None => Code::Other,
        }
    }

    fn is_inferred(&self, place: FilePlace) -> bool {
        self.images.is_inferred(place)
    }

    fn is_described(&self, place: FilePlace) -> bool {
        self.images.rows(place.0).is_some() && !self.images.is_inferred(place)
    }

    fn follows_call(&self, place: FilePlace) -> bool {
        self.images.follows_call(place)
    }

    fn is_stack_end(&self, place: FilePlace) -> bool {
        self.images.is_stack_end(place)
    }

    fn is_signal_return(&self, place: FilePlace) -> bool {
        self.images.is_signal_return(place)
    }
}

/// A range of code, with the rows of its image where it has some.
fn code_range(mapping: &Mapping, images: &Images) -> CodeRange {
    let plain = CodeRange { start: mapping.start, end: mapping.end, ..CodeRange::default() };
    let with_rows = || {
        let index = images.known(mapping)?;
        let (first_row, row_count) = images.rows(index)?;
        let offset = images.image(index)?.virtual_offset_of_code(mapping.file_offset)?;
        Some(CodeRange { bias: mapping.start.wrapping_sub(offset), first_row, row_count, ..plain })
    };
    with_rows().unwrap_or(plain)
}
