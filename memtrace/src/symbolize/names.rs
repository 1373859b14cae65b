//! From places in one image to functions, files and lines, by blazesym: its ELF symbols and its DWARF.
//!
//! In: paths of the image and of its separate debug file. Out: the functions at an address, the innermost inlined one first.
//! Runs in the process that reads symbols (`reader`), since whoever made these files may have made them to break it. The
//! paths there are that process's own descriptors, and lead to nothing else.

use std::path::PathBuf;

use blazesym::{
    Error,
    symbolize::{
        CodeInfo, Input, Sym, Symbolized, Symbolizer,
        source::{Elf, Source},
    },
};

use super::reader::protocol::Named;

/// A file of an image, as blazesym is asked about it.
#[derive(Debug)]
struct Asked {
    /// With debug information; nothing where that cannot be read.
    lines: Option<Source<'static>>,
    /// By its table of symbols alone.
    symbols: Source<'static>,
}

/// What is known of the code of one image.
#[derive(Debug)]
pub struct Names {
    blazesym: Symbolizer,
    files: Vec<Asked>,
}

impl Default for Names {
    fn default() -> Self {
        let blazesym = Symbolizer::builder()
            .enable_code_info(true)
            .enable_inlined_fns(true)
            .enable_demangling(true)
            // Opened once: the path leads to another file later.
            .enable_auto_reload(false)
            // memtrace finds debug files.
            .set_debug_dirs(Some(Vec::<PathBuf>::new()))
            .build();
        Self { blazesym, files: Vec::new() }
    }
}

impl Names {
    /// Opens a file of the image; of several, those that come later are asked first. Without `has_lines`, its debug
    /// information is left alone. The path need not lead to it any more afterwards.
    ///
    /// # Errors
    /// Where the file may not be opened or is no ELF file. Where its debug information is broken, its symbols are known.
    pub fn add(&mut self, path: PathBuf, has_lines: bool) -> Result<(), Error> {
        let mut symbols = Elf::new(path.clone());
        symbols.debug_syms = false;
        let asked = |elf: Elf| {
            let source = Source::Elf(elf);
            // Blazesym opens files, and finds their tables, at the first question.
            self.blazesym.symbolize_single(&source, Input::VirtOffset(0)).map(|_| source)
        };
        let symbols = asked(symbols)?;
        let lines = if has_lines { asked(Elf::new(path)).ok() } else { None };
        self.files.push(Asked { lines, symbols });
        Ok(())
    }

    /// The functions at a virtual offset, from the innermost inlined one outwards; none where nothing is known of it.
    #[must_use]
    pub fn at(&self, offset: u64) -> Vec<Named> {
        let mut found = Vec::new();
        for file in self.files.iter().rev() {
            let functions = self.by_file(file, offset);
            if functions.iter().any(|function| function.file.is_some()) {
                return functions;
            }
            if found.is_empty() {
                found = functions;
            }
        }
        found
    }

    fn by_file(&self, file: &Asked, offset: u64) -> Vec<Named> {
        let mut found = file.lines.as_ref().map(|lines| self.by_source(lines, offset)).unwrap_or_default();
        // Where debug information is broken or has no name for a function (assembly, say), the symbol has.
        if found.last().is_none_or(|outermost| outermost.name.is_empty()) {
            let outermost = found.pop().unwrap_or_default();
            let symbol = self.by_source(&file.symbols, offset).pop();
            found.extend(symbol.map(|symbol| Named { name: symbol.name, ..outermost }));
        }
        found
    }

    fn by_source(&self, source: &Source<'_>, offset: u64) -> Vec<Named> {
        match self.blazesym.symbolize_single(source, Input::VirtOffset(offset)) {
            Ok(Symbolized::Sym(symbol)) => named(&symbol),
            Ok(Symbolized::Unknown(_)) | Err(_) => Vec::new(),
        }
    }
}

/// The functions at one place, from the innermost inlined one outwards. (Blazesym has the outermost inlined one first.) Inlined
/// ones whose names are in a file that is not there (of dwz(1)) are left out.
fn named(symbol: &Sym<'_>) -> Vec<Named> {
    let named = |name: &str, code: Option<&CodeInfo<'_>>| Named {
        name: name.to_owned(),
        file: code.map(|code| code.to_path().to_string_lossy().into_owned()),
        line: code.and_then(|code| code.line),
    };
    let inlined = symbol.inlined.iter().rev().map(|inner| named(&inner.name, inner.code_info.as_ref()));
    let inlined = inlined.filter(|inner| !inner.name.is_empty());
    inlined.chain([named(&symbol.name, symbol.code_info.as_deref())]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{image::Image, maps};

    #[inline(never)]
    fn named_by_this_test(inner: fn(u64) -> u64) -> u64 {
        inner(line!().into())
    }

    const OWN: &str = "/proc/self/exe";

    /// The virtual offset of an address in the file of this test.
    fn offset_of(address: u64) -> u64 {
        let pid = std::process::id();
        let mappings = maps::read(pid).unwrap();
        let mapping = mappings.into_iter().find(|m| m.start <= address && address < m.end).unwrap();
        let image = Image::open(pid, &mapping).unwrap();
        image.virtual_offset(address - mapping.start + mapping.file_offset).unwrap()
    }

    #[test]
    fn a_function_of_ones_own_has_its_name_file_and_line() {
        assert_eq!(named_by_this_test(|line| line), named_by_this_test(|line| line));
        let offset = offset_of(named_by_this_test as *const () as u64);
        let mut names = Names::default();
        names.add(OWN.into(), true).unwrap();
        let found = names.at(offset);
        let outermost = found.last().unwrap();
        assert!(outermost.name.ends_with("names::tests::named_by_this_test"), "{found:?}");
        assert!(
            outermost.file.as_ref().unwrap().ends_with("src/symbolize/names.rs") && outermost.line > Some(0),
            "{found:?}"
        );
        // Another file of the image, which has no lines: that with lines is believed.
        names.add(OWN.into(), false).unwrap();
        assert_eq!(names.at(offset), found);
        let mut names = Names::default();
        names.add(OWN.into(), false).unwrap();
        let found = names.at(offset);
        assert!(
            found.len() == 1 && found[0].name.contains("named_by_this_test") && found[0].file.is_none(),
            "{found:?}"
        );
        assert_eq!(names.at(1), [], "an address of no function");
    }

    #[test]
    fn a_file_that_ends_anywhere_is_read_or_refused() {
        let offset = offset_of(named_by_this_test as *const () as u64);
        let bytes = std::fs::read(OWN).unwrap();
        let parts = (0..64).map(|index| 1usize << (index % 24)).chain([0, 63, 64, bytes.len() - 1, bytes.len() / 2]);
        for length in parts.filter(|length| *length < bytes.len()) {
            let part = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(part.path(), &bytes[..length]).unwrap();
            let mut names = Names::default();
            if names.add(part.path().into(), true).is_ok() {
                _ = names.at(offset);
            }
        }
    }
}
