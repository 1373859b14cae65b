//! The identity of a site: the same for the same code at the same place in the same images, whatever process or host.

use std::borrow::Cow;

use memtrace_common::ids::mix;

use crate::model::{category::Category, code_place::CodePlace, frame::ImageName};

/// The images, as they stand in the ids of sites.
pub(crate) struct Identities<'a> {
    /// The build id of each, or the path of one that has none.
    names: Vec<&'a str>,
    /// A hash of each of these.
    hashes: Vec<u64>,
}

impl<'a> Identities<'a> {
    /// Those of these images.
    pub(crate) fn of(images: impl Iterator<Item = &'a ImageName>) -> Self {
        let names: Vec<&str> = images.map(|image| image.build_id.as_deref().unwrap_or(&image.path)).collect();
        Self { hashes: names.iter().map(|name| mixed(0, name)).collect(), names }
    }
}

/// Stands for code that was made at run time, wherever it lies.
const JIT: &str = "jit";

/// How many calls a round of recursion may go through, and still be known as one.
const LONGEST_ROUND: usize = 4;

/// A stack in which each round of recursion stands once, however often it was gone through: the same return addresses in the same
/// order, again and again.
pub(super) fn folded(places: &[CodePlace]) -> Cow<'_, [CodePlace]> {
    let mut folded: Vec<CodePlace> = Vec::with_capacity(places.len());
    for place in places {
        folded.push(*place);
        let length = folded.len();
        let is_repeated = |round: &usize| folded[length - round..] == folded[length - 2 * round..length - round];
        if let Some(round) = (1..=LONGEST_ROUND.min(length / 2)).find(is_repeated) {
            folded.truncate(length - round);
        }
    }
    if folded.len() == places.len() { Cow::Borrowed(places) } else { Cow::Owned(folded) }
}

/// A hash over build ids (or paths) and offsets: it does not depend on where images were loaded.
pub(super) fn site_id(places: &[CodePlace], category: Category, images: &Identities<'_>) -> u64 {
    places.iter().fold(start(category), |hash, place| match place {
        CodePlace::File { image, file_offset } => mix(mix(hash ^ images.hashes[*image]) ^ file_offset),
        CodePlace::Kernel { image, offset } => mix(mixed(hash, images.names[*image]) ^ offset),
        CodePlace::Jit => mixed(hash, JIT),
        CodePlace::Address(address, _) => mix(hash ^ address),
    })
}

/// One stack can make pages of several kinds resident, or call several of the kernel's allocators.
fn start(category: Category) -> u64 {
    match category {
        Category::Heap | Category::Mmap => 0,
        Category::Pages(kind) => mix(kind as u64 + 1),
        Category::Kernel(source) => mix(source as u64),
    }
}

/// The hash, with the bytes of a name mixed in.
fn mixed(hash: u64, name: &str) -> u64 {
    name.bytes().fold(hash, |hash, byte| mix(hash ^ u64::from(byte)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{category::KernelSource, frame::Reason};

    #[test]
    fn each_round_of_recursion_stands_once() {
        let places = |text: &str| {
            let place = |letter| CodePlace::File { image: 0, file_offset: u64::from(letter) };
            text.bytes().map(place).collect::<Vec<CodePlace>>()
        };
        for (stack, expected) in [
            ("", ""),
            ("lm", "lm"),
            ("lrrrrm", "lrm"),
            ("labababm", "labm"),
            ("labcdabcdm", "labcdm"),
            ("lrrrabrrrabm", "lrabm"),
            // Longer rounds, and calls that only come twice, are left as they are.
            ("labcdeabcdem", "labcdeabcdem"),
            ("lrarm", "lrarm"),
        ] {
            assert_eq!(*folded(&places(stack)), *places(expected), "{stack}");
        }
        assert!(matches!(folded(&places("lm")), Cow::Borrowed(_)));
    }

    #[test]
    fn the_kernels_sites_keep_their_ids_from_release_to_release() {
        let kernel = ImageName { path: "kernel".into(), build_id: Some("ab".into()) };
        let images = Identities::of([&kernel].into_iter());
        let places = [CodePlace::Kernel { image: 0, offset: 5 }, CodePlace::Address(7, Reason::KernelUnlisted)];
        let of = |source| site_id(&places, Category::Kernel(source), &images);
        let expected = mix(mix(mix(mix(mix(1) ^ u64::from(b'a')) ^ u64::from(b'b')) ^ 5) ^ 7);
        assert_eq!(of(KernelSource::Pages), expected);
        assert_ne!(of(KernelSource::Slab), of(KernelSource::Pages));
    }
}
