//! The walk over the chunks of a heap while its program goes on. Each header is checked against the one before; a place that
//! contradicts itself is read again from further and further back, and passed over in the end.

use super::{
    super::bytes::{MAX_WINDOW_BYTES, MIN_WINDOW_BYTES, Page, Reader, Stop, Window},
    chunks::{ALIGNMENT, Chunk, HEADER_BYTES, Kind, MIN_CHUNK_BYTES, Stretch},
    header::{Header, Seen},
    keys::{Keys, Vote},
    layout::HEAP_WORDS,
};

/// How often one place is read again.
const MAX_ATTEMPTS: u32 = 6;
/// Chunks in a row that must agree where a walk goes on behind a gap.
const AGREEING_CHUNKS: usize = 16;
/// Chunks behind which a piece that nothing else proves counts as one.
const PROVEN_CHUNKS: usize = 64;
/// The largest chunk of a fastbin that any setting allows (`M_MXFAST` of 160 bytes).
const MAX_FAST_BYTES: u64 = 176;

/// How the end of a heap is told anew.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    /// By the header of the heap at this address.
    Heap(u64),
    /// By the mapping.
    Mapping,
}

/// A heap to walk over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// The first chunk.
    pub(super) start: u64,
    /// One past the last, as it was told before.
    pub(super) end: u64,
    /// How to tell it anew.
    pub(super) told: End,
    /// Whether it is of the main arena.
    pub(super) is_main: bool,
    /// Where the arena keeps the address of its last chunk, and that address.
    pub(super) top: (u64, u64),
    /// Whether it is only a guess that a heap begins there.
    pub(super) is_guess: bool,
}

/// The chunks of a heap.
#[derive(Debug, Default)]
pub(super) struct Walked {
    pub(super) stretches: Vec<Stretch>,
    /// Places that were read again.
    pub(super) retries: u64,
    /// Bytes that were passed over, but for swapped ones.
    pub(super) skipped_bytes: u64,
    /// One past the last chunk, with what ends the heap.
    pub(super) end: u64,
}

/// A chunk of which only the next one tells whether it is in use.
#[derive(Clone, Copy, Debug)]
struct Pending {
    bytes: u64,
    first: u64,
    second: u64,
    is_top: bool,
}

/// The content of the place where the next chunk should be.
enum Step {
    /// A chunk, and whether the one before is in use.
    Next(Pending, bool),
    /// The end of the heap; whether the last chunk is in use, where something says so.
    End(Option<bool>),
    /// The end of a piece, with two headers that are no chunks.
    Fence(bool),
    /// The end of a heap whose last chunk was too small to be freed: nobody has it.
    Remnant,
    /// It contradicts what came before.
    Torn,
    /// It is not in memory.
    Swapped,
}

/// The state of one walk.
struct Run {
    done: Vec<Stretch>,
    current: Stretch,
    pending: Option<Pending>,
    /// The furthest place that was torn, and how often.
    torn_at: u64,
    attempts: u32,
    end: u64,
    skipped_bytes: u64,
    retries: u64,
}

impl Run {
    fn at(&self) -> u64 {
        self.current.end.saturating_add(self.pending.map_or(0, |pending| pending.bytes))
    }

    /// Begins anew behind a gap.
    fn resume(&mut self, at: u64) {
        let mut stretch = std::mem::replace(&mut self.current, Stretch::at(at));
        self.pending = None;
        if !stretch.is_empty() {
            stretch.shrink();
            self.done.push(stretch);
        }
    }

    fn chunks(&self) -> usize {
        self.done.iter().map(Stretch::len).sum::<usize>() + self.current.len()
    }
}

/// Walks over heaps.
#[derive(Debug)]
pub(super) struct Walker<'k> {
    window: Window,
    length: usize,
    keys: &'k Keys,
    has_fastbins: bool,
    /// Cached chunks, by the key that each has; empty where all keys are known.
    pub(super) votes: Vec<Vote>,
}

impl<'k> Walker<'k> {
    pub(super) fn new(keys: &'k Keys, has_fastbins: bool) -> Self {
        Self { window: Window::default(), length: MIN_WINDOW_BYTES, keys, has_fastbins, votes: Vec::new() }
    }

    /// Walks over one heap; nothing where it was a guess, and none is there.
    pub(super) fn walk(&mut self, reader: &mut Reader<'_>, place: &Place) -> Result<Option<Walked>, Stop> {
        let mut run = Run {
            done: Vec::new(),
            current: Stretch::at(place.start),
            pending: None,
            torn_at: 0,
            attempts: 0,
            end: place.end,
            skipped_bytes: 0,
            retries: 0,
        };
        self.window = Window::default();
        loop {
            reader.budget().step()?;
            match self.step(reader, &run, place)? {
                Step::Next(next, before_is_used) => {
                    reader.budget().list(1)?;
                    self.settle(&mut run, Some(before_is_used));
                    run.pending = Some(next);
                }
                Step::End(is_used) => {
                    self.settle(&mut run, is_used);
                    break;
                }
                Step::Fence(is_used) => {
                    self.settle(&mut run, Some(is_used));
                    // Behind memory that somebody else has taken, the heap may go on.
                    let from = run.at().saturating_add(2 * ALIGNMENT);
                    let is_inner = place.is_main && !place.is_guess && from < run.end;
                    match if is_inner { self.resynchronised(reader, from, &run, place)? } else { None } {
                        Some(at) => run.resume(at),
                        None => break,
                    }
                }
                Step::Remnant => {
                    run.pending = None;
                    break;
                }
                step => {
                    let is_swapped = matches!(step, Step::Swapped);
                    match self.recover(reader, &mut run, place, is_swapped)? {
                        Recovered::GoesOn => {}
                        Recovered::Ends => break,
                        Recovered::IsNone => return Ok(None),
                    }
                }
            }
        }
        let end = run.at();
        run.resume(end);
        Ok(Some(Walked { stretches: run.done, retries: run.retries, skipped_bytes: run.skipped_bytes, end }))
    }

    /// Appends the pending chunk, now that its use is known.
    fn settle(&mut self, run: &mut Run, is_used: Option<bool>) {
        let Some(pending) = run.pending.take() else { return };
        let address = run.current.end;
        let kind = self.kind(address, &pending, is_used);
        run.current.push(pending.bytes, kind);
    }

    fn kind(&mut self, address: u64, pending: &Pending, is_used: Option<bool>) -> Kind {
        if is_used == Some(false) {
            return Kind::Bin;
        }
        if pending.is_top && is_used.is_none() {
            return Kind::Top;
        }
        let is_link = is_link(pending.first, address);
        if let Some(key) = self.keys.index(pending.second).filter(|_| is_link) {
            if !self.keys.are_all {
                self.votes.push(Vote { address, key });
            }
            return Kind::Cached;
        }
        if self.has_fastbins && is_link && pending.bytes <= MAX_FAST_BYTES { Kind::MaybeFast } else { Kind::InUse }
    }

    /// Looks at the place behind the last chunk.
    fn step(&mut self, reader: &mut Reader<'_>, run: &Run, place: &Place) -> Result<Step, Stop> {
        let at = run.at();
        let is_behind_top = run.pending.is_some_and(|pending| pending.is_top);
        if is_behind_top || (at == run.end && run.pending.is_some()) {
            return Ok(Step::End(None));
        }
        let Some([before_bytes, word]) = self.words(reader, at, run.end)? else {
            return Ok(match self.window.page(at) {
                Page::Swapped => Step::Swapped,
                _ => Step::Torn,
            });
        };
        let header = Header(word);
        let before = run.pending.map(|pending| pending.bytes);
        if !place.is_main && header.ends_heap() && before == Some(MIN_CHUNK_BYTES) && run.end - at == HEADER_BYTES {
            return Ok(Step::Remnant);
        }
        match header.seen(before_bytes, before, place.is_main) {
            Seen::Torn => return Ok(Step::Torn),
            Seen::Fence => return Ok(Step::Fence(header.before_is_used())),
            Seen::Chunk => {}
        }
        let bytes = header.bytes();
        let Some(room) = run.end.checked_sub(at).filter(|room| bytes <= *room) else { return Ok(Step::Torn) };
        let (top_field, top) = place.top;
        // A top that was told before may be any chunk by now.
        let is_top = bytes == room || (top == at && reader.word(top_field)? == Some(at));
        let [first, second] = if is_top { [0; 2] } else { self.words(reader, at + 16, run.end)?.unwrap_or_default() };
        Ok(Step::Next(Pending { bytes, first, second, is_top }, header.before_is_used()))
    }

    /// Two words, from the window or from a new one; nothing where they are not resident.
    fn words(&mut self, reader: &mut Reader<'_>, at: u64, end: u64) -> Result<Option<[u64; 2]>, Stop> {
        if end.checked_sub(at).is_none_or(|room| room < 16) || !at.is_multiple_of(ALIGNMENT) {
            return Ok(None);
        }
        let words = match self.window.words(at) {
            Some(words) => Some(words),
            None => {
                let is_near = self.window.end() <= at && at - self.window.end() < MIN_WINDOW_BYTES as u64;
                self.length = if is_near { (self.length * 2).min(MAX_WINDOW_BYTES) } else { MIN_WINDOW_BYTES };
                reader.window(at, self.length, end, &mut self.window)?;
                self.window.words(at)
            }
        };
        Ok(words.filter(|_| self.window.page(at) == Page::Resident))
    }
}

enum Recovered {
    /// The walk goes on, further back or further on.
    GoesOn,
    /// Nothing more of the heap can be read.
    Ends,
    /// There is no heap.
    IsNone,
}

impl Walker<'_> {
    /// Goes back to read a place again, or passes over it.
    fn recover(
        &mut self,
        reader: &mut Reader<'_>,
        run: &mut Run,
        place: &Place,
        is_swapped: bool,
    ) -> Result<Recovered, Stop> {
        let at = run.at();
        self.window = Window::default();
        self.length = MIN_WINDOW_BYTES;
        run.attempts = if at > run.torn_at { 1 } else { run.attempts + 1 };
        run.torn_at = run.torn_at.max(at);
        let may_retry = !is_swapped && run.attempts <= MAX_ATTEMPTS && reader.budget().retry();
        if may_retry {
            run.retries += 1;
            run.end = self.told_end(reader, run, place)?;
            self.go_back(run, 1 << (2 * run.attempts));
            return Ok(Recovered::GoesOn);
        }
        if place.is_guess && run.chunks() < PROVEN_CHUNKS {
            return Ok(Recovered::IsNone);
        }
        if is_swapped {
            // The chunk before is whole, and only its use is not known.
            self.settle(run, None);
        }
        let gap_start = run.current.end;
        let resumed = self.resynchronised(reader, at.saturating_add(ALIGNMENT), run, place)?;
        let gap_end = resumed.unwrap_or(run.end);
        run.skipped_bytes += not_swapped_bytes(reader, gap_start, gap_end)?;
        match resumed {
            Some(at) => {
                run.resume(at);
                Ok(Recovered::GoesOn)
            }
            None => {
                run.pending = None;
                Ok(Recovered::Ends)
            }
        }
    }

    /// Takes chunks back, so many or as many as there are behind the last gap.
    fn go_back(&mut self, run: &mut Run, chunks: u32) {
        run.pending = None;
        let mut last: Option<Chunk> = None;
        for _ in 0..chunks {
            match run.current.pop() {
                Some(chunk) => last = Some(chunk),
                None => break,
            }
        }
        if let Some(from) = last {
            while self.votes.last().is_some_and(|vote| vote.address >= from.address && vote.address < run.torn_at) {
                self.votes.pop();
            }
        }
    }

    /// The end of a heap as it is told now, for it may have grown or shrunk.
    fn told_end(&self, reader: &mut Reader<'_>, run: &Run, place: &Place) -> Result<u64, Stop> {
        let told = match place.told {
            End::Heap(heap) => {
                let words = reader.words::<HEAP_WORDS>(heap)?;
                // The header lies in the heap's first page, so a heap ends behind it.
                words.and_then(|[_, _, bytes]| heap.checked_add(bytes)).filter(|end| *end > place.start)
            }
            End::Mapping => reader.end(place.start)?,
        };
        Ok(told.unwrap_or(run.end))
    }

    /// Looks for a place from which so many chunks agree.
    fn resynchronised(
        &mut self,
        reader: &mut Reader<'_>,
        from: u64,
        run: &Run,
        place: &Place,
    ) -> Result<Option<u64>, Stop> {
        let mut at = from.next_multiple_of(ALIGNMENT);
        let mut window = Window::default();
        while run.end.checked_sub(at).is_some_and(|room| room >= MIN_CHUNK_BYTES) {
            reader.budget().step()?;
            if window.words::<2>(at).is_none() {
                reader.window(at, MAX_WINDOW_BYTES, run.end, &mut window)?;
                if window.words::<2>(at).is_none() {
                    return Ok(None);
                }
            }
            if window.page(at) != Page::Resident {
                let Some(next) = (at | (super::super::bytes::PAGE as u64 - 1)).checked_add(1) else { return Ok(None) };
                at = next;
                continue;
            }
            if agrees(reader, &window, at, run.end, place.is_main)? {
                return Ok(Some(at));
            }
            at += ALIGNMENT;
        }
        Ok(None)
    }
}

/// Whether a chain of chunks begins here that agree with one another.
fn agrees(reader: &mut Reader<'_>, window: &Window, start: u64, end: u64, is_main: bool) -> Result<bool, Stop> {
    let (mut at, mut before) = (start, None);
    let mut before_header = None;
    for index in 0..AGREEING_CHUNKS {
        if at == end {
            return Ok(index > 1);
        }
        let words = match window.words::<2>(at) {
            Some(words) if window.page(at) == Page::Resident => Some(words),
            Some(_) => None,
            None => reader.words::<2>(at)?,
        };
        let Some([before_bytes, word]) = words else { return Ok(false) };
        let header = Header(word);
        // Chunks of other arenas say so while they are in use.
        let is_foreign = |before: Header| !is_main && header.before_is_used() && !before.is_of_other_arena();
        if before_header.is_some_and(is_foreign) {
            return Ok(false);
        }
        match header.seen(before_bytes, before, is_main) {
            Seen::Torn => return Ok(false),
            Seen::Fence => return Ok(index > 1),
            Seen::Chunk => {}
        }
        let is_first_odd = before.is_none() && !header.before_is_used() && !is_size(before_bytes);
        let Some(next) = at.checked_add(header.bytes()).filter(|next| *next <= end && !is_first_odd) else {
            return Ok(false);
        };
        (at, before, before_header) = (next, Some(header.bytes()), Some(header));
    }
    Ok(true)
}

fn is_size(bytes: u64) -> bool {
    bytes >= MIN_CHUNK_BYTES && bytes.is_multiple_of(ALIGNMENT)
}

/// Whether the first word of a chunk's memory could link it to another: to none, to an address that is aligned, or either under
/// the disguise that is usual since 2.32.
#[inline]
pub(super) fn is_link(word: u64, chunk: u64) -> bool {
    let is_address = |word: u64| word >> 47 == 0 && word.is_multiple_of(ALIGNMENT);
    is_address(word) || is_address(word ^ (chunk.wrapping_add(16) >> 12))
}

/// Bytes of a gap, without pages that are swapped out: these are told by themselves.
fn not_swapped_bytes(reader: &mut Reader<'_>, start: u64, end: u64) -> Result<u64, Stop> {
    const PIECE: usize = 4096;
    let page_bytes = super::super::bytes::PAGE as u64;
    let mut bytes = end.saturating_sub(start);
    let (mut page, last) = (start & !(page_bytes - 1), end);
    let mut pages = vec![Page::Absent; PIECE];
    while page < last {
        let count = usize::try_from((last - page).div_ceil(page_bytes)).map_or(PIECE, |count| count.min(PIECE));
        let Some(part) = pages.get_mut(..count) else { break };
        reader.pages(page, part)?;
        let swapped = part.iter().filter(|state| **state == Page::Swapped).count() as u64;
        bytes = bytes.saturating_sub(swapped * page_bytes);
        page = page.saturating_add(count as u64 * page_bytes);
    }
    Ok(bytes)
}
