//! The labels of blocks: small numbers, each with the type that it stands for and the figures of its blocks.

use std::collections::HashMap;

use super::classes::Classes;
use crate::model::heap_types::{Pattern, TypeFigures, TypeName};

/// The label of a block of which nothing is known.
pub(super) const NO_LABEL: u32 = u32::MAX;
/// Labels, at most: more than there can be of the words that are followed, but for those of objects inside.
const MAX_LABELS: usize = 1 << 18;

/// The type that a label stands for. Classes and tables go by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Label {
    Class(u32),
    Around { class: u32, offset: u8, pattern: Option<Pattern> },
    Table(u32),
    Pattern(Pattern),
    Text,
}

/// The blocks of a label, and its objects inside other blocks.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    objects: u64,
    bytes: u64,
    inside: u64,
}

/// All labels.
#[derive(Debug, Default)]
pub(super) struct Labels {
    numbers: HashMap<Label, u32>,
    all: Vec<(Label, Tally)>,
    passed_over: u64,
}

impl Labels {
    /// The number of a label; [`NO_LABEL`] where there are too many.
    pub(super) fn number(&mut self, label: Label) -> u32 {
        if let Some(number) = self.numbers.get(&label) {
            return *number;
        }
        let Some(number) = u32::try_from(self.all.len()).ok().filter(|_| self.all.len() < MAX_LABELS) else {
            self.passed_over = self.passed_over.saturating_add(1);
            return NO_LABEL;
        };
        self.all.push((label, Tally::default()));
        self.numbers.insert(label, number);
        number
    }

    /// The label of a number.
    pub(super) fn get(&self, number: u32) -> Option<Label> {
        Some(self.all.get(usize::try_from(number).ok()?)?.0)
    }

    /// Counts a block.
    pub(super) fn count(&mut self, number: u32, bytes: u64) {
        if let Some(tally) = self.tally(number) {
            tally.objects = tally.objects.saturating_add(1);
            tally.bytes = tally.bytes.saturating_add(bytes);
        }
    }

    /// Counts an object inside another block.
    pub(super) fn count_inside(&mut self, label: Label) {
        let number = self.number(label);
        if let Some(tally) = self.tally(number) {
            tally.inside = tally.inside.saturating_add(1);
        }
    }

    fn tally(&mut self, number: u32) -> Option<&mut Tally> {
        Some(&mut self.all.get_mut(usize::try_from(number).ok()?)?.1)
    }

    /// Blocks without a label, as there were too many labels.
    pub(super) fn passed_over(&self) -> u64 {
        self.passed_over
    }

    /// The name of a label.
    fn name(&self, label: Label, classes: &Classes<'_>) -> Option<TypeName> {
        let class = |number: u32| classes.names().get(usize::try_from(number).ok()?).cloned();
        Some(match label {
            Label::Class(number) => TypeName::Class(class(number)?),
            Label::Around { class: number, offset, pattern } => {
                TypeName::Around { class: class(number)?, offset, pattern }
            }
            Label::Table(number) => TypeName::Table(classes.tables().get(usize::try_from(number).ok()?)?.clone()),
            Label::Pattern(pattern) => TypeName::Pattern(pattern),
            Label::Text => TypeName::Text,
        })
    }

    /// The names of all labels, by number.
    pub(super) fn names(&self, classes: &Classes<'_>) -> Vec<Option<TypeName>> {
        self.all.iter().map(|(label, _)| self.name(*label, classes)).collect()
    }

    /// The figures of all types that have any.
    pub(super) fn figures(&self, classes: &Classes<'_>) -> Vec<TypeFigures> {
        let figures = |(label, tally): &(Label, Tally)| {
            let Tally { objects, bytes, inside: inside_objects } = *tally;
            let name = self.name(*label, classes).filter(|_| objects > 0 || inside_objects > 0)?;
            Some(TypeFigures { name, objects, bytes, inside_objects })
        };
        self.all.iter().filter_map(figures).collect()
    }
}
