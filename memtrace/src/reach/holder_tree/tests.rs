use super::{
    super::fixture::{BLOCK_BYTES, graph, list},
    *,
};
use proptest::prelude::*;

const WIDE: Shape = Shape { depth: 100, made: 10_000, kept: 10_000 };

fn objects(objects: u64) -> Amount {
    Amount { bytes: objects * BLOCK_BYTES, objects }
}

/// The tree of a graph whose blocks have these labels, with its nodes as `label > label: own + below`.
fn told(
    labels: &[u32],
    pointers: &[(usize, usize)],
    roots: &[(usize, usize)],
    shape: Shape,
) -> (Vec<String>, HolderTree) {
    let reached = graph(labels.len(), pointers, roots);
    let dominators = Dominators::of(&reached, &mut || true).unwrap();
    let place = |root: usize| u32::try_from(reached.roots()[root].place).unwrap();
    let tree =
        HolderTree::of(&reached, &place, &|block| labels[block], Some(&dominators), shape, &mut || true).unwrap();
    let lines = tree.nodes.iter().map(|node| {
        let mut path = Vec::new();
        let mut at = Some(node);
        while let Some(node) = at {
            path.push(match node.label {
                Label::Place(place) => format!("place {place}"),
                Label::Block(label) => label.to_string(),
            });
            at = node.parent.map(|parent| &tree.nodes[parent as usize]);
        }
        path.reverse();
        format!("{}: {} + {}", path.join(" > "), node.own.objects, node.below.objects)
    });
    (lines.collect(), tree.clone())
}

/// A table (1) of three records (2), each with a name (3), the first of a list (4) of three more; and one that nobody holds.
const LABELS: [u32; 12] = [1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 4, 9];
const POINTERS: [(usize, usize); 10] =
    [(0, 1), (0, 2), (0, 3), (1, 4), (2, 5), (3, 6), (1, 7), (7, 8), (8, 9), (9, 10)];

#[test]
fn blocks_with_the_same_way_to_them_are_one_node_and_lists_are_folded() {
    let (lines, tree) = told(&LABELS, &POINTERS, &[(0, 0)], WIDE);
    assert_eq!(
        lines,
        [
            "place 0: 0 + 0",
            "place 0 > 1: 1 + 0",
            "place 0 > 1 > 2: 3 + 0",
            "place 0 > 1 > 2 > 3: 3 + 0",
            "place 0 > 1 > 2 > 4: 4 + 0"
        ]
    );
    assert_eq!((tree.elsewhere, tree.joined), (Amount::default(), Amount::default()));
    // A place retains nothing by itself: others may lead to the same blocks.
    let retained: Vec<u64> = tree.nodes.iter().map(|node| node.retained_bytes / BLOCK_BYTES).collect();
    assert_eq!(retained, [0, 11, 10, 3, 4]);
}

#[test]
fn two_places_that_hold_a_block_count_it_once() {
    let (lines, tree) = told(&LABELS, &POINTERS, &[(0, 0), (7, 0)], WIDE);
    assert_eq!(lines[..4], ["place 0: 0 + 0", "place 0 > 1: 1 + 0", "place 1: 0 + 0", "place 1 > 4: 4 + 0"]);
    assert_eq!(lines[4..], ["place 0 > 1 > 2: 3 + 0", "place 0 > 1 > 2 > 3: 3 + 0"]);
    // The list does not go with the table.
    let retained: Vec<u64> = tree.nodes.iter().map(|node| node.retained_bytes / BLOCK_BYTES).collect();
    assert_eq!(retained, [0, 7, 0, 4, 6, 3]);
}

#[test]
fn what_is_deeper_or_too_much_counts_where_its_holder_does() {
    let (lines, tree) = told(&LABELS, &POINTERS, &[(0, 0)], Shape { depth: 2, ..WIDE });
    assert_eq!(lines, ["place 0: 0 + 0", "place 0 > 1: 1 + 0", "place 0 > 1 > 2: 10 + 0"]);
    assert_eq!((tree.joined, tree.elsewhere), (objects(7), objects(0)));
    let (lines, tree) = told(&LABELS, &POINTERS, &[(0, 0), (11, 0)], Shape { made: 2, ..WIDE });
    assert_eq!(lines, ["place 0: 0 + 0", "place 0 > 1: 11 + 0"]);
    assert_eq!((tree.joined, tree.elsewhere), (objects(10), objects(1)));
}

#[test]
fn the_smallest_branches_are_summed_up() {
    let (lines, tree) = told(&LABELS, &POINTERS, &[(0, 0), (11, 0)], Shape { kept: 3, ..WIDE });
    assert_eq!(lines, ["place 0: 0 + 0", "place 0 > 1: 1 + 0", "place 0 > 1 > 2: 3 + 7"]);
    assert_eq!((tree.elsewhere, tree.joined), (objects(1), objects(0)));
}

#[test]
fn a_long_list_is_one_node() {
    let reached = list(100_000);
    let dominators = Dominators::of(&reached, &mut || true).unwrap();
    let tree = HolderTree::of(&reached, &|_| 7, &|_| 1, Some(&dominators), SHAPE, &mut || true).unwrap();
    assert_eq!(tree.nodes.len(), 2);
    assert_eq!(tree.nodes[1].own, Amount { bytes: 3_200_000, objects: 100_000 });
    assert_eq!(tree.nodes[1].retained_bytes, 3_200_000);
    let interrupted = HolderTree::of(&reached, &|_| 7, &|_| 1, None, SHAPE, &mut || false);
    assert_eq!(interrupted, Err(MarkingError::Interrupted));
}

proptest! {
    #[test]
    fn amounts_add_up_whatever_is_left_out(
        labels in prop::collection::vec(0u32..5, 30),
        pointers in prop::collection::vec((0usize..30, 0usize..30), 0..80),
        roots in prop::collection::vec((0usize..30, 0usize..4), 1..5),
        (depth, made, kept) in (0u32..6, 0usize..40, 0usize..40),
    ) {
        let shape = Shape { depth, made, kept };
        let (_, tree) = told(&labels, &pointers, &roots, shape);
        let reached = graph(30, &pointers, &roots).order().len() as u64;
        let sum = tree.nodes.iter().fold(tree.elsewhere, |sum, node| sum.plus(node.own).plus(node.below));
        prop_assert_eq!(sum, objects(reached));
        prop_assert!(tree.nodes.len() <= kept.min(made));
        for (index, node) in tree.nodes.iter().enumerate() {
            prop_assert!(node.parent.is_none_or(|parent| (parent as usize) < index));
            prop_assert_eq!(node.parent.is_none(), matches!(node.label, Label::Place(_)));
        }
        prop_assert!(tree.joined.objects <= reached);
    }

    #[test]
    fn a_node_retains_what_cannot_be_reached_without_its_blocks(
        labels in prop::collection::vec(0u32..3, 20),
        pointers in prop::collection::vec((0usize..20, 0usize..20), 0..50),
        roots in prop::collection::vec((0usize..20, 0usize..4), 1..4),
    ) {
        // Each block of a node for itself: what two hold together is retained by neither.
        let reached = graph(20, &pointers, &roots);
        let (_, tree) = told(&labels, &pointers, &roots, WIDE);
        let total = reached.order().len() as u64 * BLOCK_BYTES;
        for node in &tree.nodes {
            prop_assert!(node.retained_bytes <= total);
            prop_assert!(node.retained_bytes >= node.own.bytes, "its own blocks at least");
        }
    }
}
