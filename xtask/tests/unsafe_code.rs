//! Each `unsafe` of memtrace stands in docs/design/unsafe.md, with its reason.
//!
//! In: the sources, and the tables of that page. The word counts wherever it is code: blocks, functions, implementations,
//! attributes, and what macros are made of.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

#[path = "layers/rust_files.rs"]
mod rust_files;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use rust_files::collect;
use syn::{
    buffer::Cursor,
    parse::{Parse, ParseStream},
};

/// The page.
const PAGE: &str = "docs/design/unsafe.md";

/// The sources that it speaks of. Programs that tests trace are not among them.
const FOLDERS: [&str; 6] =
    ["fuzz/src", "memtrace-common/src", "memtrace-ebpf/src", "memtrace/src", "memtrace/tests/it", "xtask"];

/// How often a source says `unsafe`, but for comments and text.
struct Count(usize);

impl Parse for Count {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        input.step(|cursor| {
            let (count, end) = count(*cursor);
            Ok((Self(count), end))
        })
    }
}

/// The count from a place on, and where it ends.
fn count(mut at: Cursor<'_>) -> (usize, Cursor<'_>) {
    let mut sum = 0;
    loop {
        if let Some((within, _, _, rest)) = at.any_group() {
            sum += count(within).0;
            at = rest;
        } else if let Some((word, rest)) = at.ident() {
            sum += usize::from(word == "unsafe");
            at = rest;
        } else if let Some((_, rest)) = at.token_tree() {
            at = rest;
        } else {
            return (sum, at);
        }
    }
}

fn in_source(text: &str) -> usize {
    syn::parse_str::<Count>(text).unwrap().0
}

/// How often each file that the page does not leave out says it.
fn in_sources() -> BTreeMap<String, usize> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut files = Vec::new();
    for folder in FOLDERS {
        collect(&root.join(folder), &mut files);
    }
    let name = |file: &PathBuf| file.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
    let counted = files.iter().map(|file| (name(file), in_source(&fs::read_to_string(file).unwrap())));
    counted.filter(|(_, count)| *count != 0).collect()
}

/// The rows of the page's tables: `` | `file` | count | what | why | invariant | ``.
fn in_page(page: &str) -> BTreeMap<String, usize> {
    let mut rows = BTreeMap::new();
    for line in page.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim().trim_matches('|').split('|').map(str::trim).collect();
        let [file, count, what, why, invariant] = cells[..] else { panic!("{PAGE}: not five cells: {line}") };
        assert!(![what, why, invariant].contains(&""), "{PAGE}: an empty cell: {line}");
        let count = count.parse().unwrap_or_else(|_| panic!("{PAGE}: `{count}` is no count: {line}"));
        assert!(rows.insert(file.trim_matches('`').to_owned(), count).is_none(), "{PAGE}: two rows for {file}");
    }
    rows
}

/// In which the two differ, a line each.
fn differences(sources: &BTreeMap<String, usize>, page: &BTreeMap<String, usize>) -> Vec<String> {
    let files = sources.keys().chain(page.keys().filter(|file| !sources.contains_key(*file)));
    let difference = |file: &String| {
        let [found, told] = [sources, page].map(|counts| counts.get(file).copied().unwrap_or(0));
        (found != told).then(|| format!("{file} says `unsafe` {found} times, {PAGE} names {told}"))
    };
    files.filter_map(difference).collect()
}

#[test]
fn every_unsafe_has_its_reason_in_the_design_page() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let page = fs::read_to_string(root.join(PAGE)).unwrap();
    let differences = differences(&in_sources(), &in_page(&page));
    assert!(
        differences.is_empty(),
        "{}\nAdd a new one to the row of its file in {PAGE} (count, what, why, invariant), or take one out that is gone.",
        differences.join("\n")
    );
}

#[test]
fn the_word_counts_in_code_alone() {
    let text = "/// unsafe\n#[unsafe(no_mangle)]\nunsafe fn f() { unsafe { g(\"unsafe\") } } // unsafe\n\
                macro_rules! m { ($t:ty) => { unsafe impl P for $t {} }; }";
    assert_eq!(in_source(text), 4);
}

#[test]
fn a_new_one_and_one_that_is_gone_are_told() {
    let counts = |rows: &[(&str, usize)]| rows.iter().map(|(file, count)| ((*file).to_owned(), *count)).collect();
    let page = in_page("| file |\n| --- |\n| `a.rs` | 1 | a call | no other way | valid |\n| `c.rs` | 2 | x | y | z |");
    assert_eq!(page, counts(&[("a.rs", 1), ("c.rs", 2)]));
    let told = differences(&counts(&[("a.rs", 2), ("b.rs", 1)]), &page);
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(told[0].contains("a.rs says `unsafe` 2 times") && told[2].contains("c.rs says `unsafe` 0 times"));
}
