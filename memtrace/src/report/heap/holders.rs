//! Holders in reports: one object a way in JSON, an indented tree in the table.

use std::{
    cmp::Reverse,
    io::{self, Write},
};

use serde::Serialize;

use super::sections::{percent, share};
use crate::{
    model::{
        heap::Heap,
        holders::{HolderLabel, HolderNode, HolderRoot, Holders},
        survival::Amount,
    },
    report::{
        column::{Column, figure, text, write},
        words::{self, units},
    },
};

/// A way to blocks, in the report on heaps and in that of a run.
#[derive(Serialize)]
pub(super) struct JsonHolder {
    path: Vec<JsonStep>,
    objects: u64,
    bytes: u64,
    below_objects: u64,
    below_bytes: u64,
    retained_bytes: Option<u64>,
    share: f64,
}

/// A step of a way.
#[derive(Serialize)]
struct JsonStep {
    label: String,
    kind: &'static str,
    image: Option<String>,
    offset: Option<u64>,
    bytes: u64,
    objects: u64,
}

/// Everything that ways leave out.
#[derive(Serialize)]
pub(super) struct JsonHoldersSummary {
    reached_objects: u64,
    reached_bytes: u64,
    unreached_objects: u64,
    unreached_bytes: u64,
    elsewhere_objects: u64,
    elsewhere_bytes: u64,
    joined_objects: u64,
    joined_bytes: u64,
    swapped_bytes: u64,
    kernel_words_left_out: u64,
    left_out: usize,
}

/// The indices of nodes that stand for blocks by themselves, those with most bytes first.
fn ways(holders: &Holders) -> Vec<usize> {
    let stands = |node: &HolderNode| node.own.objects > 0 || node.below.objects > 0;
    let mut ways: Vec<usize> =
        holders.nodes.iter().enumerate().filter_map(|(index, node)| stands(node).then_some(index)).collect();
    ways.sort_by_key(|index| {
        Reverse(holders.nodes.get(*index).map_or(0, |node| node.own.bytes.saturating_add(node.below.bytes)))
    });
    ways
}

/// The ways to blocks, those with most bytes first, `top` at most.
pub(super) fn json_holders(holders: &Holders, top: usize) -> Vec<JsonHolder> {
    let total = holders.reached.bytes.saturating_add(holders.unreached.bytes);
    let way = |index: usize| {
        let node = holders.nodes.get(index)?;
        let is_root = matches!(node.label, HolderLabel::Root(_));
        Some(JsonHolder {
            path: holders.path(index).into_iter().filter_map(|step| holders.nodes.get(step)).map(json_step).collect(),
            objects: node.own.objects,
            bytes: node.own.bytes,
            below_objects: node.below.objects,
            below_bytes: node.below.bytes,
            retained_bytes: (holders.has_retained && !is_root).then_some(node.retained_bytes),
            share: share(node.own.bytes, total),
        })
    };
    ways(holders).into_iter().take(top).filter_map(way).collect()
}

fn json_step(node: &HolderNode) -> JsonStep {
    let (image, offset) = match &node.label {
        HolderLabel::Root(HolderRoot::Data { image, offset, .. }) => (Some(image.clone()), *offset),
        HolderLabel::Root(HolderRoot::ThreadLocal { image, offset, .. }) => (Some(image.clone()), Some(*offset)),
        HolderLabel::Root(_) | HolderLabel::Block(_) => (None, None),
    };
    JsonStep {
        label: words::holders::label(&node.label),
        kind: node.label.kind(),
        image,
        offset,
        bytes: node.own.bytes,
        objects: node.own.objects,
    }
}

/// Everything that the ways leave out, `top` of which are told at most.
pub(super) fn summary(holders: &Holders, top: usize) -> JsonHoldersSummary {
    JsonHoldersSummary {
        reached_objects: holders.reached.objects,
        reached_bytes: holders.reached.bytes,
        unreached_objects: holders.unreached.objects,
        unreached_bytes: holders.unreached.bytes,
        elsewhere_objects: holders.elsewhere.objects,
        elsewhere_bytes: holders.elsewhere.bytes,
        joined_objects: holders.joined.objects,
        joined_bytes: holders.joined.bytes,
        swapped_bytes: holders.swapped_bytes,
        kernel_words_left_out: holders.kernel_words_left_out,
        left_out: ways(holders).len().saturating_sub(top),
    }
}

/// A line of the tree: a node with all below it.
struct Line {
    total: Amount,
    /// Of all live bytes, from 0 to 1.
    share: f64,
    retained_bytes: Option<u64>,
    name: String,
}

/// Writes the tree, `top` lines of it, and what nothing holds.
pub(super) fn section(heap: &Heap, top: usize, width: Option<u16>, out: &mut dyn Write) -> io::Result<()> {
    if let Some(why) = &heap.no_holders {
        writeln!(out, "\nholders    not told: {}", words::holders::not_told(*why))?;
    }
    let Some(holders) = &heap.holders else { return Ok(()) };
    writeln!(out)?;
    let lines = lines(holders, top);
    let mut columns: Vec<Column<Line>> = vec![
        figure("BYTES", |line: &Line| units::bytes(line.total.bytes)),
        figure("OBJECTS", |line: &Line| units::count(line.total.objects)),
        figure("SHARE", |line: &Line| percent(line.share)),
    ];
    if holders.has_retained {
        columns.push(figure("RETAINED", |line: &Line| line.retained_bytes.map_or_else(String::new, units::bytes)));
    }
    columns.push(text("HELD BY, ONE WAY, WITH ALL BELOW", |line: &Line| line.name.clone()));
    write(&columns, lines.iter(), width, out)?;
    match holders.nodes.len().saturating_sub(lines.len()) {
        0 => {}
        more => writeln!(out, "… and {} smaller ones (--top N shows more)", units::count(more as u64))?,
    }
    for sentence in words::holders::remarks(holders, heap.consistency.threads_without_registers) {
        writeln!(out, "{sentence}")?;
    }
    Ok(())
}

/// The lines of the nodes below which most bytes are, each below its holder.
fn lines(holders: &Holders, top: usize) -> Vec<Line> {
    let totals = holders.totals();
    let total = |index: usize| totals.get(index).copied().unwrap_or_default();
    let all = holders.reached.bytes.saturating_add(holders.unreached.bytes);
    // A node has no fewer bytes than those below it, and comes before them.
    let mut largest: Vec<usize> = (0..holders.nodes.len()).collect();
    largest.sort_by_key(|index| (Reverse(total(*index).bytes), *index));
    largest.truncate(top);
    let mut below: Vec<Vec<usize>> = vec![Vec::new(); holders.nodes.len()];
    let mut waiting: Vec<(usize, usize)> = Vec::new();
    // The last that waits is the next: the largest comes last.
    for index in largest.into_iter().rev() {
        match holders.nodes.get(index).and_then(|node| node.parent).and_then(|parent| below.get_mut(parent as usize)) {
            Some(siblings) => siblings.push(index),
            None => waiting.push((index, 0)),
        }
    }
    let mut lines = Vec::new();
    while let Some((index, depth)) = waiting.pop() {
        let Some(node) = holders.nodes.get(index) else { continue };
        let is_root = matches!(node.label, HolderLabel::Root(_));
        lines.push(Line {
            total: total(index),
            share: share(total(index).bytes, all),
            retained_bytes: (holders.has_retained && !is_root).then_some(node.retained_bytes),
            name: words::holders::line(node, depth),
        });
        let more = below.get_mut(index).map(std::mem::take).unwrap_or_default();
        waiting.extend(more.into_iter().map(|index| (index, depth + 1)));
    }
    lines
}
