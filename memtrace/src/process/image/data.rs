//! The data of an image: where its variables lie in memory, as far as its headers and its symbols tell. Names are not read.

use std::fs::File;

use object::{
    Endianness, Object, ObjectSymbol, SymbolKind,
    elf::{PT_LOAD, PT_TLS},
    read::elf::{ElfFile64, ProgramHeader},
};

use super::{Image, PAGE_MASK};
use crate::process::{bounded::BoundedFile, maps::Mapping};

/// The most parts of a file that are taken for mapped.
const MAX_SEGMENTS: usize = 128;
/// The most variables that are told apart.
const MAX_VARIABLES: usize = 1 << 22;
/// How many variables before an address are looked at for one that holds it: one can lie within another.
const MAX_NESTED: usize = 16;

/// Where variables lie: ranges of virtual offsets (start, end), in order of their starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Variables(Vec<(u64, u64)>);

impl Variables {
    fn of(mut ranges: Vec<(u64, u64)>) -> Self {
        ranges.sort_unstable();
        ranges.dedup();
        Self(ranges)
    }

    /// Where the innermost variable begins that holds a virtual offset.
    #[must_use]
    pub fn at(&self, offset: u64) -> Option<u64> {
        let after = self.0.partition_point(|(start, _)| *start <= offset);
        let before = self.0.get(..after)?.iter().rev().take(MAX_NESTED);
        before.filter(|(_, end)| offset < *end).map(|(start, _)| *start).next()
    }
}

/// The thread-local data of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ThreadLocal {
    virtual_offset: u64,
    bytes: u64,
    alignment: u64,
}

/// The data of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageData {
    /// Parts that are loaded: place in the file, virtual offset, bytes in memory.
    loaded: Vec<(u64, u64, u64)>,
    thread_local: Option<ThreadLocal>,
    /// Its variables.
    pub variables: Variables,
    /// Its thread-local variables, by their offsets in its thread-local data.
    pub thread_locals: Variables,
}

impl Image {
    /// The data of the image.
    ///
    /// # Errors
    /// Where the file has become unreadable since it was opened.
    pub fn data(&self) -> Result<ImageData, object::Error> {
        ImageData::read(&self.file)
    }
}

impl ImageData {
    /// That of an ELF file.
    ///
    /// # Errors
    /// Where it is none that this machine can run.
    pub fn read(file: &File) -> Result<Self, object::Error> {
        let bounded = BoundedFile::new(file);
        let elf = ElfFile64::<Endianness, _>::parse(&bounded)?;
        let endian = elf.endian();
        let mut data = Self::default();
        for header in elf.elf_program_headers().iter().take(MAX_SEGMENTS) {
            let (offset, bytes) = (header.p_vaddr(endian), header.p_memsz(endian));
            match header.p_type(endian) {
                PT_LOAD => data.loaded.push((header.p_offset(endian), offset, bytes)),
                PT_TLS => {
                    let alignment = header.p_align(endian).max(1);
                    data.thread_local = Some(ThreadLocal { virtual_offset: offset, bytes, alignment });
                }
                _ => {}
            }
        }
        let ranges = |kind: SymbolKind| {
            let symbols = elf.dynamic_symbols().chain(elf.symbols());
            let wanted = symbols.filter(|symbol| !symbol.is_undefined() && symbol.kind() == kind && symbol.size() > 0);
            let range = wanted.map(|symbol| (symbol.address(), symbol.address().saturating_add(symbol.size())));
            Variables::of(range.take(MAX_VARIABLES).collect())
        };
        (data.variables, data.thread_locals) = (ranges(SymbolKind::Data), ranges(SymbolKind::Tls));
        Ok(data)
    }

    /// The difference between addresses and virtual offsets, by where one of its mappings lies.
    #[must_use]
    pub fn bias(&self, mapping: &Mapping) -> Option<u64> {
        let is_mapped = |(file_offset, _, _): &&(u64, u64, u64)| file_offset & !PAGE_MASK == mapping.file_offset;
        let (_, offset, _) = self.loaded.iter().find(is_mapped)?;
        Some(mapping.start.wrapping_sub(offset & !PAGE_MASK))
    }

    /// One past its last virtual offset, data without content in the file included.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.loaded.iter().map(|(_, offset, bytes)| offset.saturating_add(*bytes)).max().unwrap_or(0)
    }

    /// The offset in its thread-local data of an address, if that is where a program has it for the thread with this record: right
    /// below, aligned as it asks (variant II of Drepper's "ELF Handling For Thread-Local Storage", for the first image). Nothing where
    /// it lies elsewhere.
    #[must_use]
    pub fn thread_local_offset(&self, record: u64, address: u64) -> Option<u64> {
        let segment = self.thread_local.filter(|segment| segment.alignment.is_power_of_two())?;
        let mask = segment.alignment - 1;
        // Its beginning modulo its alignment is kept (glibc's _dl_determine_tlsoffset).
        let beginning = segment.virtual_offset.wrapping_neg() & mask;
        let length = segment.bytes.saturating_sub(beginning).checked_add(mask)? & !mask;
        let start = record.checked_sub(length.checked_add(beginning)?)?;
        address.checked_sub(start).filter(|offset| *offset < segment.bytes)
    }
}

#[cfg(test)]
impl ImageData {
    /// An image of 16 KiB with a variable of 256 bytes at 0x3010, and a thread-local one of 16 bytes.
    pub(in crate::process) fn sample() -> Self {
        Self {
            loaded: vec![(0, 0, 0x800), (0x1000, 0x1000, 0x3000)],
            thread_local: Some(ThreadLocal { virtual_offset: 0x1000, bytes: 16, alignment: 16 }),
            variables: Variables::of(vec![(0x3010, 0x3110)]),
            thread_locals: Variables::of(vec![(0, 16)]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::maps;

    #[test]
    fn the_innermost_variable_is_told() {
        let variables = Variables::of(vec![(100, 200), (120, 130), (300, 301)]);
        let told = [99, 100, 119, 120, 129, 130, 199, 200, 300, 301].map(|offset| variables.at(offset));
        let expected = [None, Some(100), Some(100), Some(120), Some(120), Some(100), Some(100), None, Some(300), None];
        assert_eq!(told, expected);
    }

    static MARK: [u64; 3] = [7; 3];

    #[test]
    fn a_variable_of_ones_own_is_told_by_its_address() {
        let address = MARK.as_ptr().addr() as u64;
        let mappings = maps::read(std::process::id()).unwrap();
        let own = std::fs::read_link("/proc/self/exe").unwrap();
        let data = ImageData::read(&File::open("/proc/self/exe").unwrap()).unwrap();
        let first = mappings.iter().find(|mapping| mapping.path == own).unwrap();
        let offset = address - data.bias(first).unwrap();
        assert!(offset < data.end(), "{offset:#x} of {data:?}");
        assert_eq!(data.variables.at(offset + 16), Some(offset));
    }

    #[test]
    fn thread_local_data_lies_right_below_the_record() {
        let of = |virtual_offset, bytes, alignment| {
            let thread_local = Some(ThreadLocal { virtual_offset, bytes, alignment });
            ImageData { thread_local, ..ImageData::default() }
        };
        let data = of(0x3000, 20, 16);
        let told = [0x7fdf, 0x7fe0, 0x7ff3, 0x7ff4].map(|address| data.thread_local_offset(0x8000, address));
        assert_eq!(told, [None, Some(0), Some(19), None]);
        assert_eq!(of(0x3008, 8, 16).thread_local_offset(0x8000, 0x7ff8), Some(0));
        assert_eq!(of(0x3000, u64::MAX, 16).thread_local_offset(0x8000, 0x7ff8), None);
        assert_eq!(of(0x3000, 8, 24).thread_local_offset(0x8000, 0x7ff8), None);
    }
}
