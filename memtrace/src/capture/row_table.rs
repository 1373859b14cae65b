//! The kernel side's table of unwind rows, mapped into this process: millions of rows are written by
//! copying, not by a system call each.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
    ptr::NonNull,
};

use memtrace_common::unwind::Row;

/// The mapped table, and how much of it is in use.
pub struct RowTable {
    rows: NonNull<Row>,
    capacity: usize,
    used: usize,
}

impl RowTable {
    /// Maps the table of `capacity` rows behind `map`.
    ///
    /// # Errors
    /// Where the kernel cannot map it.
    pub fn new(map: impl AsFd, capacity: u32) -> io::Result<Self> {
        let capacity = capacity as usize;
        let length = capacity * size_of::<Row>();
        let descriptor = map.as_fd().as_raw_fd();
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: a new mapping of a BPF array, at a place of the kernel's choice.
        let address = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, descriptor, 0) };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let rows = NonNull::new(address.cast()).ok_or_else(|| io::Error::other("mapped at nothing"))?;
        Ok(Self { rows, capacity, used: 0 })
    }

    /// Adds the rows of an image. Returns the index of the first and how many there are; `None` where the
    /// table has no room.
    pub fn append(&mut self, rows: &[Row]) -> Option<(u32, u32)> {
        let end = self.used.checked_add(rows.len())?;
        if end > self.capacity {
            return None;
        }
        let place = (u32::try_from(self.used).ok()?, u32::try_from(rows.len()).ok()?);
        // SAFETY: within the mapping, as was just checked.
        let free = unsafe { self.rows.add(self.used) };
        // SAFETY: as many rows are free behind `free`, and the kernel side reads none of them before it
        // is told of them.
        unsafe { free.copy_from_nonoverlapping(NonNull::from(rows).cast(), rows.len()) };
        self.used = end;
        Some(place)
    }
}

impl Drop for RowTable {
    fn drop(&mut self) {
        // SAFETY: the mapping is this object's own, and nobody has a reference into it.
        unsafe { libc::munmap(self.rows.as_ptr().cast(), self.capacity * size_of::<Row>()) };
    }
}
