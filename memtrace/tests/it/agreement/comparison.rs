//! The frames that two walks of the same stack have in common.

use std::collections::HashSet;

use super::code::{Ending, Walk};

/// The result of comparing stacks.
#[derive(Default)]
pub(crate) struct Comparison {
    /// Their frames.
    seen: HashSet<Vec<u64>>,
    whole: usize,
    /// Stacks that we end, and say so, in code without call frame information (there is some in glibc's memory
    /// functions), where the other unwinder goes on by frame pointer. Up to there both are the same.
    pub(crate) ended_earlier: usize,
    /// Stacks of which any frame differs.
    pub(crate) different: Vec<String>,
}

impl Comparison {
    /// Takes a stack in. Returns whether it is a new one.
    pub(crate) fn add(&mut self, ours: &Walk, theirs: &Walk) -> bool {
        if !self.seen.insert(theirs.frames.clone()) {
            return false;
        }
        if ours.frames == theirs.frames && ours.is_whole() == theirs.is_whole() {
            self.whole += usize::from(ours.is_whole());
        } else if ours.ending == Ending::NoRule && theirs.frames.starts_with(&ours.frames) {
            self.ended_earlier += 1;
        } else {
            self.different.push(format!("ours {ours:x?}\n  theirs {theirs:x?}"));
        }
        true
    }

    /// Takes in what came of other stacks.
    pub(crate) fn add_all(&mut self, other: &Self) {
        self.seen.extend(other.seen.iter().cloned());
        self.whole += other.whole;
        self.ended_earlier += other.ended_earlier;
        self.different.extend(other.different.iter().cloned());
    }

    pub(crate) fn distinct(&self) -> usize {
        self.seen.len()
    }

    /// The figures as a row of the table in docs/PERFORMANCE.md.
    pub(crate) fn row(&self) -> String {
        format!("| {} | {} | {} | {} |", self.distinct(), self.whole, self.ended_earlier, self.different.len())
    }
}
