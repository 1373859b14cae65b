//! The memory limit of a process's cgroup, of either version of cgroups.
//!
//! In: a pid. Out: the limit that will be reached first, of its group and those above it; and of memtrace's own, where its
//! memory is charged. The groups' names are the system's users' choice; they are followed, never shown.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::Read,
    os::unix::ffi::OsStrExt,
    path::{Component, Path, PathBuf},
    sync::OnceLock,
};

use super::{leader, memory};
use crate::model::{headroom::Room, memory::Limit};

/// More than a process's list of groups has: a line for each hierarchy, of which there are some ten, none longer than a path.
const MAX_LIST_BYTES: u64 = 1 << 16;

/// Where there is no limit, cgroup v1 tells the greatest multiple of a page; anything near it means the same.
const UNLIMITED_BYTES: u64 = 1 << 62;

/// The most processes of a group, and of groups below it, whose peaks are read: a group with more
/// has room for memtrace.
const MAX_PEAKS: usize = 1024;

/// Where the memory of groups is accounted for, and how that is called there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
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

    /// Past this the group's processes are slowed down until they have given memory back: v2 alone has it.
    fn soft_limit(&self) -> Option<&'static str> {
        self.is_v2.then_some("memory.high")
    }

    /// The group of a process, as a path below the root.
    fn group_of(&self, process: &str) -> Option<PathBuf> {
        let mut list = Vec::new();
        File::open(format!("/proc/{process}/cgroup")).ok()?.take(MAX_LIST_BYTES).read_to_end(&mut list).ok()?;
        group_in(&list, self.is_v2)
    }
}

fn hierarchy() -> Option<&'static Hierarchy> {
    static HIERARCHY: OnceLock<Option<Hierarchy>> = OnceLock::new();
    let read = |name: &str| fs::read(format!("/proc/self/{name}")).unwrap_or_default();
    HIERARCHY.get_or_init(|| mounted_in(&read("mounts"), &read("mountinfo"))).as_ref()
}

/// The hierarchy in the contents of /proc/self/mounts and mountinfo. A user may have mounted something at a path that is no UTF-8.
#[must_use]
pub fn mounted_in(mounts: &[u8], mountinfo: &[u8]) -> Option<Hierarchy> {
    let mountinfo = String::from_utf8_lossy(mountinfo);
    mounted(&String::from_utf8_lossy(mounts)).filter(|hierarchy| shows_our_groups(&mountinfo, &hierarchy.root))
}

/// Where cgroup v2 is mounted, in the contents of /proc/self/mounts.
#[must_use]
pub fn roots_of_v2(mounts: &[u8]) -> Vec<PathBuf> {
    let mounts = String::from_utf8_lossy(mounts);
    let roots = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (root, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(root))
    });
    roots.collect()
}

/// The limit with least room of those of the process's cgroup and all above it; `None` where there is none, or none can be
/// read. Where memtrace is in that group as well, the memory that it takes there, with tables of so many bytes in the kernel,
/// is left out: it goes when memtrace does.
#[must_use]
pub fn memory_limit(pid: u32, tables_bytes: u64) -> Option<Limit> {
    let hierarchy = hierarchy()?;
    let (group, mut limit) = limit_of(hierarchy, &hierarchy.group_of(&leader::speaker(pid).to_string())?)?;
    if hierarchy.group_of("self").is_some_and(|own| own.starts_with(&group)) {
        let own = memory::usage(std::process::id()).map_or(0, |usage| usage.anon_bytes);
        limit.used_bytes = limit.used_bytes.saturating_sub(own.saturating_add(tables_bytes));
    }
    Some(limit)
}

/// The part of the last ten seconds, in percent, in which some task of the process's cgroup waited for memory; `None` where the
/// kernel does not tell (cgroup v1; without PSI).
#[must_use]
pub fn memory_waits(pid: u32) -> Option<f64> {
    let hierarchy = hierarchy().filter(|hierarchy| hierarchy.is_v2)?;
    let group = hierarchy.group_of(&leader::speaker(pid).to_string())?;
    // All of the machine's is in a file of /proc, and the group at the root has none.
    parse_waits(&fs::read_to_string(hierarchy.root.join(group).join("memory.pressure")).ok()?)
}

/// The same from the contents of that file (Documentation/accounting/psi.rst).
fn parse_waits(pressure: &str) -> Option<f64> {
    let some = pressure.lines().find_map(|line| line.strip_prefix("some "))?;
    some.split(' ').find_map(|field| field.strip_prefix("avg10="))?.parse().ok()
}

/// The room where memtrace's own memory is charged: in its cgroup or one above it, whichever has least; `None`
/// where none of them has a limit.
#[must_use]
pub fn own_room() -> Option<Room> {
    let hierarchy = hierarchy()?;
    // A group whose path is not told from here is at least below what is mounted, as containers have it.
    let own = hierarchy.group_of("self").unwrap_or_default();
    own.ancestors().filter_map(|group| room_of(hierarchy, group)).min_by_key(Room::free_bytes)
}

fn room_of(hierarchy: &Hierarchy, group: &Path) -> Option<Room> {
    let folder = hierarchy.root.join(group);
    let soft = hierarchy.soft_limit().and_then(|name| limit_at(hierarchy, &folder, name));
    let limit = [limit_at(hierarchy, &folder, hierarchy.names()[0]), soft].into_iter().flatten();
    let limit = limit.min_by_key(|limit| limit.max_bytes)?;
    let others = processes(&folder).into_iter().filter(|pid| *pid != std::process::id());
    let peaks = others.filter_map(memory::below_peak_bytes);
    Some(Room { limit, peaks_bytes: peaks.fold(0, u64::saturating_add) })
}

/// The processes of a group and those below it, as many of either as matter.
fn processes(folder: &Path) -> Vec<u32> {
    let (mut pids, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    let mut at = 0;
    while let Some(folder) = folders.get(at).filter(|_| pids.len() < MAX_PEAKS).cloned() {
        let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()).take(MAX_PEAKS - pids.len()));
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let below = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        folders.extend(below.map(|entry| entry.path()).take(MAX_PEAKS.saturating_sub(folders.len())));
        at += 1;
    }
    pids
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
#[must_use]
pub fn group_in(list: &[u8], is_v2: bool) -> Option<PathBuf> {
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

/// The limit with least room of a group and all above it, with the group that has it.
fn limit_of(hierarchy: &Hierarchy, group: &Path) -> Option<(PathBuf, Limit)> {
    let limit = |group: &Path| {
        Some((group.to_owned(), limit_at(hierarchy, &hierarchy.root.join(group), hierarchy.names()[0])?))
    };
    group.ancestors().filter_map(limit).min_by_key(|(_, limit)| limit.room_bytes())
}

/// The limit of this name of the group of a folder.
fn limit_at(hierarchy: &Hierarchy, folder: &Path, name: &str) -> Option<Limit> {
    let [_, used, reclaimable] = hierarchy.names();
    // Where there is no limit, v2 says `max`.
    let max_bytes = number(&folder.join(name)).filter(|bytes| *bytes < UNLIMITED_BYTES)?;
    let used_bytes = number(&folder.join(used))?;
    let given_back = field(&folder.join("memory.stat"), reclaimable).unwrap_or(0);
    Some(Limit { max_bytes, used_bytes: used_bytes.saturating_sub(given_back) })
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
    fn a_mount_whose_path_is_no_utf8_hides_no_cgroups() {
        let mounts = b"x /home/u/\xff fuse rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n";
        let hierarchy = mounted_in(mounts, b"31 23 0:50 / /home/u/\xff rw - fuse x rw\n");
        assert_eq!(hierarchy, Some(Hierarchy { root: PathBuf::from("/sys/fs/cgroup"), is_v2: true }));
        assert_eq!(roots_of_v2(mounts), [PathBuf::from("/sys/fs/cgroup")]);
    }

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
        assert_eq!(limit_of(&hierarchy, Path::new("a/b")), Some(("a".into(), expected)));
        group(folder.path(), "a", "max", 150 * MIB, 0);
        let expected = Limit { max_bytes: 100 * MIB, used_bytes: 10 * MIB };
        assert_eq!(limit_of(&hierarchy, Path::new("a/b")), Some(("a/b".into(), expected)));
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
        let expected = Limit { max_bytes: 8192, used_bytes: 4096 };
        assert_eq!(limit_of(&hierarchy, Path::new("")), Some((PathBuf::new(), expected)));
    }

    #[test]
    fn pressure_is_of_some_task_in_the_last_ten_seconds() {
        let full = "full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n";
        let text = format!("some avg10=12.50 avg60=1.00 avg300=0.00 total=7\n{full}");
        assert_eq!((parse_waits(&text), parse_waits(full), parse_waits("")), (Some(12.5), None, None));
    }

    #[test]
    fn a_process_that_is_gone_has_no_limit() {
        assert_eq!(memory_limit(4_194_305, 0), None);
    }

    #[test]
    fn room_is_what_is_left_below_the_lower_of_two_limits_in_a_group_or_above_it() {
        let folder = tempfile::tempdir().unwrap();
        let hierarchy = Hierarchy { root: folder.path().to_owned(), is_v2: true };
        group(folder.path(), "a", "max", 150 * MIB, 0);
        assert_eq!(room_of(&hierarchy, Path::new("a")), None);
        fs::write(folder.path().join("a/memory.high"), (160 * MIB).to_string()).unwrap();
        group(folder.path(), "a", &(200 * MIB).to_string(), 150 * MIB, 30 * MIB);
        let limit = Limit { max_bytes: 160 * MIB, used_bytes: 120 * MIB };
        assert_eq!(room_of(&hierarchy, Path::new("a")), Some(Room { limit, peaks_bytes: 0 }));
    }

    #[test]
    fn the_processes_of_a_group_are_found_below_it_as_well() {
        let folder = tempfile::tempdir().unwrap();
        group(folder.path(), "a/b", "max", 0, 0);
        fs::write(folder.path().join("a/cgroup.procs"), "7\n8\n").unwrap();
        fs::write(folder.path().join("a/b/cgroup.procs"), "9\n").unwrap();
        assert_eq!(processes(&folder.path().join("a")), [7, 8, 9]);
    }
}
