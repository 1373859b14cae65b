//! A BPF array that is read and written as memory: what would be millions of system calls one by one.

use std::{io, ptr::NonNull, sync::atomic::AtomicU64};

use aya::{
    Pod,
    maps::{Array, Map, MapData, MapError},
};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// The bytes of a word, which both sides read and change as one.
pub(super) const WORD_BYTES: usize = size_of::<u64>();

/// Two numbers that stand in one word.
pub(super) fn halves(word: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = word.to_le_bytes();
    [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
}

/// The mapped array.
pub(super) struct MappedArray<T> {
    entries: NonNull<T>,
    length: usize,
    /// Programs that are loaded later name it by its descriptor.
    _map: MapData,
}

impl<T: Pod> TryFrom<Map> for MappedArray<T> {
    type Error = MapError;

    /// Maps an array that was made with `BPF_F_MMAPABLE`.
    fn try_from(map: Map) -> Result<Self, MapError> {
        // The kernel rounds entries up to 8 bytes; ours are.
        const { assert!(size_of::<T>().is_multiple_of(WORD_BYTES)) };
        let length = Array::<_, T>::try_from(&map)?.len() as usize;
        let Map::Array(map) = map else { return Err(io::Error::from(io::ErrorKind::InvalidInput).into()) };
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        let bytes = length * size_of::<T>();
        // SAFETY: a new mapping of a BPF array, at a place of the kernel's choice.
        let address = unsafe { mmap(std::ptr::null_mut(), bytes, protection, flags, map.fd(), 0) };
        let address = address.map_err(io::Error::from)?;
        let entries = NonNull::new(address.cast()).ok_or_else(|| io::Error::other("mapped at nothing"))?;
        Ok(Self { entries, length, _map: map })
    }
}

impl<T: Pod> MappedArray<T> {
    /// How many entries there are.
    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// The entry at `index`, which the kernel side may be changing: each of its words is whole.
    pub(super) fn get(&self, index: usize) -> Option<T> {
        if index >= self.length {
            return None;
        }
        // SAFETY: within the mapping, as was just checked.
        let entry = unsafe { self.entries.add(index) };
        // SAFETY: mapped and aligned; every bit pattern is a value.
        Some(unsafe { entry.read_volatile() })
    }

    /// The words of the entry at `index`, which the kernel side may be changing.
    pub(super) fn words(&self, index: usize) -> Option<&[AtomicU64]> {
        if index >= self.length {
            return None;
        }
        // SAFETY: within the mapping, as was just checked.
        let entry = unsafe { self.entries.add(index) };
        // SAFETY: entries are whole words, and the mapping lives as long as this object.
        Some(unsafe { std::slice::from_raw_parts(entry.as_ptr().cast(), size_of::<T>() / WORD_BYTES) })
    }

    /// Replaces the entry at `index`. Returns whether there is one.
    pub(super) fn set(&mut self, index: usize, value: T) -> bool {
        if index >= self.length {
            return false;
        }
        // SAFETY: within the mapping, as was just checked.
        let entry = unsafe { self.entries.add(index) };
        // SAFETY: mapped and aligned; the kernel side takes any value.
        unsafe { entry.write_volatile(value) };
        true
    }
}

impl<T> Drop for MappedArray<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping is this object's own, and nobody has a reference into it.
        let unmapped = unsafe { munmap(self.entries.as_ptr().cast(), self.length * size_of::<T>()) };
        debug_assert!(unmapped.is_ok(), "a mapping of its own");
    }
}
