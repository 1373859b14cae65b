//! The holder tree: blocks summed up by the way that leads to them, one way each. Two blocks are in the same node where their holders
//! are and both have the same label; a block with the label of its holder is in its holder's node, so a list or a tree is one.
//!
//! In: blocks that were marked, a label for each, a place for each root. Out: nodes, each behind its parent, and what is left out.

use std::{cmp::Reverse, collections::HashMap};

use super::{
    dominators::Dominators,
    marking::{MarkingError, Parent, Reached},
};
use crate::model::survival::Amount;

/// Steps between two questions whether to go on.
const STEPS: usize = 1 << 16;
/// No node, in place of a block's.
const NONE: u32 = u32::MAX;

/// The bounds of a tree.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// How many levels of blocks there are. Deeper blocks count in the node of their holder.
    pub depth: u32,
    /// How many nodes are made. Where there are more, their blocks count in the node of their holder.
    pub made: usize,
    /// How many nodes are kept: those with most bytes. The others are summed up.
    pub kept: usize,
}

/// Bounds within which a tree tells most of what there is to tell.
pub const SHAPE: Shape = Shape { depth: 16, made: 1 << 20, kept: 4096 };

/// The common trait of the blocks, or the roots, of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Label {
    /// The place of roots.
    Place(u32),
    /// The label of blocks.
    Block(u32),
}

/// A node of the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// The node of the holders of its blocks; nothing for a place of roots.
    pub parent: Option<u32>,
    /// The common trait of its blocks.
    pub label: Label,
    /// Its blocks.
    pub own: Amount,
    /// Blocks below it whose nodes were not kept.
    pub below: Amount,
    /// The bytes that its blocks retain together; 0 without dominators.
    pub retained_bytes: u64,
}

/// A tree of holders. All amounts together are those of the blocks that are reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HolderTree {
    /// The nodes that were kept, each behind its parent.
    pub nodes: Vec<Node>,
    /// Blocks below places of roots that were not kept.
    pub elsewhere: Amount,
    /// Blocks that count in the node of their holder, as there would be too many nodes otherwise.
    pub joined: Amount,
}

/// Nodes while blocks are put into them.
struct Growing {
    shape: Shape,
    nodes: Vec<(Node, u32)>,
    by_label: HashMap<(u32, Label), u32>,
    /// The node that was found last: neighbours in the order of marking often have the same.
    last: Option<((u32, Label), u32)>,
}

impl Growing {
    /// The node of a label below another one (or [`NONE`]), at a depth; nothing where there are too many.
    fn node(&mut self, parent: u32, label: Label, depth: u32) -> Option<u32> {
        let key = (parent, label);
        if let Some((_, node)) = self.last.filter(|(last, _)| *last == key) {
            return Some(node);
        }
        let node = match self.by_label.get(&key) {
            Some(node) => *node,
            None if self.nodes.len() >= self.shape.made => return None,
            None => {
                let new = u32::try_from(self.nodes.len()).ok().filter(|new| *new != NONE)?;
                let parent = (parent != NONE).then_some(parent);
                let (own, below) = (Amount::default(), Amount::default());
                self.nodes.push((Node { parent, label, own, below, retained_bytes: 0 }, depth));
                self.by_label.insert(key, new);
                new
            }
        };
        self.last = Some((key, node));
        Some(node)
    }
}

impl HolderTree {
    /// The tree of all blocks that are reached. `place` has the place of each of [`Reached::roots`], by its index, and `label` the label
    /// of each block, by its number. `goes_on` is asked now and then.
    ///
    /// # Errors
    /// Where that says no.
    pub fn of(
        reached: &Reached,
        place: &dyn Fn(usize) -> u32,
        label: &dyn Fn(usize) -> u32,
        dominators: Option<&Dominators>,
        shape: Shape,
        goes_on: &mut dyn FnMut() -> bool,
    ) -> Result<Self, MarkingError> {
        let mut growing = Growing { shape, nodes: Vec::new(), by_label: HashMap::new(), last: None };
        let (mut elsewhere, mut joined) = (Amount::default(), Amount::default());
        let mut node_of = vec![NONE; reached.extents().len()];
        for (step, block) in reached.order().iter().enumerate() {
            if step % STEPS == 0 && !goes_on() {
                return Err(MarkingError::Interrupted);
            }
            let block = *block as usize;
            let amount = Amount { bytes: reached.extents()[block].bytes(), objects: 1 };
            let holder = match reached.parent(block) {
                Parent::Nobody => continue,
                Parent::Root(root) => growing.node(NONE, Label::Place(place(root)), 0).unwrap_or(NONE),
                Parent::Block(parent) => node_of[parent],
            };
            let Some((held_by, depth)) = growing.nodes.get(holder as usize).copied() else {
                elsewhere = elsewhere.plus(amount);
                continue;
            };
            let own = Label::Block(label(block));
            let is_same = held_by.label == own;
            let new = if is_same || depth >= shape.depth { None } else { growing.node(holder, own, depth + 1) };
            if new.is_none() && !is_same {
                joined = joined.plus(amount);
            }
            let node = new.unwrap_or(holder);
            node_of[block] = node;
            let (node, _) = &mut growing.nodes[node as usize];
            node.own = node.own.plus(amount);
        }
        let mut nodes: Vec<Node> = growing.nodes.into_iter().map(|(node, _)| node).collect();
        if let Some(dominators) = dominators {
            retain(reached, dominators, &node_of, &mut nodes);
        }
        let nodes = prune(nodes, shape.kept, &mut elsewhere);
        Ok(Self { nodes, elsewhere, joined })
    }
}

/// Adds up the bytes that the blocks of each node retain. Dominators of a block are on the way to it, so where one of its own node is
/// among them, its immediate dominator is of that node, too, and retains it.
fn retain(reached: &Reached, dominators: &Dominators, node_of: &[u32], nodes: &mut [Node]) {
    for block in reached.order() {
        let block = *block as usize;
        let own = node_of[block];
        let above = dominators.immediate(block).map(|dominator| node_of[dominator]);
        if let Some(node) = nodes.get_mut(own as usize).filter(|_| above != Some(own)) {
            node.retained_bytes = node.retained_bytes.saturating_add(dominators.retained_bytes(block));
        }
    }
}

/// Keeps the nodes below which most bytes are, and sums up the others in what is above them.
fn prune(mut nodes: Vec<Node>, kept: usize, elsewhere: &mut Amount) -> Vec<Node> {
    let mut totals: Vec<u64> = nodes.iter().map(|node| node.own.bytes).collect();
    for index in (0..nodes.len()).rev() {
        if let Some(parent) = nodes[index].parent {
            totals[parent as usize] = totals[parent as usize].saturating_add(totals[index]);
        }
    }
    // A node has no fewer bytes than those below it, and comes first: what is kept has its parents.
    let mut order: Vec<usize> = (0..nodes.len()).collect();
    order.sort_by_key(|index| (Reverse(totals[*index]), *index));
    let mut is_kept = vec![false; nodes.len()];
    order.iter().take(kept).for_each(|index| is_kept[*index] = true);
    for index in (0..nodes.len()).rev().filter(|index| !is_kept[*index]) {
        let amount = nodes[index].own.plus(nodes[index].below);
        let above = nodes[index].parent.map(|parent| &mut nodes[parent as usize].below).unwrap_or(elsewhere);
        *above = above.plus(amount);
    }
    let mut places = vec![NONE; nodes.len()];
    let kept = places.iter_mut().zip(&is_kept).filter(|(_, is_kept)| **is_kept);
    kept.zip(0..).for_each(|((place, _), number)| *place = number);
    for node in &mut nodes {
        node.parent = node.parent.map(|parent| places[parent as usize]);
    }
    nodes.into_iter().zip(is_kept).filter(|(_, is_kept)| *is_kept).map(|(node, _)| node).collect()
}

#[cfg(test)]
mod tests;
