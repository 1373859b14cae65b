//! What memory a process's cgroup may have, of either version of cgroups.
//!
//! In: a pid. Out: the limit that will be reached first, of its group and those above it. The groups' names are the
//! system's users' choice; they are followed, never shown.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::Read,
    os::unix::ffi::OsStrExt,
    path::{Component, Path, PathBuf},
    sync::OnceLock,
};

use super::leader;
use crate::model::memory::Limit;

/// More than a process's list of groups has: a line for each hierarchy, of which there are some ten, none longer than a path.
const MAX_LIST_BYTES: u64 = 1 << 16;

/// What cgroup v1 says where there is no limit is the greatest multiple of a page; anything near it means the same.
const UNLIMITED_BYTES: u64 = 1 << 62;

/// Where the memory of groups is accounted for, and how that is called there.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hierarchy {
    root: PathBuf,
    is_v2: bool,
}

impl Hierarchy {
    /// The controller's files: the limit, the use, and of the use the part that is given back first.
    fn names(&self) -> [&'static str; 3] {
        if self.is_v2 {
            ["memory.max", "memory.current", "inactive_file"]
        } else {
            ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"]
        }
    }
}

/// The limit with least room of those of the process's cgroup and all above it; `None` where there is none, or none can be read.
#[must_use]
pub fn memory_limit(pid: u32) -> Option<Limit> {
    static HIERARCHY: OnceLock<Option<Hierarchy>> = OnceLock::new();
    let read = |name: &str| fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
    let find = || mounted(&read("mounts")).filter(|hierarchy| shows_our_groups(&read("mountinfo"), &hierarchy.root));
    let hierarchy = HIERARCHY.get_or_init(find).as_ref()?;
    let mut list = Vec::new();
    File::open(format!("/proc/{}/cgroup", leader::speaker(pid)))
        .ok()?
        .take(MAX_LIST_BYTES)
        .read_to_end(&mut list)
        .ok()?;
    limit_of(hierarchy, &group_in(&list, hierarchy.is_v2)?)
}

/// Where the memory controller is: with cgroup v1, if that has it, since then v2 has not.
fn mounted(mounts: &str) -> Option<Hierarchy> {
    let of_kind = |wanted: &str, option: Option<&str>| {
        mounts.lines().find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (root, kind, options) = (fields.next()?, fields.next()?, fields.next()?);
            let has_option = option.is_none_or(|option| options.split(',').any(|one| one == option));
            (kind == wanted && has_option).then(|| PathBuf::from(root))
        })
    };
    let v1 = of_kind("cgroup", Some("memory")).map(|root| Hierarchy { root, is_v2: false });
    v1.or_else(|| of_kind("cgroup2", None).map(|root| Hierarchy { root, is_v2: true }))
}

/// Whether a mount begins where the names in /proc/PID/cgroup do. In a cgroup namespace of its own that has kept the mounts from
/// before, such a name would lead to another group (field 4 of proc_pid_mountinfo(5): the root of the mount, `/..` there).
fn shows_our_groups(mountinfo: &str, root: &Path) -> bool {
    !mountinfo.lines().any(|line| {
        let mut fields = line.split(' ').skip(3);
        fields.next().is_some_and(|of_mount| of_mount.starts_with("/..")) && fields.next().map(Path::new) == Some(root)
    })
}

/// The group in /proc/PID/cgroup, as a path below the root. No name there has a newline: the kernel makes no such groups.
/// `None` where the group lies outside of what this mount shows (`..`).
fn group_in(list: &[u8], is_v2: bool) -> Option<PathBuf> {
    let path = list.split(|byte| *byte == b'\n').find_map(|line| {
        let mut fields = line.splitn(3, |byte| *byte == b':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let wanted = if is_v2 {
            controllers.is_empty()
        } else {
            controllers.split(|byte| *byte == b',').any(|one| one == b"memory")
        };
        wanted.then_some(path)
    })?;
    let relative = Path::new(OsStr::from_bytes(path)).strip_prefix("/").ok()?;
    relative.components().all(|part| matches!(part, Component::Normal(_))).then(|| relative.to_owned())
}

/// The limit with least room of a group and all above it.
fn limit_of(hierarchy: &Hierarchy, group: &Path) -> Option<Limit> {
    let [max, used, reclaimable] = hierarchy.names();
    let limit = |group: &Path| {
        let folder = hierarchy.root.join(group);
        // Where there is no limit, v2 says `max`.
        let max_bytes = number(&folder.join(max)).filter(|bytes| *bytes < UNLIMITED_BYTES)?;
        let used_bytes = number(&folder.join(used))?;
        let given_back = field(&folder.join("memory.stat"), reclaimable).unwrap_or(0);
        Some(Limit { max_bytes, used_bytes: used_bytes.saturating_sub(given_back) })
    };
    group.ancestors().filter_map(limit).min_by_key(Limit::room_bytes)
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// A figure of a file of lines with a name and a number.
fn field(path: &Path, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn mounts_from_outside_of_a_cgroup_namespace_are_not_taken_for_its_own() {
        let mounts =
            "30 23 0:26 /../.. /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n31 23 0:26 / /own rw - cgroup2 none rw\n";
        assert!(!shows_our_groups(mounts, Path::new("/sys/fs/cgroup")));
        assert!(shows_our_groups(mounts, Path::new("/own")));
    }

    fn group(root: &Path, path: &str, max: &str, used: u64, inactive: u64) {
        let folder = root.join(path);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("memory.max"), format!("{max}\n")).unwrap();
        fs::write(folder.join("memory.current"), format!("{used}\n")).unwrap();
        fs::write(folder.join("memory.stat"), format!("anon 1\ninactive_file {inactive}\n")).unwrap();
    }

    #[test]
    fn the_group_with_least_room_counts_whichever_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let hierarchy = Hierarchy { root: folder.path().to_owned(), is_v2: true };
        group(folder.path(), "a/b", &(100 * MIB).to_string(), 90 * MIB, 80 * MIB);
        group(folder.path(), "a", &(200 * MIB).to_string(), 150 * MIB, 0);
        let expected = Limit { max_bytes: 200 * MIB, used_bytes: 150 * MIB };
        assert_eq!(limit_of(&hierarchy, Path::new("a/b")), Some(expected));
        group(folder.path(), "a", "max", 150 * MIB, 0);
        let expected = Limit { max_bytes: 100 * MIB, used_bytes: 10 * MIB };
        assert_eq!(limit_of(&hierarchy, Path::new("a/b")), Some(expected));
        assert_eq!(limit_of(&hierarchy, Path::new("a")), None);
        assert_eq!(limit_of(&hierarchy, Path::new("gone")), None);
    }

    #[test]
    fn groups_of_either_version_are_found_and_hostile_ones_are_not_followed() {
        let list = b"12:pids:/x\n4:memory,cpu:/user.slice/a:b\n0::/system.slice/\x1b[2J\n";
        assert_eq!(group_in(list, false), Some("user.slice/a:b".into()));
        assert_eq!(group_in(list, true), Some("system.slice/\x1b[2J".into()));
        assert_eq!(group_in(b"0::/\n", true), Some(PathBuf::new()));
        assert_eq!(group_in(b"0::/../../etc\n", true), None);
        assert_eq!(group_in(b"0::relative\n", true), None);
        assert_eq!(group_in(b"nonsense\n", true), None);
    }

    #[test]
    fn the_controller_is_where_it_is_mounted() {
        let v2 = "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n";
        assert_eq!(mounted(v2), Some(Hierarchy { root: "/sys/fs/cgroup".into(), is_v2: true }));
        let both = format!("{v2}cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\ncgroup /m cgroup rw,memory 0 0\n");
        assert_eq!(mounted(&both), Some(Hierarchy { root: "/m".into(), is_v2: false }));
        assert_eq!(mounted("proc /proc proc rw 0 0\n"), None);
    }

    #[test]
    fn an_unlimited_group_of_version_1_has_no_limit() {
        let folder = tempfile::tempdir().unwrap();
        let hierarchy = Hierarchy { root: folder.path().to_owned(), is_v2: false };
        fs::write(folder.path().join("memory.limit_in_bytes"), "9223372036854771712\n").unwrap();
        fs::write(folder.path().join("memory.usage_in_bytes"), "4096\n").unwrap();
        assert_eq!(limit_of(&hierarchy, Path::new("")), None);
        fs::write(folder.path().join("memory.limit_in_bytes"), "8192\n").unwrap();
        assert_eq!(limit_of(&hierarchy, Path::new("")), Some(Limit { max_bytes: 8192, used_bytes: 4096 }));
    }

    #[test]
    fn a_process_that_is_gone_has_no_limit() {
        assert_eq!(memory_limit(4_194_305), None);
    }
}
