//! Suspects that are known and let pass: lines of `leak:PATTERN`, as LeakSanitizer has them.
//!
//! In: the text of a file, and sites. Out: the pattern that lets a site pass, if one does.

use std::fmt;

use thiserror::Error;

use crate::model::frame::{Frame, Stack};

/// The kind of line that is heeded.
const KIND: &str = "leak";

/// A line that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("line {line}: {problem}")]
pub struct SuppressionError {
    /// Its number, from 1.
    pub line: usize,
    /// The problem with it.
    pub problem: String,
}

/// A pattern: pieces of text that must follow one another, with anything between them, before and behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    pieces: Vec<String>,
    is_at_start: bool,
    is_at_end: bool,
}

/// The content of a file of suppressions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Suppressions {
    /// The patterns, in the order of the file.
    pub patterns: Vec<Pattern>,
    /// Lines of other kinds, which mean nothing here: their numbers, and their kinds.
    pub ignored: Vec<(usize, String)>,
}

impl Pattern {
    /// `*` stands for anything, `^` at the beginning and `$` at the end for these ends of the name.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let (is_at_start, rest) = text.strip_prefix('^').map_or((false, text), |rest| (true, rest));
        let (is_at_end, rest) = rest.strip_suffix('$').map_or((false, rest), |rest| (true, rest));
        let pieces = rest.split('*').map(str::to_owned).collect();
        Self { text: text.to_owned(), pieces, is_at_start, is_at_end }
    }

    /// Whether it stands for this name, or part of it.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let [first, .., last] = self.pieces.as_slice() else { return self.matches_whole(name, &self.pieces[0]) };
        let mut rest = name;
        if self.is_at_start {
            let Some(behind) = rest.strip_prefix(first.as_str()) else { return false };
            rest = behind;
        }
        let middle = usize::from(self.is_at_start)..self.pieces.len() - usize::from(self.is_at_end);
        for piece in &self.pieces[middle] {
            // The first place leaves most to those that follow.
            let Some(at) = rest.find(piece.as_str()) else { return false };
            rest = &rest[at + piece.len()..];
        }
        !self.is_at_end || rest.ends_with(last.as_str())
    }

    /// The same of a pattern without `*`.
    fn matches_whole(&self, name: &str, piece: &str) -> bool {
        match (self.is_at_start, self.is_at_end) {
            (true, true) => name == piece,
            (true, false) => name.starts_with(piece),
            (false, true) => name.ends_with(piece),
            (false, false) => name.contains(piece),
        }
    }

    /// Whether it stands for the function, the source file or the image of a frame.
    fn matches_frame(&self, frame: &Frame) -> bool {
        let function = frame.function.as_ref().ok();
        let file = function.and_then(|function| function.file.as_deref());
        let image = frame.place.in_image().0.map(|image| image.path.as_str());
        let names = [function.map(|function| function.name.as_str()), file, image];
        names.into_iter().flatten().any(|name| self.matches(name))
    }
}

impl fmt::Display for Pattern {
    /// The pattern as its line has it.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{KIND}:{}", self.text)
    }
}

impl Suppressions {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// For the first line that is neither empty, nor a comment (`#`), nor of the form `KIND:PATTERN`.
    pub fn parse(text: &str) -> Result<Self, SuppressionError> {
        let mut suppressions = Self::default();
        for (line, content) in (1..).zip(text.lines().map(str::trim)) {
            if content.is_empty() || content.starts_with('#') {
                continue;
            }
            let refused = |problem: String| SuppressionError { line, problem };
            let is_kind = |kind: &str| {
                !kind.is_empty() && kind.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
            };
            match content.split_once(':').filter(|(kind, _)| is_kind(kind)) {
                None => return Err(refused(format!("`{content}` is not of the form `leak:PATTERN`"))),
                Some((KIND, pattern)) if pattern.trim().is_empty() => {
                    return Err(refused("the pattern is empty; `leak:*` would let everything pass".to_owned()));
                }
                Some((KIND, pattern)) => suppressions.patterns.push(Pattern::new(pattern.trim())),
                Some((kind, _)) => suppressions.ignored.push((line, kind.to_owned())),
            }
        }
        Ok(suppressions)
    }

    /// The first pattern that stands for a frame of the stack, by its index.
    #[must_use]
    pub fn of(&self, stack: &Stack) -> Option<usize> {
        self.patterns.iter().position(|pattern| stack.frames().any(|frame| pattern.matches_frame(frame)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::frame::Reason, report::fixture};
    use proptest::prelude::*;

    #[test]
    fn patterns_are_parts_of_names_with_wildcards_and_ends() {
        let cases = [
            ("foo", "a_foo_b", true),
            ("foo", "fo_o", false),
            ("^foo", "foo_b", true),
            ("^foo", "a_foo", false),
            ("foo$", "foo_foo", true),
            ("foo$", "foo_b", false),
            ("^foo$", "foo", true),
            ("^foo$", "foofoo", false),
            ("a*c", "xabcx", true),
            ("a*c", "ca", false),
            ("^a*c$", "abcc", true),
            ("^a*c$", "abcd", false),
            ("^aa*aa$", "aaa", false),
            ("*", "", true),
            ("std::vector<*>::push_back", "void std::vector<int, A<int>>::push_back(int&&)", true),
            ("a$b", "a$b", true),
            ("é*", "caf\u{e9}", true),
        ];
        for (pattern, name, matches) in cases {
            assert_eq!(Pattern::new(pattern).matches(name), matches, "{pattern} on {name}");
        }
    }

    #[test]
    fn files_are_read_as_leak_sanitizers_and_wrong_lines_are_named() {
        let text = "# known\n\n  leak:libfoo.so  \nrace:Foo\nleak:^bar$\r\n";
        let suppressions = Suppressions::parse(text).unwrap();
        let patterns: Vec<String> = suppressions.patterns.iter().map(ToString::to_string).collect();
        assert_eq!(patterns, ["leak:libfoo.so", "leak:^bar$"]);
        assert_eq!(suppressions.ignored, [(4, "race".to_owned())]);
        for (text, line) in [("leak:a\nfoo\n", 2), ("leak:", 1), ("\n: x", 2), ("std::foo", 1), ("a b:c", 1)] {
            match Suppressions::parse(text) {
                // A namespace looks like a kind.
                Ok(read) => assert_eq!((text, read.ignored.len()), ("std::foo", 1)),
                Err(error) => assert_eq!(error.line, line, "{text}: {error}"),
            }
        }
    }

    #[test]
    fn functions_files_and_images_of_any_frame_count() {
        let report = fixture::report();
        let [leak, other] = report.processes[0].sites.as_slice() else { panic!("two sites") };
        let of = |text: &str, stack| Suppressions::parse(text).unwrap().of(stack);
        assert_eq!(of("leak:nobody\nleak:^main$", &leak.stack), Some(1));
        assert_eq!(of("leak:/src/demo.c", &leak.stack), Some(0));
        assert_eq!(of("leak:bin/demo$", &leak.stack), Some(0));
        assert_eq!(of("leak:libfoo.so", &leak.stack), None);
        assert!(other.stack.frames().all(|frame| frame.function == Err(Reason::NoSymbol)));
        assert_eq!(of("leak:libfoo.so", &other.stack), Some(0));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_and_any_pattern_matches_or_not(text in "\\PC{0,60}", name in "[a-c*$^]{0,8}") {
            _ = Suppressions::parse(&text);
            _ = Pattern::new(&name).matches(&text);
            // The text that a pattern was made of matches it.
            let plain: String = name.chars().filter(|c| c.is_alphabetic()).collect();
            let whole = ["^", &plain, "$"].concat();
            prop_assert!(Pattern::new(&whole).matches(&plain));
            let wild = Pattern::new(&name.replace(['$', '^'], "")).matches(&plain);
            prop_assert!(wild);
        }
    }
}
