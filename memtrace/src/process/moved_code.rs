//! Code that a program has copied to anonymous memory in place, as some do to have it in huge pages (ClickHouse, HHVM,
//! BOLT's runtime): no probe can be placed there, because no file is mapped.

use std::{ops::Range, path::PathBuf};

use super::maps::Mapping;

/// The files of which executable parts have been replaced by anonymous memory, and these parts: such memory stands just where their
/// code would be, between two other parts of the file.
#[must_use]
pub fn parts(mappings: &[Mapping]) -> Vec<(PathBuf, Range<u64>)> {
    let mut parts = Vec::new();
    for (index, anonymous) in mappings.iter().enumerate().filter(|(_, mapping)| is_anonymous_code(mapping)) {
        // Code that was copied in several pieces may have become several mappings.
        let before = mappings[..index].iter().rev().find(|mapping| !is_anonymous_code(mapping));
        let after = mappings[index..].iter().find(|mapping| !is_anonymous_code(mapping));
        let (Some(before), Some(after)) = (before, after) else { continue };
        let is_between = before.end <= anonymous.start && before.file.is_some() && before.file == after.file;
        let is_in_place = after.start.checked_sub(before.start) == after.file_offset.checked_sub(before.file_offset);
        if is_between && is_in_place {
            parts.push((before.path.clone(), anonymous.start..anonymous.end));
        }
    }
    parts
}

fn is_anonymous_code(mapping: &Mapping) -> bool {
    mapping.executable && mapping.file.is_none() && mapping.path.as_os_str().is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::maps::parse;

    const BEFORE: &str = "7f0000000000-7f0000026000 r--p 00000000 fe:00 326279 /lib/libc.so.6\n";
    const AFTER: &str = "7f000017c000-7f00001cf000 r--p 0017c000 fe:00 326279 /lib/libc.so.6\n";

    fn of(text: &str) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> =
            parts(&parse(text.as_bytes()).unwrap()).into_iter().map(|(file, _)| file).collect();
        files.dedup();
        files
    }

    #[test]
    fn anonymous_memory_in_the_place_of_a_files_code_is_told() {
        let whole = format!("{BEFORE}7f0000026000-7f000017c000 r-xp 00000000 00:00 0 \n{AFTER}");
        assert_eq!(of(&whole), [PathBuf::from("/lib/libc.so.6")]);
        let pieces = format!(
            "{BEFORE}7f0000026000-7f0000100000 r-xp 00000000 00:00 0 \n7f0000100000-7f000017c000 rwxp 00000000 00:00 0 \n{AFTER}"
        );
        assert_eq!(of(&pieces), [PathBuf::from("/lib/libc.so.6")]);
        let ranges = [0x7f00_0002_6000..0x7f00_0010_0000, 0x7f00_0010_0000..0x7f00_0017_c000];
        let parts = parts(&parse(pieces.as_bytes()).unwrap());
        assert_eq!(parts.into_iter().map(|(_, range)| range).collect::<Vec<_>>(), ranges);
    }

    #[test]
    fn code_of_files_and_code_made_while_running_are_not() {
        let own = format!("{BEFORE}7f0000026000-7f000017c000 r-xp 00026000 fe:00 326279 /lib/libc.so.6\n{AFTER}");
        assert!(of(&own).is_empty());
        // Just-in-time compilers have theirs elsewhere.
        assert!(of("7f0000000000-7f0000010000 rwxp 00000000 00:00 0 \n").is_empty());
        let beside = format!(
            "{BEFORE}7f0000026000-7f0000030000 r-xp 00000000 00:00 0 \n7f0000040000-7f0000050000 r--p 0017c000 fe:00 326279 /lib/libc.so.6\n"
        );
        assert!(of(&beside).is_empty());
    }
}
