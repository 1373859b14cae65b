//! Columns of the table's tables, and the tables that are made of them.

use std::io::{self, Write};

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

/// A column, of rows that are each about one `T`.
pub(super) struct Column<T> {
    pub(super) name: &'static str,
    /// Whether it holds figures, which stand to the right.
    pub(super) is_figure: bool,
    pub(super) cell: fn(&T) -> String,
}

/// A column of figures.
pub(super) fn figure<T>(name: &'static str, cell: fn(&T) -> String) -> Column<T> {
    Column { name, is_figure: true, cell }
}

/// A column of text.
pub(super) fn text<T>(name: &'static str, cell: fn(&T) -> String) -> Column<T> {
    Column { name, is_figure: false, cell }
}

/// Writes rows in columns: as wide as they are, or fitted into `width`.
///
/// # Errors
/// Where `out` refuses.
pub(super) fn write<'a, T: 'a>(
    columns: &[Column<T>],
    rows: impl IntoIterator<Item = &'a T>,
    width: Option<u16>,
    out: &mut dyn Write,
) -> io::Result<()> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    if let Some(width) = width {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    }
    table.set_header(columns.iter().map(|column| column.name));
    for (column, cells) in columns.iter().zip(table.column_iter_mut()) {
        if column.is_figure {
            cells.set_cell_alignment(CellAlignment::Right);
        }
    }
    for row in rows {
        table.add_row(columns.iter().map(|column| (column.cell)(row)));
    }
    for line in table.lines() {
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}
