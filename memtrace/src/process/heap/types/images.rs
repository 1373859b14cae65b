//! The images of a process by address: where code, tables of functions and descriptions of types can be.

use std::collections::HashSet;

use super::super::smaps::MappedMemory;
use crate::process::maps::{FileId, Mapping};

/// Mappings of images that are kept, at most.
const MAX_PARTS: usize = 65_536;
/// Ranges by which words are sorted out at first.
const MAX_RANGES: usize = 4;

/// All mappings of files that have code.
#[derive(Debug, Default)]
pub(super) struct Images {
    /// In order of addresses.
    parts: Vec<Mapping>,
    /// Start and length of a few ranges that hold all of them.
    ranges: Vec<(u64, u64)>,
}

impl Images {
    pub(super) fn of(mappings: &[MappedMemory]) -> Self {
        let of_files = || mappings.iter().filter(|one| !one.is_guarded).map(|one| &one.mapping);
        let with_code: HashSet<FileId> =
            of_files().filter(|mapping| mapping.executable).filter_map(|mapping| mapping.file).collect();
        let is_part = |mapping: &&Mapping| {
            let is_image = mapping.file.is_some_and(|file| with_code.contains(&file));
            is_image && mapping.readable && !mapping.shared && mapping.start < mapping.end
        };
        let parts: Vec<Mapping> = of_files().filter(is_part).take(MAX_PARTS).cloned().collect();
        let ranges = ranges(&parts);
        Self { parts, ranges }
    }

    /// Whether a word may be an address in one of them: a quick question, to which `true` means little.
    #[inline]
    pub(super) fn may_have(&self, word: u64) -> bool {
        self.ranges.iter().any(|(start, length)| word.wrapping_sub(*start) < *length)
    }

    /// The first address of all, and one past the last.
    pub(super) fn extent(&self) -> Option<(u64, u64)> {
        Some((self.parts.first()?.start, self.parts.last()?.end))
    }

    /// The mapping that an address is in.
    pub(super) fn part(&self, address: u64) -> Option<&Mapping> {
        let index = self.parts.partition_point(|part| part.end <= address);
        self.parts.get(index).filter(|part| part.start <= address)
    }

    /// Whether code may run at an address.
    pub(super) fn is_code(&self, address: u64) -> bool {
        self.part(address).is_some_and(|part| part.executable)
    }
}

/// The ranges that hold all parts, with the widest gaps between them.
fn ranges(parts: &[Mapping]) -> Vec<(u64, u64)> {
    let mut gaps: Vec<(u64, usize)> = parts
        .windows(2)
        .enumerate()
        .filter_map(|(index, pair)| match pair {
            [one, next] => Some((next.start.saturating_sub(one.end), index + 1)),
            _ => None,
        })
        .collect();
    gaps.sort_unstable_by(|one, other| other.cmp(one));
    let mut starts: Vec<usize> = gaps.iter().take(MAX_RANGES - 1).map(|(_, index)| *index).chain([0]).collect();
    starts.sort_unstable();
    let ends = starts.iter().skip(1).copied().chain([parts.len()]);
    let range = |(from, until): (usize, usize)| {
        let part = parts.get(from..until)?;
        let (first, last) = (part.first()?, part.last()?);
        Some((first.start, last.end.saturating_sub(first.start)))
    };
    starts.iter().copied().zip(ends).filter_map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::heap::smaps;

    #[test]
    fn parts_of_images_are_found_and_all_else_is_not() {
        let text = b"1000-2000 r-xp 0 08:01 7 /bin/a\n2000-3000 rw-p 1000 08:01 7 /bin/a\n\
                     5000-6000 r--p 0 08:01 8 /var/data\n9000-a000 r--p 0 08:01 9 /lib/b.so\n\
                     a000-b000 r-xp 1000 08:01 9 /lib/b.so\nb000-c000 rw-s 0 08:01 9 /lib/b.so\n";
        let images = Images::of(&smaps::parse(text).unwrap());
        let told = |address| (images.part(address).is_some(), images.is_code(address));
        assert_eq!(
            [0xfff, 0x1000, 0x1fff, 0x2000].map(told),
            [(false, false), (true, true), (true, true), (true, false)]
        );
        assert_eq!(
            [0x5000, 0x9000, 0xa000, 0xb000].map(told),
            [(false, false), (true, false), (true, true), (false, false)]
        );
        assert!([0x1000, 0x2fff, 0x9000, 0xafff].iter().all(|word| images.may_have(*word)));
        assert!([0, 0xfff, 0x5000, 0xb000, u64::MAX].iter().all(|word| !images.may_have(*word)));
    }

    #[test]
    fn many_images_take_few_ranges() {
        let lines = |index: u64| format!("{:x}-{:x} r-xp 0 08:01 {index} /lib/a\n", index << 16, (index << 16) + 4096);
        let text: String = (1..100).map(lines).collect();
        let images = Images::of(&smaps::parse(text.as_bytes()).unwrap());
        assert!(images.ranges.len() <= MAX_RANGES);
        assert!((1..100).all(|index| images.may_have(index << 16) && images.part(index << 16).is_some()));
        assert!(!images.may_have(100 << 16) && Images::of(&[]).ranges.is_empty());
    }
}
