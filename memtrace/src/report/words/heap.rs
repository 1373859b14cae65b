//! The words on heaps: what their figures show, and why one was not read.

use super::units;
use crate::{
    looking::pressure::Pressure,
    model::{
        heap::{Allocator, FreeKind, Heap, SizeClass},
        heap_report::NotRead,
    },
};

/// The part of resident memory from which on free memory comes first in the sentence.
const MUCH_FREE: f64 = 0.2;
/// Less free memory is nobody's trouble, in bytes.
const LITTLE: u64 = 1 << 20;
/// The part of an allocator's free memory from which on giving it back is worth a word.
const WORTH_GIVING_BACK: f64 = 0.1;
/// The part of an allocator's live bytes from which on one size of block is worth a word.
const MANY_OF_A_SIZE: f64 = 0.25;

/// Where an allocator keeps free memory, in a word or two.
#[must_use]
pub fn free_name(kind: FreeKind) -> &'static str {
    match kind {
        FreeKind::Top => "top",
        FreeKind::Bin => "bins",
        FreeKind::ThreadCache => "thread caches",
        FreeKind::Fastbin => "fastbins",
        FreeKind::Run => "runs",
        FreeKind::Span => "spans",
    }
}

/// One sentence on what the figures of a heap show; nothing where they show nothing.
#[must_use]
pub fn summary(heap: &Heap) -> Option<String> {
    let resident = &heap.resident;
    let total = resident.bytes();
    let free = resident.free_bytes.saturating_add(resident.returnable_bytes);
    let has_free = |allocator: &&Allocator| allocator.is_recognised() && allocator.free_bytes() > 0;
    let freest = heap.allocators.iter().filter(has_free).max_by_key(|allocator| allocator.free_bytes());
    if let Some(freest) = freest.filter(|_| free >= LITTLE && is_part(free, total, MUCH_FREE)) {
        return Some(much_free(freest));
    }
    let parts = [
        (resident.live_bytes, "live blocks of its allocators"),
        (resident.python_bytes, "arenas of Python's own allocator"),
        (resident.files_bytes, "pages of files and shared memory"),
        (resident.stacks_bytes, "stacks of threads"),
        (resident.other_bytes, "mappings that belong to no allocator that memtrace reads"),
    ];
    let (most, what) = parts.into_iter().max_by_key(|(bytes, _)| *bytes).filter(|(bytes, _)| *bytes > 0)?;
    let sentence = format!("{} of resident memory are {what}", part_of(most, total));
    if most != resident.live_bytes {
        return Some(sentence);
    }
    Some(match heap.allocators.iter().filter_map(main_size).max_by_key(|(bytes, _)| *bytes) {
        Some((bytes, class)) => format!("{sentence}; {} of that in {}", units::bytes(bytes), blocks(class)),
        None => sentence,
    })
}

/// That much is free inside an allocator, and whether it could be given back.
fn much_free(allocator: &Allocator) -> String {
    let (free, returnable) = (allocator.free_bytes(), allocator.returnable_bytes);
    let arenas = match allocator.arenas.len() as u64 {
        0 | 1 => String::new(),
        arenas => format!(" in {} arenas", units::count(arenas)),
    };
    let total = allocator.live_bytes.saturating_add(free);
    let sentence = format!("{} are free inside {}{arenas}", part_of(free, total), allocator.name);
    let way = match allocator.name.as_str() {
        "glibc" => "malloc_trim",
        "jemalloc" => "purging its arenas",
        _ => "the allocator",
    };
    if is_part(returnable, free, WORTH_GIVING_BACK) {
        return format!("{sentence}: {way} would give back {}", units::bytes(returnable));
    }
    let returnable = units::bytes(returnable);
    format!(
        "{sentence}, most of it on pages that hold live blocks too: {way} would give back no more than {returnable}"
    )
}

/// The size of block that much of an allocator's live bytes is in, if there is one, with those bytes.
fn main_size(allocator: &Allocator) -> Option<(u64, &SizeClass)> {
    let largest = allocator.size_classes.iter().max_by_key(|class| class.live_bytes())?;
    let bytes = largest.live_bytes();
    is_part(bytes, allocator.live_bytes, MANY_OF_A_SIZE).then_some((bytes, largest))
}

fn blocks(class: &SizeClass) -> String {
    let size = units::count(class.size_bytes);
    match class.live_objects {
        1 => format!("one block of {size} bytes"),
        objects => format!("{} blocks of {size} bytes", units::count(objects)),
    }
}

/// The growth between the first look and the last; nothing after one look.
#[must_use]
pub fn growth(heap: &Heap) -> Option<String> {
    let total = heap.growth_bytes_per_s()?;
    if total.abs() < 0.5 {
        return Some("live bytes are as many as at the first look".to_owned());
    }
    let classes = heap.allocators.iter().flat_map(|allocator| &allocator.size_classes);
    // The one that moves most in the direction of all.
    let pace = |class: &SizeClass| class.growth_bytes_per_s().unwrap_or(0.0) * total.signum();
    let most = classes.max_by(|one, other| pace(one).total_cmp(&pace(other))).filter(|class| pace(class) > 0.0);
    let rate = units::bytes_per_s(total);
    Some(match most.and_then(|class| Some((class, class.growth_objects_per_s?))) {
        Some((class, objects)) => format!(
            "live bytes {rate}; most by blocks of {} bytes: {}, {}",
            units::count(class.size_bytes),
            objects_per_s(objects),
            units::bytes_per_s(class.growth_bytes_per_s().unwrap_or(0.0))
        ),
        None => format!("live bytes {rate}"),
    })
}

/// A growth in objects a second, with its sign.
#[must_use]
pub fn objects_per_s(rate: f64) -> String {
    let sign = match rate {
        0.05.. => "+",
        _ if rate <= -0.05 => "-",
        _ => "",
    };
    let amount = rate.abs();
    if amount >= 10.0 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rounded and not negative")]
        let amount = amount.round() as u64;
        return format!("{sign}{}/s", units::count(amount));
    }
    format!("{sign}{amount:.1}/s")
}

/// A part of a whole: `1.20 of 3.10 GiB`, with both units where they differ.
fn part_of(part: u64, whole: u64) -> String {
    let (part, whole) = (units::bytes(part), units::bytes(whole));
    match (part.split_once(' '), whole.split_once(' ')) {
        (Some((figure, unit)), Some((_, same))) if unit == same => format!("{figure} of {whole}"),
        _ => format!("{part} of {whole}"),
    }
}

fn is_part(part: u64, whole: u64, least: f64) -> bool {
    part > 0 && part as f64 >= whole as f64 * least
}

/// Why a heap was not read.
#[must_use]
pub fn not_read(why: &NotRead) -> String {
    match why {
        NotRead::Gone => "the process has ended".to_owned(),
        NotRead::NoMemory => "it has no memory of its own".to_owned(),
        NotRead::Refused { error } => format!("its memory may not be read: {error}"),
        NotRead::Late { limit } => format!("the look took more than {}", units::duration(*limit)),
        NotRead::TooMuch { error } | NotRead::Failed { error } => error.clone(),
        NotRead::Died { signal, memory_bytes } => {
            let how = match signal {
                Some(signal) => format!("was ended by signal {signal}"),
                None => "ended without an answer".to_owned(),
            };
            format!("the process that looks {how}; it may take {} of memory", units::bytes(*memory_bytes))
        }
        NotRead::Stopped => "memtrace was asked to stop".to_owned(),
    }
}

/// The memory pressure on a target's cgroup.
#[must_use]
pub fn pressure(pressure: &Pressure) -> String {
    match pressure {
        Pressure::Waits { percent } => format!("tasks of it waited for memory in {percent:.0} % of the last 10 s"),
        Pressure::NearLimit(limit) => {
            format!("it has {} of its limit", part_of(limit.used_bytes, limit.max_bytes))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{heap::Resident, memory::Limit},
        report::heap::fixture,
    };
    use std::time::Duration;

    fn heap() -> Heap {
        fixture::report().processes.remove(0).heap.unwrap()
    }

    #[test]
    fn free_memory_comes_first_where_there_is_much() {
        let mut heap = heap();
        let free = "1.10 of 2.19 GiB are free inside glibc in 64 arenas";
        assert_eq!(summary(&heap).unwrap(), format!("{free}: malloc_trim would give back 900.0 MiB"));
        heap.allocators[0].returnable_bytes = 1 << 20;
        let fragmented =
            "most of it on pages that hold live blocks too: malloc_trim would give back no more than 1.00 MiB";
        assert_eq!(summary(&heap).unwrap(), format!("{free}, {fragmented}"));
    }

    #[test]
    fn else_the_largest_part_of_resident_memory_is_named() {
        let mut heap = heap();
        (heap.resident.free_bytes, heap.resident.returnable_bytes) = (0, 1 << 20);
        assert_eq!(
            summary(&heap).unwrap(),
            "1.09 of 1.12 GiB of resident memory are live blocks of its allocators; 991.8 MiB of that in 10,000,000 \
             blocks of 104 bytes"
        );
        heap.allocators[0].size_classes.truncate(1);
        assert!(summary(&heap).unwrap().ends_with("are live blocks of its allocators"));
        heap.resident = Resident { files_bytes: 3 << 20, live_bytes: 4096, ..Resident::default() };
        assert_eq!(summary(&heap).unwrap(), "3.00 of 3.00 MiB of resident memory are pages of files and shared memory");
        assert_eq!(summary(&Heap::default()), None);
    }

    #[test]
    fn growth_names_the_size_that_moves_most() {
        assert_eq!(growth(&heap()), None);
        let mut grown = fixture::grown().processes.remove(0).heap.unwrap();
        let told = "live bytes +1013.3 KiB/s; most by blocks of 104 bytes: +10,000/s, +1015.6 KiB/s";
        assert_eq!(growth(&grown).unwrap(), told);
        grown.allocators[0].growth_bytes_per_s = Some(-2400.0);
        assert_eq!(growth(&grown).unwrap(), "live bytes -2.34 KiB/s; most by blocks of 24 bytes: -100/s, -2.34 KiB/s");
        grown.allocators[0].growth_bytes_per_s = Some(0.0);
        assert_eq!(growth(&grown).unwrap(), "live bytes are as many as at the first look");
    }

    #[test]
    fn every_reason_has_its_words() {
        let error = "cannot open /proc/7/mem";
        let cases = [
            (NotRead::Gone, "the process has ended"),
            (NotRead::NoMemory, "it has no memory of its own"),
            (NotRead::Refused { error: error.into() }, "its memory may not be read: cannot open /proc/7/mem"),
            (NotRead::Late { limit: Duration::from_secs(60) }, "the look took more than 1 min 0 s"),
            (NotRead::TooMuch { error: error.into() }, error),
            (
                NotRead::Died { signal: Some(6), memory_bytes: 4 << 30 },
                "the process that looks was ended by signal 6; it may take 4.00 GiB of memory",
            ),
            (
                NotRead::Died { signal: None, memory_bytes: 4 << 30 },
                "the process that looks ended without an answer; it may take 4.00 GiB of memory",
            ),
            (NotRead::Stopped, "memtrace was asked to stop"),
            (NotRead::Failed { error: error.into() }, error),
        ];
        for (why, told) in cases {
            assert_eq!(not_read(&why), told);
        }
        let full = Pressure::NearLimit(Limit { max_bytes: 1 << 30, used_bytes: 1000 << 20 });
        assert_eq!(pressure(&full), "it has 1000.0 MiB of 1.00 GiB of its limit");
        let waits = Pressure::Waits { percent: 12.4 };
        assert_eq!(pressure(&waits), "tasks of it waited for memory in 12 % of the last 10 s");
    }

    #[test]
    fn rates_of_objects_have_a_sign_and_digits_where_they_are_few() {
        assert_eq!([0.0, 0.31, -2.5, 12_345.6].map(objects_per_s), ["0.0/s", "+0.3/s", "-2.5/s", "+12,346/s"]);
    }
}
