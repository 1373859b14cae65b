//! Dominators: a block dominates another where every way from the roots to that one goes through it. So a block retains the bytes of
//! all that it dominates: they could be freed with it.
//!
//! In: blocks that were marked. Out: for each its immediate dominator, and the bytes that it retains. The algorithm is Semi-NCA
//! (L. Georgiadis, "Linear-Time Algorithms for Dominators and Related Problems", 2005), which takes about as long for deep graphs as
//! for flat ones. Nothing is recursive.

use super::marking::{MarkingError, Reached};

/// Steps between two questions whether to go on.
const STEPS: usize = 1 << 16;
/// The vertex that points to all that roots lead to.
const TOP: u32 = 0;
/// A block that is not reached.
const NONE: u32 = u32::MAX;

/// The dominators of all blocks that are reached. Vertices are numbered in the order of a walk in depth, from 1 on.
#[derive(Debug)]
pub struct Dominators {
    /// The vertex of each block.
    vertices: Vec<u32>,
    /// The block of each vertex; the first is nobody's.
    blocks: Vec<u32>,
    /// The immediate dominator of each vertex.
    dominators: Vec<u32>,
    /// The bytes that each vertex retains.
    retained: Vec<u64>,
}

impl Dominators {
    /// Finds them. `goes_on` is asked now and then.
    ///
    /// # Errors
    /// Where that says no.
    pub fn of(reached: &Reached, goes_on: &mut dyn FnMut() -> bool) -> Result<Self, MarkingError> {
        let mut clock = Clock { goes_on, steps: 0 };
        let walk = Walk::of(reached, &mut clock)?;
        let predecessors = Predecessors::of(reached, &walk, &mut clock)?;
        let dominators = dominators(&walk, &predecessors, &mut clock)?;
        drop(predecessors);
        let Walk { vertices, blocks, .. } = walk;
        let mut retained = vec![0_u64; blocks.len()];
        for vertex in (1..blocks.len()).rev() {
            let own = reached.extents()[blocks[vertex] as usize].bytes();
            let sum = retained[vertex].saturating_add(own);
            retained[vertex] = sum;
            let dominator = &mut retained[dominators[vertex] as usize];
            *dominator = dominator.saturating_add(sum);
        }
        Ok(Self { vertices, blocks, dominators, retained })
    }

    /// The block that dominates a block and is nearest to it; nothing where that is none, or the block is not reached.
    #[must_use]
    pub fn immediate(&self, block: usize) -> Option<usize> {
        let vertex = self.vertices.get(block).copied().filter(|vertex| *vertex != NONE)?;
        let dominator = self.dominators[vertex as usize];
        (dominator != TOP).then(|| self.blocks[dominator as usize] as usize)
    }

    /// The bytes that a block retains, its own included; 0 where it is not reached.
    #[must_use]
    pub fn retained_bytes(&self, block: usize) -> u64 {
        let vertex = self.vertices.get(block).copied().filter(|vertex| *vertex != NONE);
        vertex.map_or(0, |vertex| self.retained[vertex as usize])
    }
}

/// Asks whether to go on.
struct Clock<'a> {
    goes_on: &'a mut dyn FnMut() -> bool,
    steps: usize,
}

impl Clock<'_> {
    fn step(&mut self) -> Result<(), MarkingError> {
        self.steps = self.steps.wrapping_add(1);
        if self.steps.is_multiple_of(STEPS) && !(self.goes_on)() { Err(MarkingError::Interrupted) } else { Ok(()) }
    }
}

/// A walk in depth from the roots.
struct Walk {
    vertices: Vec<u32>,
    blocks: Vec<u32>,
    /// From where each vertex was come to.
    parents: Vec<u32>,
}

impl Walk {
    fn of(reached: &Reached, clock: &mut Clock<'_>) -> Result<Self, MarkingError> {
        let count = reached.order().len();
        let mut walk = Self {
            vertices: vec![NONE; reached.extents().len()],
            blocks: Vec::with_capacity(count + 1),
            parents: Vec::with_capacity(count + 1),
        };
        walk.blocks.push(NONE);
        walk.parents.push(TOP);
        // Vertices, each with how many of its pointers were followed.
        let mut open: Vec<(u32, u32)> = Vec::new();
        for root in reached.roots() {
            walk.enter(root.block, TOP, &mut open);
            while let Some((vertex, followed)) = open.last_mut() {
                clock.step()?;
                let (vertex, pointers) =
                    (*vertex, reached.pointers_of(walk.blocks[*vertex as usize] as usize).get(*followed as usize));
                let Some(to) = pointers else {
                    open.pop();
                    continue;
                };
                *followed += 1;
                walk.enter(*to, vertex, &mut open);
            }
        }
        Ok(walk)
    }

    /// Comes to a block, unless it was there before.
    fn enter(&mut self, block: u32, from: u32, open: &mut Vec<(u32, u32)>) {
        let vertex = &mut self.vertices[block as usize];
        if *vertex != NONE {
            return;
        }
        #[expect(clippy::cast_possible_truncation, reason = "there are fewer than 2^31 blocks")]
        let new = self.blocks.len() as u32;
        *vertex = new;
        self.blocks.push(block);
        self.parents.push(from);
        open.push((new, 0));
    }
}

/// The vertices that point to each vertex.
struct Predecessors {
    first: Vec<u32>,
    all: Vec<u32>,
}

impl Predecessors {
    fn of(reached: &Reached, walk: &Walk, clock: &mut Clock<'_>) -> Result<Self, MarkingError> {
        let count = walk.blocks.len();
        let targets = |vertex: usize| {
            let pointers = reached.pointers_of(walk.blocks[vertex] as usize);
            pointers.iter().map(|to| walk.vertices[*to as usize] as usize)
        };
        // Where those of each vertex end, then, as they are filled in backwards, where they begin.
        let mut first = vec![0_u32; count + 1];
        for root in reached.roots() {
            first[walk.vertices[root.block as usize] as usize] += 1;
        }
        for vertex in 1..count {
            clock.step()?;
            targets(vertex).for_each(|to| first[to] += 1);
        }
        let mut sum = 0;
        for end in &mut first {
            sum += *end;
            *end = sum;
        }
        let mut all = vec![TOP; sum as usize];
        let mut put = |to: usize, from: u32| {
            first[to] -= 1;
            all[first[to] as usize] = from;
        };
        for root in reached.roots() {
            put(walk.vertices[root.block as usize] as usize, TOP);
        }
        for vertex in 1..count {
            clock.step()?;
            #[expect(clippy::cast_possible_truncation, reason = "there are fewer than 2^31 blocks")]
            targets(vertex).for_each(|to| put(to, vertex as u32));
        }
        Ok(Self { first, all })
    }

    fn of_vertex(&self, vertex: usize) -> &[u32] {
        &self.all[self.first[vertex] as usize..self.first[vertex + 1] as usize]
    }
}

/// The immediate dominator of each vertex.
fn dominators(walk: &Walk, predecessors: &Predecessors, clock: &mut Clock<'_>) -> Result<Vec<u32>, MarkingError> {
    let count = walk.blocks.len();
    #[expect(clippy::cast_possible_truncation, reason = "there are fewer than 2^31 blocks")]
    let itself: Vec<u32> = (0..count as u32).collect();
    let mut forest = Forest { ancestors: walk.parents.clone(), labels: itself.clone(), semi: itself, path: Vec::new() };
    for vertex in (1..count).rev() {
        clock.step()?;
        let mut least = walk.parents[vertex];
        for from in predecessors.of_vertex(vertex) {
            least = least.min(forest.least_semi(*from, vertex + 1, clock)?);
        }
        forest.semi[vertex] = least;
    }
    let mut dominators = walk.parents.clone();
    for vertex in 1..count {
        let mut nearest = dominators[vertex];
        while nearest > forest.semi[vertex] {
            clock.step()?;
            nearest = dominators[nearest as usize];
        }
        dominators[vertex] = nearest;
    }
    Ok(dominators)
}

/// The vertices that were seen to, linked to those that they were come from, with short cuts.
struct Forest {
    ancestors: Vec<u32>,
    /// The vertex with the least semidominator on the way to the ancestor.
    labels: Vec<u32>,
    semi: Vec<u32>,
    path: Vec<u32>,
}

impl Forest {
    /// The least semidominator on the way from a vertex up to those before `linked`.
    fn least_semi(&mut self, vertex: u32, linked: usize, clock: &mut Clock<'_>) -> Result<u32, MarkingError> {
        let mut at = vertex;
        while self.ancestors[at as usize] as usize >= linked {
            clock.step()?;
            self.path.push(at);
            at = self.ancestors[at as usize];
        }
        // From the top down, each gets the least of those above it, and the same ancestor.
        let mut above = at;
        while let Some(below) = self.path.pop() {
            let (own, over) = (self.labels[below as usize], self.labels[above as usize]);
            if self.semi[over as usize] < self.semi[own as usize] {
                self.labels[below as usize] = over;
            }
            self.ancestors[below as usize] = self.ancestors[above as usize];
            above = below;
        }
        Ok(self.semi[self.labels[vertex as usize] as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::fixture::{BLOCK_BYTES, graph},
        *,
    };
    use proptest::prelude::*;

    const BLOCKS: usize = 24;

    /// Whether a block is reached where another one is taken away.
    fn is_reached_without(pointers: &[(usize, usize)], roots: &[(usize, usize)], without: Option<usize>) -> Vec<bool> {
        let mut reached = vec![false; BLOCKS];
        let mut waiting: Vec<usize> = roots.iter().map(|(block, _)| *block).collect();
        while let Some(block) = waiting.pop() {
            if Some(block) != without && !std::mem::replace(&mut reached[block], true) {
                waiting.extend(pointers.iter().filter(|(from, _)| *from == block).map(|(_, to)| *to));
            }
        }
        reached
    }

    proptest! {
        #[test]
        fn a_block_dominates_what_cannot_be_reached_without_it(
            pointers in prop::collection::vec((0usize..BLOCKS, 0usize..BLOCKS), 0..70),
            roots in prop::collection::vec((0usize..BLOCKS, 0usize..4), 1..4),
        ) {
            let dominators = Dominators::of(&graph(BLOCKS, &pointers, &roots), &mut || true).unwrap();
            let all = is_reached_without(&pointers, &roots, None);
            for block in 0..BLOCKS {
                let without = is_reached_without(&pointers, &roots, Some(block));
                let is_dominated = |other: &usize| all[*other] && !without[*other];
                let dominated: Vec<usize> = (0..BLOCKS).filter(is_dominated).collect();
                prop_assert_eq!(dominators.retained_bytes(block), dominated.len() as u64 * BLOCK_BYTES);
                for other in dominated.into_iter().filter(|other| *other != block) {
                    // Up the tree of dominators, this one is met.
                    let mut above = dominators.immediate(other);
                    while let Some(next) = above.filter(|next| *next != block) {
                        above = dominators.immediate(next);
                    }
                    prop_assert_eq!(above, Some(block));
                }
            }
        }
    }

    #[test]
    fn a_long_list_with_ways_back_takes_no_long_time() {
        const LENGTH: usize = 200_000;
        // Each points to the next, to the one before, and to the first.
        let mut steps = 0_u64;
        let reached = super::super::fixture::list(LENGTH);
        let dominators = Dominators::of(&reached, &mut || {
            steps += 1;
            true
        });
        let dominators = dominators.unwrap();
        assert_eq!(dominators.retained_bytes(0), LENGTH as u64 * 32);
        assert_eq!(dominators.immediate(LENGTH - 1), Some(LENGTH - 2));
        assert!(steps < 100 * LENGTH as u64 / STEPS as u64, "{steps}");
        assert_eq!(Dominators::of(&reached, &mut || false).map(drop), Err(MarkingError::Interrupted));
    }
}
