//! The variables of an image by its own tables, since blazesym knows functions alone; and its functions, where blazesym refuses the
//! image's symbols: by the dynamic symbols, and by those of `.gnu_debugdata`, a compressed ELF file with the symbols that were
//! stripped (Fedora and its kin have it in each image).

use std::{cmp::Reverse, fs::File, io::Read};

use lzma_rust2::XzReader;
use object::{Endianness, Object, ObjectSection, ObjectSymbol, SymbolKind, read::elf::ElfFile64};

use crate::process::bounded::BoundedFile;

/// The most that `.gnu_debugdata` may unpack to, in bytes: a hundred times what the largest of Fedora's have.
const MAX_UNPACKED_BYTES: u64 = 128 << 20;
/// The memory that its decompressor may take, in KiB: twice what the highest level of xz(1) takes.
const MAX_XZ_KIB: u32 = 128 << 10;
/// How many symbols before an address are looked at for one that holds it: one function can lie within another.
const MAX_NESTED: usize = 16;

/// A symbol of the tables.
#[derive(Debug)]
struct Entry {
    start: u64,
    /// 0 where that is not known, as of assembly.
    bytes: u64,
    name: String,
}

impl Entry {
    /// The last of those at one address is found first: the shortest, then the name with the fewest underscores before it.
    fn in_order(&self) -> (u64, Reverse<u64>, Reverse<usize>, Reverse<usize>, &str) {
        let underscores = self.name.len() - self.name.trim_start_matches('_').len();
        (self.start, Reverse(self.bytes), Reverse(underscores), Reverse(self.name.len()), &self.name)
    }
}

/// Symbols of one kind of an image, by address.
#[derive(Debug, Default)]
pub struct SymbolTable {
    entries: Vec<Entry>,
}

impl SymbolTable {
    /// The functions of a file, with why those of `.gnu_debugdata` could not be read.
    ///
    /// # Errors
    /// Where it is no ELF file, or no function is known.
    pub fn read(file: &File) -> Result<(Self, Option<String>), String> {
        let bounded = BoundedFile::new(file);
        let elf = ElfFile64::<Endianness, _>::parse(&bounded).map_err(|error| error.to_string())?;
        let dynamic = Self::of(elf.dynamic_symbols(), SymbolKind::Text);
        let packed = match elf.section_by_name(".gnu_debugdata").map(|section| section.data()) {
            Some(Ok(packed)) => Self::unpack(packed),
            Some(Err(error)) => Err(error.to_string()),
            None => Ok(Self::default()),
        };
        let (table, problem) = match packed {
            Ok(packed) => (dynamic.with(packed), None),
            Err(problem) => (dynamic, Some(problem)),
        };
        if table.entries.is_empty() { Err("it has no symbols".to_owned()) } else { Ok((table, problem)) }
    }

    /// The functions of a section `.gnu_debugdata`.
    ///
    /// # Errors
    /// Where it is not packed by xz(1), or no ELF file is in it.
    pub fn unpack(packed: &[u8]) -> Result<Self, String> {
        let mut unpacked = Vec::new();
        let reader = XzReader::new_mem_limit(packed, false, MAX_XZ_KIB);
        reader.take(MAX_UNPACKED_BYTES).read_to_end(&mut unpacked).map_err(|error| error.to_string())?;
        let elf = ElfFile64::<Endianness>::parse(&*unpacked).map_err(|error| error.to_string())?;
        Ok(Self::of(elf.symbols(), SymbolKind::Text))
    }

    fn of<'data, S: ObjectSymbol<'data>>(symbols: impl Iterator<Item = S>, kind: SymbolKind) -> Self {
        // Thread-local variables are no definitions to the library: they have no address of their own.
        let is_wanted = |symbol: &S| symbol.is_definition() || (kind == SymbolKind::Tls && !symbol.is_undefined());
        let wanted = symbols.filter(|symbol| symbol.kind() == kind && is_wanted(symbol));
        let entries = wanted.filter_map(|symbol| {
            let name = String::from_utf8_lossy(symbol.name_bytes().ok()?).into_owned();
            (!name.is_empty()).then(|| Entry { start: symbol.address(), bytes: symbol.size(), name })
        });
        Self { entries: entries.collect() }.with(Self::default())
    }

    /// With those of another as well.
    #[must_use]
    pub fn with(mut self, other: Self) -> Self {
        self.entries.extend(other.entries);
        self.entries.sort_by_key(|entry| (entry.start, entry.bytes));
        self
    }

    /// The name of the function at a virtual offset, as the linker sees it.
    #[must_use]
    pub fn at(&self, offset: u64) -> Option<&str> {
        Some(&self.entry_at(offset)?.name)
    }

    fn entry_at(&self, offset: u64) -> Option<&Entry> {
        let after = self.entries.partition_point(|entry| entry.start <= offset);
        let mut before = self.entries[..after].iter().rev().take(MAX_NESTED);
        let nearest = before.clone().next()?;
        let holder = before.find(|entry| offset - entry.start < entry.bytes);
        holder.or_else(|| (nearest.bytes == 0).then_some(nearest))
    }
}

/// The variables of an image.
#[derive(Debug, Default)]
pub struct Variables {
    plain: SymbolTable,
    thread_local: SymbolTable,
}

impl Variables {
    /// Those of a file. There may be none.
    ///
    /// # Errors
    /// Where it is no ELF file.
    pub fn read(file: &File) -> Result<Self, String> {
        let bounded = BoundedFile::new(file);
        let elf = ElfFile64::<Endianness, _>::parse(&bounded).map_err(|error| error.to_string())?;
        let of = |kind| {
            // One that an image exports is in both tables. Of several names of one variable, the first counts: the shortest.
            let both = elf.dynamic_symbols().chain(elf.symbols()).filter(|symbol| symbol.size() > 0);
            let mut table = SymbolTable::of(both, kind);
            table.entries.sort_by(|one, other| one.in_order().cmp(&other.in_order()));
            table
        };
        Ok(Self { plain: of(SymbolKind::Data), thread_local: of(SymbolKind::Tls) })
    }

    /// The name of the variable at a virtual offset, or at an offset in the thread-local data, as the linker sees it, and where that
    /// begins.
    #[must_use]
    pub fn at(&self, is_thread_local: bool, offset: u64) -> Option<(&str, u64)> {
        let table = if is_thread_local { &self.thread_local } else { &self.plain };
        table.entry_at(offset).map(|entry| (entry.name.as_str(), entry.start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(entries: &[(u64, u64, &str)]) -> SymbolTable {
        let entry = |&(start, bytes, name): &(u64, u64, &str)| Entry { start, bytes, name: name.to_owned() };
        SymbolTable { entries: entries.iter().map(entry).collect() }
    }

    #[test]
    fn the_innermost_function_that_holds_an_address_is_told() {
        let table = table(&[(10, 100, "outer"), (20, 5, "inner"), (200, 0, "assembly")]);
        assert_eq!([9, 10, 24, 25, 109, 110].map(|at| table.at(at)), {
            [None, Some("outer"), Some("inner"), Some("outer"), Some("outer"), None]
        });
        assert_eq!(table.at(205), Some("assembly"));
        assert_eq!(self::table(&[(10, 0, "assembly"), (20, 5, "sized")]).at(30), None);
    }

    #[test]
    fn content_that_is_no_xz_is_a_problem_and_no_more() {
        assert!(SymbolTable::unpack(b"not packed at all").is_err() && SymbolTable::unpack(&[]).is_err());
    }
}
