//! The images of all targets: each file is opened, searched for allocators and compiled for unwinding once,
//! however many processes have it mapped.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    num::NonZeroU32,
    sync::Arc,
    time::Instant,
};

use memtrace_common::unwind::Row;

use super::{
    allocators::custom::CustomFunction,
    attach::{self, AttachError, Plan, Programs, Survey},
    kernel::{Kernel, RowPlace},
};
use crate::{
    model::{frame::ImageName, report::Allocator},
    process::{
        image::{Image, ImageError, VDSO},
        maps::{FileId, Mapping},
        status,
    },
    symbolize::NamedImage,
    unwind::cfi,
};

/// In which processes probes fire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// In each target alone.
    Targets,
    /// In every process that has the image mapped: for targets that begin by themselves, which must be hooked
    /// before their first instruction. The kernel side lets the others go at once.
    EveryProcess,
}

/// Every image that any target has or had mapped.
pub struct Images {
    scope: Scope,
    programs: Programs,
    /// Whether targets are to wait before they end.
    holds_ends: bool,
    all: Vec<NamedImage>,
    of_file: HashMap<FileId, usize>,
    /// The index of the vdso's image, which is of no file.
    vdso: Option<usize>,
    /// Where each image's unwind rows stand, by the image's index; nothing for images without.
    rows: Vec<Option<RowPlace>>,
    /// The same by build id: containers have copies of the same files.
    rows_of_build: HashMap<String, Option<RowPlace>>,
    /// Whether it was said that there is no room for more.
    lacks_rows: bool,
    /// The functions that the user named, besides those of the known families.
    custom: Vec<CustomFunction>,
    /// What is of interest in each image that was searched, by its index.
    surveys: HashMap<usize, Survey>,
    /// The images whose ways out of hooked calls are not watched, by the process in which they might have to be.
    unwatched: HashMap<Option<NonZeroU32>, Vec<usize>>,
    /// The processes in which they are, because some hooked call may be left so.
    watched: HashSet<Option<NonZeroU32>>,
    /// The images that are hooked in every process.
    hooked: HashSet<usize>,
}

impl Images {
    /// No image yet. With `holds_ends`, targets will wait before they end.
    #[must_use]
    pub fn new(scope: Scope, programs: Programs, custom: Vec<CustomFunction>, holds_ends: bool) -> Self {
        Self {
            scope,
            programs,
            holds_ends,
            all: Vec::new(),
            of_file: HashMap::new(),
            vdso: None,
            rows: Vec::new(),
            rows_of_build: HashMap::new(),
            lacks_rows: false,
            custom,
            surveys: HashMap::new(),
            unwatched: HashMap::new(),
            watched: HashSet::new(),
            hooked: HashSet::new(),
        }
    }

    /// In which processes probes fire.
    #[must_use]
    pub fn scope(&self) -> Scope {
        self.scope
    }

    /// Whether what defines allocators is hooked.
    #[must_use]
    pub fn are_hooked(&self) -> bool {
        self.programs != Programs::Nothing
    }

    /// The functions that the user named.
    #[must_use]
    pub fn custom(&self) -> &[CustomFunction] {
        &self.custom
    }

    /// The images, in the order in which they were first seen.
    #[must_use]
    pub fn all(&self) -> &[NamedImage] {
        &self.all
    }

    /// The image of an index.
    #[must_use]
    pub fn image(&self, index: usize) -> Option<&Image> {
        self.all[index].image.as_ref()
    }

    /// Whether the image of an index is a file.
    #[must_use]
    pub fn is_file(&self, index: usize) -> bool {
        Some(index) != self.vdso
    }

    /// Where the unwind rows of an image stand.
    #[must_use]
    pub fn rows(&self, index: usize) -> Option<RowPlace> {
        self.rows[index]
    }

    /// The image that a mapping is of, if it was seen before.
    #[must_use]
    pub fn known(&self, mapping: &Mapping) -> Option<usize> {
        match mapping.file {
            Some(file) => self.of_file.get(&file).copied(),
            None if mapping.path.as_os_str() == VDSO => self.vdso,
            None => None,
        }
    }

    /// The image that `pid` has mapped there, opened and compiled at first sight; `None` where it is of no
    /// image.
    pub fn of_mapping(&mut self, pid: NonZeroU32, mapping: &Mapping, kernel: &mut Kernel) -> Option<usize> {
        if let Some(index) = self.known(mapping) {
            return Some(index);
        }
        let image = match mapping.file {
            Some(_) => Image::open(pid.get(), mapping),
            None if mapping.path.as_os_str() == VDSO => Image::vdso(),
            None => return None,
        };
        let index = self.add(mapping, image, kernel);
        match mapping.file {
            Some(file) => drop(self.of_file.insert(file, index)),
            None => self.vdso = Some(index),
        }
        Some(index)
    }

    fn add(&mut self, mapping: &Mapping, image: Result<Image, ImageError>, kernel: &mut Kernel) -> usize {
        let image = image.map_err(|error| log::info!("{error}")).ok();
        let name = ImageName {
            path: status::printable(&mapping.path.to_string_lossy()),
            build_id: image.as_ref().and_then(|image| image.build_id.clone()),
        };
        let named = NamedImage { name: Arc::new(name), image };
        let place = self.place_rows(&named, kernel);
        self.rows.push(place);
        self.all.push(named);
        self.all.len() - 1
    }

    /// Compiles an image's call frame information, unless the same image has been under another name.
    fn place_rows(&mut self, named: &NamedImage, kernel: &mut Kernel) -> Option<RowPlace> {
        let build_id = named.name.build_id.as_ref();
        if let Some(place) = build_id.and_then(|id| self.rows_of_build.get(id)) {
            return *place;
        }
        let begun = Instant::now();
        let rows = compile_rows(named);
        let place = rows.as_ref().and_then(|rows| kernel.add_rows(rows));
        if let Some(rows) = rows {
            let (path, ms) = (&named.name.path, begun.elapsed().as_secs_f64() * 1000.0);
            log::info!("compiled {} unwind rows of {path} in {ms:.1} ms", rows.len());
            if place.is_none() && !std::mem::replace(&mut self.lacks_rows, true) {
                log::warn!(
                    "no room for the unwind rows of {path}, and of what comes after it: stacks end there; --max-rows makes more"
                );
            }
        }
        if let Some(id) = build_id {
            self.rows_of_build.insert(id.clone(), place);
        }
        place
    }

    /// Hooks what an image defines, for `pid`. Returns the allocators that are hooked in it.
    ///
    /// # Errors
    /// Where the image cannot be read or the kernel refuses a probe.
    pub fn hook(&mut self, index: usize, pid: NonZeroU32, kernel: &mut Kernel) -> Result<Vec<Allocator>, AttachError> {
        let Some(image) = self.all[index].image.as_ref().filter(|_| self.are_hooked()) else { return Ok(Vec::new()) };
        let survey = match self.surveys.entry(index) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => unknown.insert(attach::survey(image, &self.custom)?),
        };
        let pid = match self.scope {
            Scope::Targets => Some(pid),
            Scope::EveryProcess => None,
        };
        if pid.is_some() || self.hooked.insert(index) {
            attach::attach_to_watched(kernel, pid, image, &survey.linker_notices)?;
            if self.holds_ends {
                attach::attach_to_watched(kernel, pid, image, &survey.ends)?;
            }
            for plan in &survey.plans {
                attach::attach(kernel, pid, image, plan, self.programs)?;
            }
            self.unwatched.entry(pid).or_default().push(index);
            if survey.plans.iter().any(Plan::may_be_left) {
                self.watched.insert(pid);
            }
            self.watch_ways_out(pid, kernel)?;
        }
        Ok(self.allocators(index))
    }

    /// Forgets what is hooked in a process alone, whose main thread is another one by now.
    pub fn unbind(&mut self, pid: NonZeroU32, kernel: &mut Kernel) {
        if self.scope == Scope::Targets {
            kernel.unbind(pid);
            self.unwatched.remove(&Some(pid));
            self.watched.remove(&Some(pid));
        }
    }

    /// Attaches to the ways out of hooked calls, where some may be left so.
    fn watch_ways_out(&mut self, pid: Option<NonZeroU32>, kernel: &mut Kernel) -> Result<(), AttachError> {
        if !self.watched.contains(&pid) {
            return Ok(());
        }
        for index in self.unwatched.remove(&pid).unwrap_or_default() {
            if let (Some(image), Some(survey)) = (&self.all[index].image, self.surveys.get(&index)) {
                attach::attach_to_watched(kernel, pid, image, &survey.ways_out)?;
            }
        }
        Ok(())
    }

    /// The allocators that were found in an image.
    #[must_use]
    pub fn allocators(&self, index: usize) -> Vec<Allocator> {
        let allocator = |plan: &Plan| Allocator {
            name: plan.name.clone(),
            image: self.all[index].name.path.clone(),
            functions: plan.hooks.iter().map(|hook| hook.name.clone()).collect(),
        };
        self.surveys.get(&index).into_iter().flat_map(|survey| &survey.plans).map(allocator).collect()
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
