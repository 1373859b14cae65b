//! The confinement of the process that reads symbols, before it sees the first file.
//!
//! The seccomp filter needs no privilege and works in containers. It leaves memory, the one socket, the end, and opening for
//! reading: no way to make, change, connect, start, signal or trace anything. There is nothing to open but what memtrace has
//! sent, since the root folder is the process's own /proc/self/fd. The rest narrows what a hole in that would give.

use std::{error::Error, io, path::Path};

use caps::{CapSet, errors::CapsError};
use nix::{
    sched::{CloneFlags, unshare},
    sys::signal::SigSet,
};
use rustix::{
    fs::{Gid, Uid},
    process::{Resource, chdir, chroot},
    thread::{set_name, set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};

use crate::process::confinement::{self, Calls};

/// Memory for symbols and unpacked debug information. Files that are mapped do not count: the kernel takes their pages back.
const MAX_DATA_BYTES: u64 = 1 << 30;
/// Nobody.
const NOBODY: u32 = 65534;

/// Descriptors: one a file, as memtrace itself has.
const MAX_DESCRIPTORS: u64 = 1 << 16;
/// Where the process has what it was sent.
const OWN_FILES: &str = "/proc/self/fd";

/// Gives up everything. Returns the path below which the process's own descriptors are.
///
/// # Errors
/// Where the filter cannot be put in force, without which no file is to be read.
pub(super) fn confine() -> Result<&'static Path, Box<dyn Error>> {
    // Ctrl-C goes to all of a terminal's foreground, `systemctl stop` to all of a unit: the last report needs names.
    SigSet::all().thread_block()?;
    // For people who look at processes.
    _ = set_name(c"memtrace-names");
    limit()?;
    let own_files = enter_own_files();
    give_up_identity();
    give_up_capabilities()?;
    confinement::seal(Calls::default())?;
    Ok(own_files)
}

fn limit() -> io::Result<()> {
    confinement::limit(&[
        (Resource::Data, MAX_DATA_BYTES),
        (Resource::Nofile, MAX_DESCRIPTORS),
        (Resource::Core, 0),
        (Resource::Fsize, 0),
        (Resource::Memlock, 0),
    ])
}

/// Makes its own descriptors all that it has of file systems. Without the privilege for that, in a user namespace of its own;
/// where the kernel allows that neither, all stays in sight that memtrace's user may read.
fn enter_own_files() -> &'static Path {
    let enter = || chroot(OWN_FILES).and_then(|()| chdir("/"));
    let has_entered = enter().is_ok() || unshare(CloneFlags::CLONE_NEWUSER).is_ok() && enter().is_ok();
    Path::new(if has_entered { "/" } else { OWN_FILES })
}

/// Gives up as much as it may: without privileges there are none to give up, and the filter does without these steps.
fn give_up_identity() {
    // While there is the privilege to do it.
    for capability in caps::all() {
        _ = caps::drop(None, CapSet::Bounding, capability);
    }
    let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    _ = set_thread_groups(&[]);
    _ = set_thread_res_gid(group, group, group);
    _ = set_thread_res_uid(user, user, user);
}

/// Nobody is ever refused that.
fn give_up_capabilities() -> Result<(), CapsError> {
    for set in [CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        caps::clear(None, set)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::thread::set_no_new_privs;
    use std::{fs::File, io::ErrorKind, net::TcpListener, thread};

    #[test]
    fn files_are_opened_for_reading_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (file, new) = (folder.path().join("file"), folder.path().join("new"));
        std::fs::write(&file, "content").unwrap();
        let filter = confinement::filter(Calls::default()).unwrap();
        // Filters are of a thread. It tells what it sees, since it cannot print.
        let confined = thread::spawn(move || {
            set_no_new_privs(true).unwrap();
            seccompiler::apply_filter(&filter).unwrap();
            let mut write = File::options();
            write.write(true);
            let mut path_only = File::options();
            std::os::unix::fs::OpenOptionsExt::custom_flags(path_only.read(true), libc::O_PATH);
            let refused = [
                write.open(&file).map(drop),
                File::options().append(true).open(&file).map(drop),
                File::create(&new).map(drop),
                path_only.open(&file).map(drop),
                std::fs::read_link("/proc/self/exe").map(drop),
                std::fs::remove_file(&file),
                TcpListener::bind("127.0.0.1:0").map(drop),
            ];
            (File::open(&file).and_then(|file| file.metadata()).map(|file| file.len()), refused.map(Result::err))
        });
        let (read, refused) = confined.join().unwrap();
        assert_eq!(read.unwrap(), 7);
        for (index, error) in refused.into_iter().enumerate() {
            assert_eq!(error.map(|error| error.kind()), Some(ErrorKind::PermissionDenied), "{index}");
        }
    }
}
