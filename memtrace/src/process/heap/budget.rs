//! The one budget of a look at a process's memory: every loop over memory of the target draws on it.

use std::time::{Duration, Instant};

use thiserror::Error;

/// Steps between two looks at the clock.
const STEPS_PER_CLOCK: u32 = 4096;

/// The most that one look may take.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Bytes read from the target.
    pub bytes: u64,
    /// Time from the look's beginning on.
    pub time: Duration,
    /// Places that are read again because they contradict themselves.
    pub retries: u64,
    /// Blocks that are listed, live and free. Each takes four bytes.
    pub blocks: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { bytes: 16 << 30, time: Duration::from_secs(60), retries: 10_000, blocks: 1 << 28 }
    }
}

/// The bound that was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Exhausted {
    /// Of bytes.
    #[error("there is more than {} MiB of memory to read", .0 >> 20)]
    Bytes(u64),
    /// Of time.
    #[error("it takes more than {} ms", .0.as_millis())]
    Time(Duration),
    /// Of blocks.
    #[error("there are more than {0} blocks")]
    Blocks(u64),
}

/// The bounds, and how much of them was drawn.
#[derive(Debug)]
pub struct Budget {
    bounds: Bounds,
    begun: Instant,
    bytes: u64,
    retries: u64,
    blocks: u64,
    steps: u32,
}

impl Budget {
    /// All of it, from now on.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, begun: Instant::now(), bytes: 0, retries: 0, blocks: 0, steps: 0 }
    }

    /// Draws bytes that are to be read, and looks at the clock.
    ///
    /// # Errors
    /// Where bytes or time are used up.
    pub fn draw(&mut self, bytes: u64) -> Result<(), Exhausted> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > self.bounds.bytes {
            return Err(Exhausted::Bytes(self.bounds.bytes));
        }
        self.check()
    }

    /// Draws a step of a loop.
    ///
    /// # Errors
    /// Where time is used up.
    pub fn step(&mut self) -> Result<(), Exhausted> {
        self.steps = self.steps.wrapping_add(1);
        if self.steps.is_multiple_of(STEPS_PER_CLOCK) { self.check() } else { Ok(()) }
    }

    /// Draws blocks that are to be listed.
    ///
    /// # Errors
    /// Where there are too many.
    pub fn list(&mut self, blocks: u64) -> Result<(), Exhausted> {
        self.blocks = self.blocks.saturating_add(blocks);
        if self.blocks > self.bounds.blocks { Err(Exhausted::Blocks(self.bounds.blocks)) } else { Ok(()) }
    }

    /// Draws a retry; `false` where none is left.
    pub fn retry(&mut self) -> bool {
        let is_left = self.retries < self.bounds.retries;
        self.retries += u64::from(is_left);
        is_left
    }

    /// How many retries were drawn.
    #[must_use]
    pub fn retries(&self) -> u64 {
        self.retries
    }

    /// How many bytes were drawn.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How long it has taken so far.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    fn check(&self) -> Result<(), Exhausted> {
        if self.begun.elapsed() > self.bounds.time { Err(Exhausted::Time(self.bounds.time)) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bound_ends_what_draws_on_it() {
        let bounds = Bounds { bytes: 10, time: Duration::MAX, retries: 2, blocks: 3 };
        let mut budget = Budget::new(bounds);
        assert_eq!((budget.draw(10), budget.draw(1)), (Ok(()), Err(Exhausted::Bytes(10))));
        assert_eq!((budget.list(3), budget.list(1)), (Ok(()), Err(Exhausted::Blocks(3))));
        assert_eq!([budget.retry(), budget.retry(), budget.retry()], [true, true, false]);
        assert_eq!(budget.retries(), 2);
        let mut late = Budget::new(Bounds { time: Duration::ZERO, ..bounds });
        assert!((0..=STEPS_PER_CLOCK).any(|_| late.step().is_err()));
        assert_eq!(late.draw(0), Err(Exhausted::Time(Duration::ZERO)));
    }
}
