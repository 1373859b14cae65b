//! Words that the kernel keeps for a process, which may be its only pointers to something: those that it gave with descriptors to wait
//! for (`epoll_data` of epoll_ctl(2)), as /proc/PID/fdinfo tells them.

use std::fs;

use super::leader;

/// Descriptors that are looked at.
const MAX_DESCRIPTORS: usize = 1 << 16;
/// Words that are taken.
const MAX_WORDS: usize = 1 << 20;
/// The kernel's name for an epoll descriptor.
const EPOLL: &str = "anon_inode:[eventpoll]";

/// A word of an epoll descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelWord {
    /// The epoll descriptor.
    pub descriptor: u32,
    /// The word.
    pub word: u64,
}

/// The words of a process, and what was left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelWords {
    /// The words.
    pub words: Vec<KernelWord>,
    /// Descriptors that were not looked at and words that were not taken.
    pub left_out: u64,
}

/// Reads those of the process `pid`: of 65,536 descriptors, 1,048,576 words at most.
#[must_use]
pub fn read(pid: u32) -> KernelWords {
    let thread = leader::speaker(pid);
    let mut found = KernelWords::default();
    for (index, entry) in fs::read_dir(format!("/proc/{thread}/fd")).into_iter().flatten().flatten().enumerate() {
        if index >= MAX_DESCRIPTORS {
            found.left_out = found.left_out.saturating_add(1);
            continue;
        }
        let is_epoll = fs::read_link(entry.path()).is_ok_and(|kind| kind.as_os_str() == EPOLL);
        let descriptor = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
        let Some(descriptor) = descriptor.filter(|_| is_epoll) else { continue };
        for word in parse(&fs::read(format!("/proc/{thread}/fdinfo/{descriptor}")).unwrap_or_default()) {
            if found.words.len() < MAX_WORDS {
                found.words.push(KernelWord { descriptor, word });
            } else {
                found.left_out = found.left_out.saturating_add(1);
            }
        }
    }
    found
}

/// The words in the contents of an epoll descriptor's file (proc_pid_fdinfo(5)): a line for each descriptor that is waited for.
pub fn parse(text: &[u8]) -> impl Iterator<Item = u64> {
    text.split(|byte| *byte == b'\n').filter_map(|line| {
        let line = std::str::from_utf8(line).ok()?;
        let mut fields = line.strip_prefix("tfd:")?.split_ascii_whitespace();
        fields.find(|field| *field == "data:")?;
        u64::from_str_radix(fields.next()?, 16).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_all_that_is_waited_for_are_told() {
        let text = b"pos:\t0\nflags:\t02\nmnt_id:\t15\nino:\t1057\n\
                     tfd:        4 events:       19 data:     55e600000004  pos:0 ino:4d sdev:e\n\
                     tfd:        5 events:       19 data: ffffffffffffffff  pos:0 ino:4e sdev:e\ntfd: 6\n";
        assert_eq!(parse(text).collect::<Vec<_>>(), [0x55e6_0000_0004, u64::MAX]);
        assert_eq!(parse(b"tfd: 1 data: x\n\xff").count(), 0);
    }
}
