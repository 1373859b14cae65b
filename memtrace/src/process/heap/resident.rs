//! Memory piece by piece, as far as it is resident: what marking looks through.

use super::bytes::{MAX_WINDOW_BYTES, PAGE, Page, Reader, Stop, Window};

/// Pages that are asked about at once: a quarter of a gibibyte.
const ASKED_PAGES: usize = 1 << 16;
const PAGE_BYTES: u64 = PAGE as u64;

/// Reads resident memory, with what it takes for that.
#[derive(Debug, Default)]
pub struct Resident {
    window: Window,
    pages: Vec<Page>,
    /// Bytes that were passed over because they are swapped out.
    pub swapped_bytes: u64,
}

/// Takes a piece of memory, with its address.
type Taker<'a, E> = &'a mut dyn FnMut(u64, &[u8]) -> Result<(), E>;

impl Resident {
    /// Hands over what is resident from `start` up to `end`, in order of addresses, each piece with its own. Pages that are not there
    /// may be handed over as zeros.
    ///
    /// # Errors
    /// Where the process is gone, a bound is reached, or `with` fails.
    pub fn each<E: From<Stop>>(
        &mut self,
        reader: &mut Reader<'_>,
        start: u64,
        end: u64,
        with: Taker<'_, E>,
    ) -> Result<(), E> {
        let mut at = start & !(PAGE_BYTES - 1);
        while at < end {
            let left = usize::try_from((end - at).div_ceil(PAGE_BYTES)).unwrap_or(usize::MAX);
            let mut pages = std::mem::take(&mut self.pages);
            pages.clear();
            pages.resize(left.min(ASKED_PAGES), Page::Absent);
            reader.pages(at, &mut pages)?;
            let outcome = self.runs(reader, at, &pages, (start, end), with);
            let asked = pages.len() as u64 * PAGE_BYTES;
            self.pages = pages;
            outcome?;
            let Some(next) = at.checked_add(asked) else { break };
            at = next;
        }
        Ok(())
    }

    /// Hands over the resident ones of pages from `at` on, as far as they lie between the bounds.
    fn runs<E: From<Stop>>(
        &mut self,
        reader: &mut Reader<'_>,
        at: u64,
        pages: &[Page],
        (start, end): (u64, u64),
        with: Taker<'_, E>,
    ) -> Result<(), E> {
        let mut first = 0;
        while let Some(page) = pages.get(first) {
            let rest = pages.get(first..).unwrap_or_default();
            let count = rest.iter().take(MAX_WINDOW_BYTES / PAGE).take_while(|other| *other == page).count().max(1);
            let from = at.saturating_add(first as u64 * PAGE_BYTES);
            first += count;
            match page {
                Page::Absent => {}
                Page::Swapped => {
                    self.swapped_bytes = self.swapped_bytes.saturating_add((count * PAGE) as u64);
                }
                Page::Resident => {
                    reader.window(from, count * PAGE, end, &mut self.window)?;
                    let skipped = usize::try_from(start.saturating_sub(from)).unwrap_or(usize::MAX);
                    let length = usize::try_from(end.saturating_sub(from)).unwrap_or(usize::MAX);
                    let bytes = self.window.bytes();
                    let piece = bytes.get(skipped..length.min(bytes.len())).unwrap_or_default();
                    with(from.saturating_add(skipped as u64), piece)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Bounds, bytes::Memory},
        *,
    };

    /// Memory whose pages go resident, absent, resident, resident, swapped, over and over; each byte is the number of its page.
    struct Striped;

    impl Memory for Striped {
        fn pages(&mut self, address: u64, pages: &mut [Page]) -> bool {
            let states = [Page::Resident, Page::Absent, Page::Resident, Page::Resident, Page::Swapped];
            for (page, number) in pages.iter_mut().zip(address / PAGE_BYTES..) {
                *page = states[usize::try_from(number % 5).unwrap()];
            }
            true
        }

        fn copy(&mut self, address: u64, into: &mut [u8]) -> bool {
            for (byte, at) in into.iter_mut().zip(address..) {
                *byte = u8::try_from(at / PAGE_BYTES % 251).unwrap();
            }
            true
        }

        fn end(&mut self, _: u64) -> Option<u64> {
            None
        }
    }

    #[test]
    fn resident_pages_are_handed_over_in_order_and_to_the_byte() {
        let mut memory = Striped;
        let mut reader = Reader::new(&mut memory, Bounds::default());
        let (start, end) = (10 * PAGE_BYTES + 8, 17 * PAGE_BYTES + 16);
        let mut pieces = Vec::new();
        let mut resident = Resident::default();
        let taken: Result<(), Stop> = resident.each(&mut reader, start, end, &mut |at, bytes| {
            assert!(bytes.iter().zip(at..).all(|(byte, at)| u64::from(*byte) == at / PAGE_BYTES % 251));
            pieces.push((at, at + bytes.len() as u64));
            Ok(())
        });
        taken.unwrap();
        let page = |number: u64| number * PAGE_BYTES;
        assert_eq!(pieces, [(start, page(11)), (page(12), page(14)), (page(15), page(16)), (page(17), end)]);
        assert_eq!(resident.swapped_bytes, PAGE_BYTES);
        let refused: Result<(), Stop> = resident.each(&mut reader, start, end, &mut |_, _| Err(Stop::Gone));
        assert_eq!(refused, Err(Stop::Gone));
    }

    #[test]
    fn long_ranges_are_read_in_windows() {
        let mut memory = Striped;
        let mut reader = Reader::new(&mut memory, Bounds::default());
        let (mut sum, mut last) = (0, 0);
        let pages = ASKED_PAGES as u64 + 1000;
        let taken: Result<(), Stop> = Resident::default().each(&mut reader, 0, pages * PAGE_BYTES, &mut |at, bytes| {
            assert!(at >= last && bytes.len() <= MAX_WINDOW_BYTES);
            last = at + bytes.len() as u64;
            sum += bytes.len() as u64;
            Ok(())
        });
        taken.unwrap();
        assert_eq!(sum, (0..pages).filter(|page| [0, 2, 3].contains(&(page % 5))).count() as u64 * PAGE_BYTES);
    }
}
