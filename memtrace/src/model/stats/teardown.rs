//! Where the last fall of live bytes begins, and whether it is a teardown. A program that frees its blocks on its way out says
//! nothing of how it came to hold them: its sites are judged as of the reading before that fall.
//!
//! In: live bytes, reading by reading, and when the program began to end. Out: the reading from which they fell, with all that
//! was known then. Knows nothing of BPF, symbols or output.
//!
//! A fall is a teardown where three things hold. It is the last: a sawtooth, or a cache that is dropped now and then, rises again.
//! It takes half of the bytes at least. And it begins on the way out, or shortly before it: a batch that is done long before
//! the program ends is ordinary work, and so is a queue that is worked off, which takes longer than a teardown.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Fewer bytes are not followed: no verdict is made of them.
const LEAST_BYTES: u64 = 4096;
/// Ups and downs by less than this part of the height are neither a fall nor a rise.
const SWING: u64 = 16;
/// How long before the program's way out a teardown may begin: `main` frees its blocks, and returns.
const SHORTLY_BEFORE: Duration = Duration::from_secs(8);
/// How long a way out is taken for one while the process lives. An interpreter can be finalised by a program that goes on.
const LONGEST_WAY_OUT: Duration = Duration::from_secs(60);

/// Live bytes, reading by reading, and from where they fell last. `K` is what is remembered of that reading.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Descent<K>(Option<Box<Height<K>>>);

/// The reading before live bytes fell, or the latest one while they have not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Height<K> {
    /// After the start.
    pub at: Duration,
    /// All that was known then.
    pub known: K,
    /// The most live bytes since they last rose.
    most: u64,
    fall: Option<Fall>,
}

/// A fall that has not ended in a rise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Fall {
    /// The first reading that shows it.
    seen_at: Duration,
    /// The fewest bytes since.
    least: u64,
}

impl<K> Default for Descent<K> {
    fn default() -> Self {
        Self(None)
    }
}

impl<K> Descent<K> {
    /// Takes in a reading. Times must not go back. Once the program `leaves`, a height stays the one from before that, unless
    /// more is allocated than ever before: then it goes on working.
    pub fn push(&mut self, at: Duration, live_bytes: u64, leaves: bool, known: impl FnOnce() -> K) {
        match &mut self.0 {
            None if live_bytes < LEAST_BYTES => {}
            None => self.0 = Some(Box::new(Height { at, known: known(), most: live_bytes, fall: None })),
            Some(height) => {
                if let Some(most) = height.next(at, live_bytes, leaves) {
                    **height = Height { at, known: known(), most, fall: None };
                }
            }
        }
    }

    /// The reading before the last fall, where that is part of a way out which began at `way_out`.
    #[must_use]
    pub fn before_end(&self, way_out: Duration) -> Option<&Height<K>> {
        let begins_in_time = |fall: &Fall| fall.seen_at.saturating_add(SHORTLY_BEFORE) >= way_out;
        self.0.as_deref().filter(|height| height.fall.as_ref().is_some_and(begins_in_time))
    }
}

impl<K> Height<K> {
    /// The most bytes since the last rise, where a reading becomes the new height.
    fn next(&mut self, at: Duration, live_bytes: u64, leaves: bool) -> Option<u64> {
        let swing = self.most / SWING;
        if live_bytes > self.most.saturating_add(swing) {
            return Some(live_bytes);
        }
        match &mut self.fall {
            Some(fall) if !leaves && live_bytes > fall.least.saturating_add(swing) => return Some(live_bytes),
            Some(fall) => fall.least = fall.least.min(live_bytes),
            None if live_bytes.saturating_add(swing) < self.most => {
                self.fall = Some(Fall { seen_at: at, least: live_bytes });
            }
            None if leaves => {}
            None => return Some(self.most.max(live_bytes)),
        }
        None
    }
}

/// The holdings before a program freed on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BeforeEnd {
    /// When, after the start.
    pub at: Duration,
    /// Bytes that were live then.
    pub live_bytes: u64,
    /// Objects that were.
    pub live_objects: u64,
    /// Resident memory at that moment; nothing of a single site.
    pub rss_bytes: Option<u64>,
}

/// Whether a teardown has freed most of what was held.
#[must_use]
pub fn has_freed_most(held_bytes: u64, left_bytes: u64) -> bool {
    left_bytes <= held_bytes / 2
}

/// Since when a program is on its way out, as of `now`: since it has said so, or since its process `ended`.
#[must_use]
pub fn way_out(said: Option<Duration>, ended: Option<Duration>, now: Duration) -> Option<Duration> {
    let by = ended.unwrap_or(now);
    said.filter(|said| by.saturating_sub(*said) <= LONGEST_WAY_OUT).or(ended)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: usize) -> Duration {
        Duration::from_secs(second as u64)
    }

    /// A reading a second; from the second `leaves` on, the program has said that it ends.
    fn descent(values: &[u64], leaves: usize) -> Descent<usize> {
        let mut descent = Descent::default();
        for (second, value) in values.iter().enumerate() {
            descent.push(at(second), *value, second >= leaves, || second);
        }
        descent
    }

    /// The reading before the last fall of a program that ends with the last reading.
    fn from(values: &[u64]) -> Option<usize> {
        descent(values, usize::MAX).before_end(at(values.len() - 1)).map(|height| height.known)
    }

    fn growing(seconds: u64) -> Vec<u64> {
        (0..seconds).map(|second| second * 100_000).collect()
    }

    #[test]
    fn a_fall_at_the_end_begins_at_the_reading_before_it() {
        let mut values = growing(40);
        values.push(0);
        assert_eq!(from(&values), Some(39));
        values.extend([0; 3]);
        assert_eq!(from(&values), Some(39), "it takes a while to end");
    }

    #[test]
    fn a_fall_in_many_steps_is_one() {
        let mut values = growing(40);
        values.extend((0..7).map(|step| 3_900_000 - step * 550_000));
        assert_eq!(from(&values), Some(40));
    }

    #[test]
    fn what_never_falls_has_no_fall() {
        assert_eq!(from(&growing(60)), None);
        assert_eq!(from(&[5_000_000; 60]), None);
        assert_eq!(from(&[0, 4000, 0]), None, "too little to be worth a word");
    }

    #[test]
    fn a_sawtooth_that_rises_again_has_not_fallen() {
        let teeth: Vec<u64> = (0..60).map(|second| second % 12 * 100_000).collect();
        for until in 14..24 {
            assert_eq!(from(&teeth[..until]), None, "{until}");
        }
    }

    #[test]
    fn what_is_freed_long_before_the_end_is_ordinary_work() {
        let mut values = growing(30);
        values.extend([0; 20]);
        assert_eq!(from(&values), None);
        // So is what is worked off.
        let mut drained = growing(30);
        drained.extend((0..20).map(|step| (20 - step) * 145_000));
        assert_eq!(from(&drained), None);
    }

    #[test]
    fn once_a_program_says_that_it_ends_its_fall_may_take_its_time() {
        let mut values = growing(30);
        values.extend((0..20).map(|step| (20 - step) * 140_000));
        let told = descent(&values, 30);
        assert_eq!(told.before_end(at(30)).map(|height| height.known), Some(29));
        // It may build a little on its way.
        values.extend([2_000_000, 0]);
        assert_eq!(descent(&values, 30).before_end(at(30)).map(|height| height.known), Some(29));
        // More than ever before is no end.
        values.push(9_000_000);
        assert_eq!(descent(&values, 30).before_end(at(30)), None);
    }

    #[test]
    fn no_later_reading_is_above_the_height_whatever_the_series() {
        for seed in 0..500 {
            let mut random = fastrand::Rng::with_seed(seed);
            let values: Vec<u64> = (0..60).map(|_| random.u64(0..1_000_000)).collect();
            let Some(index) = from(&values) else { continue };
            let most = values[index + 1..].iter().max().unwrap();
            // But for the swing.
            assert!(*most <= values[index] / 15 * 16 + 16, "{seed}: {index} of {values:?}");
            let rises = values[index + 1..].windows(2).map(|pair| pair[1].saturating_sub(pair[0])).max();
            assert!(rises.unwrap_or(0) <= values[index] / 15 + 1, "{seed}: {index} of {values:?}");
        }
    }

    #[test]
    fn what_went_before_the_last_rise_does_not_matter() {
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let before: Vec<u64> = (0..random.usize(1..30)).map(|_| random.u64(0..1_000_000)).collect();
            let mut last: Vec<u64> = (0..20).map(|step| 2_000_000 + step * 200_000).collect();
            last.push(random.u64(0..2_000_000));
            let all = [before.clone(), last.clone()].concat();
            assert_eq!(from(&all), from(&last).map(|index| index + before.len()), "{seed}");
        }
    }

    #[test]
    fn most_is_half_or_more() {
        assert!(has_freed_most(100, 50) && has_freed_most(100, 0));
        assert!(!has_freed_most(100, 51) && !has_freed_most(0, 1));
    }

    #[test]
    fn a_way_out_begins_when_a_program_says_so_or_ends() {
        assert_eq!(way_out(None, None, at(50)), None);
        assert_eq!(way_out(None, Some(at(50)), at(900)), Some(at(50)));
        assert_eq!(way_out(Some(at(45)), Some(at(50)), at(900)), Some(at(45)));
        assert_eq!(way_out(Some(at(45)), None, at(50)), Some(at(45)));
        // It went on for minutes: that was no end.
        assert_eq!(way_out(Some(at(45)), None, at(450)), None);
        assert_eq!(way_out(Some(at(45)), Some(at(450)), at(900)), Some(at(450)));
    }
}
