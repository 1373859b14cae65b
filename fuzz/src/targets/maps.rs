//! /proc/PID/maps: a process chooses the paths in it, and what is mapped where.

use memtrace::process::{
    code_map::{Code, CodeMap},
    maps, moved_code, roots,
};

use crate::{
    Target,
    input::{Input, part},
};

/// A newer and an older text, and addresses of allocators' areas and of stack pointers.
pub const TARGET: Target = Target { name: "maps", run, seeds };

fn run(input: &[u8]) {
    let mut input = Input::new(input);
    let (older, newer) = (maps::parse(input.part()), maps::parse(input.part()));
    let mut words = Vec::new();
    while !input.is_empty() {
        words.push(input.long());
    }
    let (Ok(older), Ok(newer)) = (older, newer) else { return };
    let mut code = CodeMap::default();
    code.update(older.clone(), Some(0));
    code.update(newer.clone(), Some(2));
    code.update(older, None);
    code.learn(newer.clone());
    for word in &words {
        for during in [0..=0, 2..=2, 1..=9] {
            if let Code::In(mapping) = code.at(*word, &during) {
                assert!((mapping.start..mapping.end).contains(word));
            }
        }
    }
    _ = moved_code::parts(&newer);
    words.sort_unstable();
    let areas: Vec<(u64, u64)> = words.as_chunks::<2>().0.iter().map(|[start, end]| (*start, *end)).collect();
    for stretch in roots::stretches(&newer, &areas, &words) {
        let is_mapped = |mapping: &maps::Mapping| mapping.start <= stretch.start && stretch.end <= mapping.end;
        assert!(stretch.start < stretch.end && newer.iter().any(is_mapped), "{stretch:?}");
    }
}

/// The mappings of this process, and the forms of proc_pid_maps(5).
fn seeds() -> Vec<Vec<u8>> {
    let own = std::fs::read("/proc/self/maps").unwrap_or_default();
    let forms = b"55d0c0a00000-55d0c0a21000 r-xp 00002000 fd:01 1234   /usr/bin/a b (deleted)\n\
                  55d0c0a21000-55d0c0a22000 rwxp 00000000 00:00 0\n\
                  55d0c0a22000-55d0c0a23000 r-xp 00024000 fd:01 1234   /usr/bin/a b (deleted)\n\
                  7ffc0000-7ffc1000 ---p 00000000 00:00 0\n\
                  7ffc1000-7ffc2000 rw-s 00000000 00:05 77   /memfd:shared\n\
                  7ffd0000-7ffd2000 rw-p 00000000 00:00 0    [stack]\n";
    let words = [0x7ffc_1008_u64, 0x7ffc_1800, 0x55d0_c0a2_1000, 0x55d0_c0a2_1010].map(u64::to_le_bytes).concat();
    vec![[part(forms), part(forms), words.clone()].concat(), [part(&own), part(forms), words].concat()]
}
