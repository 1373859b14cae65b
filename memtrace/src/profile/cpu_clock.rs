//! How long a target has run on a CPU since it is traced, as far as that was read or told.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How a target begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Beginning {
    /// It ran before it became a target.
    #[default]
    Before,
    /// It begins as a program, with no memory yet.
    Program,
    /// It begins as a copy of its parent: the allocator's memory of that time is known neither as blocks nor as free, so it may hold
    /// pointers. Memory that its own calls map afterwards is known, as of a program.
    Forked,
}

/// The account of one target.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct CpuClock {
    beginning: Beginning,
    /// When first and last read.
    read: Option<(Duration, Duration)>,
    /// The CPU time of the whole program, once it is over: the kernel side tells.
    at_end: Option<Duration>,
}

impl CpuClock {
    /// The clock of a program that begins so, without a reading yet.
    pub(crate) fn beginning(beginning: Beginning) -> Self {
        Self { beginning, ..Self::default() }
    }

    /// Takes in what was read now, and what its threads have run that have ended.
    pub(crate) fn note(&mut self, now: Option<Duration>, at_end: Option<Duration>) {
        if let Some(now) = now {
            let (first, _) = self.read.unwrap_or((now, now));
            self.read = Some((first, now));
        }
        self.at_end = at_end;
    }

    /// How long it was; of one that has lived for milliseconds, and was never read, what the kernel side tells, which has seen its
    /// beginning and its end.
    pub(crate) fn time(&self, has_ended: bool) -> Option<Duration> {
        let read = self.read.map(|(first, last)| last.saturating_sub(first));
        let is_whole = has_ended && self.beginning != Beginning::Before;
        read.max(self.at_end.filter(|_| is_whole))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(milliseconds: u64) -> Option<Duration> {
        Some(Duration::from_millis(milliseconds))
    }

    #[test]
    fn a_program_that_was_never_read_has_what_its_threads_had_at_their_ends() {
        let mut clock = CpuClock::beginning(Beginning::Program);
        clock.note(None, ms(6));
        assert_eq!((clock.time(true), clock.time(false)), (ms(6), None));
    }

    #[test]
    fn what_a_process_had_run_before_it_was_traced_does_not_count() {
        let mut clock = CpuClock::beginning(Beginning::Before);
        clock.note(ms(5000), None);
        clock.note(ms(5030), ms(5031));
        assert_eq!(clock.time(true), ms(30));
    }

    #[test]
    fn a_program_that_began_under_our_eyes_has_all_of_it() {
        let mut clock = CpuClock::beginning(Beginning::Forked);
        clock.note(ms(20), None);
        clock.note(ms(50), ms(3));
        assert_eq!(clock.time(false), ms(30), "some thread has ended");
        clock.note(None, ms(58));
        assert_eq!(clock.time(true), ms(58));
    }
}
