//! The main thread of a process may end before others (`pthread_exit` in `main`). It stays as a zombie, and with it the pid; but
//! `/proc/PID` shows no memory and no program any more, which the other threads still have. Each thread has a folder of its own
//! there, with all that a process has.

use std::fs;

/// `PF_EXITING` of `<linux/sched.h>`: the thread is on its way out.
const EXITING: u64 = 4;
/// The bit of `SIGKILL` in a set of signals.
const KILLED: u64 = 1 << 8;

/// The thread whose folder in `/proc` shows what the process has: its main thread, unless that has ended before another.
#[must_use]
pub fn speaker(pid: u32) -> u32 {
    if goes_on(pid) { pid } else { other_thread(pid).unwrap_or(pid) }
}

/// Whether the main thread of a process has ended, and others go on.
#[must_use]
pub fn has_ended(pid: u32) -> bool {
    speaker(pid) != pid
}

/// The process that a thread belongs to; `None` where there is no such thread.
#[must_use]
pub fn process_of(tid: u32) -> Option<u32> {
    parse_process(&fs::read(format!("/proc/{tid}/status")).ok()?)
}

/// The same from its account (proc_pid_status(5)).
#[must_use]
pub fn parse_process(status: &[u8]) -> Option<u32> {
    let line = status.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"Tgid:"))?;
    std::str::from_utf8(line).ok()?.trim().parse().ok()
}

/// A thread of the process that goes on.
fn other_thread(pid: u32) -> Option<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let mut tids = threads.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    tids.find(|tid| *tid != pid && goes_on(*tid))
}

/// Whether a thread has not ended, and does not at the moment.
#[must_use]
pub fn goes_on(tid: u32) -> bool {
    fs::read(format!("/proc/{tid}/stat")).is_ok_and(|stat| parse_goes_on(&stat) == Some(true))
}

/// The same from its account (proc_pid_stat(5)); `None` where that is cut off.
#[must_use]
pub fn parse_goes_on(stat: &[u8]) -> Option<bool> {
    // The name may hold anything, and ends with the last parenthesis.
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    let fields: Vec<&str> = std::str::from_utf8(stat.get(name_end + 2..)?).ok()?.split_ascii_whitespace().collect();
    // Fields 3, 9 and 31.
    let (state, flags, pending): (_, u64, u64) = (fields.first()?, number(&fields, 6)?, number(&fields, 28)?);
    Some(!matches!(*state, "Z" | "X" | "x") && flags & EXITING == 0 && pending & KILLED == 0)
}

fn number(fields: &[&str], index: usize) -> Option<u64> {
    fields.get(index)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(state: &str, flags: u64, pending: u64) -> Vec<u8> {
        let zeros = |count| vec!["0"; count].join(" ");
        format!("7 (a) Z 1 (b)) {state} {} {flags} {} {pending} {}\n", zeros(5), zeros(21), zeros(10)).into_bytes()
    }

    #[test]
    fn a_thread_goes_on_until_it_is_told_to_end() {
        assert_eq!(parse_goes_on(&stat("S", 0x40_0000, 0)), Some(true));
        assert_eq!(parse_goes_on(&stat("Z", 0x40_0000, 0)), Some(false));
        assert_eq!(parse_goes_on(&stat("R", 0x40_0004, 0)), Some(false));
        assert_eq!(parse_goes_on(&stat("R", 0x40_0000, 0x100)), Some(false));
        assert_eq!(parse_goes_on(b"7 (a) S 1"), None);
        assert_eq!(parse_goes_on(b""), None);
    }

    #[test]
    fn we_speak_for_ourselves_and_our_threads_belong_to_us() {
        let own = std::process::id();
        assert_eq!((speaker(own), has_ended(own)), (own, false));
        let tid = std::thread::spawn(|| nix::unistd::gettid().as_raw().unsigned_abs());
        // It has ended by then, or is about to.
        let tid = tid.join().unwrap();
        assert!(process_of(tid).is_none_or(|pid| pid == own));
        assert_eq!(process_of(own), Some(own));
        assert_eq!(process_of(4_194_305), None);
    }
}
