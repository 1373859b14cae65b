//! Names of types: classes demangled, tables of functions by the symbols of their images. Both by the confined process that reads
//! symbols, as names and images are others'.

use std::{collections::HashMap, mem, os::fd::BorrowedFd, time::Duration};

use super::{
    debug_files,
    demangle::VIRTUAL_TABLE,
    reader::{
        Failure, PATIENCE, Reader,
        protocol::{Asked, FileKind, MAX_PLACES, Named},
    },
};
use crate::{
    model::heap_types::{Table, TypeFigures, TypeName, Types},
    process::{
        image::Image,
        maps::{self, FileId, Mapping},
        status::printable,
    },
};

/// The CPU time that each name adds to what a question may take.
const PATIENCE_A_NAME: Duration = Duration::from_millis(1);
/// Names that are kept for later looks, at most.
const MAX_KEPT: usize = 1 << 16;
/// How often the process that reads symbols is begun, at most: hostile names and images end it.
const MAX_BEGUN: u32 = 8;

/// An image in which tables lie.
struct TableImage {
    number: usize,
    image: Image,
    /// Symbols by virtual offset; nothing where there is none.
    symbols: HashMap<u64, Option<String>>,
}

/// Names types, and remembers the names. The process that reads symbols is begun when it is needed first.
#[derive(Default)]
pub struct TypeNames {
    reader: Option<Reader>,
    begun: u32,
    /// Nothing for those that could not be opened or read.
    images: HashMap<FileId, Option<TableImage>>,
    /// Classes by their mangled names; nothing where these are none.
    classes: HashMap<String, Option<String>>,
}

impl TypeNames {
    /// Gives the types of a process names as their sources have them. Those that turn out to be none are left out.
    pub fn name(&mut self, pid: u32, types: &mut Types) {
        self.name_tables(pid, &mut types.rows);
        self.name_classes(&mut types.rows);
        for row in &mut types.rows {
            if matches!(row.name, TypeName::Table(_)) {
                // Only tables of virtual functions tell objects inside of others.
                row.inside_objects = 0;
            }
        }
        let is_told = |row: &TypeFigures| match &row.name {
            TypeName::Table(table) => row.objects > 0 && (table.is_sure || table.symbol.is_some()),
            _ => true,
        };
        types.rows.retain(is_told);
        types.order();
    }

    fn name_tables(&mut self, pid: u32, rows: &mut [TypeFigures]) {
        if !rows.iter().any(|row| matches!(row.name, TypeName::Table(_))) {
            return;
        }
        let mappings = maps::read(pid).unwrap_or_default();
        let mut wanted: HashMap<FileId, Vec<(&mut TypeFigures, Mapping)>> = HashMap::new();
        for row in rows {
            let TypeName::Table(table) = &row.name else { continue };
            // It may have become another program meanwhile.
            if let Some(mapping) = mapping_of(&mappings, table)
                && let Some(file) = mapping.file
            {
                wanted.entry(file).or_default().push((row, mapping.clone()));
            }
        }
        for (file, mut rows) in wanted {
            if let Some((_, mapping)) = rows.first() {
                self.open(pid, file, mapping);
            }
            self.name_tables_of(file, rows.iter_mut().map(|(row, _)| &mut **row).collect());
        }
    }

    fn open(&mut self, pid: u32, file: FileId, mapping: &Mapping) {
        let number = self.images.len();
        self.images.entry(file).or_insert_with(|| {
            let image = Image::open(pid, mapping).ok()?;
            Some(TableImage { number, image, symbols: HashMap::new() })
        });
    }

    /// Names the tables of an image that was opened.
    fn name_tables_of(&mut self, file: FileId, rows: Vec<&mut TypeFigures>) {
        let Some(Some(image)) = self.images.get(&file) else { return };
        let mut tables: Vec<(&mut TypeFigures, u64)> = Vec::new();
        for row in rows {
            let TypeName::Table(table) = &mut row.name else { continue };
            table.offset = image.image.virtual_offset(table.offset).unwrap_or(table.offset);
            let offset = table.offset;
            tables.push((row, offset));
        }
        let offsets: Vec<u64> =
            tables.iter().map(|(_, offset)| *offset).filter(|offset| !image.symbols.contains_key(offset)).collect();
        for offsets in offsets.chunks(MAX_PLACES) {
            self.ask_for_symbols(file, offsets);
        }
        let Some(Some(image)) = self.images.get(&file) else { return };
        for (row, offset) in tables {
            let Some(symbol) = image.symbols.get(&offset).cloned().flatten() else { continue };
            match symbol.strip_prefix(VIRTUAL_TABLE) {
                Some(class) => row.name = TypeName::Class(class.to_owned()),
                None => {
                    if let TypeName::Table(table) = &mut row.name {
                        table.symbol = Some(printable(&symbol));
                    }
                }
            }
        }
    }

    fn ask_for_symbols(&mut self, file: FileId, offsets: &[u64]) {
        let Some(Some(image)) = self.images.get(&file) else { return };
        if image.symbols.len() > MAX_KEPT {
            return;
        }
        let number = image.number;
        let asked = Asked::Variables(offsets.to_vec());
        let is_known = self.reader.as_ref().is_some_and(|reader| reader.knows(number, &asked));
        let debug = if is_known { None } else { debug_files::of(&image.image) };
        let own = (!is_known).then(|| (FileKind::Image, image.image.descriptor()));
        let debug = debug.as_ref().map(|(file, sum)| (FileKind::Debug { checksum: *sum }, file.descriptor()));
        let files: Vec<(FileKind, BorrowedFd<'_>)> = own.into_iter().chain(debug).collect();
        let path = image.image.path.display().to_string();
        match ask(&mut self.reader, &mut self.begun, number, &files, &asked) {
            Ok(places) => {
                if let Some(Some(image)) = self.images.get_mut(&file) {
                    image.symbols.extend(offsets.iter().copied().zip(places.into_iter().map(only)));
                }
            }
            Err(failure) => {
                log::info!("no names of tables from {}: {failure:?}", printable(&path));
                self.images.insert(file, None);
            }
        }
    }

    fn name_classes(&mut self, rows: &mut [TypeFigures]) {
        let mut mangled: Vec<String> = rows.iter().filter_map(|row| row.name.class()).map(str::to_owned).collect();
        mangled.sort_unstable();
        mangled.dedup();
        mangled.retain(|name| !self.classes.contains_key(name));
        for names in mangled.chunks(MAX_PLACES) {
            if self.classes.len() > MAX_KEPT {
                self.classes.clear();
            }
            // No image is asked about, so the number stands for none.
            let asked = Asked::Classes(names.to_vec());
            match ask(&mut self.reader, &mut self.begun, usize::MAX, &[], &asked) {
                Ok(places) => self.classes.extend(names.iter().cloned().zip(places.into_iter().map(only))),
                Err(failure) => log::info!("names of {} classes stay as linkers see them: {failure:?}", names.len()),
            }
        }
        for class in rows.iter_mut().filter_map(|row| row.name.class_mut()) {
            if let Some(Some(name)) = self.classes.get(class) {
                *class = printable(name);
            }
        }
    }
}

/// Asks the process that reads symbols, which is begun where there is none.
fn ask(
    reader: &mut Option<Reader>,
    begun: &mut u32,
    image: usize,
    files: &[(FileKind, BorrowedFd<'_>)],
    asked: &Asked,
) -> Result<Vec<Vec<Named>>, Failure> {
    if reader.is_none() && *begun < MAX_BEGUN {
        *begun += 1;
        *reader = Reader::start().map_err(|error| log::warn!("types have no names: {error}")).ok();
    }
    let patience = PATIENCE + PATIENCE_A_NAME * u32::try_from(asked.count()).unwrap_or(u32::MAX);
    let asked = reader.as_mut().ok_or(Failure::Ended)?.ask(image, files, asked, patience);
    if matches!(asked, Err(Failure::Ended | Failure::Late | Failure::Nonsense)) {
        drop(mem::take(reader));
    }
    asked.map(|(places, _)| places)
}

fn only(place: Vec<Named>) -> Option<String> {
    place.into_iter().next().map(|named| named.name).filter(|name| !name.is_empty())
}

/// The mapping in which a table lies.
fn mapping_of<'m>(mappings: &'m [Mapping], table: &Table) -> Option<&'m Mapping> {
    let index = mappings.partition_point(|mapping| mapping.end <= table.address);
    let mapping = mappings.get(index).filter(|mapping| mapping.start <= table.address)?;
    let is_same = printable(&mapping.path.to_string_lossy()) == table.image
        && mapping.file_offset.checked_add(table.address - mapping.start) == Some(table.offset);
    is_same.then_some(mapping)
}
