//! One target: a program in a process, its code and what is hooked in it, kept up to date while it lives.

use std::{collections::HashSet, io, num::NonZeroU32, path::Path};

use memtrace_common::{process::ProcessSlot, stack::StackRecord, unwind::CodeRange};
use thiserror::Error;

use super::{
    attach::AttachError,
    images::Images,
    kernel::{Kernel, KernelError},
};
use crate::{
    model::{frame::Reason, report::Allocator},
    process::{
        image::Image,
        mapping_log::Told,
        maps::{self, CodeMap, Mapping, MapsError},
        moved_code, status,
    },
    symbolize::CodePlace,
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
        /// What the system says.
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
    Kernel(#[from] KernelError),
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
    /// What is hooked in it.
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
        }
    }

    /// The child that this target has forked: the same program with the same code, and an empty book. (What
    /// was hooked in the parent alone is not hooked there.)
    #[must_use]
    pub fn child(&self, pid: NonZeroU32) -> Self {
        Self {
            comm: self.comm.clone(),
            exe: self.exe.clone(),
            allocators: self.allocators.clone(),
            images: self.images.clone(),
            code: self.code.clone(),
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
    pub fn unbind(&mut self, images: &mut Images, kernel: &mut Kernel) {
        images.unbind(self.pid, kernel);
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
    pub fn look(&mut self, images: &mut Images, kernel: &mut Kernel) -> Result<(), TargetError> {
        let mappings = self.hook(images, kernel)?;
        self.learn_trampoline(&mappings, kernel)?;
        self.code.update(mappings);
        self.publish_code(images, kernel)?;
        Ok(())
    }

    /// Attaches to every allocator that is mapped and not hooked yet. Returns the mappings.
    ///
    /// # Errors
    /// As [`Target::look`].
    pub fn hook(&mut self, images: &mut Images, kernel: &mut Kernel) -> Result<Vec<Mapping>, TargetError> {
        let mappings = self.mappings()?;
        self.note_moved_code(&mappings);
        for mapping in mappings.iter().filter(|mapping| mapping.executable) {
            let Some(index) = images.of_mapping(self.pid, mapping, kernel) else { continue };
            if !images.is_file(index) || !self.images.insert(index) {
                continue;
            }
            if self.hooked.insert(index) {
                let allocators = images.hook(index, self.pid, kernel)?;
                if !allocators.is_empty() {
                    kernel.note_hooked_code(&(mapping.start..mapping.end))?;
                }
                self.allocators.extend(allocators);
            } else {
                self.allocators.extend(images.allocators(index));
            }
        }
        Ok(mappings)
    }

    /// Says, once for each image, that its code is in no file any more.
    fn note_moved_code(&mut self, mappings: &[Mapping]) {
        for path in moved_code::files(mappings) {
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
    pub fn learn(&mut self, told: Told, images: &mut Images, kernel: &mut Kernel) {
        for mapping in &told.mappings {
            if let Some(index) = images.of_mapping(self.pid, mapping, kernel)
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
        self.code.update(told.mappings);
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
    fn publish_code(&mut self, images: &Images, kernel: &mut Kernel) -> Result<(), KernelError> {
        let ranges: Vec<CodeRange> = self.code.mappings().iter().map(|mapping| code_range(mapping, images)).collect();
        if ranges != self.published {
            kernel.set_code(self.slot, &ranges)?;
            self.published = ranges;
        }
        Ok(())
    }

    /// The kernel maps the page to which hooked functions return once the first of them is called.
    fn learn_trampoline(&mut self, mappings: &[Mapping], kernel: &mut Kernel) -> Result<(), KernelError> {
        if self.knows_trampoline {
            return Ok(());
        }
        if let Some(page) = mappings.iter().find(|mapping| mapping.path.as_os_str() == "[uprobes]") {
            kernel.set_trampoline(self.slot, page.start)?;
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

    /// Why nothing is hooked in it, in words for people.
    #[must_use]
    pub fn why_nothing_is_hooked(&self, images: &Images) -> String {
        let opened: Vec<&Image> = self.images.iter().filter_map(|index| images.image(*index)).collect();
        match (self.images.len(), opened.len()) {
            (0, _) => "it ended before memtrace could look at it".to_owned(),
            _ if self.is_32_bit() => "it is a 32-bit program, and memtrace traces 64-bit ones".to_owned(),
            (_, 0) => "none of its images is an ELF file of a 64-bit program".to_owned(),
            _ if opened.iter().all(|image| !image.has_interpreter() && !image.has_symbols()) => {
                "it is linked statically and stripped, so its allocator has no name to be found by".to_owned()
            }
            (_, count) => format!("none of its {count} images defines an allocator that memtrace knows"),
        }
    }

    /// The places of a stack's return addresses, and whether all of them are there.
    ///
    /// A frame pointer that was no frame pointer leads the walk out of the code: it is cut there.
    #[must_use]
    pub fn normalise(&self, stack: &StackRecord, images: &Images) -> (Vec<CodePlace>, bool) {
        let mut places = Vec::with_capacity(stack.used().len());
        for address in stack.used() {
            // A return address may lie one past its mapping's end; the call before it does not.
            let mapping = self.code.find(address.wrapping_sub(1));
            let place = match mapping {
                None if places.is_empty() => CodePlace::Address(*address, Reason::Unmapped),
                None => return (places, false),
                Some(mapping) => match images.known(mapping) {
                    Some(image) => {
                        CodePlace::File { image, file_offset: address - mapping.start + mapping.file_offset }
                    }
                    None => CodePlace::Address(*address, Reason::Anonymous),
                },
            };
            places.push(place);
        }
        (places, stack.truncated == 0)
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
