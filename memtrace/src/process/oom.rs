//! Whom the kernel ends first where memory is short.

use std::{fs, io};

/// The most that there is: before anybody else, however much they have (`oom_score_adj` of proc(5)).
const FIRST: &str = "1000";

/// Makes memtrace the first: a target must never be ended for memory that its tracer has taken. Programs that are started
/// afterwards would be as well.
///
/// # Errors
/// Where /proc is not there, or may not be written to.
pub fn volunteer() -> io::Result<()> {
    fs::write("/proc/self/oom_score_adj", FIRST)
}
