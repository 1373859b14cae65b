//! Programs that copy their code: the breakpoints in it would be copied as well, and end the program. The length of hooked code
//! tells who may be about to, and the probes can be taken out before that.

use std::ops::Range;

use memtrace_common::wire::control::HOOKED_CODE;

use super::{error::BpfError, named_map::ArrayMap};

const HUGE_PAGE: u64 = 2 << 20;

/// The lengths of mappings of hooked code, in bytes, each once.
pub(super) struct HookedCode {
    map: ArrayMap<u64>,
    known: Vec<u64>,
}

impl HookedCode {
    pub(super) fn new(map: ArrayMap<u64>) -> Self {
        Self { map, known: Vec::new() }
    }

    /// Tells the programs where hooked code is mapped: who copies code copies all of such a mapping, or the huge pages in it.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub(super) fn note(&mut self, range: &Range<u64>) -> Result<(), BpfError> {
        let huge_pages = (range.end / HUGE_PAGE).saturating_sub(range.start.div_ceil(HUGE_PAGE)) * HUGE_PAGE;
        for length in [range.end - range.start, huge_pages].into_iter().filter(|length| *length > 0) {
            let place = u32::try_from(self.known.len()).unwrap_or(HOOKED_CODE);
            if place < HOOKED_CODE && !self.known.contains(&length) {
                self.known.push(length);
                self.map.set(place, length)?;
            }
        }
        Ok(())
    }
}
