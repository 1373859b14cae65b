//! One target: its code, its images, and the probes in them, kept up to date while it lives.

use std::{
    collections::{HashMap, HashSet},
    io,
    num::NonZeroU32,
    path::Path,
    sync::Arc,
    time::Instant,
};

use memtrace_common::{
    process::ProcessSlot,
    stack::StackRecord,
    unwind::{CodeRange, Row},
};
use thiserror::Error;

use super::{
    allocators::custom::CustomFunction,
    attach::{self, AttachError, Programs, WayOut},
    kernel::{Kernel, KernelError},
};
use crate::{
    model::{
        frame::{ImageName, Reason},
        report::Allocator,
    },
    process::{
        image::{Image, ImageError, VDSO},
        maps::{self, CodeMap, FileId, Mapping, MapsError},
        status,
    },
    symbolize::{CodePlace, NamedImage},
    unwind::cfi,
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
    /// Where the kernel side keeps it.
    pub slot: ProcessSlot,
    /// Its own short name.
    pub comm: String,
    /// The program it runs.
    pub exe: String,
    /// What is hooked in it.
    pub allocators: Vec<Allocator>,
    /// Its images, in the order in which they were first seen.
    pub images: Vec<NamedImage>,
    image_of_file: HashMap<FileId, usize>,
    /// The index of the vdso's image, which is of no file.
    vdso: Option<usize>,
    /// The files that were searched for allocators.
    searched: HashSet<FileId>,
    code: CodeMap,
    /// Where each image's unwind rows stand, by the image's index; nothing for images without.
    rows: Vec<Option<(u32, u32)>>,
    published: Vec<CodeRange>,
    knows_trampoline: bool,
    programs: Programs,
    /// What leaves hooked calls by other ways than a return, by image, as long as it is not watched.
    ways_out: Vec<(usize, Vec<WayOut>)>,
    /// Whether some hooked call may be left so.
    may_be_left: bool,
    /// The functions that the user named, besides those of the known families.
    pub custom: Vec<CustomFunction>,
}

impl Target {
    /// Looks at a process that is to be a target, without touching it.
    ///
    /// # Errors
    /// Where it is not there, runs no program, or may not be looked into.
    pub fn find(pid: NonZeroU32, slot: ProcessSlot, programs: Programs) -> Result<Self, TargetError> {
        let mut target = Self {
            pid,
            slot,
            comm: String::new(),
            exe: String::new(),
            allocators: Vec::new(),
            images: Vec::new(),
            image_of_file: HashMap::new(),
            vdso: None,
            searched: HashSet::new(),
            code: CodeMap::default(),
            rows: Vec::new(),
            published: Vec::new(),
            knows_trampoline: false,
            programs,
            ways_out: Vec::new(),
            may_be_left: false,
            custom: Vec::new(),
        };
        target.rename()?;
        Ok(target)
    }

    /// Reads again what the process calls itself and which program it runs.
    ///
    /// # Errors
    /// As [`Target::find`].
    pub fn rename(&mut self) -> Result<(), TargetError> {
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

    /// Looks at the mappings and attaches to every allocator that is not hooked yet.
    ///
    /// # Errors
    /// Where the process has ended, or the kernel refuses a probe.
    pub fn look(&mut self, kernel: &mut Kernel) -> Result<(), TargetError> {
        let mappings = self.mappings()?;
        for mapping in mappings.iter().filter(|mapping| mapping.executable) {
            if mapping.path.as_os_str() == VDSO && self.vdso.is_none() {
                self.vdso = Some(self.add_image(mapping, Image::vdso()));
            }
            let Some(file) = mapping.file else { continue };
            let index = self.image_index(file, mapping);
            if !self.searched.insert(file) {
                continue;
            }
            let Some(image) = &self.images[index].image else { continue };
            let survey = attach::survey(image, &self.custom)?;
            attach::attach_to_linker(kernel, self.pid, image, &survey)?;
            self.ways_out.push((index, survey.ways_out));
            for plan in survey.plans {
                self.may_be_left |= plan.may_be_left();
                attach::attach(kernel, self.pid, image, &plan, self.programs)?;
                self.allocators.push(Allocator {
                    name: plan.name,
                    image: self.images[index].name.path.clone(),
                    functions: plan.hooks.into_iter().map(|hook| hook.name).collect(),
                });
            }
        }
        if self.may_be_left {
            self.watch_ways_out(kernel)?;
        }
        self.learn_trampoline(&mappings, kernel)?;
        self.code.update(mappings);
        self.publish_code(kernel)?;
        Ok(())
    }

    /// Attaches to the ways out of hooked calls in the images that were not looked at for them yet.
    fn watch_ways_out(&mut self, kernel: &mut Kernel) -> Result<(), AttachError> {
        for (index, ways_out) in std::mem::take(&mut self.ways_out) {
            if let Some(image) = &self.images[index].image {
                attach::attach_to_ways_out(kernel, self.pid, image, &ways_out)?;
            }
        }
        Ok(())
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

    /// The index of the image that is mapped at `mapping`, opened at first sight.
    fn image_index(&mut self, file: FileId, mapping: &Mapping) -> usize {
        if let Some(index) = self.image_of_file.get(&file) {
            return *index;
        }
        let index = self.add_image(mapping, Image::open(self.pid.get(), mapping));
        self.image_of_file.insert(file, index);
        index
    }

    fn add_image(&mut self, mapping: &Mapping, image: Result<Image, ImageError>) -> usize {
        let image = image.map_err(|error| log::info!("{error}")).ok();
        let name = ImageName {
            path: status::printable(&mapping.path.to_string_lossy()),
            build_id: image.as_ref().and_then(|image| image.build_id.clone()),
        };
        self.images.push(NamedImage { name: Arc::new(name), image });
        self.images.len() - 1
    }

    /// The image that a mapping is of, if it was seen before.
    fn image_of(&self, mapping: &Mapping) -> Option<usize> {
        match mapping.file {
            Some(file) => self.image_of_file.get(&file).copied(),
            None if mapping.path.as_os_str() == VDSO => self.vdso,
            None => None,
        }
    }

    /// Tells the kernel side what code there is, if that has changed, and compiles the call frame
    /// information of images that are new.
    fn publish_code(&mut self, kernel: &mut Kernel) -> Result<(), KernelError> {
        for named in &self.images[self.rows.len()..] {
            let begun = Instant::now();
            let rows = compile_rows(named);
            let place = rows.as_ref().and_then(|rows| kernel.add_rows(rows));
            if let Some(rows) = rows {
                let (path, ms) = (&named.name.path, begun.elapsed().as_secs_f64() * 1000.0);
                log::info!("compiled {} unwind rows of {path} in {ms:.1} ms", rows.len());
                if place.is_none() {
                    log::warn!("no room for the unwind rows of {path}; --max-rows makes more");
                }
            }
            self.rows.push(place);
        }
        let ranges: Vec<CodeRange> = self.code.mappings().iter().map(|mapping| self.code_range(mapping)).collect();
        if ranges != self.published {
            kernel.set_code(self.slot, &ranges)?;
            self.published = ranges;
        }
        Ok(())
    }

    fn code_range(&self, mapping: &Mapping) -> CodeRange {
        let plain = CodeRange { start: mapping.start, end: mapping.end, ..CodeRange::default() };
        let with_rows = || {
            let index = self.image_of(mapping)?;
            let (first_row, row_count) = self.rows[index]?;
            let offset = self.images[index].image.as_ref()?.virtual_offset_of_code(mapping.file_offset)?;
            Some(CodeRange { bias: mapping.start.wrapping_sub(offset), first_row, row_count, ..plain })
        };
        with_rows().unwrap_or(plain)
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

    /// The process has become another program: what was known of its addresses is void.
    ///
    /// # Errors
    /// As [`Target::find`].
    pub fn start_afresh(&mut self) -> Result<(), TargetError> {
        self.code = CodeMap::default();
        self.knows_trampoline = false;
        self.rename()
    }

    /// Checks that the images which the user named are there.
    ///
    /// # Errors
    /// Where one is not.
    pub fn check_custom(&self) -> Result<(), TargetError> {
        let is_mapped =
            |function: &&CustomFunction| self.images.iter().any(|named| function.is_in(Path::new(&named.name.path)));
        match self.custom.iter().find(|function| !is_mapped(function)) {
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
    pub fn no_allocator(&self) -> TargetError {
        let of_files = self.images.iter().enumerate().filter(|(index, _)| Some(*index) != self.vdso);
        let opened: Vec<&Image> = of_files.filter_map(|(_, named)| named.image.as_ref()).collect();
        TargetError::NoAllocator {
            pid: self.pid.get(),
            comm: self.comm.clone(),
            images: opened.len(),
            stripped: opened.iter().all(|image| !image.has_interpreter() && !image.has_symbols()),
        }
    }

    /// The places of a stack's return addresses, and whether all of them are there.
    ///
    /// A frame pointer that was no frame pointer leads the walk out of the code: it is cut there.
    #[must_use]
    pub fn normalise(&self, stack: &StackRecord) -> (Vec<CodePlace>, bool) {
        let mut places = Vec::with_capacity(stack.used().len());
        for address in stack.used() {
            // A return address may lie one past its mapping's end; the call before it does not.
            let mapping = self.code.find(address.wrapping_sub(1));
            let place = match mapping {
                None if places.is_empty() => CodePlace::Address(*address, Reason::Unmapped),
                None => return (places, false),
                Some(mapping) => match self.image_of(mapping) {
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

/// The unwind rows of an image; `None` where it has no usable call frame information.
fn compile_rows(named: &NamedImage) -> Option<Vec<Row>> {
    let section = match named.image.as_ref()?.frame_section() {
        Ok(section) => section?,
        Err(error) => {
            log::info!("{error}");
            return None;
        }
    };
    cfi::compile(&section).map_err(|error| log::info!("{}: {error}", named.name.path)).ok()
}
