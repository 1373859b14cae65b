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

/// How long the process has run on a CPU, all its threads together, those that have ended as well: `utime` and `stime` of
/// proc_pid_stat(5), which count in hundredths of a second (`USER_HZ`). `None` where the process is gone.
#[must_use]
pub fn cpu_time(pid: u32) -> Option<Duration> {
    parse_cpu_time(&fs::read(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_cpu_time(stat: &[u8]) -> Option<Duration> {
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

/// When the process began, in hundredths of a second after the machine did (field 22 of proc_pid_stat(5)): with its pid, that
/// tells it from all others. `None` where it is gone.
#[must_use]
pub fn start_ticks(pid: u32) -> Option<u64> {
    parse_start_ticks(&fs::read(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_start_ticks(stat: &[u8]) -> Option<u64> {
    behind_the_name(stat)?.split(' ').nth(19)?.parse().ok()
}

/// What follows the process's name, from field 3 on. The name is in parentheses and may hold anything.
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
        assert!(cpu_time(std::process::id()).is_some() && start_ticks(std::process::id()).is_some());
    }

    #[test]
    fn our_own_figures_are_there() {
        let pid = std::process::id();
        assert!(!comm(pid).unwrap().is_empty());
        assert!(exe(pid).unwrap().is_absolute());
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\n"), "a\u{fffd}[2Jb\u{fffd}");
    }
}
