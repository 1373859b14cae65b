//! Warnings, each told once: what is said again is counted, and the count is told now and then.
//!
//! A target can bring about a warning as often as it likes. Equal texts are one warning, and so are all texts of one place in the
//! sources beyond the first few.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use log::{Level, Log, Metadata, Record};

use crate::report::words::units;

/// The shortest time between two counts of the same warning.
const PAUSE: Duration = Duration::from_secs(10);
/// How many different texts of one place in the sources are told.
const MOST_TEXTS: usize = 20;

/// The place of a warning in the sources.
type Place = (String, u32);

/// A warning that was told, and how often it came since.
struct Told {
    more: u64,
    at: Instant,
}

/// The handling of a warning.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// It is told as it is.
    Tell,
    /// So many more are told by their number.
    TellCount(u64),
    /// It is counted.
    Count,
}

/// The warnings that were told, by place and text; without a text, those of the place beyond the first few.
#[derive(Default)]
struct Tally(HashMap<Place, HashMap<Option<String>, Told>>);

impl Tally {
    fn judge(&mut self, place: Place, text: &str, now: Instant) -> Verdict {
        let of_place = self.0.entry(place).or_default();
        let mut key = Some(text.to_owned());
        if !of_place.contains_key(&key) && of_place.len() >= MOST_TEXTS {
            key = None;
        }
        let Some(told) = of_place.get_mut(&key) else {
            of_place.insert(key, Told { more: 0, at: now });
            return Verdict::Tell;
        };
        told.more += 1;
        if now.saturating_duration_since(told.at) < PAUSE {
            return Verdict::Count;
        }
        told.at = now;
        Verdict::TellCount(std::mem::take(&mut told.more))
    }

    /// The texts that came more often than was told, each with how often. Told with that.
    fn rest(&mut self) -> Vec<(Option<String>, u64)> {
        let all = self.0.values_mut().flat_map(HashMap::iter_mut);
        let mut rest: Vec<_> = all
            .map(|(text, told)| (text.clone(), std::mem::take(&mut told.more)))
            .filter(|(_, more)| *more > 0)
            .collect();
        rest.sort();
        rest
    }
}

/// A log that tells each warning once.
pub(super) struct Warnings<L> {
    log: L,
    tally: Mutex<Tally>,
}

impl<L: Log> Warnings<L> {
    pub(super) fn new(log: L) -> Self {
        Self { log, tally: Mutex::default() }
    }

    fn tell(&self, more: u64, text: &str) {
        let count = units::count(more);
        let record = format_args!("… {count} more times: {text}");
        self.log.log(&Record::builder().level(Level::Warn).target(module_path!()).args(record).build());
    }
}

impl<L: Log> Log for Warnings<L> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.log.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if record.level() != Level::Warn || !self.enabled(record.metadata()) {
            return self.log.log(record);
        }
        let place = (record.target().to_owned(), record.line().unwrap_or(0));
        let text = record.args().to_string();
        let verdict = self.tally.lock().unwrap_or_else(PoisonError::into_inner).judge(place, &text, Instant::now());
        match verdict {
            Verdict::Tell => self.log.log(record),
            Verdict::TellCount(more) => self.tell(more, &text),
            Verdict::Count => {}
        }
    }

    /// Tells what was counted since it was told last.
    fn flush(&self) {
        let rest = self.tally.lock().unwrap_or_else(PoisonError::into_inner).rest();
        for (text, more) in rest {
            self.tell(more, text.as_deref().unwrap_or("warnings like those above"));
        }
        self.log.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(line: u32) -> Place {
        ("memtrace::somewhere".to_owned(), line)
    }

    #[test]
    fn equal_warnings_are_told_once_and_then_counted_at_a_bounded_rate() {
        let (mut tally, begun) = (Tally::default(), Instant::now());
        let mut told = Vec::new();
        for ms in 0..35_000 {
            let verdict = tally.judge(place(1), "no room", begun + Duration::from_millis(ms));
            told.extend(Some(verdict).filter(|verdict| *verdict != Verdict::Count));
        }
        let count = Verdict::TellCount(10_000);
        assert_eq!(told, [Verdict::Tell, count, Verdict::TellCount(10_000), Verdict::TellCount(10_000)]);
        assert_eq!(tally.rest(), [(Some("no room".to_owned()), 4_999)]);
        assert_eq!(tally.rest(), []);
    }

    #[test]
    fn different_warnings_of_one_place_are_told_until_they_are_many() {
        let (mut tally, now) = (Tally::default(), Instant::now());
        let verdicts: Vec<Verdict> = (0..1000).map(|n| tally.judge(place(1), &format!("{n} files"), now)).collect();
        let told = verdicts.iter().filter(|verdict| **verdict == Verdict::Tell).count();
        assert_eq!(told, MOST_TEXTS + 1);
        assert_eq!(tally.rest(), [(None, 1000 - told as u64)]);
        assert_eq!(tally.judge(place(2), "0 files", now), Verdict::Tell);
    }
}
