//! The means by which a helper process gives up what it does not need. Which of them it takes, and when, is its own matter.

use std::{
    collections::BTreeMap,
    error::Error,
    io,
    os::{fd::AsFd, unix::net::UnixStream},
    panic,
};

use rustix::{
    process::{
        DumpableBehavior, Resource, Rlimit, Signal, set_dumpable_behavior, set_parent_process_death_signal, setrlimit,
    },
    thread::set_no_new_privs,
};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

use super::arch;

/// The system calls that every helper may make, with those that only one architecture has ([`arch::SYSTEM_CALLS`]). None of them
/// makes or changes a file, makes a process or a connection.
const ALLOWED: [i64; 22] = [
    libc::SYS_read,
    libc::SYS_pread64,
    libc::SYS_write,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_fstat,
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
];
/// Allowed where they do not make memory executable.
const ALLOWED_WITHOUT_CODE: [i64; 2] = [libc::SYS_mmap, libc::SYS_mprotect];

/// How a file may be opened: for reading, as std and C libraries do it.
const OPENED: i32 = libc::O_RDONLY | libc::O_CLOEXEC | KERNELS_O_LARGEFILE;
/// The flag that `libc::O_LARGEFILE` hides on 64-bit machines.
const KERNELS_O_LARGEFILE: i32 = 0o100_000;

/// Begins to serve: lets panics be silent, since nobody reads them, closes all other files, and returns the socket that the
/// process was started with.
///
/// # Errors
/// Where stdin is no descriptor.
pub fn begin() -> io::Result<UnixStream> {
    panic::set_hook(Box::new(|_| {}));
    close_all_but_the_standard_ones();
    io::stdin().as_fd().try_clone_to_owned().map(UnixStream::from)
}

/// Closes the files that memtrace, or who started it, has left open for programs that it starts.
fn close_all_but_the_standard_ones() {
    // SAFETY: a system call on descriptors of which nothing here knows.
    unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
}

/// Limits resources for good, to no more than was allowed before.
///
/// # Errors
/// Where the kernel refuses.
pub fn limit(limits: &[(Resource, u64)]) -> io::Result<()> {
    for (resource, most) in limits {
        let had = rustix::process::getrlimit(*resource).maximum.unwrap_or(u64::MAX);
        let most = Some((*most).min(had));
        setrlimit(*resource, Rlimit { current: most, maximum: most })?;
    }
    Ok(())
}

/// The system calls that a helper may make beside those of all helpers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Calls<'a> {
    /// Any of these.
    pub any: &'a [i64],
    /// Requests of ioctl(2).
    pub ioctls: &'a [u64],
    /// Flags of open(2), beside those with which std opens a file for reading.
    pub open_flags: i32,
}

/// A filter of system calls that leaves memory, the files that are open, the end, opening for reading, and `more`. Anything else
/// that is asked for fails with EPERM.
///
/// # Errors
/// Where it cannot be built for this architecture.
pub fn filter(more: Calls<'_>) -> Result<BpfProgram, Box<dyn Error>> {
    let allowed = ALLOWED.into_iter().chain(arch::SYSTEM_CALLS).chain(more.any.iter().copied());
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = allowed.map(|call| (call, Vec::new())).collect();
    for call in ALLOWED_WITHOUT_CODE {
        let executable = u64::try_from(libc::PROT_EXEC)?;
        rules.insert(call, vec![where_argument(2, SeccompCmpOp::MaskedEq(executable), 0)?]);
    }
    let other_flags = SeccompCmpOp::MaskedEq(u64::from((!(OPENED | more.open_flags)).cast_unsigned()));
    rules.insert(libc::SYS_openat, vec![where_argument(2, other_flags, 0)?]);
    if !more.ioctls.is_empty() {
        let requests = more.ioctls.iter().map(|request| where_argument(1, SeccompCmpOp::Eq, *request));
        rules.insert(libc::SYS_ioctl, requests.collect::<Result<_, _>>()?);
    }
    // An error, not the end: an allocator that asks for something else can do without.
    let refused = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let filter = SeccompFilter::new(rules, refused, SeccompAction::Allow, std::env::consts::ARCH.try_into()?)?;
    Ok(filter.try_into()?)
}

/// Closes the door: this process ends with memtrace, cannot be traced or dumped by its equals, gains no privileges, and makes no
/// other system calls than [`filter`] leaves. A change of who it is must come before: that would undo the first two.
///
/// # Errors
/// Where one of these cannot be put in force, without which nothing is to be read.
pub fn seal(more: Calls<'_>) -> Result<(), Box<dyn Error>> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    set_no_new_privs(true)?;
    seccompiler::apply_filter(&filter(more)?)?;
    Ok(())
}

/// A rule on the low half of an argument.
fn where_argument(index: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value)?])
}
