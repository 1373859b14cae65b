//! The holders of a process's live blocks: a tree of the ways that lead to them, one way each.

use serde::{Deserialize, Serialize};

use super::survival::Amount;

/// The most nodes of a tree.
pub const MAX_NODES: usize = 4096;

/// The holders of all live blocks at one look. The amounts of the nodes and `elsewhere` add up to `reached`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holders {
    /// Blocks to which roots lead.
    pub reached: Amount,
    /// Blocks to which nothing was seen to point that can be reached itself.
    pub unreached: Amount,
    /// The tree, each node behind its parent.
    pub nodes: Vec<HolderNode>,
    /// Blocks below roots that are none of the nodes: small ones.
    pub elsewhere: Amount,
    /// Blocks that count in the node of their holder, as they are too deep or nodes too many.
    pub joined: Amount,
    /// Bytes of memory that may hold pointers and are swapped out: they were left there, and not looked through.
    pub swapped_bytes: u64,
    /// Words that the kernel keeps for the process and that were not looked at, as there are too many descriptors.
    pub kernel_words_left_out: u64,
    /// Whether nodes have the bytes that they retain.
    pub has_retained: bool,
}

/// A node: a root, or blocks that are held in the same way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HolderNode {
    /// The index of the node that holds it; nothing for a root.
    pub parent: Option<u32>,
    /// The root, or the common trait of its blocks.
    pub label: HolderLabel,
    /// Its blocks; none for a root.
    pub own: Amount,
    /// Blocks below it that are in none of the nodes: small branches.
    pub below: Amount,
    /// The bytes to which no way leads but through its blocks, theirs included; 0 for a root, and where that was not asked for.
    pub retained_bytes: u64,
}

/// The root or the blocks that a node stands for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum HolderLabel {
    /// A root.
    Root(HolderRoot),
    /// Blocks.
    Block(BlockLabel),
}

/// Where pointers are that a program gets at without any other.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum HolderRoot {
    /// A variable of an image, or several where none is told apart.
    Data {
        /// The path of the image, as the process has it.
        image: String,
        /// Where the variable begins, as a virtual offset in the image; nothing for all its data that is not told apart.
        offset: Option<u64>,
        /// Its name, where the image's symbols tell it.
        symbol: Option<String>,
    },
    /// A thread-local variable of the program.
    ThreadLocal {
        /// The thread.
        thread: ThreadName,
        /// The path of the image.
        image: String,
        /// Where the variable begins in the image's thread-local data.
        offset: u64,
        /// Its name, where the image's symbols tell it.
        symbol: Option<String>,
    },
    /// A thread's stack, its registers, and its other thread-local memory.
    Thread(ThreadName),
    /// Other memory: the name of its mapping, which is empty for anonymous memory.
    Mapping(String),
    /// The word that the program gave the kernel with a descriptor to wait for (epoll_ctl(2)).
    Epoll {
        /// The epoll descriptor.
        descriptor: u32,
    },
}

/// A thread.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ThreadName {
    /// Its number, in memtrace's pid namespace.
    pub tid: u32,
    /// The name that the program gave it.
    pub name: String,
}

/// The common trait of the blocks of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum BlockLabel {
    /// Their usable size in bytes.
    Size(u64),
    /// Their usable size lies above a half of this power of two, and is this at most.
    UpTo(u64),
}

/// Blocks up to this size have labels of their own size each.
const EXACT_BYTES: u64 = 1024;

impl BlockLabel {
    /// The label of blocks of a usable size.
    #[must_use]
    pub fn of(size_bytes: u64) -> Self {
        match size_bytes.checked_next_power_of_two() {
            _ if size_bytes <= EXACT_BYTES => Self::Size(size_bytes),
            Some(most) => Self::UpTo(most),
            None => Self::UpTo(1 << 63),
        }
    }
}

impl HolderRoot {
    /// The kind in one word, for scripts.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Data { .. } => "global",
            Self::ThreadLocal { .. } | Self::Thread(_) => "thread",
            Self::Mapping(_) => "mapping",
            Self::Epoll { .. } => "kernel",
        }
    }
}

impl HolderLabel {
    /// The kind in one word, for scripts.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Root(root) => root.kind(),
            Self::Block(_) => "block",
        }
    }
}

/// Why it is not told who holds blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NoHolders {
    /// There are more blocks than there is memory for.
    TooManyBlocks {
        /// The most that there is memory for.
        most: u64,
    },
    /// They have more pointers to one another than are kept.
    TooManyPointers,
    /// Looking through all memory takes longer, or is more, than one look may.
    TooMuch,
    /// The process ended meanwhile.
    Gone,
    /// Its mappings, threads or memory could not be read a second time.
    Refused,
}

impl NoHolders {
    /// The cause in one word, for scripts.
    #[must_use]
    pub fn cause(self) -> &'static str {
        match self {
            Self::TooManyBlocks { .. } => "too-many-blocks",
            Self::TooManyPointers => "too-many-pointers",
            Self::TooMuch => "too-much",
            Self::Gone => "gone",
            Self::Refused => "refused",
        }
    }
}

impl Holders {
    /// The amounts of each node and all below it, those that are in no node included.
    #[must_use]
    pub fn totals(&self) -> Vec<Amount> {
        let mut totals: Vec<Amount> = self.nodes.iter().map(|node| node.own.plus(node.below)).collect();
        for (index, node) in self.nodes.iter().enumerate().rev() {
            let own = totals.get(index).copied().unwrap_or_default();
            // A parent comes first.
            let parent = node.parent.and_then(|parent| usize::try_from(parent).ok()).filter(|parent| *parent < index);
            if let Some(total) = parent.and_then(|parent| totals.get_mut(parent)) {
                *total = total.plus(own);
            }
        }
        totals
    }

    /// The indices of nodes from a root to one of them, both included.
    #[must_use]
    pub fn path(&self, node: usize) -> Vec<usize> {
        let mut path = vec![node];
        while let Some(parent) = path.last().and_then(|last| self.nodes.get(*last)?.parent) {
            // A parent comes first, so this ends.
            match usize::try_from(parent).ok().filter(|parent| path.last().is_some_and(|last| parent < last)) {
                Some(parent) => path.push(parent),
                None => break,
            }
        }
        path.reverse();
        path
    }

    /// Joins nodes that have the same holder and the same label, as they have where names came later.
    #[must_use]
    pub fn joined(mut self) -> Self {
        let mut new: Vec<HolderNode> = Vec::new();
        let mut places: Vec<u32> = Vec::new();
        let mut known = std::collections::HashMap::new();
        for mut node in std::mem::take(&mut self.nodes) {
            node.parent = node.parent.and_then(|parent| places.get(parent as usize).copied());
            let next = u32::try_from(new.len()).unwrap_or(u32::MAX);
            let place = *known.entry((node.parent, node.label.clone())).or_insert(next);
            match new.get_mut(place as usize) {
                Some(same) => {
                    same.own = same.own.plus(node.own);
                    same.below = same.below.plus(node.below);
                    same.retained_bytes = same.retained_bytes.saturating_add(node.retained_bytes);
                }
                None => new.push(node),
            }
            places.push(place);
        }
        self.nodes = new;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amount(objects: u64) -> Amount {
        Amount { bytes: objects * 100, objects }
    }

    fn node(parent: Option<u32>, label: HolderLabel, own: u64, below: u64) -> HolderNode {
        HolderNode { parent, label, own: amount(own), below: amount(below), retained_bytes: own * 10 }
    }

    fn data(offset: u64, symbol: &str) -> HolderLabel {
        let symbol = Some(symbol.to_owned());
        HolderLabel::Root(HolderRoot::Data { image: "/app".into(), offset: Some(offset), symbol })
    }

    fn blocks(bytes: u64) -> HolderLabel {
        HolderLabel::Block(BlockLabel::of(bytes))
    }

    #[test]
    fn small_sizes_are_told_apart_and_large_ones_by_powers_of_two() {
        let labels = [24, 1024, 1032, 2048, 2049, 1 << 20, u64::MAX].map(BlockLabel::of);
        let up_to = BlockLabel::UpTo;
        let expected = [
            BlockLabel::Size(24),
            BlockLabel::Size(1024),
            up_to(2048),
            up_to(2048),
            up_to(4096),
            up_to(1 << 20),
            up_to(1 << 63),
        ];
        assert_eq!(labels, expected);
    }

    #[test]
    fn nodes_of_one_variable_are_one_once_it_has_a_name() {
        let nodes = vec![
            node(None, data(8, "slots"), 0, 1),
            node(None, data(8, "slots"), 0, 2),
            node(Some(0), blocks(24), 3, 0),
            node(Some(1), blocks(24), 4, 5),
            node(Some(3), blocks(40), 6, 0),
        ];
        let holders = Holders { nodes, ..Holders::default() };
        let joined = holders.clone().joined();
        let expected =
            [node(None, data(8, "slots"), 0, 3), node(Some(0), blocks(24), 7, 5), node(Some(1), blocks(40), 6, 0)];
        assert_eq!(joined.nodes, expected);
        assert_eq!(joined.totals(), [amount(21), amount(18), amount(6)]);
        assert_eq!((joined.path(2), joined.path(0)), (vec![0, 1, 2], vec![0]));
        assert_eq!(holders.totals()[0].objects + holders.totals()[1].objects, 21);
    }

    #[test]
    fn a_tree_that_is_none_has_paths_that_end() {
        let nodes = vec![node(Some(1), blocks(24), 1, 0), node(Some(1), blocks(24), 1, 0)];
        let holders = Holders { nodes, ..Holders::default() };
        assert_eq!((holders.path(1), holders.path(0), holders.path(7)), (vec![1], vec![0], vec![7]));
        assert_eq!(holders.totals(), [amount(1), amount(1)]);
    }
}
