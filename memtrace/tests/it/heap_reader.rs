//! glibc's heap of a live process, read from outside, against the program's own counters.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use memtrace::{
    model::heap::{Allocator, Heap},
    process::{
        heap::{Bounds, look, look_closely},
        memory,
    },
};
use tempfile::TempDir;

use crate::support::{InTime, Target, compile, eventually, programs, scaled, scratch};

/// Threads of the program, and one counter of each for its main thread.
const COUNTERS: usize = 9;
/// Blocks that the C library has for itself in the program: a cache for each of the nine threads, an array of addresses of
/// thread-local memory for each of eight, and five more in a static program.
const OF_THE_LIBRARY: std::ops::RangeInclusive<u64> = 8..=22;
/// Their bytes, at most.
const LIBRARY_BYTES: u64 = 10_000;

/// The program with its counters.
pub(crate) struct Truth {
    pub(crate) target: Target,
    counters: PathBuf,
    _folder: TempDir,
}

/// Live blocks at a moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Live {
    pub(crate) objects: u64,
    pub(crate) bytes: u64,
    pub(crate) operations: u64,
}

impl Truth {
    pub(crate) fn start(program: &[&Path], environment: Option<(&str, &str)>, arguments: &[&str]) -> Self {
        let folder = scratch();
        let counters = folder.path().join("counters");
        let mut command = Command::new(program[0]);
        command.args(&program[1..]).arg(&counters).args(arguments).envs(environment);
        // A static program keeps what that says.
        command.env_remove("LD_LIBRARY_PATH");
        let mut target = Target::start(&mut command);
        assert_eq!(target.line(), "idle");
        Self { target, counters, _folder: folder }
    }

    pub(crate) fn say(&mut self, word: &str, answer: &str) {
        self.target.say(word);
        assert_eq!(self.target.line(), answer);
    }

    pub(crate) fn live(&self) -> Live {
        let page = fs::read(&self.counters).unwrap();
        let words: Vec<u64> = page.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
        let sum = |field: usize| (0..COUNTERS).map(|thread| words[thread * 8 + field]).sum::<u64>();
        // Frees first: counters that are read later are larger.
        let (freed_objects, freed_bytes) = (sum(2), sum(3));
        let (objects, bytes) = (sum(0), sum(1));
        Live {
            objects: objects.saturating_sub(freed_objects),
            bytes: bytes.saturating_sub(freed_bytes),
            operations: objects + freed_objects,
        }
    }

    fn look(&self) -> Heap {
        look(self.target.pid(), Bounds::default()).unwrap()
    }

    /// Looks while all threads sleep: nothing may be missing but the library's own.
    fn assert_exact(&self, case: &str) -> Allocator {
        let (heap, truth) = (self.look(), self.live());
        let [allocator] = &heap.allocators[..] else { panic!("{case}: {heap:?}") };
        println!("{case}: {} objects, {} bytes; {truth:?}", allocator.live_objects, allocator.live_bytes);
        assert_eq!((allocator.name.as_str(), allocator.reason.as_deref()), ("glibc", None), "{case}");
        let (objects, bytes) =
            (allocator.live_objects.wrapping_sub(truth.objects), allocator.live_bytes.wrapping_sub(truth.bytes));
        assert!(OF_THE_LIBRARY.contains(&objects), "{case}: {objects} objects too many");
        assert!(bytes <= LIBRARY_BYTES, "{case}: {bytes} bytes too many");
        let consistency = heap.consistency;
        assert_eq!((consistency.skipped_bytes, consistency.swapped_bytes), (0, 0), "{case}");
        assert_adds_up(case, &heap, self.target.pid());
        allocator.clone()
    }
}

/// The parts of resident memory are disjoint and make up all of it.
pub(crate) fn assert_adds_up(case: &str, heap: &Heap, pid: u32) {
    let parts = &heap.resident;
    let sum = parts.live_bytes
        + parts.free_bytes
        + parts.returnable_bytes
        + parts.python_bytes
        + parts.files_bytes
        + parts.stacks_bytes
        + parts.other_bytes;
    let usage = memory::usage(pid).unwrap();
    let rss = usage.anon_bytes + usage.file_bytes + usage.shmem_bytes;
    // The kernel counts pages on each CPU for a while before it adds them up.
    assert!(sum.abs_diff(rss) <= (rss / 50).max(2 << 20), "{case}: {sum} of {rss}: {parts:?}");
    let sizes: u64 = heap.allocators.iter().flat_map(|one| &one.size_classes).map(|class| class.live_objects).sum();
    assert_eq!(sizes, heap.allocators.iter().map(|one| one.live_objects).sum::<u64>(), "{case}");
}

/// Idle, then after four of five blocks were freed: bins, caches and fastbins have something in them.
fn assert_exact_before_and_after(case: &str, mut truth: Truth) -> Allocator {
    truth.assert_exact(case);
    truth.say("free", "freed");
    truth.assert_exact(&format!("{case}, freed"))
}

/// Slots, the largest size, one in how many is large.
const BLOCKS: [&str; 3] = ["60000", "2000", "500"];

#[test]
fn idle_heaps_are_exact_whatever_the_settings() {
    let (shared, fixed) = (compile("heap.c", &["-O2"]), compile("heap.c", &["-O2", "-static"]));
    let tunables = "GLIBC_TUNABLES";
    type Case<'a> = (&'a str, &'a Path, Option<(&'a str, &'a str)>, &'a [&'a str]);
    let cases: [Case<'_>; 11] = [
        ("default", &shared, None, &BLOCKS),
        ("one arena", &shared, Some(("MALLOC_ARENA_MAX", "1")), &BLOCKS),
        ("static", &fixed, None, &BLOCKS),
        ("static, one arena", &fixed, Some(("MALLOC_ARENA_MAX", "1")), &BLOCKS),
        ("no thread caches", &shared, Some((tunables, "glibc.malloc.tcache_count=0")), &BLOCKS),
        ("mapped", &shared, Some((tunables, "glibc.malloc.mmap_threshold=4096")), &["30000", "20000", "500"]),
        ("huge pages", &shared, Some((tunables, "glibc.malloc.hugetlb=1")), &BLOCKS),
        ("no fastbins", &shared, Some((tunables, "glibc.malloc.mxfast=0")), &BLOCKS),
        ("overwritten", &shared, Some(("MALLOC_PERTURB_", "165")), &BLOCKS),
        ("in pieces", &shared, Some(("MALLOC_ARENA_MAX", "1")), &["60000", "2000", "500", "2"]),
        ("without brk", &shared, Some(("MALLOC_ARENA_MAX", "1")), &["60000", "2000", "500", "0"]),
    ];
    for (case, program, environment, arguments) in cases {
        let found = assert_exact_before_and_after(case, Truth::start(&[program], environment, arguments));
        let arenas = found.arenas.len();
        assert_eq!(arenas == 1, environment.is_some_and(|(name, _)| name == "MALLOC_ARENA_MAX"), "{case}: {arenas}");
    }
}

#[test]
fn every_live_block_is_listed_once_within_its_areas() {
    let mut truth = Truth::start(&[&compile("heap.c", &["-O2"])], None, &BLOCKS);
    truth.say("free", "freed");
    let look = look_closely(truth.target.pid(), Bounds::default()).unwrap();
    let [found] = &look.found[..] else { panic!("{look:?}") };
    assert!(found.areas.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{:x?}", found.areas);
    let (mut objects, mut bytes, mut last) = (0, 0, 0);
    found.blocks.visit(&mut |block| {
        assert!(block.address > last, "{block:x?}");
        let area = found.areas.partition_point(|(_, end)| *end <= block.address);
        let (start, end) = found.areas[area];
        // A block runs into the header of the chunk behind it.
        assert!(start < block.address && block.address + block.usable_bytes <= end + 8, "{block:x?}");
        (objects, bytes, last) = (objects + 1, bytes + block.usable_bytes, block.address);
    });
    assert_eq!((objects, bytes), (found.allocator.live_objects, found.allocator.live_bytes));
}

#[test]
fn malloc_trim_is_foreseen() {
    let mut truth = Truth::start(&[&compile("heap.c", &["-O2"])], None, &["300000", "8000", "500"]);
    truth.say("free", "freed");
    let before = truth.look();
    truth.say("trim", "trimmed");
    let after = truth.look();
    let returned = before.allocators[0].resident_bytes - after.allocators[0].resident_bytes;
    let foreseen = before.resident.returnable_bytes;
    println!("malloc_trim: {foreseen} bytes foreseen, {returned} given back");
    assert!(returned > 8 << 20, "{returned}");
    assert!(foreseen.abs_diff(returned) <= returned / 50, "{foreseen} of {returned}");
    let left = after.resident.returnable_bytes;
    assert!(left <= returned / 50, "{left} bytes could still be given back");
}

/// By how many objects a look is outside of everything that the counters have said meanwhile, as a share.
fn off(truth: &Truth) -> f64 {
    let before = truth.live();
    let heap = truth.look();
    let after = truth.live();
    assert!(after.operations > before.operations, "the program goes on");
    let allocator = &heap.allocators[0];
    let area_bytes = allocator.resident_bytes;
    assert!(heap.consistency.skipped_bytes <= area_bytes / 1000, "{:?}", heap.consistency);
    let found = allocator.live_objects - OF_THE_LIBRARY.start();
    let (least, most) = (before.objects.min(after.objects), before.objects.max(after.objects));
    let off = least.saturating_sub(found).max(found.saturating_sub(most));
    off as f64 / after.objects as f64
}

fn offs(looks: usize) -> Vec<f64> {
    let mut truth = Truth::start(&[&compile("heap.c", &["-O2"])], None, &["500000", "2000", "500"]);
    truth.say("run", "running");
    // Threads have exchanged their blocks a few times.
    let slots = truth.live().objects;
    eventually("exchanges", || truth.live().operations > 4 * slots);
    let mut offs: Vec<f64> = (0..looks).map(|_| off(&truth)).collect();
    offs.sort_by(f64::total_cmp);
    println!("at full speed: {offs:?}");
    truth.say("idle", "idle");
    truth.assert_exact("after full speed");
    offs
}

#[test]
fn at_full_speed_no_heap_is_lost() {
    let offs = offs(5);
    // One arena of nine would be a tenth.
    assert!(offs[4] < 0.02, "{offs:?}");
}

#[test]
#[ignore = "long: statistics of fifty looks at a program that saturates the machine"]
fn at_full_speed_objects_are_within_a_thousandth() {
    let offs = offs(50);
    let (median, most, worst) = (offs[25], offs[44], offs[49]);
    assert!(median <= 0.001 && most <= 0.003 && worst <= 0.006, "median {median}, 45 of 50 {most}, worst {worst}");
}

#[test]
#[ignore = "long: a heap of a GiB"]
fn two_million_blocks_take_less_than_two_seconds_of_cpu_time() {
    let blocks = scaled(2_000_000).to_string();
    let truth = Truth::start(&[&compile("heap.c", &["-O2"])], None, &[&blocks, "6000", "0"]);
    let time = || memtrace::process::status::own_cpu_time();
    let begun = time();
    let allocator = truth.assert_exact("two million blocks");
    let took = time() - begun;
    println!("{} objects, {} bytes resident: {took:?}", allocator.live_objects, allocator.resident_bytes);
    assert!(took.as_secs_f64() < 2.0, "{took:?}");
}

/// Unpacks Debian's package of a glibc, fetched once; returns the folder of its libraries.
fn library(suite: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("glibc").join(suite);
    let unpacked = folder.join("unpacked");
    if !unpacked.exists() {
        fs::create_dir_all(folder.join("lists/partial")).unwrap();
        fs::create_dir_all(folder.join("cache/archives/partial")).unwrap();
        fs::write(folder.join("status"), "").unwrap();
        let key = "/usr/share/keyrings/debian-archive-keyring.gpg";
        let source = format!("deb [signed-by={key}] http://deb.debian.org/debian {suite} main\n");
        fs::write(folder.join("sources.list"), source).unwrap();
        let options = [
            ("Dir::Etc::sourcelist", "sources.list"),
            ("Dir::Etc::sourceparts", "none"),
            ("Dir::State::lists", "lists"),
            ("Dir::State::status", "status"),
            ("Dir::Cache", "cache"),
        ];
        let apt = || {
            let mut apt = Command::new("apt-get");
            apt.current_dir(&folder).args(["-qq", "-o", "APT::Sandbox::User=root"]);
            for (name, value) in options {
                apt.arg("-o").arg(format!("{name}={}", folder.join(value).display()));
            }
            apt
        };
        assert!(apt().arg("update").status_in_time().success(), "no list of {suite}");
        assert!(apt().args(["download", "libc6"]).status_in_time().success(), "no libc6 of {suite}");
        let package = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
        let package = package.into_iter().find(|path| path.extension().is_some_and(|end| end == "deb")).unwrap();
        let partial = folder.join("partial");
        let status = Command::new("dpkg-deb").arg("-x").arg(&package).arg(&partial).status_in_time();
        assert!(status.success(), "cannot unpack {}", package.display());
        fs::rename(&partial, &unpacked).unwrap();
    }
    let places = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"].map(|place| unpacked.join(place));
    places.into_iter().find(|place| place.join("libc.so.6").exists()).unwrap()
}

/// The program as a library before 2.34 takes it: functions of today's would not be found there.
fn linked_with(libraries: &Path) -> PathBuf {
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("heap_old");
    let files = ["libc.so.6", "libpthread.so.0", "ld-linux-x86-64.so.2"].map(|name| libraries.join(name));
    let status = Command::new("cc")
        .args(["-O2", "-pthread", "-no-pie", "-nodefaultlibs", "-o"])
        .arg(&program)
        .arg(programs().join("heap.c"))
        .args(files)
        .arg("-lgcc")
        .status_in_time();
    assert!(status.success(), "cannot link");
    program
}

#[test]
#[ignore = "long: other versions of glibc are fetched"]
fn other_versions_are_exact() {
    for (suite, version) in [("bullseye", "2.31"), ("trixie", "2.41"), ("sid", "2.4")] {
        let libraries = library(suite);
        let program = if version == "2.31" { linked_with(&libraries) } else { compile("heap.c", &["-O2"]) };
        let (loader, flag) = (libraries.join("ld-linux-x86-64.so.2"), Path::new("--library-path"));
        let started = [loader.as_path(), flag, libraries.as_path(), program.as_path()];
        for environment in [None, Some(("MALLOC_ARENA_MAX", "1"))] {
            let found = assert_exact_before_and_after(suite, Truth::start(&started, environment, &BLOCKS));
            assert!(found.version.as_deref().unwrap().starts_with(version), "{suite}: {:?}", found.version);
        }
        let mapped = Some(("GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=4096"));
        assert_exact_before_and_after(suite, Truth::start(&started, mapped, &["30000", "20000", "500"]));
    }
}
