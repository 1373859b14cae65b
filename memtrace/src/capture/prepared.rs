//! Images of named targets, read while the kernel verifies the BPF side: each takes tenths of a second, and the target goes unseen
//! until both are there.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
};

use super::{
    allocators::custom::CustomFunction,
    returns::Returns,
    survey::{Survey, SurveyError, survey},
};
use crate::{
    process::{
        image::{Image, ImageError},
        maps::{self, FileId, Mapping},
    },
    unwind::{cfi::CfiError, image_rows::ImageRows},
};

/// How many threads read images: more do not help, since one image is larger than all others together, mostly.
const THREADS: usize = 2;
/// The most images that are read beforehand.
const MOST_IMAGES: usize = 128;
/// From how many rows on no further image is read: they wait in memory.
const ENOUGH_ROWS: usize = 1 << 20;

/// An image that was read beforehand.
pub struct PreparedImage {
    /// The image itself.
    pub image: Result<Image, ImageError>,
    /// Its rows, where it could be opened.
    pub rows: Option<CompiledRows>,
    /// The parts of it that are of interest, where it could be opened.
    pub survey: Option<Result<Survey, SurveyError>>,
}

/// See [`ImageRows::of`].
pub type CompiledRows = Result<(ImageRows, Option<CfiError>), ImageError>;

/// Images that were read beforehand, by their files.
pub type PreparedImages = HashMap<FileId, PreparedImage>;

/// The work on images of named targets.
pub struct Preparation(Option<JoinHandle<PreparedImages>>);

impl Preparation {
    /// Nothing to prepare.
    #[must_use]
    pub fn none() -> Self {
        Self(None)
    }

    /// Begins to read the images that these processes have mapped.
    #[must_use]
    pub fn begin(pids: Vec<NonZeroU32>, custom: Vec<CustomFunction>, returns: Returns) -> Self {
        let work = move || prepare(&pids, &custom, returns);
        // Without a thread, all is read when it is wanted.
        Self(thread::Builder::new().name("images".to_owned()).spawn(work).ok())
    }

    /// Waits for what was begun.
    #[must_use]
    pub fn finish(self) -> PreparedImages {
        self.0.and_then(|thread| thread.join().ok()).unwrap_or_default()
    }
}

fn prepare(pids: &[NonZeroU32], custom: &[CustomFunction], returns: Returns) -> PreparedImages {
    let mut wanted: HashMap<FileId, (NonZeroU32, Mapping)> = HashMap::new();
    for pid in pids {
        // That a process is gone is told when it is to be a target.
        for mapping in maps::read(pid.get()).unwrap_or_default().into_iter().filter(|mapping| mapping.executable) {
            if let Some(file) = mapping.file.filter(|_| wanted.len() < MOST_IMAGES) {
                wanted.entry(file).or_insert((*pid, mapping));
            }
        }
    }
    let mut wanted: Vec<(FileId, (NonZeroU32, Mapping))> = wanted.into_iter().collect();
    // The largest first, which takes longest.
    wanted.sort_by_key(|(_, (_, mapping))| mapping.end - mapping.start);
    let (wanted, rows, prepared) = (Mutex::new(wanted), AtomicUsize::new(0), Mutex::new(HashMap::new()));
    let work = || {
        while rows.load(Ordering::Relaxed) < ENOUGH_ROWS {
            let Some((file, (pid, mapping))) = lock(&wanted).pop() else { break };
            let image = PreparedImage::read(pid, &mapping, custom, returns);
            if let Some(Ok((compiled, _))) = &image.rows {
                rows.fetch_add(compiled.rows.len(), Ordering::Relaxed);
            }
            lock(&prepared).insert(file, image);
        }
    };
    thread::scope(|scope| {
        for _ in 1..THREADS {
            // Where there is none to be had, this one does all.
            _ = thread::Builder::new().name("images".to_owned()).spawn_scoped(scope, work);
        }
        work();
    });
    prepared.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl PreparedImage {
    fn read(pid: NonZeroU32, mapping: &Mapping, custom: &[CustomFunction], returns: Returns) -> Self {
        let image = Image::open(pid.get(), mapping);
        let (rows, survey) = match &image {
            Ok(image) => (Some(ImageRows::of(image)), Some(survey(image, custom, returns))),
            Err(_) => (None, None),
        };
        Self { image, rows, survey }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_images_of_a_process_are_read_with_their_rows_and_allocators() {
        let own = NonZeroU32::new(std::process::id()).unwrap();
        let prepared = Preparation::begin(vec![own], Vec::new(), Returns::default()).finish();
        let files: Vec<FileId> =
            maps::read(own.get()).unwrap().iter().filter(|m| m.executable).filter_map(|m| m.file).collect();
        assert!(!files.is_empty() && files.iter().all(|file| prepared.contains_key(file)), "{files:?}");
        assert!(prepared.values().all(|image| matches!(&image.rows, Some(Ok((rows, _))) if !rows.rows.is_empty())));
        let has_plans = |image: &PreparedImage| matches!(&image.survey, Some(Ok(survey)) if !survey.plans.is_empty());
        assert!(prepared.values().any(has_plans), "none of them defines malloc");
        let gone = NonZeroU32::new(u32::MAX >> 1).unwrap();
        assert!(Preparation::begin(vec![gone], Vec::new(), Returns::default()).finish().is_empty());
        assert!(Preparation::none().finish().is_empty());
    }
}
