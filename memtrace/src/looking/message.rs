//! The messages between memtrace and a process that looks: one question, one answer, each as JSON up to the end of the stream.
//!
//! The answer comes from a process that has read hostile memory, and is as untrusted as that.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    model::{heap::Heap, heap_report::NotRead, heap_types::TypeName},
    process::status::printable,
};

/// The longest question, in bytes.
pub(super) const MAX_QUESTION_BYTES: u64 = 4096;
/// The longest answer, in bytes: a hundred a size class, of which there is one a multiple of 16 bytes at most.
pub(super) const MAX_ANSWER_BYTES: usize = 64 << 20;
/// The longest text in an answer, in bytes: a path.
const MAX_TEXT_BYTES: usize = 4096;

/// A question of memtrace's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Question {
    /// The process to look at.
    pub(super) pid: u32,
    /// How long the look may take by its own account.
    pub(super) time: Duration,
    /// How long it may take in all, after which nobody waits for it any more.
    pub(super) limit: Duration,
    /// The most bytes that it may read.
    pub(super) bytes: u64,
    /// The most bytes of memory that it may take.
    pub(super) memory_bytes: u64,
    /// Whether the types of blocks are to be told.
    pub(super) types: bool,
}

/// The answer to a question.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    /// The heap.
    Read(Box<Heap>),
    /// Why it was not read.
    NotRead(NotRead),
}

/// Reads an answer, with texts that can be shown. Nothing where it is none, or has a text that is too long.
#[must_use]
pub fn read(text: &[u8]) -> Option<Answer> {
    let mut answer = serde_json::from_slice(text).ok()?;
    let mut texts: Vec<&mut String> = match &mut answer {
        Answer::Read(heap) => {
            let types = heap.types.rows.iter_mut().flat_map(|row| texts_of_type(&mut row.name));
            let allocators = heap.allocators.iter_mut().flat_map(|allocator| {
                let optional = [&mut allocator.version, &mut allocator.image, &mut allocator.reason];
                optional.into_iter().filter_map(Option::as_mut).chain([&mut allocator.name])
            });
            allocators.chain(types).collect()
        }
        Answer::NotRead(NotRead::Refused { error } | NotRead::TooMuch { error } | NotRead::Failed { error }) => {
            vec![error]
        }
        Answer::NotRead(_) => Vec::new(),
    };
    if texts.iter().any(|text| text.len() > MAX_TEXT_BYTES) {
        return None;
    }
    for text in &mut texts {
        **text = printable(text);
    }
    Some(answer)
}

fn texts_of_type(name: &mut TypeName) -> Vec<&mut String> {
    match name {
        TypeName::Class(class) | TypeName::Around { class, .. } => vec![class],
        TypeName::Table(table) => table.symbol.iter_mut().chain([&mut table.image]).collect(),
        TypeName::Pattern(_) | TypeName::Text => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        heap::Allocator,
        heap_types::{TypeFigures, Types},
    };

    fn with_image(image: String) -> Answer {
        let allocator = Allocator { name: "glibc".into(), image: Some(image), ..Allocator::default() };
        Answer::Read(Box::new(Heap { allocators: vec![allocator], ..Heap::default() }))
    }

    fn sent(answer: &Answer) -> Option<Answer> {
        read(&serde_json::to_vec(answer).unwrap())
    }

    #[test]
    fn texts_of_an_answer_reach_the_terminal_without_control_characters() {
        assert_eq!(sent(&with_image("/a\x1b[2J".into())), Some(with_image("/a\u{fffd}[2J".into())));
        let with_class = |class: &str| {
            let name = TypeName::Class(class.into());
            let rows = vec![TypeFigures { name, objects: 1, bytes: 24, inside_objects: 0 }];
            Answer::Read(Box::new(Heap { types: Types { rows, ..Types::default() }, ..Heap::default() }))
        };
        assert_eq!(sent(&with_class("3D\x1bg")), Some(with_class("3D\u{fffd}g")));
        let failed = |error: &str| Answer::NotRead(NotRead::Failed { error: error.into() });
        assert_eq!(sent(&failed("a\nb")), Some(failed("a\u{fffd}b")));
    }

    #[test]
    fn texts_of_an_answer_have_bounds() {
        assert!(sent(&with_image("x".repeat(MAX_TEXT_BYTES))).is_some());
        assert_eq!(sent(&with_image("x".repeat(MAX_TEXT_BYTES + 1))), None);
        assert_eq!((read(b""), read(b"{}")), (None, None));
    }
}
