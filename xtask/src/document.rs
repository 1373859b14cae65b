//! Documents of which the prose is by hand, and the figures between markers by a task's `--write`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::shell::root;

/// The figures that `cargo xtask bench` measures.
pub(crate) const PERFORMANCE: &str = "docs/PERFORMANCE.md";

/// The figures that `cargo xtask corpus` measures.
pub(crate) const VERDICTS: &str = "docs/VERDICTS.md";

pub(crate) struct Document {
    pub(crate) path: PathBuf,
    text: String,
}

impl Document {
    /// The folder of the plots, and how a document names a file in it.
    pub(crate) fn plot(name: &str) -> (PathBuf, String) {
        (root().join("docs/plots").join(name), format!("plots/{name}"))
    }

    pub(crate) fn read(name: &str) -> Result<Self> {
        let path = root().join(name);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self { path, text })
    }

    /// Replaces what stands between the markers of `id`.
    pub(crate) fn put(&mut self, id: &str, body: &str) -> Result<()> {
        self.text = replaced(&self.text, id, body).with_context(|| {
            format!("{} has no lines `<!-- bench: {id} -->` and `<!-- end -->`", self.path.display())
        })?;
        Ok(())
    }

    pub(crate) fn write(&self) -> Result<()> {
        write(&self.path, &self.text)
    }
}

/// Writes a file, and makes its folder where there is none.
pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
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
    fn the_documents_have_a_place_for_every_section() {
        let sections = [
            (PERFORMANCE, &["pairs", "programs", "curves", "user-space", "budget", "growth", "images"][..]),
            (VERDICTS, &["corpus-auto", "corpus-exact", "corpus-sampled", "programs"]),
        ];
        for (name, ids) in sections {
            let mut document = Document::read(name).unwrap();
            for id in ids {
                document.put(id, "figures").unwrap();
            }
        }
    }
}
