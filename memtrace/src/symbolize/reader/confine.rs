//! What the process that reads symbols gives up before it sees the first file.
//!
//! The seccomp filter needs no privilege and works in containers. It leaves memory, the one socket, the end, and opening for
//! reading: no way to make, change, connect, start, signal or trace anything. There is nothing to open but what memtrace has
//! sent, since the root folder is the process's own /proc/self/fd. The rest narrows what a hole in that would give.

use std::{collections::BTreeMap, error::Error, io, path::Path};

use caps::{CapSet, errors::CapsError};
use nix::{
    sched::{CloneFlags, unshare},
    sys::signal::SigSet,
};
use rustix::{
    fs::{Gid, Uid},
    process::{
        DumpableBehavior, Resource, Rlimit, Signal, chdir, chroot, set_dumpable_behavior,
        set_parent_process_death_signal, setrlimit,
    },
    thread::{set_name, set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// Memory for symbols and unpacked debug information. Files that are mapped do not count: the kernel takes their pages back.
const MAX_DATA_BYTES: u64 = 1 << 30;
/// Nobody.
const NOBODY: u32 = 65534;

/// Descriptors: one a file, as memtrace itself has.
const MAX_DESCRIPTORS: u64 = 1 << 16;
/// Where the process has what it was sent.
const OWN_FILES: &str = "/proc/self/fd";

/// What it may ask of the kernel. Not among it: whatever makes or changes a file, makes a process or a connection.
const ALLOWED: [i64; 25] = [
    libc::SYS_read,
    libc::SYS_pread64,
    libc::SYS_write,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_fstat,
    libc::SYS_stat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_close,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_futex,
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigreturn,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // Another tracer's probes in the C library, or our own, return through these (Linux 6.11 and 6.18; x86-64).
    SYS_URETPROBE,
    SYS_UPROBE,
];
const SYS_URETPROBE: i64 = 335;
const SYS_UPROBE: i64 = 336;
/// Allowed where they do not make memory executable.
const ALLOWED_WITHOUT_CODE: [i64; 2] = [libc::SYS_mmap, libc::SYS_mprotect];

/// How a file may be opened: for reading, as std and C libraries do it.
const OPENED: i32 = libc::O_RDONLY | libc::O_CLOEXEC | KERNELS_O_LARGEFILE;
/// What `libc::O_LARGEFILE` hides on 64-bit machines.
const KERNELS_O_LARGEFILE: i32 = 0o100_000;

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
    // Changing who one is undoes these, so they come after.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    set_no_new_privs(true)?;
    seccompiler::apply_filter(&filter()?)?;
    Ok(own_files)
}

fn limit() -> io::Result<()> {
    let limits = [
        (Resource::Data, MAX_DATA_BYTES),
        (Resource::Nofile, MAX_DESCRIPTORS),
        (Resource::Core, 0),
        (Resource::Fsize, 0),
        (Resource::Memlock, 0),
    ];
    for (resource, most) in limits {
        let had = rustix::process::getrlimit(resource).maximum.unwrap_or(u64::MAX);
        let most = Some(most.min(had));
        setrlimit(resource, Rlimit { current: most, maximum: most })?;
    }
    Ok(())
}

/// Makes its own descriptors all that it has of file systems. Without the privilege for that, in a user namespace of its own;
/// where the kernel allows that neither, all stays in sight that memtrace's user may read.
fn enter_own_files() -> &'static Path {
    let enter = || chroot(OWN_FILES).and_then(|()| chdir("/"));
    let has_entered = enter().is_ok() || unshare(CloneFlags::CLONE_NEWUSER).is_ok() && enter().is_ok();
    Path::new(if has_entered { "/" } else { OWN_FILES })
}

/// As far as it may: without privileges there are none to give up, and the filter does without these steps.
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

fn filter() -> Result<BpfProgram, Box<dyn Error>> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = ALLOWED.into_iter().map(|call| (call, Vec::new())).collect();
    for call in ALLOWED_WITHOUT_CODE {
        let executable = u64::try_from(libc::PROT_EXEC)?;
        let operator = SeccompCmpOp::MaskedEq(executable);
        let no_code = SeccompCondition::new(2, SeccompCmpArgLen::Dword, operator, 0)?;
        rules.insert(call, vec![SeccompRule::new(vec![no_code])?]);
    }
    let other_flags = SeccompCmpOp::MaskedEq(u64::from((!OPENED).cast_unsigned()));
    let reading = SeccompCondition::new(2, SeccompCmpArgLen::Dword, other_flags, 0)?;
    rules.insert(libc::SYS_openat, vec![SeccompRule::new(vec![reading])?]);
    // An error, not the end: an allocator that asks for something else can do without.
    let refused = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let filter = SeccompFilter::new(rules, refused, SeccompAction::Allow, std::env::consts::ARCH.try_into()?)?;
    Ok(filter.try_into()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs::File, io::ErrorKind, net::TcpListener, thread};

    #[test]
    fn files_are_opened_for_reading_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (file, new) = (folder.path().join("file"), folder.path().join("new"));
        std::fs::write(&file, "content").unwrap();
        let filter = filter().unwrap();
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
