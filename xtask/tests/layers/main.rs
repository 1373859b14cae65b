//! The sources import one another in one direction: no file imports another that imports it in turn, and a room of memtrace/src
//! imports only rooms below it. Tests are not looked at.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod rust_files;
mod sources;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use sources::Sources;

/// The rooms of memtrace/src, from the top down: each may import those of every later line.
const LAYERS: [&[&str]; 7] = [
    &["cli"],
    &["tui", "agent", "monitor"],
    &["engine"],
    &["governor", "capture", "analysis", "symbolize", "report"],
    &["bpf", "looking", "profile", "unwind"],
    &["process", "reach"],
    &["model"],
];

/// Rooms of one line of which the first imports the second, with the reason.
const NEIGHBOURS: [(&str, &str, &str); 3] = [
    ("capture", "symbolize", "a target's images are opened once, for its probes and for its symbols"),
    ("report", "capture", "a program's own frames come behind the functions of the allocators that are hooked"),
    ("report", "analysis", "JUnit and baselines tell what the gate has let pass"),
];

fn sources(of: &str) -> Sources {
    Sources::of(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(of).join("src"))
}

/// The imports that lie on a circle of files.
fn circular(imports: &BTreeSet<(String, String)>) -> BTreeSet<(String, String)> {
    let mut imported: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (importer, file) in imports {
        imported.entry(importer).or_default().push(file);
    }
    let mut reached: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for from in imported.keys() {
        let (seen, mut next) = (reached.entry(from).or_default(), vec![*from]);
        while let Some(file) = next.pop() {
            next.extend(imported.get(file).into_iter().flatten().filter(|file| seen.insert(**file)));
        }
    }
    let comes_back = |(importer, file): &&(String, String)| {
        reached.get(&file[..]).is_some_and(|reached| reached.contains(&importer[..]))
    };
    imports.iter().filter(comes_back).cloned().collect()
}

/// The room of a file; `None` for what belongs to the crate as a whole.
fn room(file: &str) -> Option<&str> {
    match file.split_once('/') {
        Some((room, _)) => Some(room),
        None => file.strip_suffix(".rs").filter(|name| !["lib", "main"].contains(name)),
    }
}

/// The imports of a room that is not below.
fn upwards(imports: &BTreeSet<(String, String)>) -> BTreeSet<(String, String)> {
    let layer = |room: &str| LAYERS.iter().position(|rooms| rooms.contains(&room));
    let is_upwards = |(importer, imported): &&(String, String)| {
        let (Some(from), Some(to)) = (room(importer), room(imported)) else { return false };
        let is_neighbour = NEIGHBOURS.iter().any(|(one, other, _)| (*one, *other) == (from, to));
        from != to && !is_neighbour && layer(from) >= layer(to)
    };
    imports.iter().filter(is_upwards).cloned().collect()
}

fn listed(imports: &BTreeSet<(String, String)>) -> String {
    imports.iter().map(|(importer, imported)| format!("{importer} imports {imported}\n")).collect()
}

#[test]
fn no_file_imports_another_that_imports_it_in_turn() {
    for of in ["memtrace-common", "memtrace-ebpf", "memtrace"] {
        let sources = sources(of);
        assert!(sources.imports.len() > 10, "{of}: only {} imports were found", sources.imports.len());
        let circular = circular(&sources.imports);
        assert!(circular.is_empty(), "in {of}/src there is a circle of imports:\n{}", listed(&circular));
    }
}

#[test]
fn a_room_imports_only_rooms_below_it() {
    let sources = sources("memtrace");
    for room in sources.files.iter().filter_map(|file| room(file)) {
        assert!(LAYERS.iter().any(|rooms| rooms.contains(&room)), "the room {room} has no place in the layers");
    }
    let upwards = upwards(&sources.imports);
    assert!(upwards.is_empty(), "a room imports one that is not below it:\n{}", listed(&upwards));
}

#[test]
fn the_list_of_exceptions_holds_only_what_there_is() {
    let imports = sources("memtrace").imports;
    for (importer, imported, _) in NEIGHBOURS {
        let rooms = |(one, other): &(String, String)| (room(one), room(other)) == (Some(importer), Some(imported));
        assert!(imports.iter().any(rooms), "{importer} does not import {imported}: take it off the list NEIGHBOURS");
    }
}

/// Names that only one architecture has.
const OF_AN_ARCHITECTURE: [&str; 12] = [
    "rsp",
    "rbp",
    "rip",
    "rax",
    "rdi",
    "rsi",
    "rdx",
    "orig_rax",
    "pt_regs",
    "user_regs_struct",
    "X86_64",
    "NT_PRFPREG",
];

#[test]
fn registers_are_named_in_folders_for_architectures_only() {
    for of in ["memtrace-common", "memtrace-ebpf", "memtrace"] {
        for (file, names) in sources(of).names {
            // They read instructions of x86-64 from their first line to their last.
            let is_exempt = ["capture/placement.rs", "capture/returns.rs"].contains(&&file[..]);
            let named: Vec<_> = OF_AN_ARCHITECTURE.into_iter().filter(|name| names.contains(*name)).collect();
            let is_allowed = is_exempt || file.split('/').any(|folder| folder == "arch");
            assert!(named.is_empty() || is_allowed, "{of}/src/{file} names {named:?}: that belongs to a folder arch");
        }
    }
}

/// The rooms that hold data and make no sentences of it.
const WORDLESS: [&str; 4] = ["model", "profile", "analysis", "governor"];

/// Their files that format text all the same, with the reason.
const FORMATTING: [(&str, &str); 3] = [
    ("model/frame.rs", "a place without a function goes by its image and offset"),
    ("model/subject.rs", "the kernel goes by the processes that it works for"),
    ("analysis/gate/suppressions.rs", "an error has its own words"),
];

#[test]
fn only_the_report_makes_sentences_of_data() {
    let formats = |names: &BTreeSet<String>| names.contains("format!");
    let found: BTreeSet<String> = sources("memtrace")
        .names
        .into_iter()
        .filter(|(file, names)| room(file).is_some_and(|room| WORDLESS.contains(&room)) && formats(names))
        .map(|(file, _)| file)
        .collect();
    let known: BTreeSet<String> = FORMATTING.iter().map(|(file, _)| (*file).to_owned()).collect();
    assert_eq!(found, known, "a sentence belongs to report/words, a new exception to FORMATTING");
}

/// The imports among some files, as `importer imported`.
fn imports(files: &[(&str, &str)]) -> Vec<String> {
    let files: Vec<_> = files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    Sources::read(&files).imports.into_iter().map(|(importer, imported)| format!("{importer} {imported}")).collect()
}

#[test]
fn nested_trees_renames_and_paths_in_the_code_are_imports() {
    let found = imports(&[
        ("lib.rs", "pub mod a; pub mod b; pub mod c; pub mod d; pub mod e;"),
        ("a.rs", "use crate::{b::{self, X as Y}, c}; fn f() -> c::Z { println!(\"{}\", crate::d::g(b::h)); }"),
        ("b.rs", "pub struct X;"),
        ("c.rs", "use std::fmt; pub struct Z;"),
        ("d.rs", "pub(super) fn g() {} mod inner { use super::super::e; }"),
        ("e.rs", ""),
    ]);
    assert_eq!(found, ["a.rs b.rs", "a.rs c.rs", "a.rs d.rs", "d.rs e.rs"]);
}

#[test]
fn an_import_through_a_front_leads_to_the_file_behind_it() {
    let found = imports(&[
        ("lib.rs", "mod room; mod user;"),
        ("room/mod.rs", "mod one; mod two; pub use one::One; pub(crate) use self::two::Two as Second;"),
        ("room/one.rs", "use super::Second; pub struct One;"),
        ("room/two.rs", "pub struct Two;"),
        ("user.rs", "use super::room::{One, Second};"),
    ]);
    assert_eq!(found, ["room/one.rs room/two.rs", "user.rs room/one.rs", "user.rs room/two.rs"]);
}

#[test]
fn a_front_that_uses_what_it_names_imports_it() {
    let found = imports(&[
        ("main.rs", "mod room;"),
        ("room.rs", "mod one; pub use one::One; pub fn f() -> One { One }"),
        ("room/one.rs", "use super::f; pub struct One;"),
    ]);
    assert_eq!(found, ["room.rs room/one.rs", "room/one.rs room.rs"]);
}

#[test]
fn tests_import_what_they_like() {
    let found = imports(&[
        ("lib.rs", "pub mod a; pub mod b; #[cfg(test)] mod fixture;"),
        ("a.rs", "#[cfg(test)] use crate::b; #[cfg(test)] mod tests { use crate::b::X; }"),
        ("b.rs", "#[cfg(test)] mod tests;"),
        ("b/tests.rs", "use crate::a;"),
        ("fixture.rs", "use crate::a;"),
    ]);
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn of_a_circle_every_import_is_found_and_no_other() {
    let edges = [("a", "b"), ("b", "c"), ("c", "a"), ("c", "d"), ("e", "a")];
    let edges = edges.map(|(from, to)| (from.to_owned(), to.to_owned()));
    assert_eq!(circular(&BTreeSet::from(edges.clone())), edges[..3].iter().cloned().collect());
}

#[test]
fn imports_of_rooms_above_and_beside_are_found() {
    let edges = [
        ("model/a.rs", "process/b.rs"),
        ("bpf/mod.rs", "profile/c.rs"),
        ("capture/a.rs", "symbolize/b.rs"),
        ("engine/a.rs", "model/b.rs"),
    ];
    let edges = edges.map(|(from, to)| (from.to_owned(), to.to_owned()));
    assert_eq!(upwards(&BTreeSet::from(edges.clone())), edges[..2].iter().cloned().collect());
}
