//! The kernel's functions by address, as `/proc/kallsyms` lists them: those of modules and of BPF programs as well.

use std::{fs::File, io, io::BufRead};

use thiserror::Error;

use super::status::printable;

/// The list.
const KALLSYMS: &str = "/proc/kallsyms";

/// The largest function there is, in bytes, by far: what lies further behind the last that is listed is something else.
const MAX_FUNCTION_BYTES: u64 = 1 << 18;

/// Why there are no names.
#[derive(Debug, Error)]
pub enum KallsymsError {
    /// The list cannot be read.
    #[error("cannot read {KALLSYMS}: {0}")]
    Read(#[from] io::Error),
    /// Every address in it is 0.
    #[error("{KALLSYMS} hides addresses (kernel.kptr_restrict)")]
    Hidden,
}

/// A function of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Symbol {
    address: u64,
    /// Where its name stands, and how long it is.
    name: (u32, u16),
    /// The module, by index; 0 for the kernel itself.
    module: u16,
}

/// The function at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Located<'a> {
    /// The function.
    pub function: &'a str,
    /// The image that it is of, by its index in [`Kallsyms::images`].
    pub image: usize,
    /// From the beginning of the image's code, in bytes.
    pub offset: u64,
}

/// The kernel's functions, as of one moment.
#[derive(Debug, Default)]
pub struct Kallsyms {
    /// Sorted by address.
    symbols: Vec<Symbol>,
    names: String,
    /// By index: the name, and where its code begins.
    modules: Vec<(String, u64)>,
}

impl Kallsyms {
    /// Reads the list as it is now.
    ///
    /// # Errors
    /// Where it cannot be read, or hides addresses from whoever asks.
    pub fn read() -> Result<Self, KallsymsError> {
        Self::parse(io::BufReader::with_capacity(1 << 16, File::open(KALLSYMS)?))
    }

    /// Reads a list of that form.
    ///
    /// # Errors
    /// As [`Kallsyms::read`].
    pub fn parse(list: impl BufRead) -> Result<Self, KallsymsError> {
        let mut kallsyms = Self { modules: vec![(String::new(), u64::MAX)], ..Self::default() };
        for line in list.lines() {
            kallsyms.add(&line?);
        }
        if kallsyms.symbols.is_empty() {
            return Err(KallsymsError::Hidden);
        }
        // Of several names of one place, the first of the list: the kernel lists global ones in the order of their linking.
        kallsyms.symbols.sort_by_key(|symbol| symbol.address);
        kallsyms.symbols.dedup_by_key(|symbol| symbol.address);
        Ok(kallsyms)
    }

    /// Takes in a line: `ffffffff81000000 T _text` or `ffffffffc0000000 t name [module]`. A symbol that is no code is left out.
    fn add(&mut self, line: &str) {
        let mut words = line.split_ascii_whitespace();
        let (Some(address), Some(kind), Some(name)) = (words.next(), words.next(), words.next()) else { return };
        let Ok(address) = u64::from_str_radix(address, 16) else { return };
        if address == 0 || !matches!(kind, "T" | "t" | "W" | "w") {
            return;
        }
        let module = words.next().map(|module| module.trim_matches(['[', ']']));
        let (Some(module), Ok(at), Ok(length)) =
            (self.module(module, address), u32::try_from(self.names.len()), u16::try_from(name.len()))
        else {
            return;
        };
        self.names.push_str(name);
        self.symbols.push(Symbol { address, name: (at, length), module });
    }

    /// The index of a module, which has code at `address`.
    fn module(&mut self, name: Option<&str>, address: u64) -> Option<u16> {
        let name = name.unwrap_or_default();
        // The kernel lists a module's symbols together.
        let known = self.modules.iter().rposition(|(module, _)| module == name);
        let index = known.unwrap_or_else(|| {
            self.modules.push((printable(name), address));
            self.modules.len() - 1
        });
        let start = &mut self.modules.get_mut(index)?.1;
        *start = address.min(*start);
        u16::try_from(index).ok()
    }

    /// From the first to behind the last of the kernel's own functions that are `wanted`; nothing where there are none.
    #[must_use]
    pub fn span(&self, wanted: impl Fn(&str) -> bool) -> Option<(u64, u64)> {
        let is_wanted = |symbol: &Symbol| symbol.module == 0 && self.name(symbol).is_some_and(&wanted);
        let first = self.symbols.iter().position(is_wanted)?;
        let last = self.symbols.iter().rposition(is_wanted)?;
        Some((self.symbols.get(first)?.address, self.symbols.get(last + 1)?.address))
    }

    fn name(&self, symbol: &Symbol) -> Option<&str> {
        let (at, length) = (symbol.name.0 as usize, usize::from(symbol.name.1));
        self.names.get(at..at + length)
    }

    /// The names of the modules, in the order of the list. Before them stands the kernel itself, without a name.
    pub fn images(&self) -> impl Iterator<Item = &str> {
        self.modules.iter().map(|(name, _)| name.as_str())
    }

    /// The address of a place in an image; nothing where there is no such image.
    #[must_use]
    pub fn address(&self, image: usize, offset: u64) -> Option<u64> {
        let (_, start) = self.modules.get(image)?;
        start.checked_add(offset)
    }

    /// The function at an address; nothing where that is in none that is listed.
    #[must_use]
    pub fn locate(&self, address: u64) -> Option<Located<'_>> {
        let after = self.symbols.partition_point(|symbol| symbol.address <= address);
        let symbol = self.symbols.get(after.checked_sub(1)?)?;
        if address - symbol.address >= MAX_FUNCTION_BYTES {
            return None;
        }
        let image = usize::from(symbol.module);
        let (_, start) = self.modules.get(image)?;
        Some(Located { function: self.name(symbol)?, image, offset: address.checked_sub(*start)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "\
0000000000000000 A fixed_percpu_data
ffffffff81000000 T _text
ffffffff81000000 T startup_64
ffffffff81000200 t alloc_pipe_info
ffffffff82000000 D jiffies
ffffffffc0001000 t nf_late\t[nf_tables]
ffffffffc0000400 t nf_early\t[nf_tables]
";

    #[test]
    fn addresses_lie_in_the_last_function_that_begins_before() {
        let kallsyms = Kallsyms::parse(LIST.as_bytes()).unwrap();
        let at = |address| kallsyms.locate(address).map(|found| (found.function, found.image, found.offset));
        assert_eq!(at(0xffff_ffff_8100_0000), Some(("_text", 0, 0)));
        assert_eq!(at(0xffff_ffff_8100_0234), Some(("alloc_pipe_info", 0, 0x234)));
        assert_eq!(at(0xffff_ffff_c000_1010), Some(("nf_late", 1, 0xc10)));
        assert_eq!(kallsyms.images().collect::<Vec<_>>(), ["", "nf_tables"]);
        assert_eq!((kallsyms.address(1, 0xc10), kallsyms.address(2, 0)), (Some(0xffff_ffff_c000_1010), None));
        assert_eq!((at(0xffff_ffff_8000_0000), at(0xffff_ffff_9000_0000)), (None, None));
    }

    #[test]
    fn a_span_ends_where_the_next_function_begins() {
        let kallsyms = Kallsyms::parse(LIST.as_bytes()).unwrap();
        assert_eq!(kallsyms.span(|name| name == "_text"), Some((0xffff_ffff_8100_0000, 0xffff_ffff_8100_0200)));
        assert_eq!(kallsyms.span(|name| name == "nf_late"), None);
    }

    #[test]
    fn hidden_addresses_are_told_from_a_list() {
        let hidden = "0000000000000000 T _text\n0000000000000000 T startup_64\n";
        assert!(matches!(Kallsyms::parse(hidden.as_bytes()), Err(KallsymsError::Hidden)));
    }
}
