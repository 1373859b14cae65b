//! Images: the ELF files that a process has mapped, by identity rather than by path.
//!
//! A file is opened through `/proc/PID/map_files`, which leads to the very inode that is mapped even
//! where the path is gone, replaced, or means something else in the target's mount namespace. It is untrusted, as is its
//! path: opened as [`super::open`] does, read as [`super::bounded`] does.

pub mod data;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    ffi::OsStr,
    fs::File,
    io,
    ops::Range,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::{ffi::OsStrExt, fs::FileExt},
    },
    path::{Path, PathBuf},
};

use object::{
    Object, ObjectSection, ObjectSegment, ObjectSymbol, ObjectSymbolTable, RelocationFlags, RelocationTarget,
    SymbolFlags, SymbolKind,
    elf::{ELFMAG, PT_INTERP, R_X86_64_IRELATIVE, R_X86_64_RELATIVE, STT_GNU_IFUNC},
    read::elf::{ElfFile64, ProgramHeader},
};
use rustix::fs::{MemfdFlags, memfd_create};
use thiserror::Error;

use super::{
    bounded::BoundedFile,
    leader,
    maps::{self, Mapping},
    open::{is_file, open_regular},
};

/// Why an image cannot be used.
#[derive(Debug, Error)]
pub enum ImageError {
    /// The file cannot be opened.
    #[error("cannot open the image {}: {source}", path.display())]
    Open {
        /// The image's path as the target sees it.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file is no ELF file at all.
    #[error("{} is no ELF file", path.display())]
    NoElf {
        /// The image's path as the target sees it.
        path: PathBuf,
    },
    /// The file is not an ELF file of this machine's kind, or is corrupt.
    #[error("cannot read {} as an ELF file: {source}", path.display())]
    Elf {
        /// The image's path as the target sees it.
        path: PathBuf,
        /// The problem with it.
        source: object::Error,
    },
}

/// A part of the file that is mapped as it is: how file offsets and virtual offsets correspond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    file_offset: u64,
    size: u64,
    virtual_offset: u64,
    executable: bool,
}

/// The most parts of a file that are taken for mapped: the linkers of today make ten at most. Every question looks through them.
const MAX_SEGMENTS: usize = 128;
/// The most places at which an image may define functions of one name. Each costs probes, and is compared with the others.
const MAX_PLACES: usize = 32;

/// The bits of an address within its page.
const PAGE_MASK: u64 = 0xfff;

/// A function that an image defines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FunctionAt {
    /// Where it begins in the file, in bytes.
    pub file_offset: u64,
    /// Its length in bytes; 0 where the image does not say.
    pub size: u64,
}

/// A function that an image calls through its table of addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkedFunction {
    /// Its symbol.
    pub name: String,
    /// Its virtual offset, where the image defines it itself. (Another image's may come before it.)
    pub own: Option<u64>,
}

/// Whether a symbol is a function that the image defines. Not where it is the choice between several
/// (`STT_GNU_IFUNC`): that function runs once, and returns the address of the one that is meant.
fn is_function<'data>(symbol: &impl ObjectSymbol<'data>) -> bool {
    symbol.is_definition() && !is_choice(symbol) && matches!(symbol.kind(), SymbolKind::Text | SymbolKind::Unknown)
}

fn is_choice<'data>(symbol: &impl ObjectSymbol<'data>) -> bool {
    matches!(symbol.flags(), SymbolFlags::Elf { st_info, .. } if st_info.st_type() == STT_GNU_IFUNC)
}

/// The functions of which the image chooses one of several when it is loaded, by the virtual offset of what chooses.
fn chosen_at_load<'data>(elf: &impl Object<'data>) -> HashMap<u64, String> {
    let choices = elf.dynamic_symbols().chain(elf.symbols()).filter(is_choice);
    choices.filter_map(|symbol| Some((symbol.address(), symbol.name().ok()?.to_owned()))).collect()
}

/// A section of call frame information, as it was read from an image.
#[derive(Clone, Debug)]
pub enum FrameSection {
    /// `.eh_frame`.
    EhFrame {
        /// Its contents.
        bytes: Vec<u8>,
        /// The virtual offset at which it is loaded: its pointers are relative to themselves.
        address: u64,
    },
    /// `.debug_frame`.
    DebugFrame {
        /// Its contents.
        bytes: Vec<u8>,
    },
}

/// An open ELF file.
#[derive(Debug)]
pub struct Image {
    /// The path as the target sees it.
    pub path: PathBuf,
    /// The GNU build id in hexadecimal, where there is one.
    pub build_id: Option<String>,
    file: File,
    segments: Vec<Segment>,
    has_symbols: bool,
    has_interpreter: bool,
}

impl Image {
    /// Opens the file that is mapped at `mapping` in process `pid`.
    ///
    /// # Errors
    /// Where the file cannot be opened or is not an ELF file that this machine can run.
    pub fn open(pid: u32, mapping: &Mapping) -> Result<Self, ImageError> {
        let file =
            open_mapped(pid, mapping).map_err(|source| ImageError::Open { path: mapping.path.clone(), source })?;
        let mut beginning = [0; ELFMAG.len()];
        if file.read_at(&mut beginning, 0).is_ok() && beginning != ELFMAG {
            return Err(ImageError::NoElf { path: mapping.path.clone() });
        }
        Self::parse(file, mapping.path.clone()).map_err(|source| ImageError::Elf { path: mapping.path.clone(), source })
    }

    /// The image that the kernel maps into every process for system calls without a call (vdso(7)). All
    /// processes have the same, so ours will do.
    ///
    /// # Errors
    /// Where there is none, or it cannot be copied.
    pub fn vdso() -> Result<Self, ImageError> {
        let path = PathBuf::from(VDSO);
        let file = copy_of_vdso().map_err(|source| ImageError::Open { path: path.clone(), source })?;
        Self::parse(file, path.clone()).map_err(|source| ImageError::Elf { path, source })
    }

    /// Reads the headers of an open ELF file, which is called `path` in reports.
    ///
    /// # Errors
    /// Where it is not an ELF file that this machine can run.
    pub fn parse(file: File, path: PathBuf) -> Result<Self, object::Error> {
        let bounded = BoundedFile::new(&file);
        let elf = ElfFile64::<object::Endianness, _>::parse(&bounded)?;
        let segments = elf
            .segments()
            .take(MAX_SEGMENTS)
            .map(|segment| {
                let (file_offset, size) = segment.file_range();
                let executable = segment.permissions().executable();
                Segment { file_offset, size, virtual_offset: segment.address(), executable }
            })
            .collect();
        // A corrupt note only costs the build id.
        let build_id = elf.build_id().ok().flatten().map(hex);
        let has_symbols = elf.symbols().next().is_some() || elf.dynamic_symbols().next().is_some();
        let headers = elf.elf_program_headers();
        let has_interpreter = headers.iter().any(|header| header.p_type(elf.endian()) == PT_INTERP);
        Ok(Self { path, build_id, segments, has_symbols, has_interpreter, file })
    }

    /// The open file, to be handed on.
    #[must_use]
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// The folder in which its path leads to this very file, as memtrace sees paths: separate debug files are looked for
    /// there.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        let own = rustix::fs::fstat(&self.file).ok()?;
        let other = rustix::fs::fstat(open_regular(&self.path).ok()?).ok()?;
        ((own.st_dev, own.st_ino) == (other.st_dev, other.st_ino)).then(|| self.path.parent()).flatten()
    }

    /// The name of the file that has this one's debug information, and that file's checksum (`.gnu_debuglink`).
    #[must_use]
    pub fn debug_link(&self) -> Option<(PathBuf, u32)> {
        let file = BoundedFile::new(&self.file);
        let (name, checksum) = self.elf(&file).ok()?.gnu_debuglink().ok()??;
        Some((OsStr::from_bytes(name).into(), checksum))
    }

    /// The virtual offset (what `addr2line -e` takes) of a place in the file.
    #[must_use]
    pub fn virtual_offset(&self, file_offset: u64) -> Option<u64> {
        self.segments.iter().find_map(|segment| {
            let within = file_offset.checked_sub(segment.file_offset)?;
            (within < segment.size).then(|| segment.virtual_offset.wrapping_add(within))
        })
    }

    /// The virtual offset at which code that is mapped from a place in the file begins.
    ///
    /// Mappings begin at whole pages, segments need not: the first bytes of a mapping may belong to the
    /// segment before (as the linker lld lays images out), whose virtual offsets are others.
    #[must_use]
    pub fn virtual_offset_of_code(&self, file_offset: u64) -> Option<u64> {
        let begins_here = |segment: &&Segment| segment.executable && segment.file_offset & !PAGE_MASK == file_offset;
        match self.segments.iter().find(begins_here) {
            Some(segment) => segment.virtual_offset.checked_sub(segment.file_offset & PAGE_MASK),
            None => self.virtual_offset(file_offset),
        }
    }

    /// The place in the file of a virtual offset.
    #[must_use]
    pub fn file_offset(&self, virtual_offset: u64) -> Option<u64> {
        self.segments.iter().find_map(|segment| {
            let within = virtual_offset.checked_sub(segment.virtual_offset)?;
            (within < segment.size).then(|| segment.file_offset.wrapping_add(within))
        })
    }

    /// Whether any symbol is left in the file.
    #[must_use]
    pub fn has_symbols(&self) -> bool {
        self.has_symbols
    }

    /// Whether the file is a program that is linked to others when it is started.
    #[must_use]
    pub fn has_interpreter(&self) -> bool {
        self.has_interpreter
    }

    /// The functions of the given names that the image defines itself. Exported symbols go first;
    /// every versioned or local definition of a name counts once per place, up to 32 places a name.
    ///
    /// # Errors
    /// Where the file has become unreadable since it was opened.
    pub fn functions(&self, names: &[&str]) -> Result<HashMap<String, Vec<FunctionAt>>, ImageError> {
        let names: HashSet<&str> = names.iter().copied().collect();
        self.functions_where(|name| names.contains(name))
    }

    /// The same, of the names that are `wanted`.
    ///
    /// # Errors
    /// As [`Image::functions`].
    pub fn functions_where(
        &self,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<HashMap<String, Vec<FunctionAt>>, ImageError> {
        let bounded = BoundedFile::new(&self.file);
        let elf = self.elf(&bounded)?;
        let mut found: HashMap<String, Vec<FunctionAt>> = HashMap::new();
        for symbol in elf.dynamic_symbols().chain(elf.symbols()) {
            if !is_function(&symbol) {
                continue;
            }
            let Ok(name) = symbol.name() else { continue };
            if !wanted(name) || found.get(name).is_some_and(|places| places.len() >= MAX_PLACES) {
                continue;
            }
            let Some(file_offset) = self.file_offset(symbol.address()) else { continue };
            let places = found.entry(name.to_owned()).or_default();
            if !places.iter().any(|place| place.file_offset == file_offset) {
                places.push(FunctionAt { file_offset, size: symbol.size() });
            }
        }
        Ok(found)
    }

    /// The virtual offsets at which functions begin, by its symbols, and where the program begins.
    ///
    /// # Errors
    /// As [`Image::functions`].
    pub fn function_starts(&self) -> Result<BTreeSet<u64>, ImageError> {
        let bounded = BoundedFile::new(&self.file);
        let elf = self.elf(&bounded)?;
        let symbols = elf.dynamic_symbols().chain(elf.symbols());
        let functions = symbols.filter(|symbol| is_choice(symbol) || is_function(symbol));
        Ok(functions.map(|symbol| symbol.address()).chain([elf.entry()]).collect())
    }

    /// The virtual offsets that its tables of pointers hold.
    ///
    /// # Errors
    /// As [`Image::functions`].
    pub fn pointers(&self) -> Result<BTreeSet<u64>, ImageError> {
        let bounded = BoundedFile::new(&self.file);
        let elf = self.elf(&bounded)?;
        let relocations = elf.dynamic_relocations().into_iter().flatten();
        let is_relative = |flags| flags == RelocationFlags::Elf { r_type: R_X86_64_RELATIVE };
        let relative = relocations.filter(|(_, relocation)| is_relative(relocation.flags()));
        Ok(relative.map(|(_, relocation)| relocation.addend().cast_unsigned()).collect())
    }

    /// The virtual offsets of its code.
    pub fn code_ranges(&self) -> impl Iterator<Item = Range<u64>> {
        let code = self.segments.iter().filter(|segment| segment.executable);
        code.map(|segment| segment.virtual_offset..segment.virtual_offset.saturating_add(segment.size))
    }

    /// The functions that the image calls through its table of addresses (GOT), by the virtual offset of
    /// their entries there.
    ///
    /// # Errors
    /// Where the file has become unreadable since it was opened.
    pub fn linked_functions(&self) -> Result<HashMap<u64, LinkedFunction>, ImageError> {
        let bounded = BoundedFile::new(&self.file);
        let elf = self.elf(&bounded)?;
        let mut linked = HashMap::new();
        let chosen = chosen_at_load(&elf);
        for (slot, relocation) in elf.dynamic_relocations().into_iter().flatten() {
            let RelocationTarget::Symbol(index) = relocation.target() else {
                let is_choice = relocation.flags() == RelocationFlags::Elf { r_type: R_X86_64_IRELATIVE };
                if let Some(name) = chosen.get(&relocation.addend().cast_unsigned()).filter(|_| is_choice) {
                    linked.insert(slot, LinkedFunction { name: name.clone(), own: None });
                }
                continue;
            };
            let Some(Ok(symbol)) = elf.dynamic_symbol_table().map(|table| table.symbol_by_index(index)) else {
                continue;
            };
            let Ok(name) = symbol.name() else { continue };
            let own = is_function(&symbol).then(|| symbol.address());
            linked.insert(slot, LinkedFunction { name: name.to_owned(), own });
        }
        Ok(linked)
    }

    fn elf<'a>(
        &self,
        file: &'a BoundedFile<'a>,
    ) -> Result<ElfFile64<'a, object::Endianness, &'a BoundedFile<'a>>, ImageError> {
        ElfFile64::parse(file).map_err(|source| ImageError::Elf { path: self.path.clone(), source })
    }

    /// Up to `length` bytes of the image's file from a virtual offset on.
    #[must_use]
    pub fn read_at(&self, virtual_offset: u64, length: usize) -> Option<Vec<u8>> {
        self.read(self.file_offset(virtual_offset)?, length).ok()
    }

    /// Up to `length` bytes of the file from `file_offset` on; fewer at its end.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub fn read(&self, file_offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        let count = self.file.read_at(&mut bytes, file_offset)?;
        bytes.truncate(count);
        Ok(bytes)
    }

    /// The image's call frame information: `.eh_frame`, or `.debug_frame` where only that exists; `None`
    /// without either.
    ///
    /// # Errors
    /// Where the file has become unreadable since it was opened.
    pub fn frame_section(&self) -> Result<Option<FrameSection>, ImageError> {
        let failed = |source| ImageError::Elf { path: self.path.clone(), source };
        let bounded = BoundedFile::new(&self.file);
        let elf = self.elf(&bounded)?;
        if let Some(section) = elf.section_by_name(".eh_frame") {
            let bytes = section.data().map_err(failed)?;
            return Ok(Some(FrameSection::EhFrame { bytes: bytes.to_vec(), address: section.address() }));
        }
        let Some(section) = elf.section_by_name(".debug_frame") else { return Ok(None) };
        Ok(Some(FrameSection::DebugFrame { bytes: section.data().map_err(failed)?.to_vec() }))
    }

    /// The path that leads the kernel to this very file, for placing probes.
    #[must_use]
    pub fn probe_path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }
}

/// The kernel's name for the mapping of [`Image::vdso`].
pub const VDSO: &str = "[vdso]";

/// The vdso as a file in memory: it has none of its own.
fn copy_of_vdso() -> io::Result<File> {
    let mappings = maps::read(std::process::id()).map_err(io::Error::other)?;
    let mapping = mappings.iter().find(|mapping| mapping.path.as_os_str() == VDSO).ok_or(io::ErrorKind::NotFound)?;
    let length = usize::try_from(mapping.end - mapping.start).map_err(io::Error::other)?;
    let mut bytes = vec![0; length];
    File::open("/proc/self/mem")?.read_exact_at(&mut bytes, mapping.start)?;
    let file = File::from(memfd_create(c"vdso", MemfdFlags::CLOEXEC)?);
    file.write_all_at(&bytes, 0)?;
    Ok(file)
}

/// Opens the file that is mapped at `mapping` in process `pid`.
pub(crate) fn open_mapped(pid: u32, mapping: &Mapping) -> io::Result<File> {
    let pid = leader::speaker(pid);
    // Another file may be mapped there since.
    let open = |path: &Path| {
        let file = open_regular(path)?;
        let is_mapped = mapping.file.is_some_and(|id| is_file(&file, id));
        if is_mapped { Ok(file) } else { Err(io::Error::other("another file is there now")) }
    };
    let exact = format!("/proc/{pid}/map_files/{:x}-{:x}", mapping.start, mapping.end);
    open(Path::new(&exact)).or_else(|error| {
        // Without CAP_CHECKPOINT_RESTORE, or once the process has ended, the exact way is closed; the path will
        // do if it is the same file.
        let relative = mapping.path.strip_prefix("/").unwrap_or(&mapping.path);
        let below_root = Path::new(&format!("/proc/{pid}/root")).join(relative);
        open(&below_root).or_else(|_| open(&mapping.path)).map_err(|by_path| {
            // Of the two, the one that says more than that the process has ended.
            if error.kind() == io::ErrorKind::NotFound { by_path } else { error }
        })
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
