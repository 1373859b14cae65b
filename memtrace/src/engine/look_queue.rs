//! Whose heap is looked at next, and within which bounds.
//!
//! In: targets, the time, and what looks have taken. Out: a target with limits, or why it is not looked at. Reads no clock.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::{
    looking::Limits,
    model::{heap_look::NotLooked, target_id::TargetId},
};

/// The most targets that are looked at: of more, nobody reads the parts, and looks at them would go on for long.
pub(super) const MOST_TARGETS: usize = 8;
/// The most that the looks of one round may take together: bytes of resident memory, and time. One at a GiB takes half a second where a CPU
/// is free, and half a minute beside a target that leaves none.
pub(super) const ROUND: Limits = Limits { time: Duration::from_secs(120), bytes: 16 << 30 };
/// How long a last report waits for looks at most, and one whose time was known before.
pub(super) const LAST_TIME: Duration = Duration::from_secs(5);
pub(super) const LAST_TIME_PLANNED: Duration = Duration::from_secs(1);
/// The same where holders are asked for, planned or not: all memory is looked through for them.
pub(super) const LAST_TIME_HOLDERS: Duration = Duration::from_secs(30);
/// Between the end of a round and the next one lies this time at least, and so many times what the round has taken.
const PAUSE: Duration = Duration::from_secs(30);
const PAUSES_OF_LOOKS: u32 = 30;
/// A round is expected to take what the first has taken, and this much more.
const MORE: Duration = Duration::from_millis(300);

/// The targets that wait for a look, and what is left of the bounds of all looks of a round.
#[derive(Debug)]
pub(super) struct LookQueue {
    waiting: VecDeque<TargetId>,
    left: Limits,
    /// The time that the looks of this round have taken.
    taken: Duration,
    /// The most that a round has taken.
    longest: Duration,
    ended: Option<Instant>,
}

impl Default for LookQueue {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), left: ROUND, taken: Duration::ZERO, longest: Duration::ZERO, ended: None }
    }
}

impl LookQueue {
    /// Lets a target wait for a look, unless it does.
    pub(super) fn want(&mut self, id: TargetId) {
        if !self.waiting.contains(&id) {
            self.waiting.push_back(id);
        }
    }

    /// Whether nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Begins a round, which may take so much.
    pub(super) fn begin_round(&mut self, limits: Limits) {
        (self.left, self.taken) = (limits, Duration::ZERO);
    }

    /// The next target, with the bounds of the look at it or why there is none.
    pub(super) fn next(&mut self) -> Option<(TargetId, Result<Limits, NotLooked>)> {
        let id = self.waiting.pop_front()?;
        let is_left = !self.left.time.is_zero() && self.left.bytes > 0;
        Some((id, if is_left { Ok(self.left) } else { Err(NotLooked::UsedUp) }))
    }

    /// A look at so much resident memory is over, and has taken so long.
    pub(super) fn looked(&mut self, rss_bytes: u64, took: Duration, now: Instant) {
        self.left.time = self.left.time.saturating_sub(took);
        self.left.bytes = self.left.bytes.saturating_sub(rss_bytes);
        self.taken = self.taken.saturating_add(took);
        self.longest = self.longest.max(self.taken);
        self.ended = Some(now);
    }

    /// Nobody waits any more. Returns who did.
    pub(super) fn give_up(&mut self) -> impl Iterator<Item = TargetId> {
        std::mem::take(&mut self.waiting).into_iter()
    }

    /// Whether it is time for another round, for a report that is not the last.
    pub(super) fn may_begin_again(&self, now: Instant) -> bool {
        let pause = PAUSE.max(self.longest * PAUSES_OF_LOOKS);
        self.is_empty() && self.ended.is_some_and(|ended| now.saturating_duration_since(ended) >= pause)
    }

    /// Whether there was any look.
    pub(super) fn has_looked(&self) -> bool {
        self.ended.is_some()
    }

    /// How long another round is expected to take.
    pub(super) fn expected(&self) -> Duration {
        self.longest.saturating_add(self.longest / 2).saturating_add(MORE)
    }

    /// Whether a round is expected to be over within this time.
    pub(super) fn is_quick(&self, time: Duration) -> bool {
        self.longest <= time
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use memtrace_common::ids::ProcessSlot;

    const SECOND: Duration = Duration::from_secs(1);

    fn target(serial: u64) -> TargetId {
        TargetId { slot: ProcessSlot(1), serial }
    }

    #[test]
    fn each_waits_once_and_all_draw_on_one_budget() {
        let mut queue = LookQueue::default();
        [1, 2, 1, 3].into_iter().for_each(|serial| queue.want(target(serial)));
        let now = Instant::now();
        assert_eq!(queue.next(), Some((target(1), Ok(ROUND))));
        queue.looked(15 << 30, SECOND, now);
        assert_eq!(queue.next(), Some((target(2), Ok(Limits { time: ROUND.time - SECOND, bytes: 1 << 30 }))));
        queue.looked(2 << 30, SECOND, now);
        assert_eq!(queue.next(), Some((target(3), Err(NotLooked::UsedUp))));
        assert_eq!(queue.next(), None);
        // The next round has a budget of its own.
        queue.begin_round(ROUND);
        queue.want(target(3));
        assert_eq!(queue.next(), Some((target(3), Ok(ROUND))));
        queue.looked(0, ROUND.time, now);
        queue.want(target(1));
        assert_eq!(queue.next(), Some((target(1), Err(NotLooked::UsedUp))));
    }

    #[test]
    fn rounds_keep_their_distance_by_what_they_take() {
        let mut queue = LookQueue::default();
        let begun = Instant::now();
        assert!(!queue.may_begin_again(begun + 100 * SECOND), "the first is none of these");
        queue.looked(1, SECOND / 10, begun);
        assert!(!queue.may_begin_again(begun + 29 * SECOND) && queue.may_begin_again(begun + 30 * SECOND));
        assert_eq!(queue.expected(), SECOND * 45 / 100);
        queue.looked(1, 20 * SECOND, begun);
        assert!(!queue.may_begin_again(begun + 602 * SECOND) && queue.may_begin_again(begun + 603 * SECOND));
        assert!(!queue.is_quick(LAST_TIME) && queue.is_quick(LAST_TIME_HOLDERS));
        queue.want(target(1));
        assert!(!queue.may_begin_again(begun + 603 * SECOND));
        assert_eq!(queue.give_up().collect::<Vec<_>>(), [target(1)]);
        assert!(queue.is_empty());
    }
}
