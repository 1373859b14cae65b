//! The mounted file systems: a user may mount file systems of their own (FUSE), and chooses their names.

use std::{fs, os::unix::ffi::OsStrExt};

use memtrace::process::cgroup;

use crate::{
    Target,
    input::{Input, part},
};

/// The contents of /proc/self/mounts and mountinfo.
pub const TARGET: Target = Target { name: "mounts", run, seeds };

fn run(input: &[u8]) {
    let mut input = Input::new(input);
    let (mounts, mountinfo) = (input.part(), input.rest());
    _ = cgroup::mounted_in(mounts, mountinfo);
    for root in cgroup::roots_of_v2(mounts) {
        assert!(!root.as_os_str().as_bytes().contains(&b'\n'), "of more than one line: {root:?}");
    }
}

/// This machine's, and one with a name that is no UTF-8.
fn seeds() -> Vec<Vec<u8>> {
    let [mounts, mountinfo] =
        ["mounts", "mountinfo"].map(|file| fs::read(format!("/proc/self/{file}")).unwrap_or_default());
    let users = b"x\xff /home/u/\xfe\\040m fuse.cgroup2 rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n\
                  cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n";
    let moved = b"30 23 0:26 /../.. /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n31 23 0:50 / /home/u/\xfe rw - fuse x rw\n";
    vec![[part(&mounts), mountinfo].concat(), [part(users), moved.to_vec()].concat()]
}
