//! The memory of a process, or of the kernel, over time, as the system counts it: not what was allocated, but what it has.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::stats::{
    history::{self, History},
    trend::{self, Judgement, Trend},
};

/// How many readings the last minute keeps.
const RECENT: usize = 64;

/// Readings that follow one another faster than this tell no more: the last minute is to be one.
const MIN_SPACING: Duration = Duration::from_millis(900);

/// Later than this nobody can tell when a limit is reached.
const FORESEEABLE: Duration = Duration::from_secs(365 * 86400);

/// The memory of a process, or of the kernel, at a moment.
pub trait Reading: Copy {
    /// All that is judged, in bytes.
    fn bytes(&self) -> u64;

    /// Such readings, as reports have them.
    fn series(readings: Vec<(Duration, Self)>) -> Series;
}

/// The memory of a process, in bytes, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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

impl Reading for Usage {
    fn bytes(&self) -> u64 {
        self.rss_bytes()
    }

    fn series(readings: Vec<(Duration, Self)>) -> Series {
        Series::OfProcess(readings)
    }
}

/// The memory that the kernel holds for itself by its own account, in bytes, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelUsage {
    /// Slabs that it gives back when memory is short: caches of names and of files.
    pub slab_reclaimable_bytes: u64,
    /// All other slabs.
    pub slab_unreclaimable_bytes: u64,
    /// Stacks of threads.
    pub stack_bytes: u64,
    /// Other memory whose pages follow one another in its addresses only.
    pub vmalloc_bytes: u64,
    /// Page tables.
    pub page_table_bytes: u64,
    /// Per-CPU memory, of all CPUs.
    pub percpu_bytes: u64,
}

impl Reading for KernelUsage {
    fn bytes(&self) -> u64 {
        let slabs = self.slab_reclaimable_bytes.saturating_add(self.slab_unreclaimable_bytes);
        let others = [self.stack_bytes, self.vmalloc_bytes, self.page_table_bytes, self.percpu_bytes];
        others.into_iter().fold(slabs, u64::saturating_add)
    }

    fn series(readings: Vec<(Duration, Self)>) -> Series {
        Series::OfKernel(readings)
    }
}

/// The limit of the process's cgroup, or of one above it: of all with a limit the one with least room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// The most that the group may have, in bytes.
    pub max_bytes: u64,
    /// The memory of the group, all its processes together, without pages of files that are the first to be given back.
    pub used_bytes: u64,
}

impl Limit {
    /// The room that is left, in bytes.
    #[must_use]
    pub fn room_bytes(&self) -> u64 {
        self.max_bytes.saturating_sub(self.used_bytes)
    }
}

/// Readings from the first to the last, at most 65, with their times after the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Series {
    /// Readings of a process.
    OfProcess(Vec<(Duration, Usage)>),
    /// Readings of the kernel.
    OfKernel(Vec<(Duration, KernelUsage)>),
}

/// The memory in a report; there is at least one reading of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Memory {
    /// Which way it goes.
    pub judgement: Judgement,
    /// The limit of its cgroup, where there is one.
    pub limit: Option<Limit>,
    /// When its group will have reached that, if the process goes on growing as it does and nobody else does; nothing
    /// where it is not increasing, or longer than a year.
    pub time_to_limit: Option<Duration>,
    /// Its readings.
    pub series: Series,
}

impl Memory {
    /// The sum of each reading, in bytes.
    #[must_use]
    pub fn points(&self) -> Vec<(Duration, u64)> {
        match &self.series {
            Series::OfProcess(readings) => points(readings),
            Series::OfKernel(readings) => points(readings),
        }
    }

    /// The last reading, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let latest = match &self.series {
            Series::OfProcess(readings) => readings.last().map(|(_, usage)| usage.bytes()),
            Series::OfKernel(readings) => readings.last().map(|(_, usage)| usage.bytes()),
        };
        latest.unwrap_or_default()
    }
}

fn points(readings: &[(Duration, impl Reading)]) -> Vec<(Duration, u64)> {
    readings.iter().map(|(at, reading)| (*at, reading.bytes())).collect()
}

/// The memory of a process, or of the kernel, over time.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct MemoryHistory<R = Usage> {
    run: History<R>,
    recent: Vec<(Duration, u64)>,
    latest: Option<(Duration, R)>,
}

impl<R: Reading> MemoryHistory<R> {
    /// Takes in a reading. Times must not go back.
    pub fn push(&mut self, at: Duration, usage: R) {
        self.latest = Some((at, usage));
        if self.recent.last().is_some_and(|(last, _)| at.saturating_sub(*last) < MIN_SPACING) {
            return;
        }
        self.run.push(at, usage);
        if self.recent.len() == RECENT {
            self.recent.remove(0);
        }
        self.recent.push((at, usage.bytes()));
    }

    /// The first reading.
    #[must_use]
    pub fn first(&self) -> Option<R> {
        self.run.first()
    }

    /// The last reading.
    #[must_use]
    pub fn latest(&self) -> Option<R> {
        self.latest.map(|(_, usage)| usage)
    }

    /// The time between the first and the last reading.
    #[must_use]
    pub fn span(&self) -> Duration {
        let first = self.run.points().first().map(|(at, _)| *at);
        self.latest.zip(first).map_or(Duration::ZERO, |((last, _), first)| last.saturating_sub(first))
    }

    /// By how much it has risen in the last minute, in bytes a second, from one end to the other: what costs
    /// nothing to ask.
    #[must_use]
    pub fn rise_per_s(&self) -> f64 {
        let (Some((start, before)), Some((end, now))) = (self.recent.first(), self.recent.last()) else { return 0.0 };
        let seconds = end.saturating_sub(*start).as_secs_f64();
        if seconds > 0.0 { (*now as f64 - *before as f64) / seconds } else { 0.0 }
    }

    /// Which way it goes.
    #[must_use]
    pub fn judge(&self) -> Judgement {
        trend::judge(&points(&self.series()), &self.recent)
    }

    /// Which way it went up to `end`.
    #[must_use]
    pub fn judge_until(&self, end: Duration) -> Judgement {
        let series = self.series();
        trend::judge(&points(history::until(&series, end)), history::until(&self.recent, end))
    }

    /// From the first reading to the last.
    #[must_use]
    pub fn series(&self) -> Vec<(Duration, R)> {
        let mut series = self.run.points().to_vec();
        // Of two at the same time, the later one counts.
        _ = series.pop_if(|(last, _)| self.latest.is_some_and(|(latest, _)| latest == *last));
        series.extend(self.latest);
        series
    }

    /// The memory in a report, where there was any reading; `limit` is that of its group.
    #[must_use]
    pub fn report(&self, limit: Option<Limit>) -> Option<Memory> {
        self.latest?;
        let series = self.series();
        let judgement = trend::judge(&points(&series), &self.recent);
        let time_to_limit = limit.and_then(|limit| time_to_limit(&limit, &judgement));
        Some(Memory { judgement, limit, time_to_limit, series: R::series(series) })
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
        let told = |history: &MemoryHistory| history.report(limit).unwrap().time_to_limit;
        let seconds = told(&history(60, 1024)).unwrap().as_secs_f64();
        assert!((seconds - 60.0).abs() < 1.0, "{seconds}");
        assert_eq!(told(&history(60, 0)), None);
        let grown = history(60, 1024);
        assert_eq!(grown.report(None).unwrap().time_to_limit, None);
        let full = Limit { max_bytes: 1, used_bytes: 2 };
        assert_eq!(time_to_limit(&full, &grown.judge()), Some(Duration::ZERO));
    }

    #[test]
    fn a_fall_does_not_hide_which_way_memory_went_before() {
        let mut fallen = history(60, 100);
        (61..70).for_each(|second| fallen.push(Duration::from_secs(second), usage(1000)));
        assert_ne!(fallen.judge().trend, Trend::Increasing);
        assert_eq!(fallen.judge_until(Duration::from_secs(60)).trend, Trend::Increasing);
        assert_eq!(fallen.judge_until(Duration::from_secs(70)), fallen.judge());
    }

    #[test]
    fn nothing_is_told_of_what_was_never_read() {
        let never = MemoryHistory::<Usage>::default();
        assert_eq!(never.report(None), None);
        assert!(never.rise_per_s().abs() < 1e-9 && (history(60, 7).rise_per_s() - 7.0 * 1024.0).abs() < 1e-6);
    }
}
