//! The content of a process's memory: the pages that it has written to, read in pieces. Pages that it never touched are not, so
//! that reserved memory costs nothing, and neither are pages of files as the files have them.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    time::{Duration, Instant},
};

use memtrace_common::arch::PAGE_BYTES as PAGE;
use thiserror::Error;

use super::{leader, pagemap::Pagemap};

/// Bytes in a page.
#[expect(clippy::cast_possible_truncation, reason = "a page is small")]
const PAGE_BYTES: usize = PAGE as usize;
/// Pages that are read at once.
const PIECE_PAGES: usize = 256;
/// Pages that are asked about at once.
const ASKED_PAGES: u64 = 1 << 16;
/// Why memory is not read, or not any further.
#[derive(Debug, Error)]
pub enum ContentsError {
    /// Its files under `/proc` cannot be read.
    #[error("its memory cannot be read: {0}")]
    Closed(#[from] io::Error),
    /// It takes longer than it may.
    #[error("looking through its memory took more than {} s", .0.as_secs())]
    TooSlow(Duration),
    /// There is more than may be read.
    #[error("it has more than {} GiB of memory to look through", .0 >> 30)]
    TooMuch(u64),
}

/// How much may be read, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// All reads together, in bytes.
    pub bytes: u64,
    /// From when it was opened on.
    pub time: Duration,
}

/// The memory of one process, whatever becomes of its pid.
#[derive(Debug)]
pub struct Contents {
    memory: File,
    pagemap: Pagemap,
    bounds: Bounds,
    opened: Instant,
    bytes: u64,
    piece: Vec<u8>,
}

impl Contents {
    /// Opens that of `pid`.
    ///
    /// # Errors
    /// Where it is gone, or may not be looked into.
    pub fn open(pid: u32, bounds: Bounds) -> Result<Self, ContentsError> {
        let pid = leader::speaker(pid);
        Ok(Self {
            memory: File::open(format!("/proc/{pid}/mem"))?,
            pagemap: Pagemap::open(pid)?,
            bounds,
            opened: Instant::now(),
            bytes: 0,
            piece: vec![0; PIECE_PAGES * PAGE_BYTES],
        })
    }

    /// How many bytes were read.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Hands what the process has written from `start` up to `end` to `with`, in order of addresses, each piece with its own;
    /// with `shared`, also pages that others have as well.
    ///
    /// # Errors
    /// Where the bounds are reached, or the process is gone. Memory that cannot be read although it is there is passed over.
    pub fn read<E: From<ContentsError>>(
        &mut self,
        start: u64,
        end: u64,
        shared: bool,
        mut with: impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let (mut page, after) = (start / PAGE, end.div_ceil(PAGE));
        while page < after {
            let asked = (after - page).min(ASKED_PAGES);
            for (from, until) in self.written(page, asked, shared)? {
                self.check()?;
                let length = (until - from) * PAGE_BYTES;
                let address = (page + from as u64) * PAGE;
                let mut piece = std::mem::take(&mut self.piece);
                let read = self.fill(&mut piece[..length], address);
                let (first, last) = (address.max(start), (address + length as u64).min(end));
                // Within a piece, so they fit.
                #[expect(clippy::cast_possible_truncation, reason = "at most a piece")]
                let within = (first - address) as usize..(last - address) as usize;
                let outcome = read.map_err(E::from).and_then(|()| with(first, &piece[within]));
                self.piece = piece;
                outcome?;
            }
            page += asked;
        }
        Ok(())
    }

    fn check(&self) -> Result<(), ContentsError> {
        if self.opened.elapsed() > self.bounds.time {
            Err(ContentsError::TooSlow(self.bounds.time))
        } else if self.bytes > self.bounds.bytes {
            Err(ContentsError::TooMuch(self.bounds.bytes))
        } else {
            Ok(())
        }
    }

    /// Runs of pages, no longer than a piece, that the process has written to, among so many from `page` on.
    fn written(&mut self, page: u64, count: u64, shared: bool) -> Result<Vec<(usize, usize)>, ContentsError> {
        self.check()?;
        #[expect(clippy::cast_possible_truncation, reason = "asked for in parts")]
        let entries = self.pagemap.entries(page, count as usize)?;
        let mut runs: Vec<(usize, usize)> = Vec::new();
        for (index, entry) in entries.enumerate() {
            if !(entry.is_present() || entry.is_swapped()) || (entry.is_shared() && !shared) {
                continue;
            }
            match runs.last_mut() {
                Some((from, until)) if *until == index && index - *from < PIECE_PAGES => *until = index + 1,
                _ => runs.push((index, index + 1)),
            }
        }
        Ok(runs)
    }

    /// Reads from `address` on. A page that cannot be read is taken for one of zeros.
    fn fill(&mut self, piece: &mut [u8], address: u64) -> Result<(), ContentsError> {
        self.bytes += piece.len() as u64;
        if self.memory.read_exact_at(piece, address).is_ok() {
            return Ok(());
        }
        for (page, offset) in piece.chunks_mut(PAGE_BYTES).zip((0..).step_by(PAGE_BYTES)) {
            match self.memory.read_exact_at(page, address.saturating_add(offset)) {
                Ok(()) => {}
                // The kernel's own, or a device's.
                Err(error) if error.raw_os_error() == Some(libc::EIO) => page.fill(0),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_BOUNDS: Bounds = Bounds { bytes: u64::MAX, time: Duration::MAX };

    fn read(contents: &mut Contents, start: u64, end: u64) -> Result<Vec<(u64, Vec<u8>)>, ContentsError> {
        let mut pieces = Vec::new();
        contents.read(start, end, false, |at, bytes| {
            pieces.push((at, bytes.to_vec()));
            Ok::<(), ContentsError>(())
        })?;
        Ok(pieces)
    }

    #[test]
    fn only_what_was_written_is_read_and_to_the_byte() {
        // Large enough to be mapped for itself.
        let mut memory = vec![0u8; 64 << 20];
        let start = memory.as_ptr().addr() as u64;
        let middle = (start + (32 << 20)) / PAGE * PAGE;
        let at = usize::try_from(middle - start).unwrap();
        memory[at..at + 10_000].fill(7);
        std::hint::black_box(&mut memory);
        let mut contents = Contents::open(std::process::id(), NO_BOUNDS).unwrap();
        let pieces = read(&mut contents, middle + 16, start + (64 << 20)).unwrap();
        assert_eq!(pieces[0].0, middle + 16);
        assert!(pieces[0].1[..9984].iter().all(|byte| *byte == 7) && pieces[0].1[9984] == 0);
        // With huge pages there is a little more.
        assert!(contents.bytes() <= 4 << 20, "{}", contents.bytes());
    }

    #[test]
    fn bounds_are_kept() {
        let memory = vec![7u8; 8 << 20];
        let start = memory.as_ptr().addr() as u64;
        let bounded = |bounds| {
            let mut contents = Contents::open(std::process::id(), bounds).unwrap();
            read(&mut contents, start, start + (8 << 20)).map(drop)
        };
        let too_much = bounded(Bounds { bytes: 1 << 20, ..NO_BOUNDS });
        assert!(matches!(too_much, Err(ContentsError::TooMuch(_))), "{too_much:?}");
        let too_slow = bounded(Bounds { time: Duration::ZERO, ..NO_BOUNDS });
        assert!(matches!(too_slow, Err(ContentsError::TooSlow(_))), "{too_slow:?}");
        assert!(bounded(NO_BOUNDS).is_ok());
    }
}
