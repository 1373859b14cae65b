//! The symbol tables of a hostile image: its dynamic symbols, and those that it has compressed.

use memtrace::symbolize::symbol_table::SymbolTable;

use crate::{
    Target,
    input::{Input, file_in_memory},
    seeds,
};

/// A byte that tells which, then an ELF file, or what a section `.gnu_debugdata` has.
pub const TARGET: Target = Target { name: "symbol_table", run, seeds };

fn run(input: &[u8]) {
    let mut input = Input::new(input);
    let is_packed = input.byte() % 2 == 1;
    let content = input.rest();
    let table = if is_packed {
        SymbolTable::unpack(content).ok()
    } else {
        file_in_memory(content).and_then(|file| SymbolTable::read(&file).ok()).map(|(table, _)| table)
    };
    for offset in [0, 0x1000, 0x1150, u64::MAX] {
        _ = table.as_ref().map(|table| table.at(offset));
    }
}

/// A packed table of functions, as objcopy(1) and xz(1) make it of a program's debug file.
const PACKED: &[u8] = include_bytes!("../../seeds/gnu_debugdata.xz");

fn seeds() -> Vec<Vec<u8>> {
    let with = |kind: u8, content: &[u8]| [&[kind], content].concat();
    seeds::elf_files().iter().map(|file| with(0, file)).chain([with(1, PACKED)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_has_a_function() {
        let table = SymbolTable::unpack(PACKED).unwrap();
        assert!((0..0x2000).any(|offset| table.at(offset) == Some("hidden_leak")));
    }
}
