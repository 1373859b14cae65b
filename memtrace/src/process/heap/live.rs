//! The memory of a live process: pages that /proc/PID/pagemap says are there, copied by process_vm_readv(2). The process is not
//! stopped, not written to, and no page is brought in for it.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, IoSliceMut},
    os::unix::fs::FileExt,
};

use nix::{
    sys::uio::{RemoteIoVec, process_vm_readv},
    unistd::Pid,
};

use super::bytes::{HEAD_BYTES, Memory, PAGE, Page};
use crate::process::{
    image::open_mapped,
    leader,
    maps::{self, FileId, Mapping},
    pagemap::Pagemap,
};

/// Places of one call of process_vm_readv (IOV_MAX of readv(2)).
const MAX_PLACES: usize = 1024;
/// Files of mappings that are held open.
const MAX_FILES: usize = 64;

/// The memory of one process. The open file of its pagemap stands for its address space, whatever becomes of its pid.
#[derive(Debug)]
pub struct Live {
    pid: u32,
    thread: Pid,
    pagemap: Pagemap,
    /// Files of mappings; nothing for those that cannot be opened.
    files: HashMap<FileId, Option<File>>,
}

impl Live {
    /// Opens that of `pid`.
    ///
    /// # Errors
    /// Where it is gone, or may not be looked into.
    pub fn open(pid: u32) -> io::Result<Self> {
        let thread = leader::speaker(pid);
        let pagemap = Pagemap::open(thread)?;
        let thread = i32::try_from(thread).map_err(|_| io::ErrorKind::NotFound)?;
        let live = Self { pid, thread: Pid::from_raw(thread), pagemap, files: HashMap::new() };
        live.may_be_read()?;
        Ok(live)
    }

    /// Whether the kernel lets us read: one word of where there is none. Anything but a wrong address is a refusal.
    fn may_be_read(&self) -> io::Result<()> {
        let mut word = [0; 8];
        let nowhere = [RemoteIoVec { base: 0, len: word.len() }];
        match process_vm_readv(self.thread, &mut [IoSliceMut::new(&mut word)], &nowhere) {
            Ok(_) | Err(nix::Error::EFAULT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl Memory for Live {
    fn pages(&mut self, address: u64, pages: &mut [Page]) -> bool {
        let Ok(mut entries) = self.pagemap.entries(address / PAGE as u64, pages.len()) else { return false };
        let mut known = 0;
        for page in &mut *pages {
            let entry = entries.next();
            known += usize::from(entry.is_some());
            *page = match entry {
                Some(entry) if entry.is_present() => Page::Resident,
                Some(entry) if entry.is_swapped() => Page::Swapped,
                _ => Page::Absent,
            };
        }
        // Nothing at all: the address space is gone. At the end of the address space there is less.
        known > 0 || (!pages.is_empty() && address >= 1 << 47)
    }

    fn copy(&mut self, address: u64, into: &mut [u8]) -> bool {
        let Ok(base) = usize::try_from(address) else { return false };
        let length = into.len();
        let place = [RemoteIoVec { base, len: length }];
        process_vm_readv(self.thread, &mut [IoSliceMut::new(into)], &place) == Ok(length)
    }

    fn heads(&mut self, pages: &[u64], into: &mut [u8]) {
        for (pages, heads) in pages.chunks(MAX_PLACES).zip(into.chunks_mut(MAX_PLACES * HEAD_BYTES)) {
            let places: Vec<RemoteIoVec> = pages
                .iter()
                .filter_map(|page| Some(RemoteIoVec { base: usize::try_from(*page).ok()?, len: HEAD_BYTES }))
                .collect();
            let wanted = places.len() * HEAD_BYTES;
            let read = process_vm_readv(self.thread, &mut [IoSliceMut::new(heads)], &places).unwrap_or(0);
            if read == wanted {
                continue;
            }
            // One of them is gone: one by one.
            for (page, head) in pages.iter().zip(heads.chunks_exact_mut(HEAD_BYTES)) {
                if !self.copy(*page, head) {
                    head.fill(0);
                }
            }
        }
    }

    fn end(&mut self, address: u64) -> Option<u64> {
        let mappings = maps::read(self.pid).ok()?;
        let first = mappings.partition_point(|mapping| mapping.end <= address);
        let mut end = None;
        for mapping in mappings.get(first..)? {
            let is_next = mapping.start <= end.unwrap_or(address);
            if !is_next || !mapping.writable || mapping.shared {
                break;
            }
            end = Some(mapping.end);
        }
        end
    }

    fn file(&mut self, mapping: &Mapping, file_offset: u64, into: &mut [u8]) -> bool {
        let Some(id) = mapping.file else { return false };
        if self.files.len() >= MAX_FILES && !self.files.contains_key(&id) {
            self.files.clear();
        }
        let file = self.files.entry(id).or_insert_with(|| open_mapped(self.pid, mapping).ok());
        file.as_ref().is_some_and(|file| file.read_exact_at(into, file_offset).is_ok())
    }
}
