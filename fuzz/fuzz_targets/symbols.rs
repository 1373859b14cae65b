//! Symbols and debug information of a hostile image: read or refused, in bounded time and memory.
#![no_main]

use libfuzzer_sys::fuzz_target;
use memtrace::symbolize::names::{Files, Names, Sections};

fuzz_target!(|input: (u64, Option<&[u8]>, &[u8])| {
    let (offset, debug, image) = input;
    let files = Files { image, debug, ..Files::default() };
    let Ok(sections) = Sections::load(&files) else { return };
    if let Ok(names) = Names::new(&files, &sections) {
        for place in [0, offset, 0x1000, u64::MAX] {
            assert!(names.at(place).len() <= 128);
        }
    }
});
