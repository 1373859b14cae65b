//! From places in one image to functions, files and lines: its ELF symbols and its DWARF, in memory.
//!
//! In: the bytes of the image and of its separate debug files. Out: the functions at an address, the innermost inlined one
//! first. Opens nothing and asks nobody. Runs in the process that reads symbols (`reader`), since whoever made these files may
//! have made them to break it.

use std::{borrow::Cow, cmp::Reverse, ops::Range, sync::Arc};

use addr2line::{Context, LookupContinuation, LookupResult, demangle_auto};
use gimli::{DwarfPackage, DwarfPackageSections, DwarfSections, EndianSlice, LittleEndian, SectionId};
use object::{
    Object, ObjectSection, ObjectSymbol, ObjectSymbolTable, SectionFlags, SymbolKind, elf::SHF_EXECINSTR,
    read::elf::ElfFile64,
};

use super::reader::protocol::Named;

/// What a section may become when it is unpacked, in bytes. Those of the largest debug files are half of that.
const MAX_UNPACKED_BYTES: u64 = 1 << 30;
/// Inlined functions at one address that are told. Compilers make some dozens.
const MAX_INLINED: usize = 128;
/// Symbols before an address that are looked at for one that reaches it.
const MAX_LOOKED_AT: usize = 64;

type Bytes<'d> = EndianSlice<'d, LittleEndian>;
type Elf<'d> = ElfFile64<'d, object::LittleEndian>;

/// The files that have an image's symbols.
#[derive(Clone, Copy, Debug, Default)]
pub struct Files<'d> {
    /// The image itself.
    pub image: &'d [u8],
    /// Its separate debug information.
    pub debug: Option<&'d [u8]>,
    /// What several debug files have in common (dwz(1)).
    pub supplementary: Option<&'d [u8]>,
    /// The debug information that the compiler left out of the image (`.dwp`).
    pub package: Option<&'d [u8]>,
}

/// The sections of debug information, unpacked where they are compressed.
#[derive(Debug)]
pub struct Sections<'d> {
    own: DwarfSections<Cow<'d, [u8]>>,
    supplementary: Option<DwarfSections<Cow<'d, [u8]>>>,
    package: Option<DwarfPackageSections<Cow<'d, [u8]>>>,
}

impl<'d> Sections<'d> {
    /// Unpacks the sections of an image's files.
    ///
    /// # Errors
    /// Where the image is no ELF file. What is wrong with the others costs what they would tell.
    pub fn load(files: &Files<'d>) -> Result<Self, object::Error> {
        let image = Elf::parse(files.image)?;
        let debug = files.debug.and_then(|bytes| Elf::parse(bytes).ok()).filter(has_lines);
        let own = sections(debug.as_ref().unwrap_or(&image));
        let supplementary = files.supplementary.and_then(|bytes| Elf::parse(bytes).ok());
        let package = files.package.and_then(|bytes| Elf::parse(bytes).ok());
        Ok(Self {
            own,
            supplementary: supplementary.as_ref().map(sections),
            package: package.as_ref().and_then(|elf| {
                DwarfPackageSections::load(|id| {
                    Ok::<_, gimli::Error>(id.dwo_name().map_or_else(Cow::default, |name| section(elf, name)))
                })
                .ok()
            }),
        })
    }
}

fn has_lines(elf: &Elf<'_>) -> bool {
    elf.section_by_name(SectionId::DebugInfo.name()).is_some()
}

fn sections<'d>(elf: &Elf<'d>) -> DwarfSections<Cow<'d, [u8]>> {
    let load = |id: SectionId| Ok::<_, std::convert::Infallible>(section(elf, id.name()));
    match DwarfSections::load(load) {
        Ok(sections) => sections,
        Err(never) => match never {},
    }
}

/// A section's contents; none where it is missing, corrupt or larger than any real one.
fn section<'d>(elf: &Elf<'d>, name: &str) -> Cow<'d, [u8]> {
    let packed = elf.section_by_name(name).and_then(|section| section.compressed_data().ok());
    let packed = packed.filter(|packed| packed.uncompressed_size <= MAX_UNPACKED_BYTES);
    packed.and_then(|packed| packed.decompress().ok()).unwrap_or_default()
}

/// A function's symbol.
#[derive(Debug)]
struct Symbol<'d> {
    start: u64,
    /// One past the last address that it can have.
    end: u64,
    /// Whether the symbol says so. Else it ends where the next one begins, or its section ends.
    is_sized: bool,
    name: &'d str,
}

/// What is known of the code of one image.
pub struct Names<'s> {
    symbols: Vec<Symbol<'s>>,
    lines: Option<Context<Bytes<'s>>>,
    package: Option<DwarfPackage<Bytes<'s>>>,
}

impl<'s> Names<'s> {
    /// Takes in an image's symbols and finds the units of its debug information.
    ///
    /// # Errors
    /// Where the image is no ELF file. What is wrong with its debug information costs lines and inlined functions.
    pub fn new<'d: 's>(files: &Files<'d>, sections: &'s Sections<'d>) -> Result<Self, object::Error> {
        let slice = |section: &'s Cow<'d, [u8]>| EndianSlice::new(section, LittleEndian);
        let dwarf = sections.own.borrow_with_sup(sections.supplementary.as_ref(), slice);
        let image = Elf::parse(files.image)?;
        let debug = files.debug.and_then(|bytes| Elf::parse(bytes).ok());
        let empty = EndianSlice::new(&[], LittleEndian);
        Ok(Self {
            symbols: symbols(&image, debug.as_ref()),
            lines: Context::from_dwarf(dwarf).ok(),
            package: sections.package.as_ref().and_then(|sections| sections.borrow(slice, empty).ok()),
        })
    }

    /// The functions at a virtual offset, from the innermost inlined one outwards; none where nothing is known of it.
    #[must_use]
    pub fn at(&self, offset: u64) -> Vec<Named> {
        let mut found = self.by_lines(offset);
        // Where debug information has no name for a function (assembly, say), the symbol has.
        let Some(outermost) = found.last_mut().filter(|outermost| outermost.name.is_empty()) else {
            return if found.is_empty() { self.by_symbol(offset).into_iter().collect() } else { found };
        };
        if let Some(symbol) = self.by_symbol(offset) {
            outermost.name = symbol.name;
        } else {
            found.pop();
        }
        found
    }

    fn by_lines(&self, offset: u64) -> Vec<Named> {
        // The last address has none after it, which the look-up asks for.
        let Some(lines) = self.lines.as_ref().filter(|_| offset < u64::MAX) else { return Vec::new() };
        let Ok(mut frames) = self.with_package(lines.find_frames(offset)) else { return Vec::new() };
        let mut found = Vec::new();
        while let (Ok(Some(frame)), true) = (frames.next(), found.len() < MAX_INLINED) {
            let name = frame.function.as_ref().and_then(|function| function.demangle().ok());
            let location = frame.location.as_ref();
            found.push(Named {
                name: name.map(Cow::into_owned).unwrap_or_default(),
                file: location.and_then(|location| location.file).map(str::to_owned),
                line: location.and_then(|location| location.line),
            });
        }
        found
    }

    /// What a look-up gives, with what it wants from the package.
    fn with_package<L: LookupContinuation<Buf = Bytes<'s>>>(&self, mut lookup: LookupResult<L>) -> L::Output {
        loop {
            lookup = match lookup {
                LookupResult::Output(output) => return output,
                LookupResult::Load { load, continuation } => {
                    let unit =
                        self.package.as_ref().and_then(|package| package.find_cu(load.dwo_id, &load.parent).ok());
                    continuation.resume(unit.flatten().map(Arc::new))
                }
            };
        }
    }

    fn by_symbol(&self, offset: u64) -> Option<Named> {
        let after = self.symbols.partition_point(|symbol| symbol.start <= offset);
        let mut before = self.symbols[..after].iter().rev().take(MAX_LOOKED_AT);
        let nearest = self.symbols[..after].last()?.start;
        let reaches = |symbol: &&Symbol<'_>| offset < symbol.end && (symbol.is_sized || symbol.start == nearest);
        let symbol = before.find(reaches)?;
        Some(Named { name: demangle_auto(symbol.name.into(), None).into_owned(), file: None, line: None })
    }
}

/// The functions' symbols of an image and its debug file, sorted by where they begin.
fn symbols<'d>(image: &Elf<'d>, debug: Option<&Elf<'d>>) -> Vec<Symbol<'d>> {
    let mut found = Vec::new();
    for elf in debug.into_iter().chain([image]) {
        // By their flags: a debug file has the sections without their contents.
        let code = elf.sections().filter(
            |section| matches!(section.flags(), SectionFlags::Elf { sh_flags, .. } if sh_flags.contains(SHF_EXECINSTR)),
        );
        let code: Vec<Range<u64>> =
            code.map(|section| section.address()..section.address().saturating_add(section.size())).collect();
        let tables = [(elf.symbol_table(), false), (elf.dynamic_symbol_table(), true)];
        for (table, is_dynamic) in tables.into_iter().filter_map(|(table, is_dynamic)| Some((table?, is_dynamic))) {
            found.extend(table.symbols().filter_map(|symbol| code_symbol(&symbol, is_dynamic, &code)));
        }
    }
    // Of several at one address the last is taken: that with the shortest known extent, the first in its file.
    found.reverse();
    found.sort_by_key(|symbol| (symbol.start, symbol.is_sized, Reverse(symbol.end)));
    found
}

/// A function's symbol; nothing where it is of something else, or of no section of `code`. Dynamic ones are few and far
/// between: without a size, one is of its first address alone.
fn code_symbol<'d>(symbol: &impl ObjectSymbol<'d>, is_dynamic: bool, code: &[Range<u64>]) -> Option<Symbol<'d>> {
    if !matches!(symbol.kind(), SymbolKind::Text | SymbolKind::Unknown) || !symbol.is_definition() {
        return None;
    }
    let name = symbol.name().ok().filter(|name| !name.is_empty())?;
    let (start, size) = (symbol.address(), symbol.size());
    let is_sized = size > 0 || is_dynamic;
    let end = if is_sized {
        start.saturating_add(size.max(1))
    } else {
        code.iter().find(|range| range.contains(&start))?.end
    };
    Some(Symbol { start, end, is_sized, name })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{image::Image, maps};

    #[inline(never)]
    fn named_by_this_test(inner: fn(u64) -> u64) -> u64 {
        inner(line!().into())
    }

    /// The file of this test, and the virtual offset in it of an address.
    fn own(address: u64) -> (Vec<u8>, u64) {
        let pid = std::process::id();
        let mappings = maps::read(pid).unwrap();
        let mapping = mappings.into_iter().find(|m| m.start <= address && address < m.end).unwrap();
        let image = Image::open(pid, &mapping).unwrap();
        let offset = image.virtual_offset(address - mapping.start + mapping.file_offset).unwrap();
        (std::fs::read("/proc/self/exe").unwrap(), offset)
    }

    #[test]
    fn a_function_of_ones_own_has_its_name_file_and_line() {
        assert_eq!(named_by_this_test(|line| line), named_by_this_test(|line| line));
        let (bytes, offset) = own(named_by_this_test as *const () as u64);
        let files = Files { image: &bytes, ..Files::default() };
        let sections = Sections::load(&files).unwrap();
        let names = Names::new(&files, &sections).unwrap();
        let found = names.at(offset);
        let outermost = found.last().unwrap();
        assert!(outermost.name.ends_with("names::tests::named_by_this_test"), "{found:?}");
        assert!(
            outermost.file.as_ref().unwrap().ends_with("src/symbolize/names.rs") && outermost.line > Some(0),
            "{found:?}"
        );
        assert_eq!(names.at(u64::MAX), [], "an address of no function");
        assert!(names.by_symbol(offset).unwrap().name.contains("named_by_this_test"), "without lines");
    }

    #[test]
    fn a_file_that_ends_anywhere_is_read_or_refused() {
        let (bytes, offset) = own(named_by_this_test as *const () as u64);
        let parts = (0..64).map(|index| 1usize << (index % 24)).chain([0, 63, 64, bytes.len() - 1, bytes.len() / 2]);
        for length in parts.filter(|length| *length < bytes.len()) {
            let files = Files { image: &bytes[..length], ..Files::default() };
            let Ok(sections) = Sections::load(&files) else { continue };
            _ = Names::new(&files, &sections).map(|names| names.at(offset));
        }
    }

    #[test]
    fn of_nested_symbols_the_innermost_that_reaches_the_place_names_it() {
        let symbol = |start, end, is_sized, name| Symbol { start, end, is_sized, name };
        let symbols = vec![
            symbol(0x10, 0x40, true, "outer"),
            symbol(0x18, 0x20, true, "inner"),
            symbol(0x50, 0x80, false, "without_a_size"),
            symbol(0x60, 0x70, true, "next"),
        ];
        let names = Names { symbols, lines: None, package: None };
        let at = |offset| names.at(offset).into_iter().next().map(|named| named.name);
        assert_eq!(at(0x8), None);
        assert_eq!(at(0x18).as_deref(), Some("inner"));
        assert_eq!(at(0x20).as_deref(), Some("outer"));
        assert_eq!(at(0x48), None);
        assert_eq!(at(0x5f).as_deref(), Some("without_a_size"));
        assert_eq!(at(0x70), None);
    }
}
