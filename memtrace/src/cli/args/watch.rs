//! Options of `memtrace watch`. Only types.

use std::{ffi::OsString, num::NonZeroU32, path::PathBuf, time::Duration};

use clap::Args;

use super::{
    report::ReportArguments,
    values::{percent, positive_duration},
};
use crate::{capture::selection::Selection, monitor::threshold::Threshold};

const EXAMPLES: &str = "\
Examples:
  sudo memtrace watch --all --threshold slope:1MiB/min
        traces each process that grows steadily by a MiB a minute, and prints
        the report
  sudo memtrace watch --comm redis-server --threshold 512MiB --threshold 80% \\
        --on-threshold record -o /var/tmp
        writes a file for each process that has 512 MiB, or 80 % of its
        cgroup's limit
  sudo memtrace watch --cgroup /system.slice --threshold 90% \\
        --on-threshold 'exec:logger \"$MEMTRACE_COMM $MEMTRACE_REASON\"'
        runs a command instead of tracing

Watching reads /proc once a second: nothing is attached, nobody is slowed down.
A process that reaches a threshold is told on stderr and acted on, one at a
time; then memtrace goes on watching. It is acted on again after --cooldown: for
another threshold, or for the same one once it has been a tenth below it
meanwhile, or has twice the memory it had. With -o FILE each report takes the
place of the one before; `record` keeps them all. A slope counts where it is
steady and goes on (trend increasing), over ten seconds or more.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct WatchArguments {
    #[command(flatten)]
    pub(crate) target: WatchedArguments,

    /// The limit that a process's memory should not reach: 512MiB of RSS, an RSS of 80% of its cgroup's limit (without one, of the
    /// machine's memory; the memory of others in the group does not count), or a steady growth of slope:1MiB/min (or /s, /h).
    /// Repeatable; one is required
    #[arg(long = "threshold", value_name = "THRESHOLD", required = true, value_parser = Threshold::parse)]
    pub(crate) thresholds: Vec<Threshold>,

    /// The action at a threshold: `report` traces the process and prints the report, `record` writes it as JSON to a file
    /// memtrace-COMM-PID-TIME.json in the folder -o, `exec:CMD` runs a shell command with MEMTRACE_PID, MEMTRACE_COMM,
    /// MEMTRACE_REASON and MEMTRACE_RSS_BYTES in its environment
    #[arg(long, value_name = "report|record|exec:CMD", default_value = "report", value_parser = OnThreshold::parse)]
    pub(crate) on_threshold: OnThreshold,

    /// How long a process is traced that has reached a threshold: 45s, 5min; a verdict takes 24 s at least
    #[arg(long, value_name = "TIME", default_value = "45s", value_parser = positive_duration)]
    pub(crate) capture: Duration,

    /// How long a process is left alone that was acted on: 30s, 5min
    #[arg(long, value_name = "TIME", default_value = "5min", value_parser = positive_duration)]
    pub(crate) cooldown: Duration,

    /// How often RSS is read: 500ms, 1s; less often where that keeps taking more than a two-hundredth of a CPU
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = positive_duration)]
    pub(crate) interval: Duration,

    /// End after the first process that was acted on
    #[arg(long)]
    pub(crate) once: bool,

    /// The part of a process's CPU time that tracing it may take, 1% to 100%
    #[arg(long, value_name = "PERCENT", default_value = "10%", value_parser = percent)]
    pub(crate) max_overhead: f64,

    #[command(flatten)]
    pub(crate) report: ReportArguments,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct WatchedArguments {
    /// A running process, by its process ID; repeatable
    #[arg(long = "pid", value_name = "N", help_heading = "Target")]
    pids: Vec<NonZeroU32>,

    /// Every process of this short name (as in /proc/PID/comm), those that start later included
    #[arg(long, value_name = "NAME", help_heading = "Target")]
    comm: Option<String>,

    /// Every process in this cgroup and below, those that start later included: a folder, or a path as in /proc/PID/cgroup
    #[arg(long, value_name = "PATH", help_heading = "Target")]
    cgroup: Option<PathBuf>,

    /// Every process of the host, those that start later included
    #[arg(long, help_heading = "Target")]
    all: bool,
}

impl WatchedArguments {
    /// The selection they make; clap has seen to it that it is one thing.
    pub(crate) fn selection(&self) -> Selection {
        let named = Selection::named(self.comm.as_deref(), self.cgroup.as_deref(), &self.pids);
        // `--all`, which clap takes alone.
        named.unwrap_or(Selection::All)
    }
}

/// The action on a process that reaches a threshold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum OnThreshold {
    /// Trace it and print the report.
    Report,
    /// Trace it and write the report to a file.
    Record,
    /// Run a command of the shell.
    Run(OsString),
}

impl OnThreshold {
    fn parse(text: &str) -> Result<Self, String> {
        match (text, text.strip_prefix("exec:")) {
            ("report", _) => Ok(Self::Report),
            ("record", _) => Ok(Self::Record),
            (_, Some(command)) if !command.trim().is_empty() => Ok(Self::Run(command.into())),
            (_, Some(_)) => Err("exec: needs a command; write 'exec:logger \"$MEMTRACE_REASON\"'".into()),
            _ => Err("write report, record or exec:CMD".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_three_actions() {
        assert_eq!(OnThreshold::parse("record"), Ok(OnThreshold::Record));
        assert_eq!(OnThreshold::parse("exec:echo a"), Ok(OnThreshold::Run("echo a".into())));
        for text in ["", "exec:", "exec: ", "mail"] {
            assert!(OnThreshold::parse(text).is_err(), "{text}");
        }
    }
}
