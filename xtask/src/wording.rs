//! The wording of comments and documentation: each sentence names its subject, so none begins with "What" or "Who".

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

/// Words that no sentence begins with.
const WITHOUT_SUBJECT: [&str; 4] = ["What", "Who", "Whatever", "Whoever"];
/// The folders and files that are read, from the root of the repository.
const READ: [&str; 8] =
    ["README.md", "CHANGELOG.md", "docs", "fuzz", "memtrace", "memtrace-common", "memtrace-ebpf", "xtask"];

/// Checks every comment of the sources, and every page.
///
/// # Errors
/// Where a sentence begins so, or a file cannot be read.
pub(crate) fn check(root: &Path) -> Result<()> {
    let mut files = Vec::new();
    for read in READ {
        collect(&root.join(read), &mut files)?;
    }
    let mut found = Vec::new();
    for file in &files {
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let is_page = file.extension().is_some_and(|extension| extension == "md");
        let name = file.strip_prefix(root).unwrap_or(file).display().to_string();
        found.extend(without_subject(&text, is_page).into_iter().map(|line| format!("{name}:{line}")));
    }
    if found.is_empty() {
        return Ok(());
    }
    bail!("a sentence begins with \"What\" or \"Who\": name its subject\n{}", found.join("\n"))
}

/// The files below a path whose wording is checked.
fn collect(path: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    const CHECKED: [&str; 5] = ["rs", "c", "h", "cc", "md"];
    if path.is_file() {
        if path.extension().is_some_and(|extension| CHECKED.iter().any(|checked| extension == *checked)) {
            files.push(path.to_owned());
        }
        return Ok(());
    }
    for entry in fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))? {
        let path = entry?.path();
        if !path.ends_with("target") {
            collect(&path, files)?;
        }
    }
    Ok(())
}

/// The lines, from 1, in which a sentence of a page, or of a comment of a source, begins with a word that is no subject. Such a
/// word begins a sentence wherever it has its capital letter; in quotes or as code it is only spoken of.
fn without_subject(text: &str, is_page: bool) -> Vec<usize> {
    let prose = |line| if is_page { Some(line) } else { comment(line) };
    let lines = text.lines().enumerate().filter_map(|(index, line)| Some((index + 1, prose(line)?)));
    lines
        .filter(|(_, prose)| words(prose).any(|word| WITHOUT_SUBJECT.contains(&word)))
        .map(|(number, _)| number)
        .collect()
}

/// The comment of a line.
fn comment(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let rest = line.strip_prefix("//").or_else(|| line.split_once(" // ").map(|(_, comment)| comment))?;
    Some(rest.trim_start_matches(['/', '!']))
}

/// The words of a line, but for those next to a quote or a backtick.
fn words(prose: &str) -> impl Iterator<Item = &str> {
    prose.split_whitespace().map(|word| word.trim_matches(['*', '(', ')', ',', ':', ';', '[', ']', '_']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_without_a_subject_are_found_in_comments() {
        let text = "#! What it is.\nlet what = 1; # Who knows.\n#/ It is. Whatever it is.\n    # Whoever asks\n";
        assert_eq!(without_subject(&text.replace('#', "//"), false), [1, 2, 3, 4]);
    }

    #[test]
    fn code_and_words_that_are_spoken_of_are_none() {
        let text = "enum What { Who }\n# Says what it is to who asks; \"What\" and `Who` are spoken of.\nlet url = \"a:#What\";\n";
        assert!(without_subject(&text.replace('#', "//"), false).is_empty());
    }

    #[test]
    fn a_page_is_prose_from_end_to_end() {
        assert_eq!(without_subject("# Title\n\n- **What counts** is told.\nIt says what.\n| Who |\n", true), [3, 5]);
    }
}
