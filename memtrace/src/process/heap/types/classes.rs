//! The meaning of a word that points into an image: the class whose virtual table lies there, by the description of types (RTTI)
//! that compilers put before it, or a table of functions.
//!
//! Before the address that an object has lie the offset to the object's top, which is 0 but for parts of objects, and the address of
//! a `type_info`, whose second word is the address of the class's mangled name (Itanium C++ ABI, 2.5.2 and 2.9.5).

use std::collections::HashMap;

use super::{
    super::bytes::{Reader, Stop},
    images::Images,
};
use crate::model::heap_types::Table;

/// Distinct words that are followed, at most.
const MAX_FOLLOWED: usize = 1 << 16;
/// The longest name of a class, in bytes, with the zero at its end.
const MAX_NAME_BYTES: usize = 1024;
/// How much of a name is read at once.
const NAME_PIECE_BYTES: usize = 128;
/// The largest offset to an object's top that is believed, in bytes.
const MAX_OFFSET_TO_TOP: u64 = 1 << 24;
/// Words of a table that are looked at.
const TABLE_WORDS: usize = 6;
/// Functions that a table has at least, among those.
const MIN_FUNCTIONS: usize = 2;

/// The meaning of a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// It is nothing that tells a type.
    Nothing,
    /// The virtual table of a whole object of the class of this number.
    Class(u32),
    /// The table of functions of this number.
    Table(u32),
}

/// The words that were followed, with their meanings.
#[derive(Debug)]
pub(super) struct Classes<'i> {
    images: &'i Images,
    followed: HashMap<u64, Meaning>,
    last: (u64, Meaning),
    numbers: HashMap<String, u32>,
    names: Vec<String>,
    tables: Vec<Table>,
    passed_over: u64,
}

impl<'i> Classes<'i> {
    pub(super) fn new(images: &'i Images) -> Self {
        Self {
            images,
            followed: HashMap::new(),
            last: (0, Meaning::Nothing),
            numbers: HashMap::new(),
            names: Vec::new(),
            tables: Vec::new(),
            passed_over: 0,
        }
    }

    /// The meaning of a word that may point into an image.
    pub(super) fn meaning(&mut self, reader: &mut Reader<'_>, word: u64) -> Result<Meaning, Stop> {
        if self.last.0 == word {
            return Ok(self.last.1);
        }
        let meaning = match self.followed.get(&word) {
            Some(meaning) => *meaning,
            None if !word.is_multiple_of(8) || self.images.part(word).is_none() => return Ok(Meaning::Nothing),
            None if self.followed.len() >= MAX_FOLLOWED => {
                self.passed_over = self.passed_over.saturating_add(1);
                return Ok(Meaning::Nothing);
            }
            None => {
                let meaning = self.follow(reader, word)?;
                self.followed.insert(word, meaning);
                meaning
            }
        };
        self.last = (word, meaning);
        Ok(meaning)
    }

    /// How often a word was not followed, because too many others were.
    pub(super) fn passed_over(&self) -> u64 {
        self.passed_over
    }

    /// The names of classes, by number, as linkers see them.
    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// The tables of functions, by number.
    pub(super) fn tables(&self) -> &[Table] {
        &self.tables
    }

    fn follow(&mut self, reader: &mut Reader<'_>, word: u64) -> Result<Meaning, Stop> {
        let before = match word.checked_sub(16) {
            Some(address) => self.words::<2>(reader, address)?,
            None => None,
        };
        if let Some([offset_to_top, type_info]) = before
            && let Some(name) = self.class(reader, type_info)?
            && offset_to_top.wrapping_neg() <= MAX_OFFSET_TO_TOP
        {
            // The table of a part, which a whole object has further on.
            return Ok(if offset_to_top == 0 { self.class_number(name) } else { Meaning::Nothing });
        }
        let is_of_part = before.is_some_and(|[offset_to_top, type_info]| {
            type_info == 0 && offset_to_top != 0 && offset_to_top.wrapping_neg() <= MAX_OFFSET_TO_TOP
        });
        if is_of_part { Ok(Meaning::Nothing) } else { self.table(reader, word, before) }
    }

    /// The mangled name of the class that a `type_info` describes; nothing where it describes none.
    fn class(&self, reader: &mut Reader<'_>, type_info: u64) -> Result<Option<String>, Stop> {
        if !type_info.is_multiple_of(8) {
            return Ok(None);
        }
        let Some([own_table, name]) = self.words::<2>(reader, type_info)? else { return Ok(None) };
        // It is an object itself.
        if own_table == 0 || !own_table.is_multiple_of(8) {
            return Ok(None);
        }
        Ok(self.text(reader, name)?.filter(|name| is_class(name)))
    }

    /// The text at an address in an image, up to its zero; nothing where there is none, or it is too long.
    fn text(&self, reader: &mut Reader<'_>, address: u64) -> Result<Option<String>, Stop> {
        let Some(part) = self.images.part(address).filter(|part| !part.writable) else { return Ok(None) };
        let (mut text, mut at) = (Vec::new(), address);
        while text.len() < MAX_NAME_BYTES {
            let mut piece = [0; NAME_PIECE_BYTES];
            let length = usize::try_from(part.end.saturating_sub(at)).unwrap_or(0).min(NAME_PIECE_BYTES);
            let Some(piece) = piece.get_mut(..length).filter(|piece| !piece.is_empty()) else { return Ok(None) };
            if !reader.mapped(part, at, piece)? {
                return Ok(None);
            }
            if let Some(end) = piece.iter().position(|byte| *byte == 0) {
                text.extend_from_slice(piece.get(..end).unwrap_or_default());
                return Ok(String::from_utf8(text).ok());
            }
            // Of text that is no name, no more is read.
            if !piece.iter().all(|byte| is_in_names(*byte)) {
                return Ok(None);
            }
            text.extend_from_slice(piece);
            at = at.saturating_add(length as u64);
        }
        Ok(None)
    }

    /// The table of functions at an address.
    fn table(&mut self, reader: &mut Reader<'_>, address: u64, before: Option<[u64; 2]>) -> Result<Meaning, Stop> {
        let Some(part) = self.images.part(address).filter(|part| !part.executable) else {
            return Ok(Meaning::Nothing);
        };
        let Some(functions) = self.functions(reader, address)? else { return Ok(Meaning::Nothing) };
        let is_code = |index: usize| functions.get(index).copied().unwrap_or(false);
        let count = functions.iter().filter(|is_code| **is_code).count();
        // Some begin with a name or a version.
        let is_sure = (is_code(0) || is_code(1)) && count >= MIN_FUNCTIONS;
        let may_be_virtual = before == Some([0, 0]) && is_code(0);
        let Some(number) = u32::try_from(self.tables.len()).ok().filter(|_| is_sure || may_be_virtual) else {
            return Ok(Meaning::Nothing);
        };
        self.tables.push(Table {
            image: part.path.to_string_lossy().into_owned(),
            offset: part.file_offset.saturating_add(address - part.start),
            symbol: None,
            address,
            is_sure,
        });
        Ok(Meaning::Table(number))
    }

    /// Which of the first words at an address are addresses of code.
    fn functions(&self, reader: &mut Reader<'_>, address: u64) -> Result<Option<[bool; TABLE_WORDS]>, Stop> {
        let words = match self.words::<TABLE_WORDS>(reader, address)? {
            Some(words) => words,
            // The last table of an image.
            None => match self.words::<1>(reader, address)? {
                Some([first]) => [first, 0, 0, 0, 0, 0],
                None => return Ok(None),
            },
        };
        Ok(Some(words.map(|word| self.images.may_have(word) && self.images.is_code(word))))
    }

    /// Words of an image, of those of its pages that are not resident as its file has them.
    fn words<const N: usize>(&self, reader: &mut Reader<'_>, address: u64) -> Result<Option<[u64; N]>, Stop> {
        let Some(part) = self.images.part(address) else { return Ok(None) };
        let mut words = [[0; 8]; N];
        let is_read = reader.mapped(part, address, words.as_flattened_mut())?;
        Ok(is_read.then(|| words.map(u64::from_ne_bytes)))
    }

    fn class_number(&mut self, name: String) -> Meaning {
        if let Some(number) = self.numbers.get(&name) {
            return Meaning::Class(*number);
        }
        let Ok(number) = u32::try_from(self.names.len()) else { return Meaning::Nothing };
        self.names.push(name.clone());
        self.numbers.insert(name, number);
        Meaning::Class(number)
    }
}

fn is_in_names(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'$' | b'*')
}

/// Whether text is the name of a class in its `type_info`: an identifier with its length, or a compound name.
fn is_class(name: &str) -> bool {
    // A class that other images cannot see.
    let rest = name.strip_prefix('*').unwrap_or(name);
    if !rest.bytes().all(is_in_names) {
        return false;
    }
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    match rest.bytes().next() {
        Some(b'1'..=b'9') => {
            let length = rest.get(..digits).and_then(|digits| digits.parse::<usize>().ok());
            length.is_some_and(|length| length <= rest.len() - digits)
        }
        // In a namespace, in std, in a function.
        Some(b'N' | b'S' | b'Z') => rest.len() >= 3,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_classes_are_told_from_other_text() {
        let classes =
            ["3Dog", "N3zoo3DogE", "*N12_GLOBAL__N_13CatE", "St9exception", "Z4mainE5Local", "1A", "5queueIiE"];
        assert!(classes.iter().all(|name| is_class(name)));
        let others = [
            "",
            "*",
            "Dog",
            "9Dog",
            "3Do",
            "3Dog bites",
            "N",
            "0",
            "usage: dog",
            "i",
            "12345678901234567890a",
            "-3Dog",
        ];
        assert!(others.iter().all(|name| !is_class(name)));
    }
}
