//! The pace of a look: where no CPU is free, it works for a small share of one, in short pieces, and rests in between.
//!
//! A low priority does not see to that by itself. The kernel weighs tasks within a session or a group only
//! (CONFIG_SCHED_AUTOGROUP, cgroups), so that a look from another session would get as much as all of the target.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    thread,
    time::{Duration, Instant},
};

use crate::process::status;

/// The part of a CPU that a look takes where none is free: one in so many.
const SHARE: u32 = 20;
/// CPU time between two looks at the machine, and the least wall time between two looks at the clock of CPU time.
const PIECE: Duration = Duration::from_millis(1);
const LEAST: Duration = Duration::from_micros(300);
/// CPU time that a look may be ahead of its share: most heaps are small, and are read within it. A report may wait for it.
const AHEAD: Duration = Duration::from_millis(200);
/// The longest rest at once.
const LONGEST: Duration = Duration::from_millis(500);
/// More than /proc/loadavg has, in bytes.
const MAX_LINE: usize = 128;

/// The pace of all readings of a look.
#[derive(Debug)]
pub struct Pace {
    /// /proc/loadavg; nothing where it cannot be read: then the machine counts as full.
    tasks: Option<File>,
    /// The CPUs that this process may run on.
    cpus: u32,
    /// When the clock of CPU time was read last.
    read: Instant,
    begun: Instant,
    share: Share,
}

impl Pace {
    /// From now on.
    #[must_use]
    pub fn begin() -> Self {
        let cpus = rustix::thread::sched_getaffinity(None).map_or(1, |set| set.count());
        let now = Instant::now();
        let share = Share { cpu: status::own_cpu_time(), ..Share::default() };
        Self { tasks: File::open("/proc/loadavg").ok(), cpus, read: now, begun: now, share }
    }

    /// Rests, where that is due.
    pub(super) fn keep(&mut self) {
        let now = Instant::now();
        if now.saturating_duration_since(self.read) < LEAST {
            return;
        }
        self.read = now;
        let Self { tasks, cpus, begun, share, .. } = self;
        let rest = share.rest(status::own_cpu_time(), now.saturating_duration_since(*begun), || {
            // This task is one of them.
            tasks.as_ref().and_then(running).is_none_or(|running| running > *cpus)
        });
        if !rest.is_zero() {
            thread::sleep(rest.min(LONGEST));
        }
    }
}

/// How many tasks run or wait for a CPU.
fn running(tasks: &File) -> Option<u32> {
    let mut line = [0; MAX_LINE];
    let length = tasks.read_at(&mut line, 0).ok()?;
    parse_running(line.get(..length)?)
}

/// The same from the contents of /proc/loadavg (proc_loadavg(5)): the first figure of field 4.
fn parse_running(line: &[u8]) -> Option<u32> {
    let field = std::str::from_utf8(line).ok()?.split(' ').nth(3)?;
    field.split_once('/')?.0.parse().ok()
}

/// The share that was taken so far.
#[derive(Clone, Copy, Debug, Default)]
struct Share {
    /// CPU time, and time, as of the last look at the machine.
    cpu: Duration,
    time: Duration,
    /// CPU time beyond the share.
    ahead: Duration,
}

impl Share {
    /// How long to rest now. Time in which a CPU was free costs nothing.
    fn rest(&mut self, cpu: Duration, time: Duration, is_full: impl FnOnce() -> bool) -> Duration {
        let worked = cpu.saturating_sub(self.cpu);
        if worked < PIECE {
            return Duration::ZERO;
        }
        let earned = time.saturating_sub(self.time) / SHARE;
        (self.cpu, self.time) = (cpu, time);
        let taken = if is_full() { worked } else { Duration::ZERO };
        self.ahead = (self.ahead + taken).saturating_sub(earned);
        if taken.is_zero() { Duration::ZERO } else { self.ahead.saturating_sub(AHEAD) * SHARE }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A look that takes so much CPU time in pieces of a millisecond, where the machine is full at these times. Returns how long it
    /// takes.
    fn look(cpu: Duration, is_full: impl Fn(Duration) -> bool) -> Duration {
        let (mut share, mut worked, mut time) = (Share::default(), Duration::ZERO, Duration::ZERO);
        while worked < cpu {
            (worked, time) = (worked + MS, time + MS);
            time += share.rest(worked, time, || is_full(time)).min(LONGEST);
        }
        time
    }

    #[test]
    fn a_look_takes_its_share_where_no_cpu_is_free_and_all_it_wants_elsewhere() {
        assert_eq!(look(600 * MS, |_| false), 600 * MS);
        let full = look(600 * MS, |_| true);
        let wanted = (600 * MS - AHEAD) * SHARE;
        assert!(full > wanted - 50 * MS && full < wanted + 50 * MS, "{full:?}");
        assert_eq!(look(AHEAD, |_| true), AHEAD);
    }

    #[test]
    fn a_look_hurries_as_soon_as_a_cpu_is_free_and_rests_as_soon_as_none_is() {
        let hour = 3600 * 1000 * MS;
        let until = look(400 * MS, |time| time < 2000 * MS);
        assert!(until < 2400 * MS && until > 2000 * MS, "{until:?}");
        let after = look(600 * MS, |time| time >= 200 * MS && time < hour);
        assert!(after > (400 * MS - AHEAD) * SHARE, "{after:?}");
    }

    #[test]
    fn tasks_that_run_are_told_by_the_kernel() {
        assert_eq!(parse_running(b"2.06 1.90 1.36 5/102 15816\n"), Some(5));
        assert_eq!([&b""[..], b"1 2 3", b"1 2 3 4", b"1 2 3 x/4 5", b"\xff 2 3 4/5"].map(parse_running), [None; 5]);
        let mut pace = Pace::begin();
        assert!(pace.tasks.as_ref().and_then(running).is_some_and(|running| running > 0) && pace.cpus > 0);
        pace.keep();
    }
}
