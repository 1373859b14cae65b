//! The memory of a process, and of the machine.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
};

use super::leader;
use crate::model::memory::{Limit, Usage};

/// More than any /proc/PID/status has: some 60 lines, of which those with lists of groups, CPUs and memory nodes can be
/// long. Lines that do not fit lie behind the figures.
const MAX_STATUS_BYTES: usize = 8192;

/// A process's own account of itself, for reading again and again: it stays that of one process, whatever becomes of its pid.
#[derive(Debug)]
pub struct Status(File);

impl Status {
    /// Opens that of a process.
    ///
    /// # Errors
    /// Where the process is gone, or no file can be opened.
    pub fn open(pid: u32) -> io::Result<Self> {
        File::open(format!("/proc/{pid}/status")).map(Self)
    }

    /// Opens that of a thread that speaks for the process, whose main thread may have ended.
    ///
    /// # Errors
    /// As [`Status::open`].
    pub fn open_again(pid: u32) -> io::Result<Self> {
        Self::open(leader::speaker(pid))
    }

    /// Reads it into `buffer`, and returns what was read; `None` once the process is gone.
    #[must_use]
    pub fn read<'a>(&self, buffer: &'a mut Vec<u8>) -> Option<&'a [u8]> {
        buffer.resize(MAX_STATUS_BYTES, 0);
        let count = self.0.read_at(buffer, 0).ok()?;
        buffer.get(..count)
    }
}

/// The memory of a process; `None` once it has given it back, as it does before it has ended.
#[must_use]
pub fn usage(pid: u32) -> Option<Usage> {
    let read = |status: Status| status.read(&mut Vec::new()).and_then(parse_usage);
    Status::open(pid).ok().and_then(read).or_else(|| Status::open_again(pid).ok().and_then(read))
}

/// The figures of proc_pid_status(5), which are in units of 1024 bytes; `None` where the process has no memory, as threads of the
/// kernel and processes that are ending.
#[must_use]
pub fn parse_usage(status: &[u8]) -> Option<Usage> {
    let mut usage = Usage::default();
    let mut is_resident = false;
    // The name comes first. It is the process's choice, but the kernel lets no newline of it through.
    for line in status.split(|byte| *byte == b'\n') {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, figure) = line.split_at(colon);
        let field = match name {
            b"VmSize" => &mut usage.vms_bytes,
            b"RssAnon" => {
                is_resident = true;
                &mut usage.anon_bytes
            }
            b"RssFile" => &mut usage.file_bytes,
            b"RssShmem" => &mut usage.shmem_bytes,
            b"VmSwap" => &mut usage.swap_bytes,
            _ => continue,
        };
        *field = parse_kib(&figure[1..])?;
        if name == b"VmSwap" {
            break;
        }
    }
    is_resident.then_some(usage)
}

/// The process's name as its status has it, with newlines and backslashes escaped.
#[must_use]
pub fn name_in(status: &[u8]) -> Option<&[u8]> {
    status.split(|byte| *byte == b'\n').next()?.strip_prefix(b"Name:\t")
}

fn parse_kib(text: &[u8]) -> Option<u64> {
    let kib: u64 = std::str::from_utf8(text).ok()?.trim().strip_suffix(" kB")?.parse().ok()?;
    kib.checked_mul(1024)
}

/// How much less memory a process has than it has had at its peak, in bytes (`VmHWM` less `VmRSS` of proc_pid_status(5)): what
/// it may want again. `None` once it has none.
#[must_use]
pub fn below_peak_bytes(pid: u32) -> Option<u64> {
    let mut buffer = Vec::new();
    let status = Status::open(pid).ok()?;
    let status = status.read(&mut buffer)?;
    Some(figure(status, b"VmHWM:")?.saturating_sub(figure(status, b"VmRSS:")?))
}

/// A figure of a file of lines with a name and a number of KiB, in bytes.
fn figure(text: &[u8], name: &[u8]) -> Option<u64> {
    text.split(|byte| *byte == b'\n').find_map(|line| parse_kib(line.strip_prefix(name)?))
}

/// The machine's memory in bytes (`MemTotal` of proc_meminfo(5)).
///
/// # Errors
/// Where /proc does not say.
pub fn machine_bytes() -> io::Result<u64> {
    Ok(machine_limit()?.max_bytes)
}

/// The machine's memory, and what of it cannot be had without taking it from others (`MemTotal` less `MemAvailable`).
///
/// # Errors
/// Where /proc does not say.
pub fn machine_limit() -> io::Result<Limit> {
    let text = fs::read("/proc/meminfo")?;
    let of = |name| {
        let lacks = || io::Error::new(io::ErrorKind::InvalidData, "/proc/meminfo has no MemTotal or MemAvailable");
        figure(&text, name).ok_or_else(lacks)
    };
    let max_bytes = of(b"MemTotal:")?;
    Ok(Limit { max_bytes, used_bytes: max_bytes.saturating_sub(of(b"MemAvailable:")?) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tRssAnon:\\n\nUmask:\t0022\nVmPeak:\t  9000 kB\nVmSize:\t  8000 kB\nVmRSS:\t  600 kB\n\
        RssAnon:\t     300 kB\nRssFile:\t     200 kB\nRssShmem:\t     100 kB\nVmSwap:\t      50 kB\nThreads:\t1\n";

    #[test]
    fn figures_are_read_by_kind() {
        let usage = parse_usage(STATUS.as_bytes()).unwrap();
        let kib = 1024;
        let expected = Usage {
            anon_bytes: 300 * kib,
            file_bytes: 200 * kib,
            shmem_bytes: 100 * kib,
            swap_bytes: 50 * kib,
            vms_bytes: 8000 * kib,
        };
        assert_eq!((usage, usage.rss_bytes()), (expected, 600 * kib));
        assert_eq!(name_in(STATUS.as_bytes()), Some(&b"RssAnon:\\n"[..]));
    }

    #[test]
    fn what_has_no_memory_has_no_figures() {
        assert_eq!(parse_usage(b"Name:\tkthreadd\nState:\tS (sleeping)\nThreads:\t1\n"), None);
        assert_eq!(parse_usage(b"Name:\ta\nRssAnon:\tmany kB\n"), None);
        assert_eq!(parse_usage(b"RssAnon:\t99999999999999999999 kB\n"), None);
        assert_eq!(parse_usage(b"RssAnon:"), None);
        assert_eq!(parse_usage(b""), None);
    }

    #[test]
    fn our_own_figures_are_there() {
        let usage = usage(std::process::id()).unwrap();
        assert!(usage.anon_bytes > 0 && usage.file_bytes > 0 && usage.vms_bytes > usage.rss_bytes(), "{usage:?}");
        assert!(machine_bytes().unwrap() > usage.rss_bytes());
    }

    #[test]
    fn an_account_that_was_opened_stays_that_of_its_process() {
        let mut child = std::process::Command::new("/bin/sleep").arg("1000").spawn().unwrap();
        let status = Status::open(child.id()).unwrap();
        let mut buffer = Vec::new();
        assert!(status.read(&mut buffer).is_some());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(status.read(&mut buffer).is_none());
    }

    #[test]
    fn a_process_that_has_given_memory_back_may_want_it_again() {
        let status = b"Name:\tx\nVmHWM:\t     300 kB\nVmRSS:\t     100 kB\n";
        assert_eq!((figure(status, b"VmHWM:"), figure(status, b"VmRSS:")), (Some(300 << 10), Some(100 << 10)));
        assert!(below_peak_bytes(std::process::id()).is_some() && below_peak_bytes(4_194_305).is_none());
        let machine = machine_limit().unwrap();
        assert!(machine.used_bytes > 0 && machine.used_bytes < machine.max_bytes);
    }
}
