//! Figures of several rounds: their spread, ratios between columns, and how they are shown.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::tracer::Column;

/// The least, the median and the greatest of some rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    pub(super) min: f64,
    pub(super) median: f64,
    pub(super) max: f64,
}

impl Spread {
    pub(super) fn of(rounds: &[f64]) -> Self {
        let mut sorted = rounds.to_vec();
        sorted.sort_by(f64::total_cmp);
        match sorted.as_slice() {
            [] => Self { min: f64::NAN, median: f64::NAN, max: f64::NAN },
            [first, ..] => Self { min: *first, median: sorted[sorted.len() / 2], max: sorted[sorted.len() - 1] },
        }
    }

    fn json(self) -> Value {
        json!({ "min": self.min, "median": self.median, "max": self.max })
    }

    fn markdown(self) -> String {
        let Self { min, median, max } = self;
        format!("{} ({}–{})", number(median), number(min), number(max))
    }
}

/// Three digits that count, and no more than two behind the point.
fn number(figure: f64) -> String {
    match figure.abs() {
        size if size >= 99.5 => format!("{figure:.0}"),
        size if size >= 9.95 => format!("{figure:.1}"),
        _ => format!("{figure:.2}"),
    }
}

/// The demand on a figure.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wanted {
    AtMost(f64),
    AtLeast(f64),
    /// It is only to be known.
    Nothing,
}

impl Wanted {
    fn markdown(self, median: f64) -> String {
        let (text, is_met) = match self {
            Self::AtMost(most) => (format!("≤ {}", number(most)), median <= most),
            Self::AtLeast(least) => (format!("≥ {}", number(least)), median >= least),
            Self::Nothing => return String::new(),
        };
        format!("{text}: {}", if is_met { "met" } else { "**not met**" })
    }
}

/// One figure of each round.
pub(super) struct Figure {
    pub(super) name: String,
    pub(super) rounds: Vec<f64>,
    pub(super) wanted: Wanted,
}

impl Figure {
    fn json(&self) -> Value {
        let mut json = Spread::of(&self.rounds).json();
        json["name"] = self.name.as_str().into();
        match self.wanted {
            Wanted::AtMost(most) => json["at_most"] = most.into(),
            Wanted::AtLeast(least) => json["at_least"] = least.into(),
            Wanted::Nothing => {}
        }
        json
    }
}

/// The figures of a workload: by what was measured, by column, by round.
#[derive(Default)]
pub(super) struct Matrix(Vec<(String, BTreeMap<Column, Vec<f64>>)>);

impl Matrix {
    /// Takes in one figure of one more round.
    pub(super) fn push(&mut self, row: &str, column: Column, figure: f64) {
        let at = self.0.iter().position(|(label, _)| label == row).unwrap_or_else(|| {
            self.0.push((row.to_owned(), BTreeMap::new()));
            self.0.len() - 1
        });
        self.0[at].1.entry(column).or_default().push(figure);
    }

    /// One cell, by round; nothing where it was not measured.
    pub(super) fn cell(&self, row: &str, column: Column) -> &[f64] {
        let of_row = self.0.iter().find(|(label, _)| label == row);
        of_row.and_then(|(_, columns)| columns.get(&column)).map_or(&[], Vec::as_slice)
    }

    /// The measured figures.
    pub(super) fn rows(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(row, _)| row.as_str())
    }

    /// The ratio of two cells, round by round.
    pub(super) fn ratio(&self, name: &str, over: (&str, Column), under: (&str, Column), wanted: Wanted) -> Figure {
        let pairs = self.cell(over.0, over.1).iter().zip(self.cell(under.0, under.1));
        Figure { name: name.to_owned(), rounds: pairs.map(|(over, under)| over / under).collect(), wanted }
    }

    fn columns(&self) -> Vec<Column> {
        let mut columns: Vec<Column> = self.0.iter().flat_map(|(_, columns)| columns.keys().copied()).collect();
        columns.sort_unstable();
        columns.dedup();
        columns
    }

    fn markdown(&self, unit: &str) -> String {
        let columns = self.columns();
        let head: Vec<&str> = columns.iter().map(|column| column.name()).collect();
        let mut text = format!("| {unit} | {} |\n|---|{}\n", head.join(" | "), "--:|".repeat(columns.len()));
        for (label, cells) in &self.0 {
            let cell = |column| cells.get(column).map_or_else(String::new, |rounds| Spread::of(rounds).markdown());
            let cells: Vec<String> = columns.iter().map(cell).collect();
            text += &format!("| {label} | {} |\n", cells.join(" | "));
        }
        text
    }

    fn json(&self) -> Value {
        let row = |(label, cells): &(String, BTreeMap<Column, Vec<f64>>)| {
            let cells = cells.iter().map(|(column, rounds)| (column.name().to_owned(), Spread::of(rounds).json()));
            (label.clone(), Value::Object(cells.collect()))
        };
        Value::Object(self.0.iter().map(row).collect())
    }
}

/// One part of docs/PERFORMANCE.md that is made of figures.
pub(super) struct Section {
    /// Its name in the markers of the document.
    pub(super) id: &'static str,
    /// The command that measures it.
    pub(super) command: String,
    /// The unit of the matrix, and the matrix.
    pub(super) matrix: Option<(&'static str, Matrix)>,
    /// The names of single figures, and they.
    pub(super) figures: Option<(&'static str, Vec<Figure>)>,
    /// The parts that are shown as they are: plots, other programs' tables.
    pub(super) more: String,
}

impl Section {
    pub(super) fn markdown(&self) -> String {
        let mut parts = vec![format!("`{}`; median (least–greatest).\n", self.command)];
        parts.extend(self.matrix.as_ref().map(|(unit, matrix)| matrix.markdown(unit)));
        if let Some((what, figures)) = &self.figures {
            let mut text = format!("| {what} | median (least–greatest) | wanted |\n|---|--:|---|\n");
            for Figure { name, rounds, wanted } in figures {
                let spread = Spread::of(rounds);
                text += &format!("| {name} | {} | {} |\n", spread.markdown(), wanted.markdown(spread.median));
            }
            parts.push(text);
        }
        if !self.more.is_empty() {
            parts.push(self.more.clone());
        }
        parts.join("\n").trim_end().to_owned()
    }

    pub(super) fn json(&self) -> Value {
        let figures = self.figures.iter().flat_map(|(_, figures)| figures).map(Figure::json);
        json!({
            "command": self.command,
            "unit": self.matrix.as_ref().map(|(unit, _)| unit),
            "cells": self.matrix.as_ref().map(|(_, matrix)| matrix.json()),
            "figures": figures.collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix() -> Matrix {
        let mut matrix = Matrix::default();
        for (exact, floor) in [(12.0, 10.0), (30.0, 20.0), (11.0, 10.0)] {
            matrix.push("a pair", Column::Exact, exact);
            matrix.push("a pair", Column::Floor, floor);
        }
        matrix
    }

    #[test]
    fn spreads_do_not_depend_on_order() {
        let expected = Spread { min: 1.0, median: 2.0, max: 3.0 };
        assert_eq!(Spread::of(&[3.0, 1.0, 2.0]), expected);
        assert_eq!(Spread::of(&[5.0]).markdown(), "5.00 (5.00–5.00)");
    }

    #[test]
    fn ratios_pair_the_figures_of_a_round() {
        let at = |column| ("a pair", column);
        let ratio = matrix().ratio("exact / floor", at(Column::Exact), at(Column::Floor), Wanted::AtMost(1.25));
        assert_eq!(ratio.rounds, [1.2, 1.5, 1.1]);
        assert_eq!(ratio.wanted.markdown(Spread::of(&ratio.rounds).median), "≤ 1.25: met");
        assert_eq!(Wanted::AtLeast(0.3).markdown(0.29), "≥ 0.30: **not met**");
    }

    #[test]
    fn tables_have_a_column_for_what_was_measured_and_no_other() {
        let text = matrix().markdown("ns");
        assert!(
            text.starts_with("| ns | floor | exact |\n|---|--:|--:|\n| a pair | 10.0 (10.0–20.0) | 12.0"),
            "{text}"
        );
    }
}
