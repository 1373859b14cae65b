//! Several looks at one heap, joined: the last of them, with the growth since the first.
//!
//! In: heaps, with the time of each look. Out: a heap. Reads no clock.

use std::{collections::BTreeMap, time::Duration};

use crate::model::heap::{Allocator, Heap, SizeClass};

/// The looks at one heap so far.
#[derive(Clone, Debug, Default)]
pub struct HeapLooks {
    first: Option<(Duration, Heap)>,
    looks: u32,
    duration: Duration,
    retries: u64,
}

impl HeapLooks {
    /// Adds a look, whose figures are of this time (from any moment on, the same for all looks). Returns the heap with its growth since
    /// the first look, and with the effort of all looks. An allocator that the first look did not recognise has no growth.
    pub fn add(&mut self, at: Duration, mut heap: Heap) -> Heap {
        self.looks = self.looks.saturating_add(heap.looks.max(1));
        self.duration = self.duration.saturating_add(heap.duration);
        self.retries = self.retries.saturating_add(heap.consistency.retries);
        match &self.first {
            Some((first_at, first)) => {
                let seconds = at.saturating_sub(*first_at).as_secs_f64();
                for allocator in heap.allocators.iter_mut().filter(|allocator| allocator.is_recognised()) {
                    let before = first.allocators.iter().find(|before| is_same(before, allocator));
                    if let Some(before) = before.filter(|before| before.is_recognised() && seconds > 0.0) {
                        grow(before, allocator, seconds);
                    }
                }
            }
            None => self.first = Some((at, heap.clone())),
        }
        (heap.looks, heap.duration, heap.consistency.retries) = (self.looks, self.duration, self.retries);
        heap
    }
}

fn is_same(one: &Allocator, other: &Allocator) -> bool {
    (&one.name, &one.image) == (&other.name, &other.image)
}

/// Fills in the growth from one look to another. Of size classes that are gone, the loss is told.
fn grow(before: &Allocator, now: &mut Allocator, seconds: f64) {
    let per_s = |now: u64, before: u64| (now as f64 - before as f64) / seconds;
    now.growth_bytes_per_s = Some(per_s(now.live_bytes, before.live_bytes));
    let mut classes: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for class in &before.size_classes {
        let (objects, _) = classes.entry(class.size_bytes).or_default();
        *objects = objects.saturating_add(class.live_objects);
    }
    for class in &now.size_classes {
        let (_, objects) = classes.entry(class.size_bytes).or_default();
        *objects = objects.saturating_add(class.live_objects);
    }
    let class = |(size_bytes, (before, now)): (u64, (u64, u64))| SizeClass {
        size_bytes,
        live_objects: now,
        growth_objects_per_s: Some(per_s(now, before)),
    };
    now.size_classes = classes.into_iter().map(class).collect();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::heap::Consistency;

    /// A look of 10 ms that had to read a place again.
    fn look(classes: &[(u64, u64)]) -> Heap {
        let class = |(size_bytes, live_objects): &(u64, u64)| SizeClass::new(*size_bytes, *live_objects);
        let allocator = Allocator {
            name: "glibc".into(),
            live_bytes: classes.iter().map(|(size, objects)| size * objects).sum(),
            live_objects: classes.iter().map(|(_, objects)| objects).sum(),
            size_classes: classes.iter().map(class).collect(),
            ..Allocator::default()
        };
        Heap {
            looks: 1,
            duration: Duration::from_millis(10),
            consistency: Consistency { retries: 1, ..Consistency::default() },
            allocators: vec![allocator],
            ..Heap::default()
        }
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn growth_is_from_the_first_look_to_the_last() {
        let mut looks = HeapLooks::default();
        let first = looks.add(at(5), look(&[(24, 10), (40, 7)]));
        assert_eq!(first, look(&[(24, 10), (40, 7)]));
        looks.add(at(7), look(&[(24, 1000)]));
        let last = looks.add(at(15), look(&[(24, 30), (104, 5)]));
        let allocator = &last.allocators[0];
        assert_eq!(allocator.growth_bytes_per_s, Some((24.0 * 30.0 + 104.0 * 5.0 - 520.0) / 10.0));
        let growth: Vec<_> = allocator
            .size_classes
            .iter()
            .map(|class| (class.size_bytes, class.live_objects, class.growth_objects_per_s))
            .collect();
        assert_eq!(growth, [(24, 30, Some(2.0)), (40, 0, Some(-0.7)), (104, 5, Some(0.5))]);
        assert_eq!((last.looks, last.duration, last.consistency.retries), (3, Duration::from_millis(30), 3));
    }

    #[test]
    fn an_allocator_that_was_not_recognised_before_has_not_grown() {
        let mut looks = HeapLooks::default();
        let mut first = look(&[]);
        first.allocators[0].reason = Some("its arenas were being changed".into());
        looks.add(at(0), first);
        let second = looks.add(at(1), look(&[(24, 30)]));
        assert_eq!(second.allocators[0].growth_bytes_per_s, None);
        assert_eq!(second.allocators[0].size_classes[0].growth_objects_per_s, None);
    }
}
