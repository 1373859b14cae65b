//! `/proc/PID/smaps`: the mappings of a process, each with how much of it is where.

use std::fs;

use crate::process::{
    leader,
    maps::{self, Mapping, MapsError},
};

/// One mapping and its memory, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappedMemory {
    /// The range of addresses.
    pub mapping: Mapping,
    /// In memory (`Rss`).
    pub resident_bytes: u64,
    /// Of these, those that are no file's (`Anonymous`).
    pub anonymous_bytes: u64,
    /// Swapped out (`Swap`).
    pub swap_bytes: u64,
    /// Whether somebody in user space answers its page faults (userfaultfd(2)), or it is a device's: it is not to be read.
    pub is_guarded: bool,
}

/// Reads those of `pid`, in order of their addresses.
///
/// # Errors
/// Where the process is gone, may not be looked into, or the kernel's answer cannot be parsed.
pub fn read(pid: u32) -> Result<Vec<MappedMemory>, MapsError> {
    let text =
        fs::read(format!("/proc/{}/smaps", leader::speaker(pid))).map_err(|source| MapsError::Read { pid, source })?;
    parse(&text)
}

/// Parses the text of smaps (proc_pid_smaps(5)).
///
/// # Errors
/// [`MapsError::Parse`] has the first mapping's line that is not of the expected form.
pub fn parse(text: &[u8]) -> Result<Vec<MappedMemory>, MapsError> {
    let mut memory: Vec<MappedMemory> = Vec::new();
    for line in text.split(|byte| *byte == b'\n') {
        // Addresses are in small letters, names of figures begin with a large one.
        if line.first().is_some_and(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase()) {
            memory.extend(maps::parse(line)?.into_iter().map(|mapping| MappedMemory {
                mapping,
                resident_bytes: 0,
                anonymous_bytes: 0,
                swap_bytes: 0,
                is_guarded: false,
            }));
        } else if let Some(last) = memory.last_mut() {
            note(line, last);
        }
    }
    Ok(memory)
}

fn note(line: &[u8], memory: &mut MappedMemory) {
    let Ok(line) = std::str::from_utf8(line) else { return };
    let Some((name, value)) = line.split_once(':') else { return };
    let bytes = || value.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024);
    match name {
        "Rss" => memory.resident_bytes = bytes().unwrap_or(0),
        "Anonymous" => memory.anonymous_bytes = bytes().unwrap_or(0),
        "Swap" => memory.swap_bytes = bytes().unwrap_or(0),
        // Registered with userfaultfd, for faults on missing pages, on writes, or on minor ones; a device's memory.
        "VmFlags" => {
            memory.is_guarded =
                value.split_ascii_whitespace().any(|flag| matches!(flag, "um" | "uw" | "ui" | "io" | "pf"));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_belong_to_the_mapping_above_them() {
        let text = b"55d0c0a00000-55d0c0a21000 rw-p 00000000 00:00 0    [heap]\nSize:   132 kB\nRss:     8 kB\n\
                     Anonymous:   4 kB\nSwap:  12 kB\nVmFlags: rd wr mr mw me ac sd\n\
                     7ffc1000-7ffc2000 rw-p 00000000 00:00 0\nRss:  4 kB\nVmFlags: rd wr um\n";
        let memory = parse(text).unwrap();
        let figures: Vec<_> = memory
            .iter()
            .map(|one| (one.mapping.start, one.resident_bytes, one.anonymous_bytes, one.swap_bytes, one.is_guarded))
            .collect();
        assert_eq!(figures, [(0x55d0_c0a0_0000, 8192, 4096, 12288, false), (0x7ffc_1000, 4096, 0, 0, true)]);
        assert!(parse(b"Rss: 4 kB\n").unwrap().is_empty());
        assert!(parse(b"1000-2000 rw\n").is_err());
    }

    #[test]
    fn our_own_memory_adds_up() {
        let memory = read(std::process::id()).unwrap();
        let stack = memory.iter().find(|one| one.mapping.path.as_os_str() == "[stack]").unwrap();
        assert!(stack.anonymous_bytes > 0 && stack.anonymous_bytes <= stack.resident_bytes);
    }
}
