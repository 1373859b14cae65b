//! The Rust files below a folder.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Adds the Rust files of a folder, and of those in it, to `files`.
pub(super) fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}
