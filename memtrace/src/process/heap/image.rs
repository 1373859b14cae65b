//! The data of images that may have an allocator inside: what is resident of their writable mappings, and of the memory behind
//! them.

use super::{
    bytes::{MAX_WINDOW_BYTES, Reader, Stop, Window},
    smaps::MappedMemory,
};

/// No more data of an image is looked through, in bytes.
const MAX_DATA_BYTES: u64 = 64 << 20;
/// Images that are looked through, at most.
const MAX_IMAGES: usize = 4096;

/// The writable data of an image.
#[derive(Debug)]
pub(super) struct Data {
    /// Its path.
    pub(super) image: String,
    /// The first address.
    pub(super) start: u64,
    /// One past the last.
    pub(super) end: u64,
}

/// The data of all images, in order of addresses.
pub(super) fn all(mappings: &[MappedMemory]) -> Vec<Data> {
    let mut data: Vec<Data> = Vec::new();
    for one in mappings {
        let mapping = &one.mapping;
        if !mapping.writable || mapping.shared || one.is_guarded {
            continue;
        }
        let has_room = data.len() < MAX_IMAGES;
        let last = data.last_mut().filter(|last| last.end == mapping.start);
        match (&mapping.file, last) {
            // Data that is not initialised lies behind the file's part.
            (None, Some(last)) if mapping.path.as_os_str().is_empty() || is_named(one) => last.end = mapping.end,
            (Some(_), Some(last)) if last.image == mapping.path.to_string_lossy() => last.end = mapping.end,
            (Some(_), _) if has_room => data.push(Data {
                image: mapping.path.to_string_lossy().into_owned(),
                start: mapping.start,
                end: mapping.end,
            }),
            _ => {}
        }
    }
    for one in &mut data {
        one.end = one.end.min(one.start.saturating_add(MAX_DATA_BYTES));
    }
    data
}

/// Whether memory of no file has a name that somebody gave it (prctl(2), PR_SET_VMA_ANON_NAME).
pub(super) fn is_named(one: &MappedMemory) -> bool {
    one.mapping.path.as_os_str().as_encoded_bytes().starts_with(b"[anon:")
}

/// A copy of data; words that are not resident are zeros.
#[derive(Debug, Default)]
pub(super) struct Copied {
    start: u64,
    words: Vec<u64>,
}

impl Copied {
    /// Copies the data of an image.
    pub(super) fn of(reader: &mut Reader<'_>, data: &Data) -> Result<Self, Stop> {
        let mut copied = Self { start: data.start & !7, words: Vec::new() };
        let (mut at, mut window) = (copied.start, Window::default());
        while at < data.end {
            reader.window(at, MAX_WINDOW_BYTES, data.end, &mut window)?;
            while let Some([word]) = window.words::<1>(at) {
                copied.words.push(word);
                at += 8;
            }
            if window.end() <= window.start() {
                break;
            }
        }
        Ok(copied)
    }

    /// The word at an address.
    pub(super) fn word(&self, address: u64) -> Option<u64> {
        let offset = address.checked_sub(self.start)?;
        self.words.get(usize::try_from(offset / 8).ok()?).copied().filter(|_| offset.is_multiple_of(8))
    }

    /// All words with their addresses.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        (self.start..).step_by(8).zip(self.words.iter().copied())
    }
}
