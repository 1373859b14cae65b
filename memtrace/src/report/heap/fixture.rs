//! One report on heaps for the tests of every format.

use std::time::{Duration, SystemTime};

use crate::model::{
    heap::{Allocator, Arena, Consistency, Free, FreeKind, Heap, Resident, SizeClass},
    heap_report::{HeapProcess, HeapReport, NotRead},
    heap_types::{Pattern, Table, TypeFigures, TypeName, Types},
    holders::{BlockLabel, HolderLabel, HolderNode, HolderRoot, Holders, ThreadName},
    subject::Program,
    survival::Amount,
};

const MIB: u64 = 1 << 20;

fn class(size_bytes: u64, live_objects: u64, growth_objects_per_s: Option<f64>) -> SizeClass {
    SizeClass { size_bytes, live_objects, growth_objects_per_s }
}

/// A glibc that has grown to 64 arenas and has much free memory.
fn glibc() -> Allocator {
    let free = [(FreeKind::Top, 100 * MIB), (FreeKind::Bin, 1024 * MIB), (FreeKind::ThreadCache, 2 * MIB)];
    let mut arenas = vec![Arena { live_bytes: 1_000_000, live_objects: 9_000, free_bytes: 16 * MIB }; 63];
    arenas.push(Arena { live_bytes: 1_105_856_800, live_objects: 10_433_100, free_bytes: 118 * MIB });
    Allocator {
        name: "glibc".into(),
        version: Some("2.36".into()),
        image: Some("/usr/lib/x86_64-linux-gnu/libc.so.6".into()),
        reason: None,
        live_bytes: 1_168_856_800,
        live_objects: 11_000_100,
        free: free.map(|(kind, bytes)| Free { kind, bytes }).to_vec(),
        returnable_bytes: 900 * MIB,
        fragmented_bytes: 226 * MIB,
        resident_bytes: 2300 * MIB,
        growth_bytes_per_s: None,
        arenas,
        size_classes: vec![class(24, 1_000_000, None), class(104, 10_000_000, None), class(1_048_568, 100, None)],
    }
}

/// Types of each kind.
fn types() -> Types {
    let row = |name, objects, bytes, inside_objects| TypeFigures { name, objects, bytes, inside_objects };
    let table = Table {
        image: "/usr/lib/x86_64-linux-gnu/libgnutls.so.30".into(),
        offset: 0x21_3100,
        symbol: None,
        address: 0x7f00_0021_3100,
        is_sure: true,
    };
    let node = TypeName::Around { class: "zoo::Dog".into(), offset: 16, pattern: Some(Pattern::ListNode) };
    let rows = vec![
        row(TypeName::Class("app::Session".into()), 9_000_000, 936_000_000, 0),
        row(TypeName::Pattern(Pattern::StringBuffer), 900_000, 21_600_000, 0),
        row(node, 20_000, 1_120_000, 0),
        row(TypeName::Text, 1_000, 104_000, 0),
        row(TypeName::Table(table), 12, 2_208, 0),
        row(TypeName::Class("zoo::Dog".into()), 0, 0, 20_000),
    ];
    Types { rows, left_out: 0, passed_over: 0, not_told: None }
}

/// A process with much free memory and an allocator that is not recognised, and one that may not be read. The first one's name wants
/// escaping.
pub(crate) fn report() -> HeapReport {
    let unknown = Allocator {
        name: "jemalloc".into(),
        image: Some("/opt/libjemalloc.so.2".into()),
        reason: Some("its structures are of no version that memtrace knows".into()),
        ..Allocator::default()
    };
    let resident = Resident {
        live_bytes: 1_170_000_000,
        free_bytes: 226 * MIB,
        returnable_bytes: 900 * MIB,
        python_bytes: 0,
        files_bytes: 20 * MIB,
        stacks_bytes: MIB,
        other_bytes: 10 * MIB,
        swap_bytes: 3 * MIB,
    };
    let heap = Heap {
        looks: 1,
        duration: Duration::from_millis(1300),
        consistency: Consistency {
            retries: 4,
            skipped_bytes: 65_536,
            swapped_bytes: 3 * MIB,
            threads_without_registers: 0,
        },
        resident,
        allocators: vec![glibc(), unknown],
        types: types(),
        holders: None,
        no_holders: None,
    };
    let program = |pid, comm: &str| Program { pid, comm: comm.into(), exe: format!("/usr/bin/{comm}") };
    HeapReport {
        host: "host".into(),
        started_at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        duration: Duration::from_millis(1500),
        processes: vec![
            HeapProcess {
                program: program(42, "demo;1"),
                ended: false,
                rss_bytes: Some(2_383_100_000),
                heap: Some(heap),
                not_read: None,
            },
            HeapProcess {
                program: program(43, "closed"),
                ended: false,
                rss_bytes: Some(5 * MIB),
                heap: None,
                not_read: Some(NotRead::Refused { error: "Operation not permitted (os error 1)".into() }),
            },
        ],
    }
}

/// The same process, looked at twice, ten seconds apart.
pub(crate) fn grown() -> HeapReport {
    let mut report = report();
    report.processes.truncate(1);
    report.duration = Duration::from_secs(10);
    if let Some(heap) = &mut report.processes[0].heap {
        heap.looks = 2;
        let allocator = &mut heap.allocators[0];
        allocator.growth_bytes_per_s = Some(1_040_000.0 - 2_400.0);
        allocator.size_classes = vec![
            class(24, 1_000_000, Some(-100.0)),
            class(104, 10_000_000, Some(10_000.0)),
            class(1_048_568, 100, Some(0.0)),
        ];
    }
    report
}

/// The same process, with those who hold its blocks: a table, and a thread.
pub(crate) fn held() -> HeapReport {
    let mut report = report();
    report.processes.truncate(1);
    let amount = |objects: u64, size: u64| Amount { bytes: objects * size, objects };
    let blocks = |size: u64| HolderLabel::Block(BlockLabel::of(size));
    let node = |parent, label, own: Amount| HolderNode {
        parent,
        label,
        own,
        below: Amount::default(),
        retained_bytes: own.bytes,
    };
    let data = HolderRoot::Data { image: "/opt/app".into(), offset: Some(0x5120), symbol: Some("g_sessions".into()) };
    let thread = HolderRoot::Thread(ThreadName { tid: 44, name: "worker".into() });
    let mut nodes = vec![
        node(None, HolderLabel::Root(data), Amount::default()),
        node(Some(0), blocks(24), amount(1, 24)),
        node(Some(1), blocks(1 << 20), amount(1, 1 << 20)),
        node(Some(2), blocks(104), amount(10_000_000, 104)),
        node(Some(3), blocks(24), amount(999_999, 24)),
        node(None, HolderLabel::Root(thread), Amount::default()),
        node(Some(5), blocks(1 << 20), amount(98, 1_048_568)),
    ];
    nodes[5].below = amount(1, 1024);
    let sum = |nodes: &[HolderNode]| nodes.iter().fold(Amount::default(), |sum, one| sum.plus(one.own).plus(one.below));
    (1..5).for_each(|index| nodes[index].retained_bytes = sum(&nodes[index..5]).bytes);
    let holders = Holders {
        reached: sum(&nodes).plus(amount(3, 100)),
        unreached: amount(2000, 512),
        nodes,
        elsewhere: amount(3, 100),
        joined: amount(7, 104),
        swapped_bytes: 3 * MIB,
        kernel_words_left_out: 0,
        has_retained: true,
    };
    if let Some(heap) = &mut report.processes[0].heap {
        heap.consistency.threads_without_registers = 12;
        heap.holders = Some(holders);
    }
    report
}
