//! The words on types of blocks: their names, and why they were not told.

use super::units;
use crate::model::heap_types::{NotTold, Pattern, TypeName};

/// A type as reports name it. Names of classes and of symbols are the program's, all else is the same in every report.
#[must_use]
pub fn type_name(name: &TypeName) -> String {
    match name {
        TypeName::Class(class) => class.clone(),
        TypeName::Around { class, offset, pattern } => {
            let block = pattern.map_or("block", pattern_name);
            format!("{block} with {class} at +{offset}")
        }
        TypeName::Table(table) => {
            let image = table.image.rsplit('/').next().unwrap_or_default();
            match &table.symbol {
                Some(symbol) => format!("table {symbol} in {image}"),
                None => format!("table at {image}+{:#x}", table.offset),
            }
        }
        TypeName::Pattern(pattern) => pattern_name(*pattern).to_owned(),
        TypeName::Text => "text".to_owned(),
    }
}

fn pattern_name(pattern: Pattern) -> &'static str {
    match pattern {
        Pattern::StringBuffer => "string buffer",
        Pattern::VectorBuffer => "vector buffer",
        Pattern::ListNode => "list node",
        Pattern::TreeNode => "tree node",
    }
}

/// Why types were not told, in one word, for scripts.
#[must_use]
pub fn not_told_cause(why: NotTold) -> &'static str {
    match why {
        NotTold::NotAsked => "not-asked",
        NotTold::Time(_) => "late",
        NotTold::Bytes | NotTold::Blocks => "too-much",
        NotTold::Memory => "no-memory",
        NotTold::Gone => "gone",
        NotTold::Failed => "failed",
    }
}

/// The same for people.
#[must_use]
pub fn not_told(why: NotTold) -> String {
    match why {
        NotTold::NotAsked => "nobody has asked for them (`memtrace heap` tells them)".to_owned(),
        NotTold::Time(limit) => {
            format!("reading the content of blocks takes more than the {} that were left", units::duration(limit))
        }
        NotTold::Bytes => "there is more memory to read than a look may".to_owned(),
        NotTold::Blocks => "there are more blocks than a look can keep a type of".to_owned(),
        NotTold::Memory => "there is no memory for a label of each block".to_owned(),
        NotTold::Gone => "the process has ended meanwhile".to_owned(),
        NotTold::Failed => "reading the content of blocks fails on an assertion".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::heap_types::Table;
    use std::time::Duration;

    #[test]
    fn every_type_has_a_name() {
        let table = |symbol: Option<&str>| {
            let symbol = symbol.map(str::to_owned);
            TypeName::Table(Table {
                image: "/lib/libgnutls.so".into(),
                offset: 0x21_3100,
                symbol,
                address: 1,
                is_sure: true,
            })
        };
        let around = |pattern| TypeName::Around { class: "zoo::Dog".into(), offset: 16, pattern };
        let cases = [
            (TypeName::Class("zoo::Dog".into()), "zoo::Dog"),
            (around(None), "block with zoo::Dog at +16"),
            (around(Some(Pattern::ListNode)), "list node with zoo::Dog at +16"),
            (table(None), "table at libgnutls.so+0x213100"),
            (table(Some("file_operations")), "table file_operations in libgnutls.so"),
            (TypeName::Pattern(Pattern::StringBuffer), "string buffer"),
            (TypeName::Pattern(Pattern::VectorBuffer), "vector buffer"),
            (TypeName::Pattern(Pattern::TreeNode), "tree node"),
            (TypeName::Text, "text"),
        ];
        for (name, told) in cases {
            assert_eq!(type_name(&name), told);
        }
    }

    #[test]
    fn every_reason_has_a_cause_and_its_words() {
        let reasons =
            [NotTold::NotAsked, NotTold::Bytes, NotTold::Blocks, NotTold::Memory, NotTold::Gone, NotTold::Failed];
        assert!(reasons.iter().all(|why| !not_told(*why).is_empty() && !not_told_cause(*why).is_empty()));
        let late = NotTold::Time(Duration::from_millis(2500));
        assert_eq!(not_told(late), "reading the content of blocks takes more than the 2.5 s that were left");
        assert_eq!(not_told_cause(late), "late");
    }
}
