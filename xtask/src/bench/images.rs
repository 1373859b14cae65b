//! The time that it takes to compile the call frame information of a small, a middling and a large image.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, id},
};

use anyhow::Result;

use super::{figures::Section, workload::mapped_library};
use crate::shell::read;

pub(super) fn measure(memtrace: &Path) -> Result<Section> {
    let llvm = fs::read_dir("/usr/lib/x86_64-linux-gnu")?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("libLLVM")));
    let images = [Some(mapped_library(id(), "libc.so")?), Some(PathBuf::from("/usr/bin/python3.11")), llvm];
    let mut table = String::new();
    // Each in a process of its own: peaks of memory are of a process.
    for image in images.into_iter().flatten().filter(|image| image.exists()) {
        let text = read(Command::new(memtrace).arg("unwind-table").arg(image))?;
        // Of the first its head as well; what follows the table is said once below.
        let lines = text.lines().filter(|line| line.starts_with('|'));
        for line in lines.skip(if table.is_empty() { 0 } else { 2 }) {
            table += line;
            table.push('\n');
        }
    }
    Ok(Section { id: "images", command: "cargo xtask bench images".into(), matrix: None, figures: None, more: table })
}
