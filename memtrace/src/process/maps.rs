//! `/proc/PID/maps`: which addresses of a process belong to which file.

use std::{ffi::OsString, fs, io, os::unix::ffi::OsStringExt, path::PathBuf};

use thiserror::Error;

use super::leader;

/// Which file a mapping is of, whatever its path says now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId {
    /// The device's major and minor number.
    pub device: (u32, u32),
    /// The inode on that device.
    pub inode: u64,
}

/// One range of addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The first address.
    pub start: u64,
    /// One past the last address.
    pub end: u64,
    /// Whether it may be read.
    pub readable: bool,
    /// Whether it may be written to.
    pub writable: bool,
    /// Whether code may run there.
    pub executable: bool,
    /// Whether what is written there is others' as well.
    pub shared: bool,
    /// Where in the file the range begins, in bytes.
    pub file_offset: u64,
    /// The file; `None` for anonymous memory.
    pub file: Option<FileId>,
    /// The path as the process sees it, or a name in brackets (`[heap]`), without the kernel's
    /// ` (deleted)`; empty for anonymous memory.
    pub path: PathBuf,
    /// Whether that path leads to the file no more.
    pub deleted: bool,
}

impl Mapping {
    /// Whether it is there to end a program that runs over the beginning of the next one, as below the stack of a thread.
    #[must_use]
    pub fn guards(&self, next: &Self) -> bool {
        self.end == next.start && !self.readable && !self.writable && self.file.is_none()
    }
}

/// Why a process's mappings cannot be told.
#[derive(Debug, Error)]
pub enum MapsError {
    /// The file cannot be read.
    #[error("cannot read /proc/{pid}/maps: {source}")]
    Read {
        /// The process.
        pid: u32,
        /// The system's error.
        source: io::Error,
    },
    /// A line is not of the form that proc(5) describes.
    #[error("cannot parse line {line} of a process's maps: {content:?}")]
    Parse {
        /// The line's number, from 1.
        line: usize,
        /// The line itself.
        content: String,
    },
}

/// Reads the mappings of `pid`, in order of their addresses.
///
/// # Errors
/// Where the process is gone, may not be looked into, or the kernel's answer cannot be parsed.
pub fn read(pid: u32) -> Result<Vec<Mapping>, MapsError> {
    let text =
        fs::read(format!("/proc/{}/maps", leader::speaker(pid))).map_err(|source| MapsError::Read { pid, source })?;
    parse(&text)
}

/// Parses the text of a maps file (proc(5)). Paths are bytes, not text.
///
/// # Errors
/// [`MapsError::Parse`] names the first line that is not of the expected form.
pub fn parse(text: &[u8]) -> Result<Vec<Mapping>, MapsError> {
    text.split(|byte| *byte == b'\n')
        .enumerate()
        .filter(|(_, line)| !line.is_empty())
        .map(|(index, line)| {
            parse_line(line).ok_or_else(|| MapsError::Parse {
                line: index + 1,
                content: String::from_utf8_lossy(line).into_owned(),
            })
        })
        .collect()
}

fn parse_line(line: &[u8]) -> Option<Mapping> {
    let mut fields = line.splitn(6, |byte| *byte == b' ');
    let mut field = || std::str::from_utf8(fields.next()?).ok();
    let (start, end) = field()?.split_once('-')?;
    let (start, end) = (hex(start)?, hex(end)?);
    let permissions = field()?;
    let file_offset = hex(field()?)?;
    let (major, minor) = field()?.split_once(':')?;
    let device = (u32::from_str_radix(major, 16).ok()?, u32::from_str_radix(minor, 16).ok()?);
    let inode: u64 = field()?.parse().ok()?;
    if end < start || permissions.len() != 4 {
        return None;
    }
    let path = fields.next().unwrap_or_default().trim_ascii_start();
    let live_path = path.strip_suffix(b" (deleted)");
    Some(Mapping {
        start,
        end,
        readable: permissions.as_bytes()[0] == b'r',
        writable: permissions.as_bytes()[1] == b'w',
        executable: permissions.as_bytes()[2] == b'x',
        shared: permissions.as_bytes()[3] == b's',
        file_offset,
        file: (inode != 0).then_some(FileId { device, inode }),
        path: PathBuf::from(OsString::from_vec(live_path.unwrap_or(path).to_vec())),
        deleted: live_path.is_some(),
    })
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_forms_of_proc_are_understood() {
        let text = b"55d0c0a00000-55d0c0a21000 r-xp 00002000 fd:01 1234   /usr/bin/a b (deleted)\n\
                     7ffc1000-7ffc2000 rw-p 00000000 00:00 0\n\
                     7ffd0000-7ffd2000 r-xp 00000000 00:00 0    [vdso]\n";
        let maps = parse(text).unwrap();
        assert_eq!(maps[0].path, PathBuf::from("/usr/bin/a b"));
        assert!(maps[0].deleted && maps[0].executable);
        assert_eq!(maps[0].file, Some(FileId { device: (0xfd, 1), inode: 1234 }));
        assert_eq!(maps[1].file, None);
        assert!(maps[1].writable && !maps[1].executable && !maps[1].shared && !maps[0].writable);
        assert_eq!(maps[2].path, PathBuf::from("[vdso]"));
    }

    #[test]
    fn a_truncated_line_is_an_error_that_names_it() {
        let error = parse(b"1000-2000 r-xp 0 0:0 0\n3000-40").unwrap_err();
        assert!(matches!(error, MapsError::Parse { line: 2, .. }), "{error}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(text in prop::collection::vec(any::<u8>(), 0..200)) {
            _ = parse(&text);
        }
    }
}
