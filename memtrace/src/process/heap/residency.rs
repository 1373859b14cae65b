//! How much of ranges of addresses is in memory, asked for in rising order.

use super::bytes::{PAGE, Page, Reader, Stop};

const PAGES_AT_ONCE: usize = 8192;
const PAGE_BYTES: u64 = PAGE as u64;

/// A moving view of page states.
#[derive(Debug, Default)]
pub(super) struct Residency {
    start: u64,
    states: Vec<Page>,
}

/// Bytes of a range, by where they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Whereabouts {
    /// In memory.
    pub(super) resident_bytes: u64,
    /// Swapped out.
    pub(super) swapped_bytes: u64,
}

impl Residency {
    /// How many bytes from `start` up to `end` are in memory.
    pub(super) fn bytes(&mut self, reader: &mut Reader<'_>, start: u64, end: u64) -> Result<u64, Stop> {
        Ok(self.whereabouts(reader, start, end)?.resident_bytes)
    }

    /// Where the bytes from `start` up to `end` are.
    pub(super) fn whereabouts(&mut self, reader: &mut Reader<'_>, start: u64, end: u64) -> Result<Whereabouts, Stop> {
        let (mut at, mut bytes) = (start, Whereabouts::default());
        while at < end {
            let next = (at & !(PAGE_BYTES - 1)).saturating_add(PAGE_BYTES).min(end);
            if next <= at {
                break;
            }
            match self.state(reader, at)? {
                Page::Resident => bytes.resident_bytes += next - at,
                Page::Swapped => bytes.swapped_bytes += next - at,
                Page::Absent => {}
            }
            at = next;
        }
        Ok(bytes)
    }

    fn state(&mut self, reader: &mut Reader<'_>, address: u64) -> Result<Page, Stop> {
        if let Some(state) = self.known(address) {
            return Ok(state);
        }
        self.start = address & !(PAGE_BYTES - 1);
        self.states.resize(PAGES_AT_ONCE, Page::Absent);
        reader.pages(self.start, &mut self.states)?;
        Ok(self.known(address).unwrap_or_default())
    }

    fn known(&self, address: u64) -> Option<Page> {
        let index = usize::try_from(address.checked_sub(self.start)? / PAGE_BYTES).ok()?;
        self.states.get(index).copied()
    }
}
