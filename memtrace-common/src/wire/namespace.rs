//! Pid namespaces: a process has a number in its own namespace and in each one above it. The kernel side names processes by
//! their numbers in the machine's first namespace, user space by those in memtrace's own, which `/proc` shows.

/// Where the kernel's structures hold the numbers of a task, in bytes; all 0 where memtrace is in the first namespace, so that
/// both numbers are the same.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PidLayout {
    /// `task_struct.thread_pid`; never 0 where the others are needed.
    pub thread_pid: u32,
    /// `task_struct.files`.
    pub files: u32,
    /// `files_struct.fdt`.
    pub fdt: u32,
    /// `fdtable.fd`.
    pub fd: u32,
    /// `file.f_inode`.
    pub f_inode: u32,
    /// `proc_inode.vfs_inode`: the inode of a file of `/proc` is part of what `/proc` knows of it.
    pub vfs_inode: u32,
    /// `proc_inode.pid`.
    pub inode_pid: u32,
    /// `pid.level`.
    pub level: u32,
    /// `pid.numbers`.
    pub numbers: u32,
    /// The size of `upid`, of which there is one for each namespace.
    pub number_bytes: u32,
    /// `upid.nr`.
    pub number: u32,
    /// `upid.ns`.
    pub namespace: u32,
}

const _: () = assert!(size_of::<PidLayout>() == 48);

/// memtrace's own pid namespace, as the kernel side has found it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PidNamespace {
    /// The kernel's address of it.
    pub address: u64,
    /// How many namespaces it lies in.
    pub level: u32,
    /// Makes it whole words.
    pub unused: u32,
}

const _: () = assert!(size_of::<PidNamespace>() == 16);
