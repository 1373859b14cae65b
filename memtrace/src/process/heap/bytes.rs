//! The seam between memory and its readers: whoever has bytes of a process implements [`Memory`], and allocators' structures are
//! parsed over it, without a system call. A live process ([`super::live`]), a recorded heap and random bytes are the same to them.

use memtrace_common::arch::PAGE_BYTES;
use thiserror::Error;

use super::budget::{Bounds, Budget, Exhausted};
use crate::process::maps::Mapping;

/// Bytes of a page, as a length.
#[expect(clippy::cast_possible_truncation, reason = "a page is small")]
pub(crate) const PAGE: usize = PAGE_BYTES as usize;
/// The longest window, in bytes: what is read at once.
pub(crate) const MAX_WINDOW_BYTES: usize = 1 << 20;
/// The shortest.
pub(crate) const MIN_WINDOW_BYTES: usize = 2 * PAGE;
/// Bytes that are read from each page when only the beginnings of pages are wanted.
pub(crate) const HEAD_BYTES: usize = 32;

/// Where the contents of a page are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Page {
    /// Nowhere: never touched, or given back.
    #[default]
    Absent,
    /// In memory.
    Resident,
    /// Swapped out.
    Swapped,
}

/// The memory of a process. Nothing of it is to be trusted, and all of it may change between two calls.
pub trait Memory {
    /// Tells where the pages from `address` on are, one for each of `pages`. `false` where the process is gone.
    fn pages(&mut self, address: u64, pages: &mut [Page]) -> bool;

    /// Copies resident memory from `address` on, all of it or nothing (`false`).
    fn copy(&mut self, address: u64, into: &mut [u8]) -> bool;

    /// Copies the first [`HEAD_BYTES`] of each of these resident pages, one after the other; zeros where that fails.
    fn heads(&mut self, pages: &[u64], into: &mut [u8]) {
        for (page, head) in pages.iter().zip(into.chunks_exact_mut(HEAD_BYTES)) {
            if !self.copy(*page, head) {
                head.fill(0);
            }
        }
    }

    /// Where the writable memory around `address` ends now, as it may have grown; `None` where there is none.
    fn end(&mut self, address: u64) -> Option<u64>;

    /// Copies from the file that is mapped at `mapping`, all of it or nothing (`false`): content of pages that the process has never
    /// touched, without bringing them in for it.
    fn file(&mut self, _mapping: &Mapping, _file_offset: u64, _into: &mut [u8]) -> bool {
        false
    }
}

/// Why a look ends early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Stop {
    /// A bound is reached.
    #[error(transparent)]
    Exhausted(#[from] Exhausted),
    /// The process is gone.
    #[error("the process has ended")]
    Gone,
}

/// A piece of memory that was read, with the state of its pages.
#[derive(Debug, Default)]
pub struct Window {
    start: u64,
    bytes: Vec<u8>,
    pages: Vec<Page>,
}

impl Window {
    /// The first address.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.start
    }

    /// One past the last address.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// The bytes; zeros where a page is not resident.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The words at `address`; `None` where they are not in the window.
    #[must_use]
    #[inline]
    pub fn words<const N: usize>(&self, address: u64) -> Option<[u64; N]> {
        let at = usize::try_from(address.checked_sub(self.start)?).ok()?;
        let bytes = self.bytes.get(at..at.checked_add(N * 8)?)?;
        let (words, _) = bytes.as_chunks::<8>();
        let mut out = [0; N];
        for (out, word) in out.iter_mut().zip(words) {
            *out = u64::from_ne_bytes(*word);
        }
        Some(out)
    }

    /// The words from `address` on, a multiple of 8, as far as they are in the window, up to `end`.
    #[must_use]
    pub fn words_until(&self, address: u64, end: u64) -> &[[u8; 8]] {
        let place = |address: u64| usize::try_from(address.checked_sub(self.start)?).ok();
        let range = place(address).zip(place(end.min(self.end())));
        let bytes = range.and_then(|(from, until)| self.bytes.get(from..until)).unwrap_or_default();
        bytes.as_chunks::<8>().0
    }

    /// Whether any of it is resident.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.pages.contains(&Page::Resident)
    }

    /// The state of the page of an address within the window.
    #[must_use]
    pub fn page(&self, address: u64) -> Page {
        let at = address.checked_sub(self.start).and_then(|offset| usize::try_from(offset / PAGE_BYTES).ok());
        at.and_then(|at| self.pages.get(at)).copied().unwrap_or_default()
    }
}

/// Memory, with the budget on which all that reads it draws.
pub struct Reader<'m> {
    memory: &'m mut dyn Memory,
    budget: Budget,
}

impl std::fmt::Debug for Reader<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("budget", &self.budget).finish_non_exhaustive()
    }
}

impl<'m> Reader<'m> {
    /// Reads `memory` within `bounds`.
    pub fn new(memory: &'m mut dyn Memory, bounds: Bounds) -> Self {
        Self { memory, budget: Budget::new(bounds) }
    }

    /// The budget, to draw on.
    pub fn budget(&mut self) -> &mut Budget {
        &mut self.budget
    }

    /// Tells where pages are.
    ///
    /// # Errors
    /// Where the process is gone, or time is up.
    pub fn pages(&mut self, address: u64, pages: &mut [Page]) -> Result<(), Stop> {
        self.budget.draw(0)?;
        if self.memory.pages(address, pages) { Ok(()) } else { Err(Stop::Gone) }
    }

    /// Fills a window with what is resident from the page of `address` on: `length` bytes (whole pages, at most
    /// [`MAX_WINDOW_BYTES`]), but not beyond `end`. Other pages are zeros.
    ///
    /// # Errors
    /// Where the process is gone, or a bound is reached.
    pub fn window(&mut self, address: u64, length: usize, end: u64, window: &mut Window) -> Result<(), Stop> {
        let start = address & !(PAGE_BYTES - 1);
        let wanted = usize::try_from(end.saturating_sub(start)).unwrap_or(usize::MAX);
        let length = length.clamp(PAGE, MAX_WINDOW_BYTES).min(wanted).next_multiple_of(PAGE).min(MAX_WINDOW_BYTES);
        window.start = start;
        window.pages.resize(length / PAGE, Page::Absent);
        window.bytes.resize(length, 0);
        // A window at the end of the address space would wrap.
        if wanted == 0 || start.checked_add(length as u64).is_none() {
            window.pages.clear();
            window.bytes.clear();
            return Ok(());
        }
        self.pages(start, &mut window.pages)?;
        let mut from = 0;
        while let Some(first) = window.pages.get(from) {
            let is_resident = *first == Page::Resident;
            let rest = window.pages.get(from..).unwrap_or_default();
            let count = rest.iter().take_while(|page| (**page == Page::Resident) == is_resident).count();
            let range = from * PAGE..(from + count) * PAGE;
            let Some(bytes) = window.bytes.get_mut(range.clone()) else { break };
            if is_resident {
                self.budget.draw(bytes.len() as u64)?;
                if !self.memory.copy(start + range.start as u64, bytes) {
                    copy_by_page(self.memory, start + range.start as u64, bytes, &mut window.pages, from);
                }
            } else {
                bytes.fill(0);
            }
            from += count.max(1);
        }
        Ok(())
    }

    /// Reads the words at `address`; `None` where they are not resident.
    ///
    /// # Errors
    /// Where the process is gone, or a bound is reached.
    pub fn words<const N: usize>(&mut self, address: u64) -> Result<Option<[u64; N]>, Stop> {
        const { assert!(N > 0 && N * 8 <= PAGE) };
        let length = N as u64 * 8;
        let Some(last) = address.checked_add(length - 1) else { return Ok(None) };
        let (first_page, last_page) = (address & !(PAGE_BYTES - 1), last & !(PAGE_BYTES - 1));
        let mut pages = [Page::Absent; 2];
        let asked = if first_page == last_page { &mut pages[..1] } else { &mut pages[..] };
        self.pages(first_page, asked)?;
        if asked.iter().any(|page| *page != Page::Resident) {
            return Ok(None);
        }
        self.budget.draw(length)?;
        let mut words = [[0; 8]; N];
        let is_read = self.memory.copy(address, words.as_flattened_mut());
        Ok(is_read.then(|| words.map(u64::from_ne_bytes)))
    }

    /// Reads the word at `address`; `None` where it is not resident.
    ///
    /// # Errors
    /// As [`Reader::words`].
    pub fn word(&mut self, address: u64) -> Result<Option<u64>, Stop> {
        Ok(self.words::<1>(address)?.map(|[word]| word))
    }

    /// Copies what a process has in a private mapping, whose pages may not be resident: those that it has never touched are as in the
    /// file. `false` where not all of it can be read. At most a page is asked for.
    ///
    /// # Errors
    /// As [`Reader::words`].
    pub fn mapped(&mut self, mapping: &Mapping, address: u64, into: &mut [u8]) -> Result<bool, Stop> {
        let after = address.checked_add(into.len() as u64);
        if into.len() > PAGE || address < mapping.start || after.is_none_or(|after| after > mapping.end) {
            return Ok(false);
        }
        let (mut at, mut rest) = (address, into);
        while !rest.is_empty() {
            let in_page = PAGE - usize::try_from(at % PAGE_BYTES).unwrap_or(0);
            let (piece, more) = rest.split_at_mut(in_page.min(rest.len()));
            let mut page = [Page::Absent];
            self.pages(at & !(PAGE_BYTES - 1), &mut page)?;
            self.budget.draw(piece.len() as u64)?;
            let is_read = match page {
                [Page::Resident] => self.memory.copy(at, piece),
                [Page::Absent] if !mapping.shared => {
                    let file_offset = mapping.file_offset.checked_add(at - mapping.start);
                    file_offset.is_some_and(|offset| self.memory.file(mapping, offset, piece))
                }
                _ => false,
            };
            if !is_read {
                return Ok(false);
            }
            (at, rest) = (at + piece.len() as u64, more);
        }
        Ok(true)
    }

    /// Copies the beginnings of resident pages, [`HEAD_BYTES`] each.
    ///
    /// # Errors
    /// Where a bound is reached.
    pub fn heads(&mut self, pages: &[u64], into: &mut [u8]) -> Result<(), Stop> {
        self.budget.draw(into.len() as u64)?;
        self.memory.heads(pages, into);
        Ok(())
    }

    /// Where the writable memory around `address` ends now.
    ///
    /// # Errors
    /// Where time is up.
    pub fn end(&mut self, address: u64) -> Result<Option<u64>, Stop> {
        self.budget.draw(0)?;
        Ok(self.memory.end(address))
    }
}

/// Copies page by page, as some of them went while they were copied together. Those count as absent.
fn copy_by_page(memory: &mut dyn Memory, start: u64, bytes: &mut [u8], pages: &mut [Page], first: usize) {
    for (index, page) in bytes.chunks_exact_mut(PAGE).enumerate() {
        if !memory.copy(start + (index * PAGE) as u64, page) {
            page.fill(0);
            if let Some(state) = pages.get_mut(first + index) {
                *state = Page::Absent;
            }
        }
    }
}
