//! The processes that others have started, as far as these live (`/proc/PID/task/TID/children`, Linux 3.5 with
//! `CONFIG_PROC_CHILDREN`; where the kernel lacks it there are none).

use std::{collections::BTreeSet, fs};

/// The processes that descend from these, and that are not among them; `files` is how many threads are asked at most, and those
/// that are not asked have no children.
#[must_use]
pub fn descendants(of: &BTreeSet<u32>, mut files: usize) -> BTreeSet<u32> {
    let (mut found, mut next) = (BTreeSet::new(), of.iter().copied().collect::<Vec<u32>>());
    while let Some(pid) = next.pop() {
        for child in children(pid, &mut files) {
            if !of.contains(&child) && found.insert(child) {
                next.push(child);
            }
        }
    }
    found
}

/// The children of a process: those of each of its threads.
fn children(pid: u32, files: &mut usize) -> Vec<u32> {
    let mut found = Vec::new();
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    for thread in threads {
        let Some(rest) = files.checked_sub(1) else { break };
        *files = rest;
        let tid = thread.file_name().display().to_string();
        found.extend(parse(&fs::read(format!("/proc/{pid}/task/{tid}/children")).unwrap_or_default()));
    }
    found
}

/// The pids of such a file; what is no pid is left out.
fn parse(text: &[u8]) -> impl Iterator<Item = u32> {
    text.split(u8::is_ascii_whitespace).filter_map(|word| std::str::from_utf8(word).ok()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn grandchildren_are_descendants_and_the_asked_are_none() {
        let script = "sh -c 'sleep 1000; :' & echo ready; wait";
        let mut shell = Command::new("/bin/sh").args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
        let asked = BTreeSet::from([shell.id()]);
        let begun = std::time::Instant::now();
        let found = loop {
            let found = descendants(&asked, 100);
            if found.len() == 2 {
                break found;
            }
            assert!(begun.elapsed().as_secs() < 60, "{found:?}");
            std::thread::sleep(std::time::Duration::from_millis(5));
        };
        assert!(!found.contains(&shell.id()));
        assert_eq!(descendants(&asked, 0), BTreeSet::new());
        for pid in found.iter().copied().chain([shell.id()]) {
            let pid = nix::unistd::Pid::from_raw(pid.cast_signed());
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        }
        shell.wait().unwrap();
    }

    #[test]
    fn only_pids_are_read() {
        assert_eq!(parse(b"12 7 \n x 4294967296 ").collect::<Vec<_>>(), [12, 7]);
    }
}
