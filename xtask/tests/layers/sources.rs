//! Which files of a crate import which, read from its sources.
//!
//! In: a folder of sources, or files by name. Out: edges from file to file, tests excluded. Counted are `use` items and paths in the
//! code. An import through a re-export leads to the file that has the item.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use syn::{
    Attribute, Expr, Ident, Item, Token, UseTree, Visibility,
    punctuated::Punctuated,
    visit::{self, Visit},
};

use super::rust_files::collect;

/// A module, by its names from the crate's root on; an item, where its own name follows.
type Names = Vec<String>;

/// A name that a module has imported.
struct Import {
    module: Names,
    /// Its name there; `None` for all names of a module.
    name: Option<String>,
    target: Names,
    /// Whether others may import it from there.
    is_public: bool,
}

/// The contents of one file.
#[derive(Default)]
struct Reader {
    /// The module that is being read.
    module: Names,
    modules: BTreeSet<Names>,
    imports: Vec<Import>,
    /// Paths in the code, and the modules in which they stand.
    paths: Vec<(Names, Names)>,
    /// Every name in the code, but for what is imported; of a macro, with its `!`.
    names: BTreeSet<String>,
    /// Modules in files of their own that only tests have.
    tests: BTreeSet<Names>,
}

/// Which files of a crate import which.
#[derive(Default)]
pub(crate) struct Sources {
    /// The files, by name below the folder of sources.
    pub(crate) files: BTreeSet<String>,
    /// The imports of each file.
    pub(crate) imports: BTreeSet<(String, String)>,
    /// The names in the code of each file.
    pub(crate) names: BTreeMap<String, BTreeSet<String>>,
}

impl Sources {
    /// Reads a folder of sources.
    pub(crate) fn of(folder: &Path) -> Self {
        let mut files = Vec::new();
        collect(folder, &mut files);
        let name = |file: &Path| file.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
        let read = |file: &PathBuf| (name(file), fs::read_to_string(file).unwrap());
        Self::read(&files.iter().map(read).collect::<Vec<_>>())
    }

    /// Reads files, given by name and text.
    pub(crate) fn read(files: &[(String, String)]) -> Self {
        let is_library = files.iter().any(|(name, _)| name == "lib.rs");
        // The binary of a library is a crate of its own.
        let files = files.iter().filter(|(name, _)| !(is_library && name == "main.rs"));
        let mut read: BTreeMap<&str, Reader> = files.map(|(name, text)| (name.as_str(), reader(name, text))).collect();
        let tests: BTreeSet<Names> = read.values().flat_map(|file| file.tests.clone()).collect();
        read.retain(|name, _| !tests.iter().any(|test| module_of(name).starts_with(test)));
        let known = Known::of(&read);
        let mut sources = Self::default();
        for (name, file) in &read {
            sources.files.insert((*name).to_owned());
            for target in known.targets(file).into_iter().filter(|target| target != name) {
                sources.imports.insert(((*name).to_owned(), target));
            }
        }
        sources.names = read.into_iter().map(|(name, file)| (name.to_owned(), file.names)).collect();
        sources
    }
}

/// The module that a file holds.
fn module_of(file: &str) -> Names {
    let stem = file.strip_suffix(".rs").unwrap();
    let stem = stem.strip_suffix("/mod").unwrap_or(stem);
    match stem {
        "lib" | "main" => Vec::new(),
        stem => stem.split('/').map(str::to_owned).collect(),
    }
}

fn reader(name: &str, text: &str) -> Reader {
    let file = syn::parse_file(text).unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut reader = Reader { module: module_of(name), ..Reader::default() };
    reader.modules.insert(reader.module.clone());
    reader.visit_file(&file);
    reader
}

/// All modules of a crate, and what they import.
struct Known<'a> {
    /// The file of each module.
    files: BTreeMap<&'a Names, &'a str>,
    /// The item that each name stands for which a module has imported.
    aliases: BTreeMap<(&'a Names, &'a str), Names>,
}

impl<'a> Known<'a> {
    fn of(read: &'a BTreeMap<&'a str, Reader>) -> Self {
        let modules = read.iter().flat_map(|(name, file)| file.modules.iter().map(|module| (module, *name)));
        let mut known = Self { files: modules.collect(), aliases: BTreeMap::new() };
        for import in read.values().flat_map(|file| &file.imports) {
            if let (Some(name), Some(target)) = (&import.name, known.absolute(&import.module, &import.target)) {
                known.aliases.insert((&import.module, name), target);
            }
        }
        known
    }

    /// A path as it is from the crate's root on; `None` where it leads out of the crate.
    fn absolute(&self, module: &Names, path: &[String]) -> Option<Names> {
        let (first, rest) = path.split_first()?;
        let child = || [&module[..], &path[..1]].concat();
        match first.as_str() {
            "crate" => Some(rest.to_vec()),
            "self" => Some([module, rest].concat()),
            "super" => {
                let above = module[..module.len().checked_sub(1)?].to_vec();
                let is_over = rest.first().is_none_or(|next| next != "super");
                if is_over { Some([&above[..], rest].concat()) } else { self.absolute(&above, rest) }
            }
            _ if self.files.contains_key(&child()) => Some([module, path].concat()),
            name => Some([&self.aliases.get(&(module, name))?[..], rest].concat()),
        }
    }

    /// The file that has what `path` leads to.
    fn file(&self, path: &[String]) -> Option<&'a str> {
        let mut path = path.to_vec();
        // As many as an import can go through: a name that stands for itself leads nowhere.
        for _ in 0..16 {
            let length = (0..=path.len()).rev().find(|length| self.files.contains_key(&path[..*length].to_vec()))?;
            let (module, rest) = (path[..length].to_vec(), path[length..].to_vec());
            let alias = rest.first().and_then(|name| self.aliases.get(&(&module, name.as_str())));
            match alias {
                Some(target) => path = [&target[..], &rest[1..]].concat(),
                None => return self.files.get(&module).copied(),
            }
        }
        None
    }

    /// The files that one imports.
    fn targets(&self, file: &Reader) -> BTreeSet<String> {
        let imports = file.imports.iter().filter_map(|import| {
            let target = self.absolute(&import.module, &import.target)?;
            let is_used = import.name.as_ref().is_none_or(|name| file.names.contains(name));
            // A front that only names what its own files have needs none of them.
            let is_front = import.is_public && target.starts_with(&import.module) && !is_used;
            (!is_front).then_some(target)
        });
        let paths = file.paths.iter().filter_map(|(module, path)| self.absolute(module, path));
        imports.chain(paths).filter_map(|target| self.file(&target)).map(str::to_owned).collect()
    }
}

impl Reader {
    fn import(&mut self, tree: &UseTree, before: &[String], is_public: bool) {
        let with = |ident: &Ident| [before, &[ident.to_string()]].concat();
        let (name, target) = match tree {
            UseTree::Path(path) => return self.import(&path.tree, &with(&path.ident), is_public),
            UseTree::Group(group) => return group.items.iter().for_each(|tree| self.import(tree, before, is_public)),
            UseTree::Name(name) if name.ident == "self" => (before.last().cloned(), before.to_vec()),
            UseTree::Name(name) => (Some(name.ident.to_string()), with(&name.ident)),
            UseTree::Rename(rename) if rename.ident == "self" => (Some(rename.rename.to_string()), before.to_vec()),
            UseTree::Rename(rename) => (Some(rename.rename.to_string()), with(&rename.ident)),
            UseTree::Glob(_) => (None, before.to_vec()),
        };
        self.imports.push(Import { module: self.module.clone(), name, target, is_public });
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item(&mut self, item: &'ast Item) {
        let is_test = attributes(item).iter().any(|attribute| {
            attribute.path().is_ident("cfg") && attribute.parse_args::<Ident>().is_ok_and(|asked| asked == "test")
        });
        match item {
            Item::Mod(module) => {
                self.module.push(module.ident.to_string());
                match &module.content {
                    Some((_, items)) if !is_test => {
                        self.modules.insert(self.module.clone());
                        items.iter().for_each(|item| self.visit_item(item));
                    }
                    None if is_test => _ = self.tests.insert(self.module.clone()),
                    _ => {}
                }
                self.module.pop();
            }
            _ if is_test => {}
            Item::Use(import) => self.import(&import.tree, &[], !matches!(import.vis, Visibility::Inherited)),
            item => visit::visit_item(self, item),
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.segments.len() > 1 {
            let names = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
            self.paths.push((self.module.clone(), names));
        }
        visit::visit_path(self, path);
    }

    fn visit_ident(&mut self, name: &'ast Ident) {
        self.names.insert(name.to_string());
    }

    fn visit_macro(&mut self, called: &'ast syn::Macro) {
        self.names.extend(called.path.segments.last().map(|segment| format!("{}!", segment.ident)));
        // Of macros, only those that take expressions can be read.
        let arguments = called.parse_body_with(Punctuated::<Expr, Token![,]>::parse_terminated);
        arguments.into_iter().flatten().for_each(|argument| self.visit_expr(&argument));
    }

    fn visit_attribute(&mut self, _: &'ast Attribute) {}

    /// `pub(super)` imports nothing.
    fn visit_visibility(&mut self, _: &'ast Visibility) {}
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}
