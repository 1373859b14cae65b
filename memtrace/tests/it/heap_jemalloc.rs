//! jemalloc's heap of a live process, read from outside: Debian's redis against its own statistics, and a program that counts its
//! blocks.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use memtrace::{
    model::heap::{Allocator, FreeKind, Heap},
    process::heap::{Bounds, look, look_closely},
};

use crate::{
    heap_reader::{Truth, assert_adds_up},
    support::{
        Running, compile, eventually,
        load::{RedisClient, redis_idle},
    },
};

const JEMALLOC: &str = "/usr/lib/x86_64-linux-gnu/libjemalloc.so.2";
/// Blocks that libraries have for themselves in the program: the stacks of nine threads' caches, arrays of addresses of
/// thread-local memory, a buffer of C++'s library.
const OF_LIBRARIES: std::ops::RangeInclusive<u64> = 8..=30;
/// Their bytes, at most: such a stack has 32 KiB or more.
const LIBRARY_BYTES: u64 = 600_000;
/// Slots, the largest size, one in how many is large.
const BLOCKS: [&str; 3] = ["60000", "2000", "500"];
/// redis takes its own figures ten times a second.
const REDIS_PAUSE: Duration = Duration::from_millis(250);

fn jemalloc(heap: &Heap) -> &Allocator {
    let found = heap.allocators.iter().find(|allocator| allocator.name == "jemalloc");
    found.unwrap_or_else(|| panic!("{heap:?}"))
}

fn free(allocator: &Allocator, kind: FreeKind) -> u64 {
    allocator.free.iter().filter(|free| free.kind == kind).map(|free| free.bytes).sum()
}

/// jemalloc counts as allocated what threads have in their caches.
fn allocated(allocator: &Allocator) -> u64 {
    assert_eq!(allocator.reason, None);
    allocator.live_bytes + free(allocator, FreeKind::ThreadCache)
}

/// The program under the library, with options of jemalloc's.
fn preloaded(options: &str, blocks: &[&str]) -> Truth {
    let words = [format!("LD_PRELOAD={JEMALLOC}"), format!("MALLOC_CONF={options}")].map(PathBuf::from);
    let program = compile("heap.c", &["-O2"]);
    Truth::start(&[Path::new("/usr/bin/env"), &words[0], &words[1], &program], None, blocks)
}

/// Looks while all threads sleep: nothing may be missing but what is of libraries.
fn assert_exact(case: &str, truth: &Truth) -> Allocator {
    let (heap, live) = (look(truth.target.pid(), Bounds::default()).unwrap(), truth.live());
    let allocator = jemalloc(&heap).clone();
    println!("{case}: {} objects, {} bytes; {live:?}", allocator.live_objects, allocator.live_bytes);
    assert_eq!(allocator.reason, None, "{case}");
    let (objects, bytes) =
        (allocator.live_objects.wrapping_sub(live.objects), allocator.live_bytes.wrapping_sub(live.bytes));
    assert!(OF_LIBRARIES.contains(&objects), "{case}: {objects} objects too many");
    assert!(bytes <= LIBRARY_BYTES, "{case}: {bytes} bytes too many");
    assert_eq!((heap.consistency.skipped_bytes, heap.consistency.swapped_bytes), (0, 0), "{case}");
    let of_arenas: u64 = allocator.arenas.iter().map(|arena| arena.live_objects).sum();
    assert_eq!(of_arenas, allocator.live_objects, "{case}");
    assert_adds_up(case, &heap, truth.target.pid());
    allocator
}

#[test]
fn redis_with_a_hundred_thousand_keys_is_told_to_the_byte() {
    let redis = redis_idle();
    let mut client = RedisClient::connect(redis.port);
    client.all((0..100_000).map(|key| format!("SET key:{key} {}", "v".repeat(10 + key % 90))));
    // It gives its clients' buffers back when they are idle.
    let mut compared = (0, 0);
    eventually("redis is idle", || {
        let before = client.memory("allocator_allocated");
        thread::sleep(REDIS_PAUSE);
        let heap = look(redis.target.pid(), Bounds::default()).unwrap();
        thread::sleep(REDIS_PAUSE);
        compared = (allocated(jemalloc(&heap)), before);
        before == client.memory("allocator_allocated")
    });
    println!("redis: {} bytes live and in caches, {} by its own statistics", compared.0, compared.1);
    assert_eq!(compared.0, compared.1);
    assert!(compared.0 > 10 << 20);
}

#[test]
fn redis_under_its_benchmark_is_told_between_its_own_figures() {
    let redis = redis_idle();
    let mut client = RedisClient::connect(redis.port);
    let mut benchmark = Command::new("/usr/bin/redis-benchmark");
    benchmark.args(["-p", &redis.port.to_string(), "-t", "set", "-n", "100000000", "-r", "500000", "-d", "100", "-q"]);
    let benchmark = Running::start(benchmark.stdin(Stdio::null()).stdout(Stdio::null()));
    eventually("keys", || client.memory("allocator_allocated") > 8 << 20);
    let looks: Vec<(u64, u64, u64)> = (0..5)
        .map(|_| {
            let before = client.memory("allocator_allocated");
            let heap = look(redis.target.pid(), Bounds::default()).unwrap();
            thread::sleep(REDIS_PAUSE);
            (before, allocated(jemalloc(&heap)), client.memory("allocator_allocated"))
        })
        .collect();
    drop(benchmark);
    println!("redis under its benchmark: {looks:?}");
    for (before, found, after) in looks {
        // Buffers of fifty clients come and go.
        let slack = before.max(after) / 50;
        assert!((before.min(after) - slack..=before.max(after) + slack).contains(&found), "{found}: {before}..{after}");
    }
}

#[test]
fn idle_heaps_are_exact_before_and_after_frees() {
    let inside = compile("heap.c", &["-O2", "/usr/lib/x86_64-linux-gnu/libjemalloc.a", "-lstdc++", "-lm"]);
    let cases = [
        ("preloaded", preloaded("dirty_decay_ms:-1", &BLOCKS), true),
        ("one arena", preloaded("narenas:1", &BLOCKS), true),
        ("inside the program", Truth::start(&[&inside], None, &BLOCKS), false),
    ];
    for (case, mut truth, is_library) in cases {
        let before = assert_exact(case, &truth);
        truth.say("free", "freed");
        let after = assert_exact(&format!("{case}, freed"), &truth);
        assert_eq!(
            before.image.as_deref().is_some_and(|image| image.ends_with("libjemalloc.so.2")),
            is_library,
            "{before:?}"
        );
        assert_eq!(before.arenas.iter().filter(|arena| arena.live_objects > 100).count() == 1, case == "one arena");
        assert!(free(&after, FreeKind::Run) > free(&before, FreeKind::Run), "{after:?}");
        assert!(free(&after, FreeKind::ThreadCache) > 0, "{after:?}");
    }
}

#[test]
fn free_extents_are_returnable_until_they_are_given_back() {
    let freed = |options| {
        let mut truth = preloaded(options, &["60000", "2000", "100"]);
        truth.say("free", "freed");
        assert_exact(options, &truth)
    };
    let (kept, given) = (freed("dirty_decay_ms:-1"), freed("dirty_decay_ms:0,muzzy_decay_ms:0"));
    println!("{} bytes returnable, {} after they were given back", kept.returnable_bytes, given.returnable_bytes);
    assert!(kept.returnable_bytes > 1 << 20 && kept.returnable_bytes == free(&kept, FreeKind::Span), "{kept:?}");
    assert_eq!((given.returnable_bytes, free(&given, FreeKind::Span)), (0, 0), "{given:?}");
}

#[test]
fn every_live_block_is_listed_once_within_its_areas() {
    let mut truth = preloaded("", &BLOCKS);
    truth.say("free", "freed");
    let look = look_closely(truth.target.pid(), Bounds::default()).unwrap();
    let [found] = &look.found[..] else { panic!("{look:?}") };
    assert!(found.areas.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{:x?}", found.areas);
    let (mut objects, mut bytes, mut last) = (0, 0, 0);
    found.blocks.visit(&mut |block| {
        assert!(block.address >= last, "{block:x?}");
        let area = found.areas.partition_point(|(_, end)| *end <= block.address);
        let (start, end) = found.areas[area];
        assert!(start <= block.address && block.address + block.usable_bytes <= end, "{block:x?}");
        (objects, bytes, last) = (objects + 1, bytes + block.usable_bytes, block.address + block.usable_bytes);
    });
    assert_eq!((objects, bytes), (found.allocator.live_objects, found.allocator.live_bytes));
}

#[test]
fn at_full_speed_no_arena_is_lost() {
    let mut truth = preloaded("", &["200000", "2000", "500"]);
    truth.say("run", "running");
    let slots = truth.live().objects;
    eventually("exchanges", || truth.live().operations > 4 * slots);
    for _ in 0..3 {
        let before = truth.live();
        let heap = look(truth.target.pid(), Bounds::default()).unwrap();
        let after = truth.live();
        let found = jemalloc(&heap);
        println!("{before:?}: {} objects, {:?}", found.live_objects, heap.consistency);
        assert_eq!(found.reason, None);
        let (least, most) = (before.objects.min(after.objects), before.objects.max(after.objects));
        assert!((least - slots / 50..=most + slots / 50).contains(&found.live_objects), "{least}..{most}: {found:?}");
    }
    truth.say("idle", "idle");
    assert_exact("after full speed", &truth);
}

#[test]
fn a_jemalloc_whose_caches_are_not_found_has_no_figures() {
    let truth = preloaded("tcache:false", &BLOCKS);
    let heap = look(truth.target.pid(), Bounds::default()).unwrap();
    let allocator = jemalloc(&heap);
    assert!(allocator.reason.as_deref().is_some_and(|reason| reason.contains("caches")), "{allocator:?}");
    assert_eq!((allocator.live_objects, allocator.live_bytes), (0, 0));
}
