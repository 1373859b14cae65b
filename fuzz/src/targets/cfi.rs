//! Call frame information of a hostile image: compiled to sorted rows or refused, in bounded time and memory.

use memtrace::{process::image::FrameSection, unwind::cfi};

use crate::{Target, input::Input, seeds};

/// A section with its address.
pub const TARGET: Target = Target { name: "cfi", run, seeds };

fn run(input: &[u8]) {
    let mut input = Input::new(input);
    let (is_eh_frame, address) = (input.byte() & 1 == 1, u64::from(input.word()));
    let bytes = input.rest().to_vec();
    compile(&if is_eh_frame { FrameSection::EhFrame { bytes, address } } else { FrameSection::DebugFrame { bytes } });
}

/// Compiles a section, and checks what comes of it.
pub(super) fn compile(section: &FrameSection) {
    if let Ok(rows) = cfi::compile(section) {
        assert!(rows.windows(2).all(|pair| pair[0].start < pair[1].start), "rows are not sorted");
    }
    if let Ok(ranges) = cfi::code_ranges(section) {
        assert!(ranges.is_sorted_by_key(|range| range.start), "ranges are not sorted");
    }
}

/// The first functions of sections of this machine's libraries.
fn seeds() -> Vec<Vec<u8>> {
    let sections = seeds::libraries().into_iter().filter_map(|image| image.frame_section().ok()?);
    let seed = |section: FrameSection| {
        let (kind, address, bytes) = match section {
            FrameSection::EhFrame { bytes, address } => (1, address, bytes),
            FrameSection::DebugFrame { bytes } => (0, 0, bytes),
        };
        let address = u32::try_from(address).unwrap_or(0).to_le_bytes();
        let pieces = [512, 4096, 16 << 10].map(|length| &bytes[..length.min(bytes.len())]);
        pieces.map(|piece| [&[kind][..], &address, piece].concat())
    };
    sections.flat_map(seed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_compiled_to_rows() {
        let seeds = seeds();
        let rows = |seed: &Vec<u8>| {
            let section = FrameSection::EhFrame { bytes: seed[5..].to_vec(), address: 0x1000 };
            cfi::compile(&section).map_or(0, |rows| rows.len())
        };
        assert!(seeds.iter().map(rows).max() > Some(2), "{} seeds", seeds.len());
    }
}
