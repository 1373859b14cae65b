//! A target's memory, and its blocks wherever it says that they lie, in the look for what can still be reached.

use memtrace::{
    model::roots::WordKind,
    reach::{
        Extent,
        dominators::Dominators,
        holder_tree::{HolderTree, SHAPE},
        marking::{Layout, Rank, Reach},
    },
};

use crate::{Target, input::Input};

/// How many blocks, where each lies, the address of memory, and its contents.
pub const TARGET: Target = Target { name: "reach", run, seeds };

fn run(input: &[u8]) {
    let mut input = Input::new(input);
    let (kind, count) = (input.byte(), usize::from(input.byte()));
    let mut blocks: Vec<Extent> = (0..count).map(|_| Extent::new(input.long(), input.long())).collect();
    blocks.sort_unstable();
    let layout = if kind & 1 == 1 { Layout::Glibc } else { Layout::Other };
    let source = if kind & 2 == 2 { WordKind::Roots } else { WordKind::Nothing };
    let mut reach = Reach::new(blocks, layout);
    let (root, start) = (input.long(), input.long() & !7);
    reach.root(root, Rank::Outside, 0);
    let (one, other) = input.rest().split_at((input.rest().len() / 2) & !7);
    for (start, memory) in [(start, one), (start.saturating_add(one.len() as u64), other)] {
        reach.scan(start, memory, source, Rank::Memory).expect("there are fewer pointers than may be kept");
    }
    let reached = reach.follow(&mut || true).expect("nobody interrupts it");
    assert_eq!(reached.extents().len(), count);
    let dominators = Dominators::of(&reached, &mut || true).expect("nobody interrupts it");
    let label = |block: usize| u32::try_from(block % 3).unwrap_or(0);
    let tree = HolderTree::of(&reached, &|_| 0, &label, Some(&dominators), SHAPE, &mut || true);
    let tree = tree.expect("nobody interrupts it");
    let objects = tree.nodes.iter().map(|node| node.own.objects + node.below.objects).sum::<u64>();
    assert_eq!(objects + tree.elsewhere.objects, reached.order().len() as u64);
}

fn seeds() -> Vec<Vec<u8>> {
    let blocks = [(0x1010_u64, 24_u64), (0x1030, 24), (0x1050, 24), (1 << 40, 1 << 21), (u64::MAX - 64, 64)];
    let memory = [0_u64, 0, 0x1060, 0, 0, 0, 0x1030, 0, 0, 0, 0x1010, 1 << 40, (1 << 40) + 4096];
    let words = blocks.iter().flat_map(|(start, size)| [*start, *size]).chain([0x1027, 0x1000]).chain(memory);
    let words: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
    [0, 1, 2, 3].map(|kind| [&[kind, 5][..], &words].concat()).to_vec()
}
