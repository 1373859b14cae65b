//! Reading an ELF file of which nobody knows whether its tables have the sizes that they claim.
//!
//! Reads are pread(2), never a mapping: whoever shortens the file meanwhile makes a read fail, not memtrace. All reads of one
//! parse together have a bound, since a sparse file of 64 GiB takes no disk, and reading it would take all memory.

use std::{cell::Cell, fs::File, ops::Range, os::unix::fs::FileExt};

use object::read::{ReadCache, ReadCacheOps, ReadRef};

/// The most that one parse may read, in bytes: symbols and their names of the largest browsers, twice.
pub const MAX_READ_BYTES: u64 = 512 << 20;

/// A file that is read piece by piece, up to the bound.
#[derive(Debug)]
pub struct BoundedFile<'f> {
    cache: ReadCache<Position<'f>>,
    left: Cell<u64>,
}

impl<'f> BoundedFile<'f> {
    /// With nothing read yet.
    #[must_use]
    pub fn new(file: &'f File) -> Self {
        Self { cache: ReadCache::new(Position { file, at: 0 }), left: Cell::new(MAX_READ_BYTES) }
    }

    fn take(&self, bytes: u64) -> Result<(), ()> {
        self.left.set(self.left.get().checked_sub(bytes).ok_or(())?);
        Ok(())
    }
}

/// A place in a file of our own: that of the descriptor is moved by all who have the file from us.
#[derive(Debug)]
struct Position<'f> {
    file: &'f File,
    at: u64,
}

impl ReadCacheOps for Position<'_> {
    fn len(&mut self) -> Result<u64, ()> {
        self.file.metadata().map(|file| file.len()).map_err(drop)
    }

    fn seek(&mut self, at: u64) -> Result<u64, ()> {
        self.at = at;
        Ok(at)
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<usize, ()> {
        let read = self.file.read_at(bytes, self.at).map_err(drop)?;
        self.at += read as u64;
        Ok(read)
    }

    fn read_exact(&mut self, bytes: &mut [u8]) -> Result<(), ()> {
        self.file.read_exact_at(bytes, self.at).map_err(drop)?;
        self.at += bytes.len() as u64;
        Ok(())
    }
}

impl<'a> ReadRef<'a> for &'a BoundedFile<'_> {
    fn len(self) -> Result<u64, ()> {
        (&self.cache).len()
    }

    fn read_bytes_at(self, offset: u64, size: u64) -> Result<&'a [u8], ()> {
        self.take(size)?;
        (&self.cache).read_bytes_at(offset, size)
    }

    fn read_bytes_at_until(self, range: Range<u64>, delimiter: u8) -> Result<&'a [u8], ()> {
        let bytes = (&self.cache).read_bytes_at_until(range, delimiter)?;
        self.take(bytes.len() as u64)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_read_than_the_bound() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(64 << 30).unwrap();
        let bounded = BoundedFile::new(&file);
        assert!((&bounded).read_bytes_at(0, 1 << 35).is_err(), "a claim of 32 GiB");
        assert_eq!((&bounded).read_bytes_at(1 << 35, 16), Ok(&[0; 16][..]));
        assert!((&bounded).read_bytes_at(0, MAX_READ_BYTES - 15).is_err(), "together with what was read before");
    }

    #[test]
    fn a_file_that_was_shortened_is_an_error() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        let bounded = BoundedFile::new(&file);
        assert_eq!(ReadRef::len(&bounded), Ok(4096));
        file.set_len(0).unwrap();
        assert!((&bounded).read_bytes_at(0, 16).is_err());
    }
}
