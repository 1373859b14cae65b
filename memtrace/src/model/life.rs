//! The life of a target's program, by the time since the start of a run.

use std::time::Duration;

/// When a program began and ended, after the start of the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Life {
    /// When it began; zero where it ran before.
    pub began: Duration,
    /// When it ended; nothing while it lives.
    pub ended: Option<Duration>,
}

impl Life {
    /// The life of a program that begins then and goes on.
    #[must_use]
    pub fn since(began: Duration) -> Self {
        Self { began, ended: None }
    }

    /// For how long of such a time it was there.
    #[must_use]
    pub fn within(&self, from: Duration, until: Duration) -> Duration {
        let end = self.ended.map_or(until, |ended| ended.min(until));
        end.saturating_sub(from.max(self.began))
    }

    /// Whether it has begun and ended in such a time.
    #[must_use]
    pub fn is_within(&self, from: Duration, until: Duration) -> bool {
        self.began >= from && self.ended.is_some_and(|ended| ended <= until && ended >= self.began)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn the_part_of_a_life_in_some_time_is_told() {
        let life = Life { began: ms(10), ended: Some(ms(16)) };
        assert_eq!(life.within(ms(0), ms(100)), ms(6));
        assert_eq!(life.within(ms(12), ms(14)), ms(2));
        assert_eq!((life.within(ms(15), ms(30)), life.within(ms(20), ms(30))), (ms(1), ms(0)));
        assert_eq!(Life::since(ms(10)).within(ms(5), ms(30)), ms(20));
    }

    #[test]
    fn only_a_life_that_is_over_can_be_within_some_time() {
        let life = Life { began: ms(10), ended: Some(ms(16)) };
        assert!(life.is_within(ms(10), ms(16)) && !life.is_within(ms(11), ms(20)) && !life.is_within(ms(5), ms(15)));
        assert!(!Life::since(ms(10)).is_within(ms(5), ms(100)));
    }
}
