//! Call frame information of a hostile image: compiled or refused, in bounded time and memory.
#![no_main]

use libfuzzer_sys::fuzz_target;
use memtrace::{process::image::FrameSection, unwind::cfi};

fuzz_target!(|input: (bool, u32, &[u8])| {
    let (is_eh_frame, address, bytes) = input;
    let bytes = bytes.to_vec();
    let section = match is_eh_frame {
        true => FrameSection::EhFrame { bytes, address: address.into() },
        false => FrameSection::DebugFrame { bytes },
    };
    if let Ok(rows) = cfi::compile(&section) {
        assert!(rows.windows(2).all(|pair| pair[0].start < pair[1].start));
    }
});
