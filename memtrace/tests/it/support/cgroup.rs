//! Cgroups that go with their test.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use super::{InTime, eventually};

/// A cgroup. Its processes must have been told to end when it goes.
pub(crate) struct Cgroup {
    pub(crate) folder: PathBuf,
    is_v2: bool,
    /// Groups below it, which go first.
    below: Vec<PathBuf>,
    _mount: Option<Mount>,
}

/// A mount of cgroup v2 for a machine that has none.
struct Mount(tempfile::TempDir);

impl Mount {
    fn new() -> Self {
        let folder = super::scratch();
        assert!(Command::new("mount").args(["-t", "cgroup2", "none"]).arg(folder.path()).status_in_time().success());
        Self(folder)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        _ = Command::new("umount").arg(self.0.path()).status_in_time();
    }
}

/// Where groups of a version are, if that is mounted with what is needed.
fn mount_of(kind: &str, option: Option<&str>) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    mounts.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        let has = option.is_none_or(|option| fields[3].split(',').any(|one| one == option));
        (fields[2] == kind && has).then(|| PathBuf::from(fields[1]))
    })
}

impl Cgroup {
    /// One of cgroup v2.
    pub(crate) fn make() -> Self {
        let (root, mount) = match mount_of("cgroup2", None) {
            Some(root) => (root, None),
            None => {
                let mount = Mount::new();
                (mount.0.path().to_owned(), Some(mount))
            }
        };
        Self::below(&root, true, mount)
    }

    /// One whose memory is limited, of whichever version has the controller here.
    pub(crate) fn limited(limit_bytes: u64) -> Self {
        let group = match mount_of("cgroup", Some("memory")) {
            Some(root) => Self::below(&root, false, None),
            None => {
                let group = Self::make();
                fs::write(group.folder.join("../cgroup.subtree_control"), "+memory").unwrap();
                group
            }
        };
        let limit = if group.is_v2 { "memory.max" } else { "memory.limit_in_bytes" };
        fs::write(group.folder.join(limit), limit_bytes.to_string()).unwrap();
        group
    }

    fn below(root: &Path, is_v2: bool, mount: Option<Mount>) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = root.join(format!("memtrace-test-{}-{count}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        Self { folder, is_v2, below: Vec::new(), _mount: mount }
    }

    /// A group below it without any limit of its own.
    pub(crate) fn nested(&mut self) -> PathBuf {
        let folder = self.folder.join("nested");
        fs::create_dir(&folder).unwrap();
        self.below.push(folder.clone());
        folder
    }

    pub(crate) fn add(&self, pid: u32) {
        fs::write(self.folder.join("cgroup.procs"), pid.to_string()).unwrap();
    }

    /// How often the kernel has ended a process of the group for want of memory.
    pub(crate) fn ooms(&self) -> u64 {
        let file = if self.is_v2 { "memory.events" } else { "memory.oom_control" };
        let text = fs::read_to_string(self.folder.join(file)).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill ")).unwrap();
        line.parse().unwrap()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // All processes in there have ended; the kernel takes its time to say so. A test that fails says why by itself.
        for folder in self.below.iter().rev().chain([&self.folder]) {
            if std::thread::panicking() {
                _ = fs::remove_dir(folder);
            } else {
                eventually("a group is empty", || fs::remove_dir(folder).is_ok() || !folder.exists());
            }
        }
    }
}

/// Lets a command begin in a group.
pub(crate) fn inside<'a>(command: &'a mut Command, group: &Path) -> &'a mut Command {
    let procs = fs::OpenOptions::new().write(true).open(group.join("cgroup.procs")).unwrap();
    let join = move || std::io::Write::write_all(&mut &procs, b"0");
    // SAFETY: a single write to a file that is open already.
    unsafe { command.pre_exec(join) }
}
