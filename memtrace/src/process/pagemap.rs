//! /proc/PID/pagemap: where the pages of a process are (Documentation/admin-guide/mm/pagemap.rst).

use std::{fs::File, io, os::unix::fs::FileExt};

/// Bytes of an entry.
const ENTRY_BYTES: usize = 8;
/// Bits of an entry.
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const SHARED: u64 = 1 << 61;

/// The entry of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry(u64);

impl Entry {
    /// Whether the page is in memory.
    pub(super) fn is_present(self) -> bool {
        self.0 & PRESENT != 0
    }

    /// Whether it is swapped out.
    pub(super) fn is_swapped(self) -> bool {
        self.0 & SWAPPED != 0
    }

    /// Whether it is a file's, or shared memory.
    pub(super) fn is_shared(self) -> bool {
        self.0 & SHARED != 0
    }
}

/// The open file. It stands for an address space, whatever becomes of the pid.
#[derive(Debug)]
pub(super) struct Pagemap {
    file: File,
    bytes: Vec<u8>,
}

impl Pagemap {
    /// Opens that of a task.
    ///
    /// # Errors
    /// Where it is gone, or may not be looked into.
    pub(super) fn open(task: u32) -> io::Result<Self> {
        Ok(Self { file: File::open(format!("/proc/{task}/pagemap"))?, bytes: Vec::new() })
    }

    /// The entries of so many pages from the number `page` on; fewer at the end of the address space, and none where the process
    /// is gone.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub(super) fn entries(&mut self, page: u64, count: usize) -> io::Result<impl Iterator<Item = Entry>> {
        self.bytes.resize(count * ENTRY_BYTES, 0);
        let mut known = 0;
        while let Some(rest) = self.bytes.get_mut(known..).filter(|rest| !rest.is_empty()) {
            let offset = page.saturating_mul(ENTRY_BYTES as u64).saturating_add(known as u64);
            match self.file.read_at(rest, offset)? {
                0 => break,
                more => known += more,
            }
        }
        let (entries, _) = self.bytes.get(..known).unwrap_or_default().as_chunks::<ENTRY_BYTES>();
        Ok(entries.iter().map(|entry| Entry(u64::from_ne_bytes(*entry))))
    }
}
