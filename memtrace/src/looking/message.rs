//! The messages between memtrace and a process that looks: one question, one answer, each as JSON up to the end of the stream.
//!
//! The answer comes from a process that has read hostile memory, and is as untrusted as that.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    model::{
        heap::Heap,
        heap_report::NotRead,
        heap_types::TypeName,
        holders::{HolderLabel, HolderRoot, Holders, MAX_NODES},
        roots::ThreadWords,
    },
    process::status::printable,
};

/// The longest question, in bytes: a KiB for each of 65,536 threads.
pub(super) const MAX_QUESTION_BYTES: u64 = 64 << 20;
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
    /// Questions beside the heap's figures.
    pub(super) asked: Asked,
}

/// Questions to a look beside the figures of a heap.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// The types of blocks.
    pub types: bool,
    /// The holders of live blocks.
    pub holders: bool,
    /// The bytes that holders retain; that implies the holders.
    pub retained: bool,
    /// The words of threads that whoever asks knows of.
    pub threads: Vec<ThreadWords>,
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
    if let Answer::Read(heap) = &answer
        && !heap.holders.as_ref().is_none_or(are_holders)
    {
        return None;
    }
    let mut texts: Vec<&mut String> = match &mut answer {
        Answer::Read(heap) => {
            let types = heap.types.rows.iter_mut().flat_map(|row| texts_of_type(&mut row.name));
            let allocators = heap.allocators.iter_mut().flat_map(|allocator| {
                let optional = [&mut allocator.version, &mut allocator.image, &mut allocator.reason];
                optional.into_iter().filter_map(Option::as_mut).chain([&mut allocator.name])
            });
            let nodes = heap.holders.iter_mut().flat_map(|holders| &mut holders.nodes);
            let labels = nodes.flat_map(|node| texts_of(&mut node.label));
            allocators.chain(types).chain(labels).collect()
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

/// Whether nodes make a tree: few, each behind its holder, and roots where nothing holds them.
fn are_holders(holders: &Holders) -> bool {
    let is_node = |(index, node): (usize, &crate::model::holders::HolderNode)| {
        let is_root = matches!(node.label, HolderLabel::Root(_));
        node.parent.is_none_or(|parent| (parent as usize) < index) && node.parent.is_none() == is_root
    };
    holders.nodes.len() <= MAX_NODES && holders.nodes.iter().enumerate().all(is_node)
}

fn texts_of(label: &mut HolderLabel) -> Vec<&mut String> {
    match label {
        HolderLabel::Block(_) | HolderLabel::Root(HolderRoot::Epoll { .. }) => Vec::new(),
        HolderLabel::Root(HolderRoot::Data { image, symbol, .. }) => symbol.iter_mut().chain([image]).collect(),
        HolderLabel::Root(HolderRoot::ThreadLocal { thread, image, symbol, .. }) => {
            symbol.iter_mut().chain([image, &mut thread.name]).collect()
        }
        HolderLabel::Root(HolderRoot::Thread(thread)) => vec![&mut thread.name],
        HolderLabel::Root(HolderRoot::Mapping(name)) => vec![name],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        heap::Allocator,
        heap_types::{TypeFigures, Types},
        holders::{BlockLabel, HolderNode, ThreadName},
        survival::Amount,
    };

    fn holders(nodes: &[(Option<u32>, HolderLabel)]) -> Answer {
        let node = |(parent, label): &(Option<u32>, HolderLabel)| HolderNode {
            parent: *parent,
            label: label.clone(),
            own: Amount::default(),
            below: Amount::default(),
            retained_bytes: 0,
        };
        let holders = Holders { nodes: nodes.iter().map(node).collect(), ..Holders::default() };
        Answer::Read(Box::new(Heap { holders: Some(holders), ..Heap::default() }))
    }

    #[test]
    fn holders_are_a_tree_with_bounds_and_names_that_can_be_shown() {
        let block = HolderLabel::Block(BlockLabel::Size(24));
        let thread = |name: &str| HolderLabel::Root(HolderRoot::Thread(ThreadName { tid: 7, name: name.into() }));
        let root = (None, thread("a"));
        let right = holders(&[root.clone(), (Some(0), block.clone()), (Some(1), block.clone())]);
        assert_eq!(sent(&right), Some(right));
        let shown = holders(&[(None, thread("a\u{fffd}b"))]);
        assert_eq!(sent(&holders(&[(None, thread("a\x1bb"))])), Some(shown));
        for wrong in [
            holders(&[root.clone(), (Some(1), block.clone())]),
            holders(&[root.clone(), (Some(2), block.clone()), root.clone()]),
            holders(&[(None, block.clone())]),
            holders(&[root.clone(), (Some(0), thread("b"))]),
            holders(&[(None, thread(&"x".repeat(MAX_TEXT_BYTES + 1)))]),
            holders(&vec![root.clone(); MAX_NODES + 1]),
        ] {
            assert_eq!(sent(&wrong), None, "{wrong:?}");
        }
    }

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
