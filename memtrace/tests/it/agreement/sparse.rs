//! The part of an `.eh_frame` section that some addresses need.

use std::collections::{BTreeMap, BTreeSet};

use gimli::{BaseAddresses, CieOrFde, EhFrame, NativeEndian, UnwindSection};
use serde::{Deserialize, Serialize};

use super::fixture::{Hex, HexBytes};

/// A section of which only some entries are kept, each where it was: its pointers are relative to themselves,
/// and a function's entry finds its common entry by distance.
#[derive(Serialize, Deserialize)]
pub(crate) struct SparseSection {
    /// The virtual offset at which the section is loaded.
    pub(crate) address: Hex,
    /// By offset in the section.
    entries: BTreeMap<Hex, HexBytes>,
}

impl SparseSection {
    /// Keeps what the section says of the virtual offsets `wanted`.
    pub(crate) fn of(section: &[u8], address: u64, wanted: &BTreeSet<u64>) -> Self {
        let bases = BaseAddresses::default().set_eh_frame(address);
        let mut frame = EhFrame::new(section, NativeEndian);
        frame.set_address_size(8);
        let mut kept = BTreeMap::new();
        let mut keep = |offset: usize, length: usize| {
            // The length does not count itself.
            kept.insert(Hex(offset as u64), HexBytes(section[offset..offset + 4 + length].to_vec()));
        };
        let mut entries = frame.entries(&bases);
        while let Some(entry) = entries.next().unwrap() {
            let CieOrFde::Fde(partial) = entry else { continue };
            let function = partial.parse(EhFrame::cie_from_offset).unwrap();
            if wanted.range(function.initial_address()..function.end_address()).next().is_some() {
                keep(function.offset(), function.entry_len());
                keep(function.cie().offset(), function.cie().entry_len());
            }
        }
        Self { address: Hex(address), entries: kept }
    }

    /// A section with nothing else in it, of which both unwinders make the same as of the whole for what was
    /// wanted.
    pub(crate) fn filled(&self) -> Vec<u8> {
        let mut section = Vec::new();
        for (offset, entry) in &self.entries {
            let gap = usize::try_from(offset.0).unwrap() - section.len();
            section.extend(filler(gap));
            section.extend(&entry.0);
        }
        section
    }
}

/// A common entry that no function refers to: a valid one of any length from 13 bytes on, which is less than the
/// least that an entry takes.
fn filler(length: usize) -> Vec<u8> {
    if length == 0 {
        return Vec::new();
    }
    let mut entry = u32::try_from(length - 4).unwrap().to_ne_bytes().to_vec();
    // Its kind; version 1; no augmentation; factors of code and data, 1 and -8; the return address's column.
    entry.extend([0, 0, 0, 0, 1, 0, 1, 0x78, 16]);
    assert!(entry.len() <= length, "a gap of {length} bytes");
    // `DW_CFA_nop`.
    entry.resize(length, 0);
    entry
}

#[cfg(test)]
mod tests {
    use super::*;
    use memtrace::{
        process::image::{FrameSection, Image},
        unwind::cfi,
    };
    use memtrace_common::wire::code::Row;
    use std::fs::File;

    #[test]
    fn a_sparse_section_says_the_same_of_what_was_wanted_and_nothing_of_the_rest() {
        const LIBC: &str = "/lib/x86_64-linux-gnu/libc.so.6";
        let image = Image::parse(File::open(LIBC).unwrap(), LIBC.into()).unwrap();
        let Some(FrameSection::EhFrame { bytes, address }) = image.frame_section().unwrap() else { unreachable!() };
        let rows = cfi::compile(&FrameSection::EhFrame { bytes: bytes.clone(), address }).unwrap();
        let wanted: BTreeSet<u64> = rows.iter().step_by(97).map(|row| u64::from(row.start)).collect();
        let bytes = SparseSection::of(&bytes, address, &wanted).filled();
        let sparse = cfi::compile(&FrameSection::EhFrame { bytes, address }).unwrap();
        let says_at = |rows: &[Row], offset: u64| {
            let after = rows.partition_point(|row| u64::from(row.start) <= offset);
            rows[..after].last().map(|row| (row.rule(), row.offset_words(), row.bp_words())).unwrap_or_default()
        };
        assert!(sparse.len() * 2 < rows.len());
        for offset in wanted {
            assert_eq!(says_at(&sparse, offset), says_at(&rows, offset), "{offset:x}");
        }
    }
}
