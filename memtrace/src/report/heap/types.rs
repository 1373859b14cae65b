//! The part of the table on types of blocks.

use std::io::{self, Write};

use super::sections::{bar, percent, share};
use crate::{
    model::{
        heap::{Allocator, Heap},
        heap_types::{TypeFigures, Types},
    },
    report::{
        column::{Column, figure, text, write},
        words::{
            heap_types::{not_told, type_name},
            units,
        },
    },
};

/// Longer names are cut, in characters: some C++ has very long ones.
const MAX_NAME: usize = 160;

/// A line of the types.
struct Line<'a> {
    row: &'a TypeFigures,
    /// Of all live bytes, from 0 to 1.
    share: f64,
}

/// Writes the types of blocks, those with most bytes first.
pub(super) fn types(heap: &Heap, top: usize, width: Option<u16>, out: &mut dyn Write) -> io::Result<()> {
    let types = &heap.types;
    if let Some(why) = types.not_told {
        return writeln!(out, "\ntypes      not told: {}", not_told(why));
    }
    if types.rows.is_empty() {
        return Ok(());
    }
    let live = |part: fn(&Allocator) -> u64| heap.allocators.iter().map(part).fold(0, u64::saturating_add);
    let (live_bytes, live_objects) = (live(|one| one.live_bytes), live(|one| one.live_objects));
    let [of_objects, of_bytes] = [share(types.objects(), live_objects), share(types.bytes(), live_bytes)].map(percent);
    writeln!(out, "\ntypes      of {of_objects} of live blocks, with {of_bytes} of live bytes, by their content")?;
    if types.passed_over > 0 {
        let passed_over = units::count(types.passed_over);
        writeln!(out, "           {passed_over} words that may tell more were passed over: there are too many")?;
    }
    writeln!(out)?;
    let line = |row| Line { row, share: share(row.bytes, live_bytes) };
    let lines: Vec<Line<'_>> = types.rows.iter().take(top).map(line).collect();
    write(&columns(types), lines.iter(), width, out)?;
    match (types.rows.len() as u64).saturating_add(types.left_out).saturating_sub(lines.len() as u64) {
        0 => Ok(()),
        more => writeln!(out, "… and {} more types (--top N shows more)", units::count(more)),
    }
}

fn columns<'a>(types: &Types) -> Vec<Column<Line<'a>>> {
    let mut columns: Vec<Column<Line<'a>>> = vec![
        figure("OBJECTS", |line: &Line<'_>| units::count(line.row.objects)),
        figure("LIVE", |line: &Line<'_>| units::bytes(line.row.bytes)),
        figure("SHARE", |line: &Line<'_>| percent(line.share)),
        text("", |line: &Line<'_>| bar(line.share)),
    ];
    if types.rows.iter().any(|row| row.inside_objects > 0) {
        columns.push(figure("INSIDE OTHERS", |line: &Line<'_>| units::count(line.row.inside_objects)));
    }
    columns.push(text("TYPE", |line: &Line<'_>| shortened(&type_name(&line.row.name))));
    columns
}

fn shortened(name: &str) -> String {
    match name.char_indices().nth(MAX_NAME) {
        Some((end, _)) => format!("{}…", name.get(..end).unwrap_or_default()),
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::heap_types::NotTold, report::heap::fixture};

    fn rendered(types: Types) -> String {
        let mut heap = fixture::report().processes.remove(0).heap.unwrap();
        heap.types = types;
        let mut out = Vec::new();
        super::types(&heap, 2, None, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn without_types_nothing_or_the_reason_is_told() {
        assert_eq!(rendered(Types::default()), "");
        let told = "\ntypes      not told: there is more memory to read than a look may\n";
        assert_eq!(rendered(Types::not_told(NotTold::Bytes)), told);
    }

    #[test]
    fn what_is_left_out_or_passed_over_is_told() {
        let mut types = fixture::report().processes.remove(0).heap.unwrap().types;
        (types.left_out, types.passed_over) = (7, 1234);
        let text = rendered(types.clone());
        let more = format!("… and {} more types", types.rows.len() - 2 + 7);
        assert!(text.contains("1,234 words") && text.contains(&more), "{text}");
    }

    #[test]
    fn long_names_are_cut_between_characters() {
        assert_eq!(shortened("zoo::Dog"), "zoo::Dog");
        let long = "ü".repeat(MAX_NAME + 1);
        assert_eq!(shortened(&long).chars().count(), MAX_NAME + 1);
        assert!(shortened(&long).ends_with("ü…"));
    }
}
