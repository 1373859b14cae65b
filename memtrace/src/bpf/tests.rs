//! Rules for the sources of this room and of the others.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The code of every source file, by its path below `src`: without comments, and without tests.
fn sources() -> BTreeMap<PathBuf, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut folders, mut found) = (vec![root.clone()], BTreeMap::new());
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
                let text = fs::read_to_string(&path).unwrap();
                let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
                let code = code.lines().filter(|line| !line.trim_start().starts_with("//"));
                found.insert(path.strip_prefix(&root).unwrap().to_owned(), code.collect::<Vec<_>>().join("\n"));
            }
        }
    }
    found
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|letter: char| !letter.is_alphanumeric() && letter != '_')
}

#[test]
fn no_other_room_knows_aya() {
    const ITS_NAMES: [&str; 5] = ["aya", "aya_obj", "aya_log", "RingBuf", "MapData"];
    let (own, others): (Vec<_>, Vec<_>) = sources().into_iter().partition(|(path, _)| path.starts_with("bpf"));
    let known = |code: &str| words(code).find(|word| ITS_NAMES.contains(word)).map(str::to_owned);
    assert!(own.iter().any(|(_, code)| known(code).is_some()) && others.len() > 50);
    for (path, code) in others {
        assert_eq!(known(&code), None, "{}", path.display());
    }
}

/// The paths that follow `start` in code: one, or those of a group in braces.
fn paths_after<'a>(code: &'a str, start: &str) -> Vec<&'a str> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices(start) {
        let rest = &code[at + start.len()..];
        let mut depth = 0;
        let end = rest.find(|letter: char| {
            depth += i32::from(letter == '{') - i32::from(letter == '}');
            depth == 0 && !(letter.is_alphanumeric() || "_:{}".contains(letter))
        });
        let group = &rest[..end.unwrap_or(rest.len())];
        let mut begin = 0;
        let inner = group.strip_prefix('{').and_then(|inner| inner.strip_suffix('}')).unwrap_or(group);
        for (place, letter) in inner.char_indices().chain([(inner.len(), ',')]) {
            depth += i32::from(letter == '{') - i32::from(letter == '}');
            if letter == ',' && depth == 0 {
                found.extend(Some(inner[begin..place].trim()).filter(|path| !path.is_empty()));
                begin = place + 1;
            }
        }
    }
    found
}

#[test]
fn files_of_this_room_import_no_circle_and_nothing_from_the_front() {
    let sources = sources();
    let files = sources.iter().filter(|(path, _)| path.starts_with("bpf") && !path.ends_with("mod.rs"));
    let mut imports: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (path, code) in files {
        let file = path.file_stem().unwrap().to_string_lossy().into_owned();
        let of_file = imports.entry(file.clone()).or_default();
        for imported in ["super::", "self::", "crate::bpf::"].iter().flat_map(|start| paths_after(code, start)) {
            let first = imported.split("::").next().unwrap_or_default();
            let is_file = |name: &str| sources.keys().any(|path| path.ends_with(format!("{name}.rs")));
            assert!(is_file(first), "{file} imports {imported} from the front, not from the file that has it");
            of_file.insert(first.to_owned());
        }
    }
    assert!(imports["heap"].contains("maps") && imports["maps"].contains("named_map"), "{imports:?}");
    while !imports.is_empty() {
        let ground: BTreeSet<String> =
            imports.iter().filter(|(_, imported)| imported.is_empty()).map(|(file, _)| file.clone()).collect();
        assert!(!ground.is_empty(), "these import each other: {imports:?}");
        imports.retain(|file, _| !ground.contains(file));
        imports.values_mut().for_each(|imported| imported.retain(|file| !ground.contains(file)));
    }
}
