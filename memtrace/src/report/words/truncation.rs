//! Why the outer frames of a stack are missing.

use crate::model::truncation::Truncation;

/// Why the outer frames of a stack are missing.
#[must_use]
pub fn truncation(why: Truncation) -> &'static str {
    match why {
        Truncation::StackSwitch => "stack switch",
        Truncation::TooDeep => "deeper than 127 frames",
        Truncation::NoRule => "nothing tells the next frame",
        Truncation::NoCode => "the walk left the code",
        Truncation::NoReturnAddress => "the walk met no return address",
        Truncation::Unreadable => "the stack could not be read",
        Truncation::NotOutwards => "the next frame would lie further in",
        Truncation::NotKept => "the stack was not kept",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use memtrace_common::wire::stack::MAX_FRAMES;

    #[test]
    fn every_truncation_has_its_words() {
        let words: std::collections::HashSet<_> = Truncation::ALL.into_iter().map(truncation).collect();
        assert_eq!(words.len(), Truncation::ALL.len());
        assert_eq!(truncation(Truncation::StackSwitch), "stack switch");
        assert!(truncation(Truncation::TooDeep).contains(&MAX_FRAMES.to_string()));
    }
}
