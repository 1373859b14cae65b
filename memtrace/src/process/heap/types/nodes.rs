//! Nodes of lists and trees: blocks that begin with links, and of which the others have the links back.

use super::{
    super::bytes::{Reader, Stop},
    index::Index,
};
use crate::model::heap_types::Pattern;

/// Words at a block's beginning that have links.
pub(super) const LINK_WORDS: usize = 4;
/// The least usable bytes of a node of a list: two links and a value.
const LIST_NODE_BYTES: u64 = 24;
/// The least usable bytes of a node of a tree: a colour, three links and a value.
const TREE_NODE_BYTES: u64 = 40;
/// Addresses of programs are below, on x86-64 (with five levels of page tables, unless they ask for others).
const USER_END: u64 = 1 << 47;
/// Addresses below are nobody's.
const USER_START: u64 = 1 << 16;
/// Ends of lists and trees that lie outside of nodes and are read, at most.
const MAX_ENDS_READ: u32 = 1 << 16;

/// A link that leads nowhere.
const NULL: u32 = u32::MAX;
/// A link to where no block begins: the list's or the tree's own end.
const END: u32 = u32::MAX - 1;

/// A block that may be a node. There may be one for each block: 24 bytes.
#[derive(Clone, Copy, Debug)]
struct Node {
    block: u32,
    /// The label that the block has as well.
    label: u32,
    /// Of a list the next one and the one before; of a tree the parent, the left and the right child. By the block's number.
    links: [u32; 3],
    pattern: Pattern,
}

/// The blocks that may be nodes.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    all: Vec<Node>,
    ends_read: u32,
    /// Blocks that were not kept, and ends that were not read, as there were too many.
    passed_over: u64,
}

fn is_address(word: u64) -> bool {
    (USER_START..USER_END).contains(&word) && word.is_multiple_of(8)
}

fn is_block(link: u32) -> bool {
    link < END
}

#[inline]
fn link(index: &Index, word: u64) -> u32 {
    if word == 0 { NULL } else { index.at(word).unwrap_or(END) }
}

/// The links of a block that begins as a node does, with the pattern.
#[inline]
fn links(index: &Index, usable: u64, words: &[u64; LINK_WORDS]) -> Option<(Pattern, [u32; 3])> {
    let [first, second, third, fourth] = *words;
    let is_link = |word: u64| word == 0 || is_address(word);
    // The upper half of a colour's word is padding, which has what was there before.
    if first & 0xffff_ffff <= 1 && usable >= TREE_NODE_BYTES && is_address(second) && is_link(third) && is_link(fourth)
    {
        let links = [second, third, fourth].map(|word| link(index, word));
        let [_, left, right] = links;
        // Children are nodes.
        return (left != END && right != END).then_some((Pattern::TreeNode, links));
    }
    if usable < LIST_NODE_BYTES || !is_link(first) || !is_link(second) {
        return None;
    }
    let links = [link(index, first), link(index, second), NULL];
    // One that is alone has the end on both sides.
    let is_alone = links == [END, END, NULL] && first == second;
    (is_alone || links.iter().any(|link| is_block(*link))).then_some((Pattern::ListNode, links))
}

impl Nodes {
    /// Takes a block in, if it begins as a node does, with a label that it has as well; returns its number here.
    #[inline]
    pub(super) fn take(
        &mut self,
        index: &Index,
        (block, usable): (u32, u64),
        words: &[u64; LINK_WORDS],
        label: u32,
    ) -> Option<u32> {
        let (pattern, links) = links(index, usable, words)?;
        let number = u32::try_from(self.all.len()).ok()?;
        // By less than its double: all of it counts.
        let more = (self.all.len() / 4).max(1024);
        if self.all.len() == self.all.capacity() && self.all.try_reserve_exact(more).is_err() {
            self.passed_over = self.passed_over.saturating_add(1);
            return None;
        }
        self.all.push(Node { block, label, links, pattern });
        Some(number)
    }

    /// How many there are.
    pub(super) fn len(&self) -> u32 {
        u32::try_from(self.all.len()).unwrap_or(u32::MAX)
    }

    fn get(&self, number: u32) -> Option<&Node> {
        self.all.get(usize::try_from(number).ok()?)
    }

    /// The label of a node's block.
    pub(super) fn label(&self, number: u32) -> Option<u32> {
        self.get(number).map(|node| node.label)
    }

    /// Gives the block of a node another label.
    pub(super) fn set_label(&mut self, number: u32, label: u32) {
        if let Some(node) = usize::try_from(number).ok().and_then(|number| self.all.get_mut(number)) {
            node.label = label;
        }
    }

    /// How many blocks may be nodes and were not looked at, as there was no room or no time.
    pub(super) fn passed_over(&self) -> u64 {
        self.passed_over
    }

    /// The pattern of a node, if the others agree with it. `number_of` tells the number here of a block.
    pub(super) fn pattern(
        &mut self,
        reader: &mut Reader<'_>,
        index: &Index,
        number: u32,
        number_of: impl Fn(u32) -> Option<u32>,
    ) -> Result<Option<Pattern>, Stop> {
        let Some(node) = self.get(number).copied() else { return Ok(None) };
        // Whether one of the other's links leads back; nothing where there is no other.
        let agrees = |link: u32, sides: &[usize]| {
            let other = is_block(link).then(|| number_of(link).and_then(|number| self.get(number)))?;
            let leads_back = |other: &Node| {
                other.pattern == node.pattern && sides.iter().any(|side| other.links.get(*side) == Some(&node.block))
            };
            Some(other.is_some_and(leads_back))
        };
        let [first, second, third] = node.links;
        let agreements = match node.pattern {
            Pattern::TreeNode => [agrees(first, &[1, 2]), agrees(second, &[0]), agrees(third, &[0])],
            _ => [agrees(first, &[1]), agrees(second, &[0]), None],
        };
        let is_node = match agreements {
            [None, None, None] => self.is_alone(reader, index, &node)?,
            agreements => agreements.into_iter().flatten().all(|agrees| agrees),
        };
        Ok(is_node.then_some(node.pattern))
    }

    /// Whether the end of a list or a tree has the address of its only node.
    fn is_alone(&mut self, reader: &mut Reader<'_>, index: &Index, node: &Node) -> Result<bool, Stop> {
        if self.ends_read >= MAX_ENDS_READ {
            self.passed_over = self.passed_over.saturating_add(1);
            return Ok(false);
        }
        self.ends_read += 1;
        let Some((own, _)) = usize::try_from(node.block).ok().and_then(|block| index.block(block)) else {
            return Ok(false);
        };
        let Some([next, parent]) = reader.words::<2>(own)? else { return Ok(false) };
        Ok(match node.pattern {
            // The root, the leftmost and the rightmost.
            Pattern::TreeNode => reader.words::<4>(parent)?.is_some_and(|[_, ends @ ..]| ends == [own; 3]),
            _ => reader.words::<2>(next)? == Some([own; 2]),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_takes_little_room() {
        assert_eq!(size_of::<Node>(), 24);
    }
}
