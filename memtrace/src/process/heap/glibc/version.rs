//! glibc's version, by the banner in its file.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use super::super::smaps::MappedMemory;
use crate::process::{leader, maps::Mapping, open};

/// The words before the version in the banner that `libc.so.6` prints when it is run.
const BANNER: &[u8] = b" stable release version ";
/// The same in builds between releases.
const DEVELOPMENT: &[u8] = b" development release version ";
/// No more of a file is searched, in bytes.
const MAX_FILE_BYTES: u64 = 64 << 20;
/// Read at once, in bytes.
const PIECE_BYTES: usize = 1 << 16;

/// A version as it is written.
#[must_use]
pub fn name((major, minor): (u32, u32)) -> String {
    format!("{major}.{minor}")
}

/// Whether a mapping is of glibc's shared library, by its name.
#[must_use]
pub fn is_libc(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name == "libc.so.6" || (name.starts_with("libc-2.") && name.ends_with(".so"))
}

/// The version that the file of the process's glibc tells: that of its shared library, else of its program.
pub(crate) fn told_by_file(pid: u32, mappings: &[MappedMemory]) -> Option<(u32, u32)> {
    let of_file = |mapping: &&Mapping| mapping.file.is_some();
    let mappings = || mappings.iter().map(|one| &one.mapping).filter(of_file);
    let libc = mappings().find(|mapping| is_libc(&mapping.path));
    let mapping = libc.or_else(|| mappings().find(|mapping| mapping.executable))?;
    let root = PathBuf::from(format!("/proc/{}/root", leader::speaker(pid)));
    let file = open::open_regular(&root.join(mapping.path.strip_prefix("/").ok()?)).ok()?;
    let is_mapped = mapping.file.is_some_and(|id| open::is_file(&file, id));
    if is_mapped { in_file(file) } else { None }
}

fn in_file(file: File) -> Option<(u32, u32)> {
    let mut file = file.take(MAX_FILE_BYTES);
    let mut text = Vec::new();
    loop {
        // The end of a piece may be the beginning of the banner.
        let kept = text.len().min(BANNER.len() + DEVELOPMENT.len());
        text.drain(..text.len() - kept);
        let read = file.by_ref().take(PIECE_BYTES as u64).read_to_end(&mut text).ok()?;
        if let Some(version) = in_text(&text) {
            return Some(version);
        }
        if read == 0 {
            return None;
        }
    }
}

/// The version in a piece of text: the numbers behind the banner's words.
#[must_use]
pub fn in_text(text: &[u8]) -> Option<(u32, u32)> {
    [BANNER, DEVELOPMENT].iter().find_map(|words| {
        let at = text.windows(words.len()).position(|window| window == *words)?;
        let version = text.get(at + words.len()..)?;
        let number = |text: &[u8]| {
            let digits: Vec<u8> = text.iter().copied().take_while(u8::is_ascii_digit).take(4).collect();
            Some((std::str::from_utf8(&digits).ok()?.parse::<u32>().ok()?, digits.len()))
        };
        let (major, length) = number(version)?;
        let rest = version.get(length..)?.strip_prefix(b".")?;
        let (minor, _) = number(rest)?;
        // A number at the end of the piece may go on.
        (rest.len() > 4).then_some((major, minor))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_banner_has_the_version() {
        let banner = b"\0GNU C Library (Debian GLIBC 2.36-9) stable release version 2.36.\nCopyright";
        assert_eq!(in_text(banner), Some((2, 36)));
        assert_eq!(in_text(&banner[..banner.len() - 13]), None, "cut off");
        assert_eq!(in_text(b"GNU C Library"), None);
    }

    #[test]
    fn a_banner_that_pieces_cut_is_found() {
        use std::io::{Seek, SeekFrom, Write};
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![b'.'; PIECE_BYTES - 12]).unwrap();
        file.write_all(b"GNU C Library stable release version 2.41.\nCopyright").unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        assert_eq!(in_file(file), Some((2, 41)));
    }

    #[test]
    fn our_own_is_told() {
        let own = std::process::id();
        let version = told_by_file(own, &super::super::super::smaps::read(own).unwrap());
        assert!(version.is_some_and(|(major, _)| major == 2), "{version:?}");
    }
}
