//! What the process that reads symbols gives up before it sees the first file.
//!
//! The seccomp filter is what counts: it needs no privilege and works in containers. It leaves memory, the one socket and the
//! end: no way to open, connect, start, signal or trace anything. The rest narrows what a hole in that would give.

use std::{collections::BTreeMap, error::Error, io};

use caps::{CapSet, errors::CapsError};
use nix::sys::signal::SigSet;
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

/// What it may ask of the kernel. Not among it: whatever takes a path, makes a descriptor, a process or a connection.
const ALLOWED: [i64; 21] = [
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_fstat,
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

/// Gives up everything.
///
/// # Errors
/// Where the filter cannot be put in force, without which no file is to be read.
pub(super) fn confine() -> Result<(), Box<dyn Error>> {
    // Ctrl-C goes to all of a terminal's foreground, `systemctl stop` to all of a unit: the last report needs names.
    SigSet::all().thread_block()?;
    // For people who look at processes.
    _ = set_name(c"memtrace-names");
    limit()?;
    give_up_identity();
    give_up_capabilities()?;
    // Changing who one is undoes these, so they come after.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    set_no_new_privs(true)?;
    seccompiler::apply_filter(&filter()?)?;
    Ok(())
}

fn limit() -> io::Result<()> {
    let limits = [
        (Resource::Data, MAX_DATA_BYTES),
        (Resource::Nofile, 16),
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

/// As far as it may: without privileges there are none to give up, and the filter does without these steps.
fn give_up_identity() {
    // A folder in which nothing can be made, and from which nothing leads out.
    _ = chroot("/proc/self/fdinfo").and_then(|()| chdir("/"));
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
    // An error, not the end: an allocator that asks for something else can do without.
    let refused = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let filter = SeccompFilter::new(rules, refused, SeccompAction::Allow, std::env::consts::ARCH.try_into()?)?;
    Ok(filter.try_into()?)
}
