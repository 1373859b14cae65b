//! A Rust program that knows its own truth to the byte: eight threads call every function of the global
//! allocator with random layouts, free one another's blocks, and count all of it by call site.
//!
//! With the feature `jemalloc` that is jemalloc, without it the system's. usage: rust-truth OPERATIONS; prints
//! "ready", begins when a line comes, prints its truth and stays until standard input ends.

use std::{
    alloc::{Layout, alloc, alloc_zeroed, dealloc, realloc},
    hint::black_box,
    io::{BufRead, Write, stdin, stdout},
    sync::{
        Barrier, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
};

#[cfg(feature = "jemalloc")]
#[global_allocator]
static GLOBAL: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const THREADS: u64 = 8;
const SITES: [&str; 4] = ["site_alloc", "site_zeroed", "site_aligned", "site_realloc"];

static COUNTS: [[AtomicU64; 4]; 4] = [const { [const { AtomicU64::new(0) }; 4] }; 4];
static SLOTS: [Mutex<Option<Block>>; 1024] = [const { Mutex::new(None) }; 1024];

struct Block {
    address: usize,
    layout: Layout,
    site: usize,
}

#[inline(never)]
#[unsafe(no_mangle)]
fn site_alloc(layout: Layout) -> *mut u8 {
    // Not as a tail call: the site must be on the stack.
    black_box(unsafe { alloc(layout) })
}

#[inline(never)]
#[unsafe(no_mangle)]
fn site_zeroed(layout: Layout) -> *mut u8 {
    black_box(unsafe { alloc_zeroed(layout) })
}

#[inline(never)]
#[unsafe(no_mangle)]
fn site_aligned(layout: Layout) -> *mut u8 {
    // Not the same code as `site_alloc`, or the compiler would make one function of both.
    black_box(unsafe { alloc(layout.align_to(64).unwrap()) })
}

#[inline(never)]
#[unsafe(no_mangle)]
fn site_realloc(block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
    black_box(unsafe { realloc(block, layout, size) })
}

fn count(site: usize, first: usize, size: usize) {
    COUNTS[site][first].fetch_add(size as u64, Relaxed);
    COUNTS[site][first + 1].fetch_add(1, Relaxed);
}

fn next(random: &mut u64) -> usize {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    *random as usize
}

fn step(random: &mut u64) {
    let slot = &SLOTS[next(random) % SLOTS.len()];
    let taken = slot.lock().unwrap().take();
    let size = next(random) % 4096 + 1;
    let plain = Layout::from_size_align(size, 8).unwrap();
    let new = match (next(random) % 8, taken) {
        (0..3, Some(block)) => {
            let address = site_realloc(block.address as *mut u8, block.layout, size);
            count(block.site, 2, block.layout.size());
            let layout = Layout::from_size_align(size, block.layout.align()).unwrap();
            Block { address: address as usize, layout, site: 3 }
        }
        (choice, taken) => {
            if let Some(block) = taken {
                count(block.site, 2, block.layout.size());
                unsafe { dealloc(block.address as *mut u8, block.layout) };
            }
            let (site, layout) = match choice {
                0 | 1 => return,
                2 | 3 => (2, Layout::from_size_align(size, 64).unwrap()),
                4 => (1, plain),
                _ => (0, plain),
            };
            let address = [site_alloc, site_zeroed, site_aligned][site](layout);
            Block { address: address as usize, layout, site }
        }
    };
    assert_ne!(new.address, 0);
    count(new.site, 0, new.layout.size());
    if let Some(block) = slot.lock().unwrap().replace(new) {
        count(block.site, 2, block.layout.size());
        unsafe { dealloc(block.address as *mut u8, block.layout) };
    }
}

fn main() {
    let operations: u64 = std::env::args().nth(1).unwrap().parse().unwrap();
    let (begin, end) = (Barrier::new(THREADS as usize + 1), Barrier::new(THREADS as usize + 1));
    thread::scope(|scope| {
        for index in 0..THREADS {
            let (begin, end) = (&begin, &end);
            scope.spawn(move || {
                let mut random = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(index + 1);
                begin.wait();
                (0..operations / THREADS).for_each(|_| step(&mut random));
                end.wait();
                loop {
                    thread::park();
                }
            });
        }
        println!("ready");
        let mut line = String::new();
        stdin().lock().read_line(&mut line).unwrap();
        begin.wait();
        end.wait();
        let of_site = |(name, counts): (&&str, &[AtomicU64; 4])| {
            let [alloc_bytes, alloc_objects, freed_bytes, freed_objects] =
                counts.each_ref().map(|count| count.load(Relaxed));
            let (live_bytes, live_objects) = (alloc_bytes - freed_bytes, alloc_objects - freed_objects);
            format!(
                "\"{name}\":{{\"alloc_bytes\":{alloc_bytes},\"alloc_objects\":{alloc_objects},\
                 \"freed_bytes\":{freed_bytes},\"freed_objects\":{freed_objects},\
                 \"live_bytes\":{live_bytes},\"live_objects\":{live_objects}}}"
            )
        };
        let sites: Vec<String> = SITES.iter().zip(&COUNTS).map(of_site).collect();
        println!("{{{}}}", sites.join(","));
        stdout().flush().unwrap();
        while stdin().lock().read_line(&mut line).unwrap() > 0 {}
        std::process::exit(0);
    });
}
