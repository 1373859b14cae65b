//! Answers of a process that a hostile heap has taken over: taken if they are answers, joined with one another, and rendered.

use std::time::{Duration, SystemTime};

use memtrace::{
    analysis::heap_looks::HeapLooks,
    looking::message::{Answer, read},
    model::{
        heap::{Allocator, Arena, Free, FreeKind, Heap, SizeClass},
        heap_report::{HeapProcess, HeapReport, NotRead},
        heap_types::{Table, TypeFigures, TypeName, Types},
        holders::{BlockLabel, HolderLabel, HolderNode, HolderRoot, Holders, NoHolders, ThreadName},
        subject::Program,
        survival::Amount,
    },
    report::heap::{folded, json, table},
};

use crate::Target;

/// Two answers, of two looks, with a zero between them.
pub const TARGET: Target = Target { name: "heap_answers", run, seeds };

fn run(input: &[u8]) {
    let mut looks = HeapLooks::default();
    for (at, text) in input.split(|byte| *byte == 0).take(2).enumerate() {
        let (heap, not_read) = match read(text) {
            Some(Answer::Read(heap)) => (Some(looks.add(Duration::from_secs(at as u64), *heap)), None),
            Some(Answer::NotRead(why)) => (None, Some(why)),
            None => continue,
        };
        let process = HeapProcess { program: Program::default(), ended: false, rss_bytes: None, heap, not_read };
        render(&HeapReport {
            host: String::new(),
            started_at: SystemTime::UNIX_EPOCH,
            duration: Duration::ZERO,
            processes: vec![process],
        });
    }
}

fn render(report: &HeapReport) {
    let mut out = Vec::new();
    for top in [None, Some(1)] {
        _ = table::render(report, top, None, &mut out);
        _ = folded::render(report, top, &mut out);
        _ = json::render(report, top, &mut out);
    }
    let is_shown = |byte: &u8| *byte == b'\n' || !byte.is_ascii_control();
    assert!(out.iter().all(is_shown), "a control character reaches the terminal");
}

/// A root of each kind, with blocks below the first.
fn holders() -> Holders {
    let amount = Amount { bytes: 2_080, objects: 20 };
    let node = |parent, label| HolderNode { parent, label, own: amount, below: amount, retained_bytes: 2_080 };
    let thread = ThreadName { tid: 7, name: "worker".into() };
    let (image, symbol) = ("/usr/bin/app".to_owned(), Some("g_table".to_owned()));
    let roots = [
        HolderRoot::Data { image: image.clone(), offset: Some(0x5120), symbol: symbol.clone() },
        HolderRoot::ThreadLocal { thread: thread.clone(), image, offset: 16, symbol },
        HolderRoot::Thread(thread),
        HolderRoot::Mapping("[heap]".into()),
        HolderRoot::Epoll { descriptor: 4 },
    ];
    let blocks = [(0, 24), (5, 1 << 20), (6, 104)];
    let roots = roots.map(|root| node(None, HolderLabel::Root(root)));
    let blocks = blocks.map(|(parent, size)| node(Some(parent), HolderLabel::Block(BlockLabel::of(size))));
    let nodes = roots.into_iter().chain(blocks).collect();
    Holders { reached: amount, unreached: amount, nodes, has_retained: true, ..Holders::default() }
}

fn seeds() -> Vec<Vec<u8>> {
    let allocator = Allocator {
        name: "glibc".into(),
        version: Some("2.36".into()),
        image: Some("/usr/lib/libc.so.6".into()),
        live_bytes: 2_080,
        live_objects: 20,
        free: vec![Free { kind: FreeKind::ThreadCache, bytes: 104 }],
        arenas: vec![Arena { live_bytes: 1_040, live_objects: 10, free_bytes: 52 }; 2],
        size_classes: vec![SizeClass { size_bytes: 104, live_objects: 20, growth_objects_per_s: None }],
        ..Allocator::default()
    };
    let table = Table { image: "/lib/a.so".into(), offset: 64, symbol: None, address: 64, is_sure: true };
    let rows = [TypeName::Class("N3zoo3DogE".into()), TypeName::Table(table), TypeName::Text]
        .map(|name| TypeFigures { name, objects: 2, bytes: 208, inside_objects: 1 })
        .to_vec();
    let types = Types { rows, ..Types::default() };
    let holders = Some(holders());
    let no_holders = Some(NoHolders::TooManyBlocks { most: 7 });
    let heap = Heap { looks: 1, allocators: vec![allocator], types, holders, no_holders, ..Heap::default() };
    let text = |answer: &Answer| serde_json::to_vec(answer).unwrap_or_default();
    let read = text(&Answer::Read(Box::new(heap)));
    let refused = NotRead::Refused { error: "Operation not permitted".into() };
    vec![[&read[..], &[0], &read].concat(), text(&Answer::NotRead(refused)), text(&Answer::NotRead(NotRead::Gone))]
}
