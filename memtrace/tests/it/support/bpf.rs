//! BPF programs in the kernel: those that a memtrace has loaded, and whether all of them go with it.

use std::{collections::BTreeSet, fs, path::Path};

use aya::programs::loaded_programs;

use super::eventually;

/// How the names of memtrace's programs begin, as the kernel keeps them.
const OURS: [&str; 13] = [
    "alloc_entry",
    "alloc_return",
    "free_entry",
    "process_exec",
    "process_end",
    "process_leaves",
    "syscall_exit",
    "area_mapped",
    "kmem_",
    "rss_stat",
    "page_fault",
    "page_allocated",
    "read_registers",
];

/// The ids of the programs that a process holds by open files: the programs themselves, and links to them.
pub(crate) fn programs_held_by(pid: u32) -> BTreeSet<u32> {
    held_at(&Path::new("/proc").join(pid.to_string()))
}

fn held_at(process: &Path) -> BTreeSet<u32> {
    // A process, and a file, may go at any time.
    let files = fs::read_dir(process.join("fdinfo")).into_iter().flatten().flatten();
    let texts = files.filter_map(|file| fs::read_to_string(file.path()).ok());
    texts.filter_map(|text| text.lines().find_map(|line| line.strip_prefix("prog_id:")?.trim().parse().ok())).collect()
}

/// Waits until the kernel has let go of all that memtraces which have ended had loaded. Others may run at the same time: what a
/// memtrace holds is its own.
pub(crate) fn assert_nothing_stays_in_the_kernel() {
    let newest = ours().last().copied().unwrap_or_default();
    let mut left = BTreeSet::new();
    eventually("nothing stays in the kernel", || {
        left = ours().difference(&held_by_memtraces()).copied().filter(|id| *id <= newest).collect();
        left.is_empty()
    });
}

/// The ids of memtrace's programs in the kernel. A later one has a higher id.
fn ours() -> BTreeSet<u32> {
    let is_ours = |name: &str| OURS.iter().any(|ours| name.starts_with(ours));
    // A program may go before it is looked at.
    let programs = loaded_programs().flatten();
    programs.filter(|program| program.name_as_str().is_some_and(is_ours)).map(|program| program.id()).collect()
}

fn held_by_memtraces() -> BTreeSet<u32> {
    let processes = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let is_memtrace = |process: &Path| fs::read_to_string(process.join("comm")).is_ok_and(|comm| comm == "memtrace\n");
    processes.filter(|process| is_memtrace(process)).flat_map(|process| held_at(&process)).collect()
}
