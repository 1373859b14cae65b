//! A process's name, program and resident memory.

use std::{fs, io, path::PathBuf};

/// The process's own short name, at most 15 bytes, made printable.
///
/// # Errors
/// Where the process is gone.
pub fn comm(pid: u32) -> io::Result<String> {
    let name = fs::read(format!("/proc/{pid}/comm"))?;
    Ok(printable(&String::from_utf8_lossy(name.trim_ascii_end())))
}

/// The program that the process runs, as the process sees its path.
///
/// # Errors
/// Where the process is gone, may not be looked into, or is a kernel thread.
pub fn exe(pid: u32) -> io::Result<PathBuf> {
    fs::read_link(format!("/proc/{pid}/exe"))
}

/// Resident memory in bytes (`VmRSS` of proc(5)); `None` once the process has given its memory back.
#[must_use]
pub fn rss_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    kib.checked_mul(1024)
}

/// The text with every control character replaced: names come from the target and go to a terminal.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_figures_are_there() {
        let pid = std::process::id();
        assert!(!comm(pid).unwrap().is_empty());
        assert!(exe(pid).unwrap().is_absolute());
        assert!(rss_bytes(pid).unwrap() > 100_000);
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\n"), "a\u{fffd}[2Jb\u{fffd}");
    }
}
