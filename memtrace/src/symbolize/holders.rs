//! Names of the variables that hold blocks.
//!
//! In: holders, as a look has found them, whose roots are places in images. Out: the same, with the names that symbols give these.
//! Images are found among the mappings of the process by the paths that the look has told, and are not trusted any more than those.

use std::{collections::HashMap, sync::Arc};

use super::{
    image::{ImageCode, NamedImage},
    native::Symbolizer,
};
use crate::{
    model::{
        frame::ImageName,
        holders::{HolderLabel, HolderRoot, Holders},
    },
    process::{
        image::Image,
        maps::{self, FileId, Mapping},
    },
};

/// The most images that are kept open for their names.
const MAX_IMAGES: usize = 1024;

/// Names variables, and remembers the images that it was asked about.
pub struct HolderNames {
    symbolizer: Symbolizer,
    /// The images, each under the number that it has for the symbolizer.
    images: HashMap<FileId, (usize, NamedImage)>,
}

/// Places in one image: whether they are thread-local, and the offsets.
type Asked = (bool, Vec<u64>);

impl HolderNames {
    /// Starts the process that reads symbols.
    #[must_use]
    pub fn start() -> Self {
        Self { symbolizer: Symbolizer::start(), images: HashMap::new() }
    }

    /// Names the roots of a process's holders, and joins those that have one name. Those of which no symbol tells stay as they are.
    #[must_use]
    pub fn name(&mut self, pid: u32, mut holders: Holders) -> Holders {
        let mappings = maps::read(pid).unwrap_or_default();
        let mut asked: HashMap<String, [Asked; 2]> = HashMap::new();
        for place in holders.nodes.iter_mut().filter_map(|node| place_of(&mut node.label)) {
            let [plain, thread_local] =
                asked.entry(place.image.clone()).or_insert_with(|| [(false, Vec::new()), (true, Vec::new())]);
            let (_, offsets) = if place.is_thread_local { thread_local } else { plain };
            offsets.push(*place.offset);
        }
        let mut names: HashMap<(String, bool, u64), (String, u64)> = HashMap::new();
        for (path, asked) in asked {
            for (is_thread_local, mut offsets) in asked {
                offsets.sort_unstable();
                offsets.dedup();
                let told = self.variables(pid, &mappings, &path, is_thread_local, &offsets);
                for (offset, name) in offsets.into_iter().zip(told) {
                    names.extend(name.map(|name| ((path.clone(), is_thread_local, offset), name)));
                }
            }
        }
        for place in holders.nodes.iter_mut().filter_map(|node| place_of(&mut node.label)) {
            let told = names.get(&(place.image.clone(), place.is_thread_local, *place.offset)).cloned();
            // The look cannot tell words of one variable from others where only a separate debug file can.
            if let Some((name, begins_at)) = told {
                (*place.symbol, *place.offset) = (Some(name), begins_at);
            }
        }
        holders.joined()
    }

    fn variables(
        &mut self,
        pid: u32,
        mappings: &[Mapping],
        path: &str,
        is_thread_local: bool,
        offsets: &[u64],
    ) -> Vec<Option<(String, u64)>> {
        let mapping = mappings.iter().find(|one| one.file.is_some() && one.path.to_string_lossy() == path);
        let Some((mapping, file)) = mapping.and_then(|one| Some((one, one.file?))).filter(|_| !offsets.is_empty())
        else {
            return Vec::new();
        };
        if !self.images.contains_key(&file) && self.images.len() >= MAX_IMAGES {
            return Vec::new();
        }
        let number = self.images.len();
        let (number, image) = self.images.entry(file).or_insert_with(|| (number, named(pid, mapping, path)));
        self.symbolizer.variables(*number, image, is_thread_local, offsets)
    }
}

fn named(pid: u32, mapping: &Mapping, path: &str) -> NamedImage {
    let image = Image::open(pid, mapping).ok();
    let build_id = image.as_ref().and_then(|image| image.build_id.clone());
    let name = Arc::new(ImageName { path: path.to_owned(), build_id });
    NamedImage { name, code: image.map_or(ImageCode::Closed, ImageCode::File) }
}

/// The place of a variable in an image.
struct Place<'a> {
    image: &'a String,
    is_thread_local: bool,
    offset: &'a mut u64,
    symbol: &'a mut Option<String>,
}

/// The place of a root; nothing for what is no variable.
fn place_of(label: &mut HolderLabel) -> Option<Place<'_>> {
    match label {
        HolderLabel::Root(HolderRoot::Data { image, offset: Some(offset), symbol }) => {
            Some(Place { image, is_thread_local: false, offset, symbol })
        }
        HolderLabel::Root(HolderRoot::ThreadLocal { image, offset, symbol, .. }) => {
            Some(Place { image, is_thread_local: true, offset, symbol })
        }
        HolderLabel::Root(_) | HolderLabel::Block(_) => None,
    }
}
