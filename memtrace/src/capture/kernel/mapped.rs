//! A BPF array that is read and written as memory: what would be millions of system calls one by one.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
    ptr::NonNull,
    sync::atomic::AtomicU64,
};

use aya::Pod;

/// The mapped array.
pub(super) struct MappedArray<T> {
    entries: NonNull<T>,
    length: usize,
}

impl<T: Pod> MappedArray<T> {
    /// Maps the array of `length` entries behind `map`, which was made with `BPF_F_MMAPABLE`.
    pub(super) fn new(map: impl AsFd, length: u32) -> io::Result<Self> {
        // The kernel rounds entries up to 8 bytes; ours are.
        const { assert!(size_of::<T>().is_multiple_of(8)) };
        let length = length as usize;
        let descriptor = map.as_fd().as_raw_fd();
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        let bytes = length * size_of::<T>();
        // SAFETY: a new mapping of a BPF array, at a place of the kernel's choice.
        let address = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, descriptor, 0) };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let entries = NonNull::new(address.cast()).ok_or_else(|| io::Error::other("mapped at nothing"))?;
        Ok(Self { entries, length })
    }

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
        Some(unsafe { std::slice::from_raw_parts(entry.as_ptr().cast(), size_of::<T>() / 8) })
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
        unsafe { libc::munmap(self.entries.as_ptr().cast(), self.length * size_of::<T>()) };
    }
}
