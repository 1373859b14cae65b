//! Copies of files that the process that reads symbols may not open: it is nobody, and these are for their owner alone.

use std::{
    fs::File,
    io,
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::fs::FileExt,
    },
};

use rustix::{
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, fstat, memfd_create},
    process::{Resource, getrlimit},
};

use crate::process::cgroup::own_room;

/// The most that copies of a process may take together, in bytes: unlike pages of files, the kernel cannot take theirs back.
pub(super) const MAX_COPIED_BYTES: u64 = 256 << 20;
const PIECE_BYTES: usize = 1 << 20;

/// Copies a file to memory that nobody can change any more; its length is taken from what is `left` for copies.
///
/// # Errors
/// Where the file is longer than that or than there is room for, cannot be read, or the kernel gives no such memory.
pub(super) fn copy(file: BorrowedFd<'_>, left: &mut u64) -> io::Result<OwnedFd> {
    // A process that writes past the limit of files is ended, and in a group without room a target may be.
    let limits = [getrlimit(Resource::Fsize).current, own_room().map(|room| room.free_bytes())];
    let most = limits.into_iter().flatten().fold(*left, u64::min);
    let length = u64::try_from(fstat(file)?.st_size).unwrap_or(u64::MAX);
    if length > most {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let file = File::from(file.try_clone_to_owned()?);
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Some kernels want to be told that no program is made of it, older ones do not know that.
    let copy = memfd_create("memtrace-image", flags | MemfdFlags::NOEXEC_SEAL);
    let copy = File::from(copy.or_else(|_| memfd_create("memtrace-image", flags))?);
    let (mut piece, mut at) = (vec![0; PIECE_BYTES], 0);
    while at < length {
        let most = usize::try_from(length - at).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
        let read = file.read_at(&mut piece[..most], at)?;
        if read == 0 {
            break;
        }
        copy.write_all_at(&piece[..read], at)?;
        at += read as u64;
    }
    fcntl_add_seals(&copy, SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL)?;
    *left -= length;
    Ok(copy.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::Write,
        os::fd::{AsFd, AsRawFd},
    };

    #[test]
    fn a_copy_has_the_whole_content_and_stays_as_it_is() {
        let mut file = tempfile::tempfile().unwrap();
        let content: Vec<u8> = (0..3 * PIECE_BYTES + 5).map(|index| u8::try_from(index % 251).unwrap()).collect();
        file.write_all(&content).unwrap();
        let mut left = content.len() as u64;
        let copied = File::from(copy(file.as_fd(), &mut left).unwrap());
        assert_eq!(left, 0);
        assert_eq!(std::fs::read(format!("/proc/self/fd/{}", copied.as_raw_fd())).unwrap(), content);
        assert!(copied.write_at(b"x", 0).is_err() && copied.set_len(0).is_err());
        assert_eq!(copy(file.as_fd(), &mut left).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }
}
