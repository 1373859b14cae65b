//! The images of all targets: each file is opened, searched for allocators and compiled for unwinding once,
//! however many processes have it mapped.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    num::NonZeroU32,
    path::Path,
    rc::Rc,
    sync::Arc,
    time::Instant,
};

use super::{
    allocators::custom::CustomFunction,
    attach::{self, AttachError, ProbePrograms},
    prepared::{CompiledRows, PreparedImage, PreparedImages},
    returns::Returns,
    survey::{Plan, Survey, survey},
};
use crate::{
    bpf::{Bpf, RowPlace, Unwind, point::Scope},
    model::{code_place::CodePlace, figures::Allocator, frame::ImageName, not_seen::NotSeen},
    process::{
        image::{Image, ImageError, VDSO},
        jit_code,
        maps::{self, FileId, Mapping},
        status,
    },
    symbolize::{ImageCode, NamedImage},
    unwind::image_rows::{self, ImageRows, PeculiarCode},
};

/// Every image that any target has or had mapped.
pub struct Images {
    scope: Scope,
    programs: ProbePrograms,
    /// Whether targets are to wait before they end.
    holds_ends: bool,
    /// How returns are seen.
    returns: Returns,
    /// How stacks are walked.
    unwind: Unwind,
    /// Those that were read beforehand.
    prepared: PreparedImages,
    all: Vec<Arc<NamedImage>>,
    of_file: HashMap<FileId, usize>,
    /// The index of the vdso's image, which is of no file.
    vdso: Option<usize>,
    /// Where each image's unwind rows stand, by the image's index; nothing for images without.
    rows: Vec<Option<RowPlace>>,
    /// The peculiar code of each, by the image's index.
    peculiar: Vec<Rc<PeculiarCode>>,
    /// Both by build id: containers have copies of the same files.
    of_build: HashMap<String, (Option<RowPlace>, Rc<PeculiarCode>)>,
    /// The files that hold code which a compiler has made at run time, by index.
    jit: HashSet<usize>,
    /// Whether it was said that there is no room for more.
    lacks_rows: bool,
    /// The functions that the user named, besides those of the known families.
    custom: Vec<CustomFunction>,
    /// The survey of each image that was searched, by its index.
    surveys: HashMap<usize, Survey>,
    /// How many allocators were found.
    plans: u32,
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
    pub fn new(
        scope: Scope,
        programs: ProbePrograms,
        custom: Vec<CustomFunction>,
        holds_ends: bool,
        returns: Returns,
        unwind: Unwind,
    ) -> Self {
        Self {
            scope,
            programs,
            holds_ends,
            returns,
            unwind,
            prepared: PreparedImages::new(),
            all: Vec::new(),
            of_file: HashMap::new(),
            vdso: None,
            rows: Vec::new(),
            peculiar: Vec::new(),
            jit: HashSet::new(),
            of_build: HashMap::new(),
            lacks_rows: false,
            custom,
            surveys: HashMap::new(),
            plans: 0,
            unwatched: HashMap::new(),
            watched: HashSet::new(),
            hooked: HashSet::new(),
        }
    }

    /// Takes in images that were read beforehand; they serve once they are mapped.
    pub fn take_prepared(&mut self, prepared: PreparedImages) {
        self.prepared = prepared;
    }

    /// Forgets those that nobody has mapped.
    pub fn forget_prepared(&mut self) {
        self.prepared = PreparedImages::new();
    }

    /// In which processes probes fire.
    #[must_use]
    pub fn scope(&self) -> Scope {
        self.scope
    }

    /// Whether what defines allocators is hooked.
    #[must_use]
    pub fn are_hooked(&self) -> bool {
        self.programs != ProbePrograms::Nothing
    }

    /// The functions that the user named.
    #[must_use]
    pub fn custom(&self) -> &[CustomFunction] {
        &self.custom
    }

    /// The functions that the user named whose image nobody has mapped.
    #[must_use]
    pub fn never_mapped(&self) -> Vec<NotSeen> {
        let is_there =
            |function: &CustomFunction| self.all.iter().any(|image| function.is_in(Path::new(&image.name.path)));
        let missing = self.custom.iter().filter(|function| !is_there(function));
        missing
            .map(|CustomFunction { function, image, .. }| NotSeen::NeverMapped {
                function: function.clone(),
                image: image.clone(),
            })
            .collect()
    }

    /// The images, in the order in which they were first seen.
    #[must_use]
    pub fn all(&self) -> &[Arc<NamedImage>] {
        &self.all
    }

    /// The image of an index.
    #[must_use]
    pub fn image(&self, index: usize) -> Option<&Image> {
        self.all[index].file()
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

    /// How much of the code that `pid` has mapped is of no image that was seen before, in bytes: compiling it takes time. 0 where
    /// that cannot be told.
    #[must_use]
    pub fn unknown_code_bytes(&self, pid: NonZeroU32) -> u64 {
        let mappings = maps::read(pid.get()).unwrap_or_default();
        let is_new = |mapping: &&Mapping| mapping.executable && mapping.file.is_some() && self.known(mapping).is_none();
        mappings.iter().filter(is_new).map(|mapping| mapping.end - mapping.start).sum()
    }

    /// The image that `pid` has mapped there, opened and compiled at first sight; `None` where it is of no
    /// image.
    pub fn of_mapping(&mut self, pid: NonZeroU32, mapping: &Mapping, bpf: &mut Bpf) -> Option<usize> {
        if let Some(index) = self.known(mapping) {
            return Some(index);
        }
        let prepared = mapping.file.and_then(|file| self.prepared.remove(&file));
        let (image, rows, survey) = match (prepared, mapping.file) {
            (Some(PreparedImage { image, rows, survey }), _) => (image, rows, survey),
            (None, Some(_)) => (Image::open(pid.get(), mapping), None, None),
            (None, None) if mapping.path.as_os_str() == VDSO => (Image::vdso(), None, None),
            (None, None) => return None,
        };
        let index = self.add(mapping, image, rows, bpf);
        if let Some(Ok(survey)) = survey {
            self.surveys.insert(index, survey);
        }
        match mapping.file {
            Some(file) => drop(self.of_file.insert(file, index)),
            None => self.vdso = Some(index),
        }
        Some(index)
    }

    fn add(
        &mut self,
        mapping: &Mapping,
        image: Result<Image, ImageError>,
        rows: Option<CompiledRows>,
        bpf: &mut Bpf,
    ) -> usize {
        if matches!(image, Err(ImageError::NoElf { .. })) || jit_code::is_named_so(&mapping.path) {
            self.jit.insert(self.all.len());
        }
        let image = image.map_err(|error| log::info!("{error}")).ok();
        let name = ImageName {
            path: status::printable(&mapping.path.to_string_lossy()),
            build_id: image.as_ref().and_then(|image| image.build_id.clone()),
        };
        let named =
            Arc::new(NamedImage { name: Arc::new(name), code: image.map_or(ImageCode::Closed, ImageCode::File) });
        let (place, peculiar) = self.place_rows(&named, rows, bpf);
        self.rows.push(place);
        self.peculiar.push(peculiar);
        self.all.push(named);
        self.all.len() - 1
    }

    /// Whether the file of an image holds code that a compiler has made at run time.
    #[must_use]
    pub fn is_jit(&self, index: usize) -> bool {
        self.jit.contains(&index)
    }

    /// Whether the rows of the code before a return address, as a place in the file of an image, are inferred.
    #[must_use]
    pub fn is_inferred(&self, (index, file_offset): (usize, u64)) -> bool {
        let call = self.image(index).and_then(|image| image.virtual_offset(file_offset.saturating_sub(1)));
        call.is_some_and(|offset| self.peculiar[index].is_inferred(offset))
    }

    /// Whether a return address is the first of a stack that was made by hand.
    #[must_use]
    pub fn is_stack_end(&self, (index, file_offset): (usize, u64)) -> bool {
        let offset = self.image(index).and_then(|image| image.virtual_offset(file_offset));
        offset.is_some_and(|offset| self.peculiar[index].is_stack_end(offset))
    }

    /// Whether a return address follows a call; also where its image cannot be read.
    #[must_use]
    pub fn follows_call(&self, (index, file_offset): (usize, u64)) -> bool {
        self.image(index).is_none_or(|image| image_rows::follows_call(image, file_offset))
    }

    /// Whether a return address is that of a signal handler.
    #[must_use]
    pub fn is_signal_return(&self, (index, file_offset): (usize, u64)) -> bool {
        self.image(index).is_some_and(|image| image_rows::is_signal_return(image, file_offset))
    }

    /// Whether a walk leaves the code at a place by a row that was inferred, or by frame pointers, which code may use for something
    /// else: the next frame outwards rests on that.
    #[must_use]
    pub fn is_left_by_inference(&self, place: &CodePlace) -> bool {
        match *place {
            _ if self.unwind == Unwind::FramePointers => true,
            // Code that was made at run time is walked by frame pointers.
            CodePlace::Address(..) | CodePlace::Jit => true,
            CodePlace::Kernel { .. } => false,
            CodePlace::File { image, .. } if self.rows[image].is_none() => true,
            CodePlace::File { image, file_offset } => self.is_inferred((image, file_offset)),
        }
    }

    /// Compiles an image's rows, unless the same image has been under another name.
    fn place_rows(
        &mut self,
        named: &NamedImage,
        rows: Option<CompiledRows>,
        bpf: &mut Bpf,
    ) -> (Option<RowPlace>, Rc<PeculiarCode>) {
        let build_id = named.name.build_id.as_ref();
        if let Some(known) = build_id.and_then(|id| self.of_build.get(id)) {
            return known.clone();
        }
        let (begun, beforehand) = (Instant::now(), if rows.is_some() { "beforehand" } else { "now" });
        let ImageRows { rows, peculiar } = compile_rows(named, rows);
        let place = Some(&rows).filter(|rows| !rows.is_empty()).and_then(|rows| bpf.add_rows(rows));
        if !rows.is_empty() {
            let (path, ms, bytes) =
                (&named.name.path, begun.elapsed().as_secs_f64() * 1000.0, peculiar.inferred_bytes());
            let count = rows.len();
            log::info!(
                "compiled {count} unwind rows of {path} {beforehand}, in place after {ms:.1} ms, inferred those of {bytes} bytes"
            );
            if place.is_none() && !std::mem::replace(&mut self.lacks_rows, true) {
                log::warn!(
                    "no room for the unwind rows of {path}, and of what comes after it: stacks end there; --max-rows makes more"
                );
            }
        }
        let known = (place, Rc::new(peculiar));
        if let Some(id) = build_id {
            self.of_build.insert(id.clone(), known.clone());
        }
        known
    }

    /// Hooks what an image defines, for `pid`. Returns the allocators that are hooked in it.
    ///
    /// # Errors
    /// Where the image cannot be read or the kernel refuses a probe.
    pub fn hook(&mut self, index: usize, pid: NonZeroU32, bpf: &mut Bpf) -> Result<Vec<Allocator>, AttachError> {
        let Some(image) = self.all[index].file().filter(|_| self.are_hooked()) else { return Ok(Vec::new()) };
        let survey = match self.surveys.entry(index) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                let mut survey = survey(image, &self.custom, self.returns)?;
                for plan in &mut survey.plans {
                    plan.number = self.plans;
                    self.plans += 1;
                }
                unknown.insert(survey)
            }
        };
        let pid = match self.scope {
            Scope::Targets => Some(pid),
            Scope::EveryProcess => None,
        };
        if pid.is_some() || self.hooked.insert(index) {
            attach::attach_to_watched(bpf, pid, image, &survey.linker_notices)?;
            // Ends are judged by readings alone then.
            attach::attach_to_ways_to_end(bpf, pid, image, survey, self.holds_ends)
                .unwrap_or_else(|error| log::warn!("{error}: that a program begins to end is not seen"));
            if self.holds_ends {
                attach::attach_to_watched(bpf, pid, image, &survey.ends)?;
            }
            for plan in &survey.plans {
                attach::attach(bpf, pid, image, plan, self.programs)?;
            }
            self.unwatched.entry(pid).or_default().push(index);
            if survey.plans.iter().any(Plan::may_be_left) {
                self.watched.insert(pid);
            }
            self.watch_ways_out(pid, bpf)?;
        }
        Ok(self.allocators(index))
    }

    /// Forgets what is hooked in a process alone, whose main thread is another one by now.
    pub fn unbind(&mut self, pid: NonZeroU32, bpf: &mut Bpf) {
        if self.scope == Scope::Targets {
            bpf.unbind(pid);
            self.unwatched.remove(&Some(pid));
            self.watched.remove(&Some(pid));
        }
    }

    /// Takes out what is hooked in a process alone.
    pub fn detach(&mut self, pid: NonZeroU32, bpf: &mut Bpf) {
        bpf.detach(pid);
        self.unwatched.remove(&Some(pid));
        self.watched.remove(&Some(pid));
    }

    /// Whether there was no room for the unwind rows of some image.
    #[must_use]
    pub fn lacks_rows(&self) -> bool {
        self.lacks_rows
    }

    /// Attaches to the ways out of hooked calls, where some may be left so.
    fn watch_ways_out(&mut self, pid: Option<NonZeroU32>, bpf: &mut Bpf) -> Result<(), AttachError> {
        if !self.watched.contains(&pid) {
            return Ok(());
        }
        for index in self.unwatched.remove(&pid).unwrap_or_default() {
            if let (Some(image), Some(survey)) = (self.all[index].file(), self.surveys.get(&index)) {
                attach::attach_to_watched(bpf, pid, image, &survey.ways_out)?;
            }
        }
        Ok(())
    }

    /// The allocators that were found in an image.
    #[must_use]
    pub fn allocators(&self, index: usize) -> Vec<Allocator> {
        let allocator = |plan: &Plan| Allocator {
            name: plan.name.clone(),
            number: plan.number,
            image: self.all[index].name.path.clone(),
            functions: plan.hooks.iter().map(|hook| hook.name.clone()).collect(),
        };
        self.surveys.get(&index).into_iter().flat_map(|survey| &survey.plans).map(allocator).collect()
    }
}

/// The unwind rows of an image; none where the file cannot be read.
fn compile_rows(named: &NamedImage, compiled: Option<CompiledRows>) -> ImageRows {
    let Some(image) = named.file() else { return ImageRows::default() };
    match compiled.unwrap_or_else(|| ImageRows::of(image)) {
        Ok((rows, problem)) => {
            if let Some(problem) = problem {
                log::info!("{}: {problem}", named.name.path);
            }
            rows
        }
        Err(error) => {
            log::info!("{error}");
            ImageRows::default()
        }
    }
}
