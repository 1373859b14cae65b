//! Where in a process's memory roots are: pointers that a program can get at without any other. Everything that it has mapped,
//! but for what its allocators have, and for what its stacks are done with.

use super::{arch::RED_ZONE_BYTES, maps::Mapping};
use crate::model::roots::WordKind;

/// A part of a mapping that is to be looked through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Its first address, that of a word.
    pub start: u64,
    /// One past its last address.
    pub end: u64,
    /// The kind of its words.
    pub source: WordKind,
    /// Whether it is shared with others.
    pub shared: bool,
}

/// The memory that is to be looked through, in order of addresses. `areas` are the allocators', in that order and without overlaps.
#[must_use]
pub fn stretches(mappings: &[Mapping], areas: &[(u64, u64)], stack_pointers: &[u64]) -> Vec<Stretch> {
    let mut stretches = Vec::new();
    let mut before: Option<&Mapping> = None;
    for mapping in mappings {
        if may_hold_pointers(mapping) {
            let is_stack = mapping.path.as_os_str() == "[stack]" || before.is_some_and(|before| before.guards(mapping));
            let start = if is_stack { used_from(mapping, stack_pointers) } else { mapping.start };
            let whole = Stretch { start, end: mapping.end, source: WordKind::Roots, shared: mapping.shared };
            split(whole, areas, &mut stretches);
        }
        before = Some(mapping);
    }
    stretches
}

/// Whether a program may keep pointers there. (A written page of a private mapping of a file is the program's own.)
fn may_hold_pointers(mapping: &Mapping) -> bool {
    let name = mapping.path.to_string_lossy();
    if mapping.shared {
        // Memory that has a file only in name; what is in a real one outlives the process, and its pointers.
        let is_memory = ["/dev/zero", "/memfd:", "/dev/shm/", "/SYSV"].iter().any(|memory| name.starts_with(memory));
        return mapping.writable && (mapping.file.is_none() || is_memory);
    }
    // The kernel's own.
    !name.starts_with("[v") && name != "[uprobes]"
}

/// From where on a stack is in use; all of it where no thread runs on it at present.
fn used_from(stack: &Mapping, stack_pointers: &[u64]) -> u64 {
    let on_it = stack_pointers.iter().filter(|pointer| (stack.start..stack.end).contains(pointer));
    let lowest = on_it.min().map(|pointer| (pointer.saturating_sub(RED_ZONE_BYTES) & !7).max(stack.start));
    lowest.unwrap_or(stack.start)
}

/// Parts a stretch where it runs into and out of areas of allocators.
fn split(whole: Stretch, areas: &[(u64, u64)], stretches: &mut Vec<Stretch>) {
    let mut at = whole.start;
    let first = areas.partition_point(|(_, end)| *end <= whole.start);
    for (start, end) in areas[first..].iter().take_while(|(start, _)| *start < whole.end) {
        let (start, end) = (((*start).max(at) + 7) & !7, (*end).min(whole.end) & !7);
        if start >= end {
            continue;
        }
        if at < start {
            stretches.push(Stretch { start: at, end: start, ..whole });
        }
        stretches.push(Stretch { start, end, source: WordKind::Nothing, ..whole });
        at = end;
    }
    if at < whole.end {
        stretches.push(Stretch { start: at, ..whole });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::maps;

    fn of(text: &str, areas: &[(u64, u64)], stack_pointers: &[u64]) -> Vec<(u64, u64, WordKind)> {
        let mappings = maps::parse(text.as_bytes()).unwrap();
        let stretches = stretches(&mappings, areas, stack_pointers);
        stretches.iter().map(|stretch| (stretch.start, stretch.end, stretch.source)).collect()
    }

    #[test]
    fn allocators_areas_are_cut_out_of_what_they_lie_in() {
        let anonymous = "1000-9000 rw-p 0 00:00 0\n";
        let (roots, nothing) = (WordKind::Roots, WordKind::Nothing);
        assert_eq!(of(anonymous, &[], &[]), [(0x1000, 0x9000, roots)]);
        assert_eq!(
            of(anonymous, &[(0, 0x800), (0x2000, 0x3000), (0x3000, 0x4000), (0x8ffc, 0xa000)], &[]),
            [(0x1000, 0x2000, roots), (0x2000, 0x3000, nothing), (0x3000, 0x4000, nothing), (0x4000, 0x9000, roots)]
        );
        assert_eq!(of(anonymous, &[(0x1000, 0x9000)], &[]), [(0x1000, 0x9000, nothing)]);
    }

    #[test]
    fn of_stacks_only_what_is_in_use_counts() {
        let stacks = "1000-2000 ---p 0 00:00 0\n2000-4000 rw-p 0 00:00 0\n7000-9000 rw-p 0 00:00 0    [stack]\n";
        assert_eq!(
            of(stacks, &[], &[0x3104, 0x8000, 0x8100]),
            [(0x1000, 0x2000, WordKind::Roots), (0x3080, 0x4000, WordKind::Roots), (0x7f80, 0x9000, WordKind::Roots)]
        );
        // Nobody runs there at present: who did may come back.
        assert_eq!(of(stacks, &[], &[])[1..], [(0x2000, 0x4000, WordKind::Roots), (0x7000, 0x9000, WordKind::Roots)]);
    }

    #[test]
    fn shared_files_and_the_kernels_own_are_not_looked_through() {
        let text = "1000-2000 rw-s 0 08:01 7    /var/lib/data\n2000-3000 rw-s 0 00:01 8    /memfd:heap (deleted)\n\
                    3000-4000 rw-p 1000 08:01 9    /lib/libc.so.6\n4000-5000 r--p 0 00:00 0    [vvar]\n";
        assert_eq!(of(text, &[], &[]), [(0x2000, 0x3000, WordKind::Roots), (0x3000, 0x4000, WordKind::Roots)]);
    }
}
