//! What can be said to `memtrace watch`. Only types.

use std::{ffi::OsString, num::NonZeroU32, path::PathBuf, time::Duration};

use clap::Args;

use super::args::{ReportArguments, percent, positive_duration};
use crate::{capture::selection::Selection, model::threshold::Threshold};

const EXAMPLES: &str = "\
Examples:
  sudo memtrace watch --all --threshold slope:1MiB/min
        whoever grows steadily by a MiB a minute is traced for 30 s, and the report printed
  sudo memtrace watch --comm redis-server --threshold 512MiB --threshold 80% --on-threshold record -o /var/tmp
        a file for each process that has 512 MiB, or 80 % of what its cgroup may have
  sudo memtrace watch --cgroup /system.slice --threshold 90% \\
        --on-threshold 'exec:logger \"$MEMTRACE_COMM $MEMTRACE_REASON\"'
        a command instead of tracing

Watching reads /proc once a second: nothing is attached, nobody is slowed down. A process that reaches a threshold is
told on stderr and acted on, one at a time; then memtrace goes on watching. It is acted on again after --cooldown: for another
threshold, or for the same once it has been a tenth below it meanwhile, or has twice the memory it had.
With -o FILE each report takes the place of the one before; `record` keeps them all.
A slope counts where it is steady and goes on (trend increasing), over ten seconds or more.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct WatchArguments {
    #[command(flatten)]
    pub(super) target: WatchedArguments,

    /// What a process's memory should not reach: 512MiB of RSS, an RSS of 80% of what its cgroup may have (or, without a limit, the
    /// machine has; what others of the group have does not count), or a steady growth of slope:1MiB/min (or /s, /h). Repeatable
    #[arg(long = "threshold", value_name = "THRESHOLD", required = true, value_parser = Threshold::parse)]
    pub(super) thresholds: Vec<Threshold>,

    /// What to do then: `report` traces the process and prints the report, `record` writes it as JSON to a file
    /// memtrace-COMM-PID-TIME.json in the folder -o, `exec:CMD` runs a shell command with MEMTRACE_PID, MEMTRACE_COMM,
    /// MEMTRACE_REASON and MEMTRACE_RSS_BYTES in its environment
    #[arg(long, value_name = "report|record|exec:CMD", default_value = "report", value_parser = OnThreshold::parse)]
    pub(super) on_threshold: OnThreshold,

    /// How long to trace a process
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = positive_duration)]
    pub(super) capture: Duration,

    /// How long to leave a process alone that was acted on
    #[arg(long, value_name = "TIME", default_value = "5min", value_parser = positive_duration)]
    pub(super) cooldown: Duration,

    /// How often to look; less often where that keeps taking more than a two-hundredth of a CPU
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = positive_duration)]
    pub(super) interval: Duration,

    /// End after the first process that was acted on
    #[arg(long)]
    pub(super) once: bool,

    /// The part of a process's CPU time that tracing it may take [1%..100%]
    #[arg(long, value_name = "PERCENT", default_value = "10%", value_parser = percent)]
    pub(super) max_overhead: f64,

    #[command(flatten)]
    pub(super) report: ReportArguments,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct WatchedArguments {
    /// A running process; may be given several times
    #[arg(long = "pid", value_name = "N", help_heading = "Target")]
    pids: Vec<NonZeroU32>,

    /// Every process of this short name, those that start later included
    #[arg(long, value_name = "NAME", help_heading = "Target")]
    comm: Option<String>,

    /// Every process in this cgroup and below: a folder, or a path as /proc/PID/cgroup has it
    #[arg(long, value_name = "PATH", help_heading = "Target")]
    cgroup: Option<PathBuf>,

    /// Every process of the host, those that start later included
    #[arg(long, help_heading = "Target")]
    all: bool,
}

impl WatchedArguments {
    /// What they select; clap has seen to it that it is one thing.
    pub(super) fn selection(&self) -> Selection {
        match (&self.comm, &self.cgroup) {
            (Some(name), _) => Selection::Comm(name.clone()),
            (None, Some(path)) => Selection::Cgroup(path.clone()),
            (None, None) if self.all => Selection::All,
            (None, None) => Selection::Pids(self.pids.clone()),
        }
    }
}

/// What to do with a process that reaches a threshold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum OnThreshold {
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
    fn what_to_do_is_one_of_three() {
        assert_eq!(OnThreshold::parse("record"), Ok(OnThreshold::Record));
        assert_eq!(OnThreshold::parse("exec:echo a"), Ok(OnThreshold::Run("echo a".into())));
        for text in ["", "exec:", "exec: ", "mail"] {
            assert!(OnThreshold::parse(text).is_err(), "{text}");
        }
    }
}
