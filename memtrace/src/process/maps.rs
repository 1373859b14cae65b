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

/// Why a process's mappings cannot be told.
#[derive(Debug, Error)]
pub enum MapsError {
    /// The file cannot be read.
    #[error("cannot read /proc/{pid}/maps: {source}")]
    Read {
        /// The process.
        pid: u32,
        /// What the system says.
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

/// Where the data segment of `pid` ends, which brk(2) moves; `None` where it has none yet.
#[must_use]
pub fn data_end(pid: u32) -> Option<u64> {
    let heap = read(pid).ok()?.into_iter().find(|mapping| mapping.path.as_os_str() == "[heap]");
    heap.map(|heap| heap.end)
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

/// The executable mappings that a process has or had: a stack may be older than the newest look.
#[derive(Clone, Debug, Default)]
pub struct CodeMap {
    mappings: Vec<Mapping>,
}

impl CodeMap {
    /// Takes in a newer look. Ranges that are gone stay known until something else takes their place.
    pub fn update(&mut self, newer: Vec<Mapping>) {
        let mut kept: Vec<Mapping> = newer.into_iter().filter(|mapping| mapping.executable).collect();
        for old in self.mappings.drain(..) {
            if !kept.iter().any(|new| new.start < old.end && old.start < new.end) {
                kept.push(old);
            }
        }
        kept.sort_by_key(|mapping| mapping.start);
        self.mappings = kept;
    }

    /// The executable mapping that holds `address`.
    #[must_use]
    pub fn find(&self, address: u64) -> Option<&Mapping> {
        let after = self.mappings.partition_point(|mapping| mapping.start <= address);
        let mapping = &self.mappings[after.checked_sub(1)?];
        (address < mapping.end).then_some(mapping)
    }

    /// Every range, in order of addresses.
    #[must_use]
    pub fn mappings(&self) -> &[Mapping] {
        &self.mappings
    }
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

    #[test]
    fn ranges_that_are_gone_stay_known_until_they_are_replaced() {
        let range = |start, end, name: &str| Mapping {
            start,
            end,
            readable: true,
            writable: false,
            executable: true,
            shared: false,
            file_offset: 0,
            file: None,
            path: name.into(),
            deleted: false,
        };
        let mut code = CodeMap::default();
        code.update(vec![range(0x1000, 0x2000, "a"), range(0x3000, 0x4000, "b")]);
        code.update(vec![range(0x1800, 0x2800, "c")]);
        assert_eq!(code.find(0x3000).unwrap().path, PathBuf::from("b"));
        assert_eq!(code.find(0x1900).unwrap().path, PathBuf::from("c"));
        assert_eq!(code.find(0x1000), None);
        assert_eq!(code.find(0x2800), None);
    }

    #[test]
    fn our_own_code_is_found_in_our_own_mappings() {
        let mut code = CodeMap::default();
        code.update(read(std::process::id()).unwrap());
        let here = our_own_code_is_found_in_our_own_mappings as fn() as usize as u64;
        assert!(code.find(here).unwrap().file.is_some());
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(text in prop::collection::vec(any::<u8>(), 0..200)) {
            _ = parse(&text);
        }
    }
}
