//! The namespaces that memtrace itself is in, as far as they change what it can see and do.

use std::{fs, io, os::unix::fs::MetadataExt};

/// `PROC_PID_INIT_INO` of `<linux/proc_ns.h>`: the machine's first pid namespace.
const FIRST_PID_NAMESPACE: u64 = 0xEFFF_FFFC;
/// `PROC_USER_INIT_INO` of the same: the machine's first user namespace.
const FIRST_USER_NAMESPACE: u64 = 0xEFFF_FFFD;

/// Whether memtrace is in the machine's first pid namespace.
///
/// # Errors
/// Where `/proc` does not say.
pub fn is_first() -> io::Result<bool> {
    Ok(number("pid")? == FIRST_PID_NAMESPACE)
}

/// Whether memtrace is in the machine's first user namespace: only there do capabilities count for the whole machine.
///
/// # Errors
/// Where `/proc` does not say.
pub fn is_first_user() -> io::Result<bool> {
    Ok(number("user")? == FIRST_USER_NAMESPACE)
}

/// The number of the namespace of a kind that memtrace is in, as `ls -l /proc/self/ns` shows it.
///
/// # Errors
/// Where `/proc` does not say.
pub fn number(kind: &str) -> io::Result<u64> {
    fs::metadata(format!("/proc/self/ns/{kind}")).map(|namespace| namespace.ino())
}

/// Whether `/proc` shows the pid namespace that memtrace is in, so that its pids are what system calls take.
///
/// # Errors
/// Where it cannot be read.
pub fn is_shown_by_proc() -> io::Result<bool> {
    Ok(has_one_number(&fs::read_to_string("/proc/self/status")?, std::process::id()))
}

/// Whether a process that is called `pid` in its own namespace is called nothing else down from that of this `/proc` (`NSpid` of
/// proc_pid_status(5)).
fn has_one_number(status: &str, pid: u32) -> bool {
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    numbers.is_some_and(|numbers| numbers.split_whitespace().map(str::parse).eq([Ok(pid)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proc_of_another_namespace_is_told_by_its_numbers() {
        assert!(has_one_number("Name:\ta\nNSpid:\t12\nNSpgid:\t12\n", 12));
        assert!(!has_one_number("NSpid:\t4012\t12\n", 12));
        assert!(!has_one_number("NSpid:\t4012\n", 12));
        assert!(!has_one_number("Name:\ta\n", 12));
    }

    #[test]
    fn our_own_namespaces_are_known() {
        assert!(is_shown_by_proc().unwrap());
        assert_eq!(is_first().unwrap(), number("pid").unwrap() == FIRST_PID_NAMESPACE);
        assert!(is_first_user().unwrap(), "the tests need a machine's own root");
    }
}
