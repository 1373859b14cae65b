//! Opening files that a target, or anybody but memtrace's user, has chosen.
//!
//! In: a path. Out: an open regular file. A name may lead to a pipe, whose opening waits for a writer, or to a device, whose
//! opening does something; root opens neither here. The one way to open such paths (a test below holds the sources to that).

use std::{fs::File, io, path::Path};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, fstat, major, minor, openat},
    mm::{MapFlags, ProtFlags, mmap, munmap},
};

use super::maps::{self, FileId};

/// Opens a regular file for reading; anything else is an error that says so, and is not opened.
///
/// # Errors
/// Where there is no such file, it may not be read, or it is no regular file.
pub fn open_regular(path: &Path) -> io::Result<File> {
    // A handle on the name: nothing is opened yet, so nothing waits and no driver hears of it.
    let handle = openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let kind = FileType::from_raw_mode(fstat(&handle)?.st_mode);
    if kind != FileType::RegularFile {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("not a regular file but {}", name_of(kind))));
    }
    // Through the handle, so it is the same file. Not waiting for whoever has a lease on it either.
    let by_handle = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&handle));
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    Ok(File::from(openat(CWD, by_handle, flags, Mode::empty())?))
}

fn name_of(kind: FileType) -> &'static str {
    match kind {
        FileType::Fifo => "a pipe",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        FileType::Directory => "a folder",
        FileType::Socket => "a socket",
        _ => "something else",
    }
}

/// Whether an open file is the one that a process has mapped as `id`.
///
/// Some file systems (btrfs, overlays of older kernels) tell another device to stat(2) than in /proc/PID/maps. So where these
/// differ, a page of the file is mapped here, and the kernel asked what it calls that.
#[must_use]
pub fn is_file(file: &File, id: FileId) -> bool {
    let Ok(stat) = fstat(file) else { return false };
    let by_stat = FileId { device: (major(stat.st_dev), minor(stat.st_dev)), inode: stat.st_ino };
    by_stat == id || as_mapped(file) == Some(id)
}

/// The kernel's name for the file where it is mapped.
fn as_mapped(file: &File) -> Option<FileId> {
    const LENGTH: usize = 1;
    // SAFETY: a new mapping at an address that the kernel chooses, which nobody reads.
    let address = unsafe { mmap(std::ptr::null_mut(), LENGTH, ProtFlags::empty(), MapFlags::PRIVATE, file, 0) }.ok()?;
    let start = address as u64;
    let mappings = maps::read(std::process::id());
    // SAFETY: the mapping made above, of which no reference is left.
    unsafe { munmap(address, LENGTH) }.ok()?;
    mappings.ok()?.into_iter().find(|mapping| mapping.start <= start && start < mapping.end)?.file
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs,
        os::unix::{fs::symlink, net::UnixListener},
        sync::mpsc,
        thread,
        time::Duration,
    };

    /// Opens in a thread: a test that would wait for ever fails.
    fn opened(path: &Path) -> io::Result<File> {
        let (sender, receiver) = mpsc::channel();
        let path = path.to_owned();
        thread::spawn(move || sender.send(open_regular(&path)));
        receiver.recv_timeout(Duration::from_secs(60)).expect("opening does not wait")
    }

    #[test]
    fn only_regular_files_are_opened() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("file"), "content").unwrap();
        symlink(at("file"), at("link")).unwrap();
        assert!(opened(&at("file")).is_ok() && opened(&at("link")).is_ok());
        rustix::fs::mknodat(CWD, at("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        let _socket = UnixListener::bind(at("socket")).unwrap();
        symlink("/dev/null", at("device")).unwrap();
        for (name, what) in [("pipe", "a pipe"), ("socket", "a socket"), ("device", "a device"), (".", "a folder")] {
            let error = opened(&at(name)).unwrap_err().to_string();
            assert!(error.ends_with(what), "{name}: {error}");
        }
        assert_eq!(opened(&at("nothing")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_file_is_known_by_what_the_kernel_calls_it_where_it_is_mapped() {
        let mappings = maps::read(std::process::id()).unwrap();
        let exe = fs::read_link("/proc/self/exe").unwrap();
        let id = mappings.iter().find(|mapping| mapping.path == exe).unwrap().file.unwrap();
        let file = open_regular(&exe).unwrap();
        assert!(is_file(&file, id) && as_mapped(&file) == Some(id));
        let (other, same_inode) = (tempfile::tempfile().unwrap(), FileId { device: (id.device.0 + 1, 0), ..id });
        assert!(!is_file(&other, id) && !is_file(&file, same_inode));
    }

    /// Every line of memtrace's own sources, outside of tests, that opens a file, with the file it is in.
    fn lines_that_open() -> Vec<(String, String)> {
        fn sources(folder: &Path, found: &mut Vec<std::path::PathBuf>) {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    sources(&path, found);
                } else if !path.ends_with("tests.rs") {
                    found.push(path);
                }
            }
        }
        const OPENS: [&str; 8] = [
            "File::open(",
            "File::open)",
            "File::options(",
            "OpenOptions::new(",
            "fs::read(",
            "read_to_string(",
            "fs::copy(",
            "openat(",
        ];
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut files = Vec::new();
        sources(&root, &mut files);
        let mut lines = Vec::new();
        for path in files {
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
            let name = path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
            let opening = code.lines().filter(|line| OPENS.iter().any(|opens| line.contains(opens)));
            lines.extend(opening.map(|line| (name.clone(), line.trim().to_owned())));
        }
        lines
    }

    /// Files of the kernel's own, of which no name is anybody's choice; /proc/PID/root and map_files lead out of it.
    fn is_of_the_kernel(line: &str) -> bool {
        let is_named = ["\"/proc/", "\"/sys/", "(KALLSYMS)"].iter().any(|start| line.contains(start));
        is_named && !line.contains("/root") && !line.contains("map_files")
    }

    #[test]
    fn what_others_have_named_is_opened_in_one_place() {
        /// Where else files are opened, and whose choice these are.
        const OTHERS: [(&str, &str); 8] = [
            ("process/open.rs", "this place"),
            ("process/cgroup.rs", "below the cgroup file system, without `..`"),
            (
                "capture/selection.rs",
                "the folder of a cgroup that the user has named, and files of the cgroup file system",
            ),
            ("process/tracefs.rs", "the kernel's tracepoints"),
            ("engine/run.rs", "settings of the kernel's"),
            ("cli/output.rs", "where the user wants reports"),
            ("cli/gate.rs", "suppressions and baselines of the user's"),
            ("cli/unwind_table.rs", "images that the user has named"),
        ];
        for (file, line) in lines_that_open() {
            let is_told = OTHERS.iter().any(|(other, _)| *other == file) || is_of_the_kernel(&line);
            assert!(is_told, "{file} opens a path by itself, not by open_regular: {line}");
        }
    }
}
