use super::{super::fixture::graph, *};
use proptest::prelude::*;

fn memory(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn marks(reach: Reach) -> Vec<bool> {
    let reached = reach.follow(&mut || true).unwrap();
    (0..reached.extents().len()).map(|block| reached.is_reached(block)).collect()
}

/// Three blocks of 24 bytes in chunks of 32.
fn three() -> Vec<Extent> {
    [0x1010, 0x1030, 0x1050].map(|start| Extent::new(start, 24)).to_vec()
}

#[test]
fn what_is_pointed_to_is_reached_and_what_it_points_to_and_nothing_else() {
    let mut reach = Reach::new(three(), Layout::Glibc);
    // The first points into the middle of the third, which points back; nobody points to the second, but itself.
    reach
        .scan(0x1000, &memory(&[0, 0, 0x1060, 0, 0, 0, 0x1030, 0, 0, 0, 0x1010]), WordKind::Nothing, Rank::Data)
        .unwrap();
    reach.root(0x1027, Rank::Data, 0);
    assert_eq!(marks(reach), [true, false, true]);
}

#[test]
fn words_outside_of_blocks_count_where_they_are_roots() {
    for (source, reached) in [(WordKind::Roots, true), (WordKind::Nothing, false)] {
        let mut reach = Reach::new(three(), Layout::Glibc);
        reach.scan(0x2000, &memory(&[0x1050, 0x1048, 0x100f]), source, Rank::Data).unwrap();
        assert_eq!(marks(reach), [false, false, reached]);
    }
}

#[test]
fn a_tag_above_the_address_hides_no_pointer_to_a_blocks_beginning() {
    const TAG: u64 = 0xfff8 << 48;
    let mut reach = Reach::new(three(), Layout::Glibc);
    // The first is a root with a tag, and points to the third so; inside of the second, such a word is a number.
    reach.scan(0x1000, &memory(&[0, 0, 0x1050 | TAG, 0]), WordKind::Nothing, Rank::Data).unwrap();
    reach.scan(0x2000, &memory(&[0x1038 | TAG]), WordKind::Roots, Rank::Data).unwrap();
    reach.root(0x1010 | TAG, Rank::Data, 0);
    assert_eq!(marks(reach), [true, false, true]);
}

#[test]
fn glibcs_pointers_to_what_follows_a_block_do_not_reach_it() {
    for (layout, reached) in [(Layout::Other, true), (Layout::Glibc, false)] {
        let mut reach = Reach::new(three(), layout);
        // Where the first block's last word is, glibc's next chunk begins.
        reach.scan(0x2000, &memory(&[0x1020]), WordKind::Roots, Rank::Data).unwrap();
        reach.root(0x1040, Rank::Data, 0);
        assert_eq!(marks(reach), [reached, reached, false]);
    }
    let mut reach = Reach::new(three(), Layout::Glibc);
    reach.scan(0x2000, &memory(&[0x1018, 0x1030]), WordKind::Roots, Rank::Data).unwrap();
    assert_eq!(marks(reach), [true, true, false]);
}

#[test]
fn blocks_of_no_bytes_and_blocks_that_overlap_are_told_apart() {
    let mut reach =
        Reach::new(vec![Extent::new(0x1000, 0), Extent::new(0x1010, 0x100), Extent::new(0x1020, 8)], Layout::Other);
    reach.root(0x1000, Rank::Data, 0);
    reach.root(0x1028, Rank::Data, 0);
    reach.root(0x1020, Rank::Data, 0);
    assert_eq!(marks(reach), [true, false, true]);
    assert!(marks(Reach::new(Vec::new(), Layout::Other)).is_empty());
}

/// The same as simply as can be.
fn naively(blocks: &[Extent], words: &[(u64, u64)], roots: &[u64]) -> Vec<bool> {
    let at = |address: u64| blocks.iter().position(|block| block.start <= address && address < block.end);
    let mut reached = vec![false; blocks.len()];
    let mut waiting: Vec<usize> = roots.iter().filter_map(|root| at(*root)).collect();
    while let Some(block) = waiting.pop() {
        if !std::mem::replace(&mut reached[block], true) {
            let own = |(address, _): &&(u64, u64)| at(*address) == Some(block) && address + 8 <= blocks[block].end;
            waiting.extend(words.iter().filter(own).filter_map(|(_, word)| at(*word)));
        }
    }
    reached
}

proptest! {
    #[test]
    fn what_is_reached_is_what_a_plain_search_reaches(
        shape in prop::collection::vec((0u64..4, 0u64..9, prop::bool::weighted(0.05)), 1..60),
        words in prop::collection::vec((any::<prop::sample::Index>(), 0u64..80, any::<bool>()), 300),
        piece in 1usize..40,
    ) {
        let mut blocks: Vec<Extent> = Vec::new();
        let mut at = 0x10_0000;
        for (gap, size, is_far) in shape {
            at += gap * 8 + if is_far { 3 << 20 } else { 0 };
            blocks.push(Extent::new(at, size * 8));
            at += size.max(1) * 8;
        }
        let value = |(index, offset, is_pointer): &(prop::sample::Index, u64, bool)| {
            if *is_pointer { blocks[index.index(blocks.len())].start + offset } else { *offset }
        };
        let roots: Vec<u64> = words[..3].iter().map(value).collect();
        let mut values = words[3..].iter().map(value).cycle();
        let mut reach = Reach::new(blocks.clone(), Layout::Other);
        let mut all = Vec::new();
        for block in &blocks {
            let own: Vec<u64> = (block.start..block.end).step_by(8).map(|_| values.next().unwrap_or(0)).collect();
            all.extend((block.start..).step_by(8).zip(own.iter().copied()));
            for (index, part) in own.chunks(piece).enumerate() {
                let from = block.start + (index * piece * 8) as u64;
                reach.scan(from, &memory(part), WordKind::Nothing, Rank::Data).unwrap();
            }
        }
        roots.iter().for_each(|root| reach.root(*root, Rank::Outside, 0));
        prop_assert_eq!(marks(reach), naively(&blocks, &all, &roots));
    }

    #[test]
    fn parents_are_on_shortest_ways_from_roots_of_the_first_rank(
        pointers in prop::collection::vec((0usize..40, 0usize..40), 0..120),
        roots in prop::collection::vec((0usize..40, 0usize..4), 1..6),
    ) {
        let reached = graph(40, &pointers, &roots);
        // The distance of each block from the roots of the first rank that leads to it, as simply as can be.
        let mut ways = vec![None; 40];
        for rank in 0..4 {
            let mut new = vec![None; 40];
            let of_rank = |block: usize| roots.contains(&(block, rank));
            for block in (0..40).filter(|block| of_rank(*block) && ways[*block].is_none()) {
                new[block] = Some(0);
            }
            for _ in 0..40 {
                for (from, to) in pointers.iter().filter(|(_, to)| ways[*to].is_none()) {
                    let through = new[*from].map(|way: usize| way + 1);
                    new[*to] = [new[*to], through].into_iter().flatten().min();
                }
            }
            for (way, new) in ways.iter_mut().zip(new) {
                *way = way.or(new.map(|new| (rank, new)));
            }
        }
        for (block, way) in ways.iter().enumerate() {
            let told = match reached.parent(block) {
                Parent::Nobody => None,
                Parent::Root(root) => {
                    let root = reached.roots()[root];
                    prop_assert_eq!(root.block as usize, block);
                    Some((root.rank as usize, 0))
                }
                Parent::Block(parent) => {
                    prop_assert!(pointers.contains(&(parent, block)), "{} does not point to {}", parent, block);
                    ways[parent].map(|(rank, way)| (rank, way + 1))
                }
            };
            prop_assert_eq!(told, *way, "block {}", block);
        }
        let place = |block: usize| reached.order().iter().position(|one| *one as usize == block);
        for block in 0..40 {
            if let Parent::Block(parent) = reached.parent(block) {
                prop_assert!(place(parent) < place(block));
            }
            prop_assert_eq!(place(block).is_some(), reached.is_reached(block));
        }
    }
}

#[test]
fn of_several_roots_the_first_of_the_first_rank_counts() {
    let mut reach = Reach::new(three(), Layout::Other);
    reach.root(0x1010, Rank::Outside, 7);
    reach.scan(0x2000, &memory(&[0x1030, 0x1010]), WordKind::Roots, Rank::Thread).unwrap();
    reach.scan(0x3000, &memory(&[0x1010, 0x1018]), WordKind::Roots, Rank::Data).unwrap();
    reach.root(0x1010, Rank::Memory, 9);
    let reached = reach.follow(&mut || true).unwrap();
    let root = |block: u32, rank, place| Root { block, rank, place };
    assert_eq!(reached.roots(), [root(0, Rank::Data, 0x3000), root(1, Rank::Thread, 0x2000)]);
}

#[test]
fn marking_ends_where_nobody_wants_it_any_more() {
    let mut reach = Reach::new(three(), Layout::Other);
    reach.root(0x1010, Rank::Data, 0);
    assert_eq!(reach.follow(&mut || false).map(drop), Err(MarkingError::Interrupted));
}
