//! A process's memory over time, as the system counts it: not what was allocated, but what it has.

use std::time::Duration;

use super::{
    growth::History,
    trend::{self, Judgement, Trend},
};

/// How many readings the last minute keeps.
const RECENT: usize = 64;

/// Readings that follow one another faster than this tell no more: the last minute is to be one.
const MIN_SPACING: Duration = Duration::from_millis(900);

/// Later than this nobody can tell when a limit is reached.
const FORESEEABLE: Duration = Duration::from_secs(365 * 86400);

/// What a process has, in bytes, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Resident memory of its own: heaps, stacks, and pages of files that it has written to.
    pub anon_bytes: u64,
    /// Resident pages of files that it has mapped: code, data.
    pub file_bytes: u64,
    /// Resident shared memory.
    pub shmem_bytes: u64,
    /// Memory of its own that was swapped out.
    pub swap_bytes: u64,
    /// Address space, whether there is memory behind it or not.
    pub vms_bytes: u64,
}

impl Usage {
    /// Resident memory.
    #[must_use]
    pub fn rss_bytes(&self) -> u64 {
        self.anon_bytes.saturating_add(self.file_bytes).saturating_add(self.shmem_bytes)
    }
}

/// What the process's cgroup may have, or one above it: of all with a limit the one with least room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What the group may have, in bytes.
    pub max_bytes: u64,
    /// What the group has, all its processes together, without pages of files that are the first to be given back.
    pub used_bytes: u64,
}

impl Limit {
    /// What is left, in bytes.
    #[must_use]
    pub fn room_bytes(&self) -> u64 {
        self.max_bytes.saturating_sub(self.used_bytes)
    }
}

/// What a report tells of a process's memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    /// When last seen.
    pub latest: Usage,
    /// What its cgroup may have, where there is a limit.
    pub limit: Option<Limit>,
    /// When its group will have reached that, if the process goes on growing as it does and nobody else does; nothing
    /// where it is not increasing, or longer than a year.
    pub time_to_limit: Option<Duration>,
    /// From the first reading to the last, at most 65, with their times after the start.
    pub series: Vec<(Duration, Usage)>,
}

/// A process's memory over time.
#[derive(Clone, Debug, Default)]
pub struct MemoryHistory {
    run: History<Usage>,
    recent: Vec<(Duration, u64)>,
    latest: Option<(Duration, Usage)>,
}

impl MemoryHistory {
    /// Takes in a reading. Times must not go back.
    pub fn push(&mut self, at: Duration, usage: Usage) {
        self.latest = Some((at, usage));
        if self.recent.last().is_some_and(|(last, _)| at.saturating_sub(*last) < MIN_SPACING) {
            return;
        }
        self.run.push(at, usage);
        if self.recent.len() == RECENT {
            self.recent.remove(0);
        }
        self.recent.push((at, usage.rss_bytes()));
    }

    /// The first reading.
    #[must_use]
    pub fn first(&self) -> Option<Usage> {
        self.run.first()
    }

    /// The last reading.
    #[must_use]
    pub fn latest(&self) -> Option<Usage> {
        self.latest.map(|(_, usage)| usage)
    }

    /// The time between the first and the last reading.
    #[must_use]
    pub fn span(&self) -> Duration {
        let first = self.run.points().first().map(|(at, _)| *at);
        self.latest.zip(first).map_or(Duration::ZERO, |((last, _), first)| last.saturating_sub(first))
    }

    /// By how much resident memory has risen in the last minute, in bytes a second, from one end to the other: what costs
    /// nothing to ask.
    #[must_use]
    pub fn rise_per_s(&self) -> f64 {
        let (Some((start, before)), Some((end, now))) = (self.recent.first(), self.recent.last()) else { return 0.0 };
        let seconds = end.saturating_sub(*start).as_secs_f64();
        if seconds > 0.0 { (*now as f64 - *before as f64) / seconds } else { 0.0 }
    }

    /// Which way resident memory goes.
    #[must_use]
    pub fn judge(&self) -> Judgement {
        let run: Vec<(Duration, u64)> = self.series().iter().map(|(at, usage)| (*at, usage.rss_bytes())).collect();
        trend::judge(&run, &self.recent)
    }

    /// From the first reading to the last.
    #[must_use]
    pub fn series(&self) -> Vec<(Duration, Usage)> {
        let mut series = self.run.points().to_vec();
        let is_newer = |latest: &(Duration, Usage)| series.last().is_none_or(|(last, _)| *last < latest.0);
        series.extend(self.latest.filter(is_newer));
        series
    }

    /// What a report tells, where there was any reading; `limit` is that of its group.
    #[must_use]
    pub fn report(&self, limit: Option<Limit>, judgement: &Judgement) -> Option<Memory> {
        let time_to_limit = limit.and_then(|limit| time_to_limit(&limit, judgement));
        Some(Memory { latest: self.latest()?, limit, time_to_limit, series: self.series() })
    }
}

/// How long until the room that is left is taken.
fn time_to_limit(limit: &Limit, judgement: &Judgement) -> Option<Duration> {
    if judgement.trend != Trend::Increasing {
        return None;
    }
    let time = Duration::try_from_secs_f64(limit.room_bytes() as f64 / judgement.slope_per_s).ok()?;
    (time <= FORESEEABLE).then_some(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(rss_kib: u64) -> Usage {
        Usage { anon_bytes: rss_kib * 1024, file_bytes: 1 << 20, ..Usage::default() }
    }

    fn history(seconds: u64, kib_per_s: u64) -> MemoryHistory {
        let mut history = MemoryHistory::default();
        (0..=seconds).for_each(|second| history.push(Duration::from_secs(second), usage(1000 + second * kib_per_s)));
        history
    }

    #[test]
    fn a_series_spans_the_run_in_bounded_room() {
        let history = history(10_000, 1);
        let series = history.series();
        assert!((32..=65).contains(&series.len()), "{}", series.len());
        assert_eq!(series[0].0, Duration::ZERO);
        assert_eq!(series.last().unwrap(), &(Duration::from_secs(10_000), usage(11_000)));
        assert_eq!(history.span(), Duration::from_secs(10_000));
    }

    #[test]
    fn a_minute_is_kept_whole() {
        assert_eq!(history(60, 1).series().len(), 61);
    }

    #[test]
    fn fast_readings_do_not_shorten_the_last_minute() {
        let mut history = MemoryHistory::default();
        (0..1200).for_each(|tick| history.push(Duration::from_millis(tick * 100), usage(1000 + tick)));
        let span = history.recent[RECENT - 1].0 - history.recent[0].0;
        assert!(span > Duration::from_secs(56), "{span:?}");
        assert_eq!(history.latest(), Some(usage(2199)));
    }

    #[test]
    fn the_time_to_a_limit_is_told_of_what_is_increasing() {
        let limit = Some(Limit { max_bytes: 100 << 20, used_bytes: 40 << 20 });
        let told = |history: &MemoryHistory| history.report(limit, &history.judge()).unwrap().time_to_limit;
        let seconds = told(&history(60, 1024)).unwrap().as_secs_f64();
        assert!((seconds - 60.0).abs() < 1.0, "{seconds}");
        assert_eq!(told(&history(60, 0)), None);
        let grown = history(60, 1024);
        assert_eq!(grown.report(None, &grown.judge()).unwrap().time_to_limit, None);
        let full = Limit { max_bytes: 1, used_bytes: 2 };
        assert_eq!(time_to_limit(&full, &grown.judge()), Some(Duration::ZERO));
    }

    #[test]
    fn nothing_is_told_of_what_was_never_read() {
        let never = MemoryHistory::default();
        assert_eq!(never.report(None, &never.judge()), None);
        assert!(never.rise_per_s().abs() < 1e-9 && (history(60, 7).rise_per_s() - 7.0 * 1024.0).abs() < 1e-6);
    }
}
