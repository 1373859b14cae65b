//! From places in one image to functions, files and lines, by blazesym: its ELF symbols and its DWARF. A file of which blazesym
//! can read a part only is read step by step: lines, symbols, its other tables ([`SymbolTable`]).
//!
//! In: paths of the image and of its separate debug file. Out: the functions at an address, the innermost inlined one first.
//! Runs in the process that reads symbols (`reader`), since whoever made these files may have made them to break it. The
//! paths there are that process's own descriptors, and lead to nothing else.

use std::{fs::File, path::PathBuf};

use blazesym::{
    Error, ErrorKind,
    symbolize::{
        CodeInfo, Input, Sym, Symbolized, Symbolizer,
        source::{Elf, Source},
    },
};

use super::{
    demangle::demangled,
    reader::protocol::{Named, Problem, SymbolKind},
    symbol_table::{SymbolTable, Variables},
};

/// The symbols of a file, without its debug information.
#[derive(Debug)]
enum Symbols {
    /// As blazesym reads them.
    Blazesym(Source<'static>),
    /// By the tables that are left where it refuses the file.
    Table(SymbolTable),
}

/// A file of an image, as it is asked about.
#[derive(Debug)]
struct Asked {
    /// With debug information; nothing where that cannot be read.
    lines: Option<Source<'static>>,
    /// Whether that was found to be broken.
    is_broken: bool,
    symbols: Symbols,
}

/// Why debug information is left alone that nobody has looked at.
const TOO_LARGE: &str = "unpacking it takes more memory than there is";

/// Why a file tells nothing.
#[derive(Debug)]
pub enum AddError {
    /// It may not be opened.
    Closed,
    /// Blazesym's reason, where no other table has symbols either.
    Refused(Error),
}

/// The symbols and lines of one image.
#[derive(Debug)]
pub struct Names {
    blazesym: Symbolizer,
    files: Vec<Asked>,
    /// The same files, for their variables: hardly anybody asks for these.
    opened: Vec<File>,
    variables: Option<Vec<Variables>>,
    /// The parts of its files that could not be read.
    problems: Vec<Problem>,
}

impl Default for Names {
    fn default() -> Self {
        let blazesym = Symbolizer::builder()
            .enable_code_info(true)
            .enable_inlined_fns(true)
            .enable_demangling(false)
            // Opened once: the path leads to another file later.
            .enable_auto_reload(false)
            // memtrace finds debug files.
            .set_debug_dirs(Some(Vec::<PathBuf>::new()))
            .build();
        Self { blazesym, files: Vec::new(), opened: Vec::new(), variables: None, problems: Vec::new() }
    }
}

impl Names {
    /// Opens a file of the image; of several, those that come later are asked first. Without `has_lines`, its debug
    /// information is left alone. `path` leads to `file`, and need not do so any more afterwards.
    ///
    /// # Errors
    /// Where the file may not be opened or has no symbols. Where its debug information is broken, its symbols are known.
    pub fn add(&mut self, path: PathBuf, file: &File, has_lines: bool) -> Result<(), AddError> {
        let mut symbols = Elf::new(path.clone());
        symbols.debug_syms = false;
        let asked = |elf: Elf| {
            let source = Source::Elf(elf);
            // Blazesym opens files, and finds their tables, at the first question.
            self.blazesym.symbolize_single(&source, Input::VirtOffset(0)).map(|_| source)
        };
        let mut problems = Vec::new();
        let symbols = match asked(symbols) {
            Ok(symbols) => Symbols::Blazesym(symbols),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => return Err(AddError::Closed),
            Err(refused) => {
                let (table, problem) = SymbolTable::read(file).map_err(|_| AddError::Refused(refused))?;
                problems.extend(problem.map(Problem::MiniDebugInfo));
                Symbols::Table(table)
            }
        };
        let lines =
            if has_lines { asked(Elf::new(path)).map_err(|error| error.to_string()) } else { Err(TOO_LARGE.into()) };
        // Where the symbols are refused, what is wrong with them was told.
        if let (Err(why), Symbols::Blazesym(_)) = (&lines, &symbols) {
            problems.push(Problem::Lines(why.clone()));
        }
        self.files.push(Asked { lines: lines.ok(), is_broken: false, symbols });
        self.problems.extend(problems);
        Ok(())
    }

    /// Keeps a file of the image, to read its variables from once somebody asks for them.
    pub fn keep(&mut self, file: File) {
        self.opened.push(file);
        self.variables = None;
    }

    /// Notes a part that could not be read.
    pub fn note(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    /// The parts that could not be read, each once.
    pub fn take_problems(&mut self) -> Vec<Problem> {
        std::mem::take(&mut self.problems)
    }

    /// The functions, or the variable, at an offset of the image.
    #[must_use]
    pub fn of_kind(&mut self, kind: SymbolKind, offset: u64) -> Vec<Named> {
        match kind {
            SymbolKind::Functions => self.at(offset),
            SymbolKind::Variables | SymbolKind::ThreadLocals => {
                let is_thread_local = kind == SymbolKind::ThreadLocals;
                self.variable(is_thread_local, offset).into_iter().collect()
            }
        }
    }

    /// The variable at an offset, by the symbols of whichever file has it.
    fn variable(&mut self, is_thread_local: bool, offset: u64) -> Option<Named> {
        let opened = &self.opened;
        let variables = self.variables.get_or_insert_with(|| opened.iter().map(Variables::read).collect());
        let (name, begins_at) = variables.iter().find_map(|variables| variables.at(is_thread_local, offset))?;
        Some(Named { name: demangled(name), begins_at: Some(begins_at), ..Named::default() })
    }

    /// The functions at a virtual offset, from the innermost inlined one outwards; none where nothing is known of it.
    #[must_use]
    pub fn at(&mut self, offset: u64) -> Vec<Named> {
        let mut found = Vec::new();
        for index in (0..self.files.len()).rev() {
            let functions = self.by_file(index, offset);
            if functions.iter().any(|function| function.file.is_some()) {
                return functions;
            }
            if found.is_empty() {
                found = functions;
            }
        }
        found
    }

    fn by_file(&mut self, index: usize, offset: u64) -> Vec<Named> {
        let mut found = self.with_lines(index, offset);
        // Where debug information is broken or has no name for a function (assembly, say), the symbol has.
        if found.last().is_none_or(|outermost| outermost.name.is_empty()) {
            let outermost = found.pop().unwrap_or_default();
            let name = self.symbol(index, offset);
            found.extend(name.map(|name| Named { name, ..outermost }));
        }
        found
    }

    /// The functions at an offset by debug information. Where that is broken for the first time, it is noted.
    fn with_lines(&mut self, index: usize, offset: u64) -> Vec<Named> {
        let Some(lines) = &self.files[index].lines else { return Vec::new() };
        let error = match self.by_source(lines, offset) {
            Ok(functions) => return functions,
            Err(error) => error.to_string(),
        };
        if !std::mem::replace(&mut self.files[index].is_broken, true) {
            self.problems.push(Problem::Lines(error));
        }
        Vec::new()
    }

    /// The function at an offset, by symbols alone.
    fn symbol(&self, index: usize, offset: u64) -> Option<String> {
        match &self.files[index].symbols {
            Symbols::Blazesym(source) => self.by_source(source, offset).ok()?.pop().map(|symbol| symbol.name),
            Symbols::Table(table) => table.at(offset).map(demangled),
        }
    }

    fn by_source(&self, source: &Source<'_>, offset: u64) -> Result<Vec<Named>, Error> {
        let found = self.blazesym.symbolize_single(source, Input::VirtOffset(offset))?;
        Ok(if let Symbolized::Sym(symbol) = found { named(&symbol) } else { Vec::new() })
    }
}

/// The functions at one place, from the innermost inlined one outwards. (Blazesym has the outermost inlined one first.) Inlined
/// ones whose names are in a file that is not there (of dwz(1)) are left out.
fn named(symbol: &Sym<'_>) -> Vec<Named> {
    let named = |name: &str, code: Option<&CodeInfo<'_>>| Named {
        name: demangled(name),
        file: code.map(|code| code.to_path().to_string_lossy().into_owned()),
        line: code.and_then(|code| code.line),
        begins_at: None,
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

    fn own() -> File {
        File::open(OWN).unwrap()
    }

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
        names.add(OWN.into(), &own(), true).unwrap();
        let found = names.at(offset);
        let outermost = found.last().unwrap();
        assert!(outermost.name.ends_with("names::tests::named_by_this_test"), "{found:?}");
        assert!(
            outermost.file.as_ref().unwrap().ends_with("src/symbolize/names.rs") && outermost.line > Some(0),
            "{found:?}"
        );
        // Another file of the image, which has no lines: that with lines is believed.
        names.add(OWN.into(), &own(), false).unwrap();
        assert_eq!(names.at(offset), found);
        let mut names = Names::default();
        names.add(OWN.into(), &own(), false).unwrap();
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
            if names.add(part.path().into(), part.as_file(), true).is_ok() {
                _ = names.at(offset);
            }
        }
    }
}
