//! Columns of the table's tables.

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

/// A column of words.
pub(super) fn words<T>(name: &'static str, cell: fn(&T) -> String) -> Column<T> {
    Column { name, is_figure: false, cell }
}
