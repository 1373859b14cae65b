//! docs/PERFORMANCE.md: prose by hand, figures between markers by `cargo xtask bench --write`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::shell::root;

pub(super) struct Document(String);

impl Document {
    pub(super) fn path() -> PathBuf {
        root().join("docs/PERFORMANCE.md")
    }

    /// The folder of the plots, and how the document names a file in it.
    pub(super) fn plot(name: &str) -> (PathBuf, String) {
        (root().join("docs/plots").join(name), format!("plots/{name}"))
    }

    pub(super) fn read() -> Result<Self> {
        let path = Self::path();
        fs::read_to_string(&path).map(Self).with_context(|| format!("cannot read {}", path.display()))
    }

    /// Replaces what stands between the markers of `id`.
    pub(super) fn put(&mut self, id: &str, body: &str) -> Result<()> {
        self.0 = replaced(&self.0, id, body).with_context(|| {
            format!("{} has no lines `<!-- bench: {id} -->` and `<!-- end -->`", Self::path().display())
        })?;
        Ok(())
    }

    pub(super) fn write(&self) -> Result<()> {
        let path = Self::path();
        write(&path, &self.0)
    }
}

/// Writes a file, and makes its folder where there is none.
pub(super) fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn replaced(text: &str, id: &str, body: &str) -> Option<String> {
    let (before, rest) = text.split_once(&format!("<!-- bench: {id} -->\n"))?;
    let (_, after) = rest.split_once("<!-- end -->\n")?;
    Some(format!("{before}<!-- bench: {id} -->\n{body}\n<!-- end -->\n{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stands_between_the_markers_is_replaced() {
        let text = "a\n<!-- bench: one -->\nold\n<!-- end -->\nb\n<!-- bench: two -->\n<!-- end -->\nc\n";
        let one = replaced(text, "one", "new").unwrap();
        assert_eq!(one, "a\n<!-- bench: one -->\nnew\n<!-- end -->\nb\n<!-- bench: two -->\n<!-- end -->\nc\n");
        assert_eq!(replaced(&one, "one", "old").unwrap(), text);
        assert!(replaced(text, "three", "new").is_none());
    }

    #[test]
    fn the_document_has_a_place_for_every_section() {
        let mut document = Document::read().unwrap();
        for id in ["pairs", "programs", "curves", "user-space", "budget", "growth", "images"] {
            document.put(id, "figures").unwrap();
        }
    }
}
