//! The confinement of a process that looks, before it reads the first byte of a target.
//!
//! It keeps what reading another process takes: files of /proc, process_vm_readv(2), and the capability for it. There is no
//! system call left that writes to a process, holds it, or changes anything outside of this one.

use std::error::Error;

use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::signal::SigSet;
use rustix::{
    process::{Resource, setpriority_process},
    thread::set_name,
};

use crate::process::confinement::{self, Calls};

/// The lowest priority there is.
const NICE: i32 = 19;
/// Descriptors: files of /proc, and images one by one.
const MAX_DESCRIPTORS: u64 = 256;

/// The capabilities that reading the memory, and the files, of processes of others takes.
const KEPT: [Capability; 3] =
    [Capability::CAP_SYS_PTRACE, Capability::CAP_DAC_READ_SEARCH, Capability::CAP_CHECKPOINT_RESTORE];

/// `PAGEMAP_SCAN` of `<linux/fs.h>`: which pages are there.
const PAGEMAP_SCAN: u64 = 0xC060_6610;

/// The system calls that it makes beside those of all helpers.
const CALLS: Calls<'_> = Calls {
    any: &[
        libc::SYS_process_vm_readv,
        libc::SYS_lseek,
        libc::SYS_readv,
        libc::SYS_preadv,
        libc::SYS_readlink,
        libc::SYS_readlinkat,
        libc::SYS_getdents64,
        libc::SYS_clock_nanosleep,
        libc::SYS_nanosleep,
        libc::SYS_sched_yield,
        libc::SYS_getrusage,
        libc::SYS_clock_getres,
    ],
    ioctls: &[PAGEMAP_SCAN],
    // None of them makes a file, or opens one for writing.
    open_flags: libc::O_NONBLOCK | libc::O_NOFOLLOW | libc::O_DIRECTORY | libc::O_PATH | libc::O_NOCTTY,
};

/// Gives up all else.
///
/// # Errors
/// Where something cannot be given up, without which nothing is to be read.
pub(super) fn confine(memory_bytes: u64) -> Result<(), Box<dyn Error>> {
    // Ctrl-C goes to all of a terminal's foreground. memtrace decides when this ends.
    SigSet::all().thread_block()?;
    // For people who look at processes.
    _ = set_name(c"memtrace-heap");
    setpriority_process(None, NICE)?;
    confinement::limit(&[
        (Resource::As, memory_bytes),
        (Resource::Nofile, MAX_DESCRIPTORS),
        (Resource::Core, 0),
        (Resource::Fsize, 0),
        (Resource::Memlock, 0),
    ])?;
    give_up_capabilities()?;
    confinement::seal(CALLS)
}

fn give_up_capabilities() -> Result<(), Box<dyn Error>> {
    let kept: CapsHashSet = KEPT.into_iter().collect();
    // While there is the privilege to do it.
    for capability in caps::all().difference(&kept) {
        _ = caps::drop(None, CapSet::Bounding, *capability);
    }
    let kept_of = |set| caps::read(None, set).map(|had| had.intersection(&kept).copied().collect::<CapsHashSet>());
    caps::clear(None, CapSet::Ambient)?;
    caps::set(None, CapSet::Inheritable, &CapsHashSet::new())?;
    caps::set(None, CapSet::Effective, &kept_of(CapSet::Effective)?)?;
    caps::set(None, CapSet::Permitted, &kept_of(CapSet::Permitted)?)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::thread::set_no_new_privs;
    use std::{fs::File, io::ErrorKind, thread};

    #[test]
    fn processes_are_read_and_not_touched() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "content").unwrap();
        let filter = confinement::filter(CALLS).unwrap();
        // Filters are of a thread. It tells what it sees, since it cannot print.
        let confined = thread::spawn(move || {
            set_no_new_privs(true).unwrap();
            seccompiler::apply_filter(&filter).unwrap();
            let pid = rustix::process::Pid::INIT;
            let own_memory = File::options().write(true).open("/proc/self/mem").map(drop);
            let refused = [
                own_memory,
                File::create(folder.path().join("new")).map(drop),
                std::fs::remove_file(&file),
                rustix::process::test_kill_process(pid).map_err(Into::into),
                nix::sys::ptrace::seize(nix::unistd::Pid::from_raw(1), nix::sys::ptrace::Options::empty())
                    .map_err(Into::into),
                std::net::TcpListener::bind("127.0.0.1:0").map(drop),
            ];
            let maps = std::fs::read_to_string("/proc/self/maps").map(|maps| !maps.is_empty());
            let threads = std::fs::read_dir("/proc/self/task").map(Iterator::count);
            (maps, threads, refused.map(Result::err))
        });
        let (maps, threads, refused) = confined.join().unwrap();
        assert!(maps.unwrap() && threads.unwrap() > 0);
        for (index, error) in refused.into_iter().enumerate() {
            assert_eq!(error.map(|error| error.kind()), Some(ErrorKind::PermissionDenied), "{index}");
        }
    }
}
