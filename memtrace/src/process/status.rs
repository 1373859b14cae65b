//! A process's name, program, CPU time and beginning.

use std::{fs, io, path::PathBuf, time::Duration};

use super::leader;

/// The process's own short name, at most 15 bytes, made printable.
///
/// # Errors
/// Where the process is gone.
pub fn comm(pid: u32) -> io::Result<String> {
    let name = fs::read(format!("/proc/{pid}/comm"))?;
    Ok(printable(&String::from_utf8_lossy(name.trim_ascii_end())))
}

/// The program that the process runs, as the process sees its path.
///
/// # Errors
/// Where the process is gone, may not be looked into, or is a kernel thread.
pub fn exe(pid: u32) -> io::Result<PathBuf> {
    let exe = |tid: u32| fs::read_link(format!("/proc/{tid}/exe"));
    exe(pid).or_else(|error| match leader::speaker(pid) {
        // As threads of the kernel.
        tid if tid == pid => Err(error),
        tid => exe(tid),
    })
}

/// How long the process has run on a CPU, all its threads together, those that have ended as well, by its own clock
/// (clock_getcpuclockid(3)): a thread that runs now may lack a tick of the kernel's. Where it has none that can be read: `utime` and
/// `stime` of proc_pid_stat(5), which count in hundredths of a second (`USER_HZ`). `None` where the process is gone.
#[must_use]
pub fn cpu_time(pid: u32) -> Option<Duration> {
    by_its_clock(pid).or_else(|| parse_cpu_time(&fs::read(format!("/proc/{pid}/stat")).ok()?))
}

fn by_its_clock(pid: u32) -> Option<Duration> {
    let clock = nix::time::clock_getcpuclockid(nix::unistd::Pid::from_raw(i32::try_from(pid).ok()?)).ok()?;
    Some(clock.now().ok()?.into())
}

/// The same from the contents of that file.
#[must_use]
pub fn parse_cpu_time(stat: &[u8]) -> Option<Duration> {
    // Fields 14 and 15; the first after the name is field 3.
    let mut fields = behind_the_name(stat)?.split(' ').skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    let total = ticks()?.checked_add(ticks()?)?;
    Some(Duration::from_millis(total.checked_mul(10)?))
}

/// CPU time of the calling thread: what its work takes, however long others keep it waiting.
#[must_use]
pub fn own_cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// The time by `CLOCK_MONOTONIC`, as the kernel's programs tell it.
#[must_use]
pub fn monotonic_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// The longest time between two reckonings of a running thread's CPU time: the kernel's tick.
#[must_use]
pub fn tick() -> Duration {
    let tick = rustix::time::clock_getres(rustix::time::ClockId::RealtimeCoarse);
    Duration::new(u64::try_from(tick.tv_sec).unwrap_or(0), u32::try_from(tick.tv_nsec).unwrap_or(0))
}

/// How long the machine has run, the time in which it slept included: as [`start_ticks`] counts.
#[must_use]
pub fn since_boot() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// The time after the machine began that so many [`start_ticks`] are.
#[must_use]
pub fn after_boot(start_ticks: u64) -> Duration {
    Duration::from_millis(start_ticks.saturating_mul(10))
}

/// When the process began, in hundredths of a second after the machine did (field 22 of proc_pid_stat(5)): with its pid, that
/// tells it from all others. `None` where it is gone.
#[must_use]
pub fn start_ticks(pid: u32) -> Option<u64> {
    parse_start_ticks(&fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// The same from the contents of that file.
#[must_use]
pub fn parse_start_ticks(stat: &[u8]) -> Option<u64> {
    behind_the_name(stat)?.split(' ').nth(19)?.parse().ok()
}

/// Where the stack of the process's program begins (field 28 of proc_pid_stat(5)). The kernel chooses it anew with each execve(2).
/// `None` where the process is gone; 0 where it may not be looked into.
#[must_use]
pub fn stack_start(pid: u32) -> Option<u64> {
    parse_stack_start(&fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// The same from the contents of that file.
#[must_use]
pub fn parse_stack_start(stat: &[u8]) -> Option<u64> {
    behind_the_name(stat)?.split(' ').nth(25)?.parse().ok()
}

/// How many threads the process has (field 20 of proc_pid_stat(5)); `None` where it is gone.
#[must_use]
pub fn thread_count(pid: u32) -> Option<u32> {
    parse_thread_count(&fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// The same from the contents of that file.
#[must_use]
pub fn parse_thread_count(stat: &[u8]) -> Option<u32> {
    behind_the_name(stat)?.split(' ').nth(17)?.parse().ok()
}

/// The text behind the process's name, from field 3 on. The name is in parentheses and may hold anything.
fn behind_the_name(stat: &[u8]) -> Option<&str> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    std::str::from_utf8(stat.get(end + 2..)?).ok()
}

/// The text with every control character replaced: names come from the target and go to a terminal.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_read_behind_a_hostile_name() {
        let stat = b"42 (a) R 1 (b)) S 1 42 42 0 -1 4194304 100 0 0 0 7 5 0 0 20 0 1 0 99 1 1\n";
        assert_eq!(parse_cpu_time(stat), Some(Duration::from_millis(120)));
        assert_eq!(parse_cpu_time(b"42 (a)"), None);
        assert_eq!((parse_start_ticks(stat), parse_start_ticks(b"42 (a) R 1")), (Some(99), None));
        assert_eq!((parse_thread_count(stat), parse_thread_count(b"42 (a) R 1")), (Some(1), None));
        assert!(cpu_time(std::process::id()).is_some() && start_ticks(std::process::id()).is_some());
    }

    #[test]
    fn the_beginning_of_the_stack_is_read_behind_a_hostile_name() {
        let stat =
            b"42 (a) R 1 (b)) S 1 42 42 0 -1 4194304 100 0 0 0 7 5 0 0 20 0 1 0 99 1 2 3 4 5 140722000000000 0\n";
        assert_eq!((parse_stack_start(stat), parse_stack_start(b"42 (a) R 1")), (Some(140_722_000_000_000), None));
        let own = stack_start(std::process::id()).unwrap();
        let mappings = crate::process::maps::read(std::process::id()).unwrap();
        let stack = mappings.iter().find(|mapping| mapping.path.as_os_str() == "[stack]").unwrap();
        assert!((stack.start..stack.end).contains(&own));
    }

    #[test]
    fn our_own_figures_are_there() {
        let pid = std::process::id();
        assert!(!comm(pid).unwrap().is_empty());
        assert!(exe(pid).unwrap().is_absolute());
        let age = since_boot().saturating_sub(after_boot(start_ticks(pid).unwrap()));
        assert!(age < Duration::from_secs(24 * 3600), "{age:?}");
        assert!(since_boot() > after_boot(start_ticks(1).unwrap()));
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\n"), "a\u{fffd}[2Jb\u{fffd}");
    }
}
