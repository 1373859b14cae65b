//! The plan of `memtrace heap`.

use std::time::Duration;

use super::{Facts, table::Refusal};
use crate::{
    capture::selection::Selection,
    cli::args::heap::{HeapArguments, HeapFormat},
    looking::{Asked, Limits},
};

/// The most bytes that one look reads. It reads only what is resident, a part of it again and again.
const MAX_BYTES: u64 = 4 << 40;

/// The longest time that is waited for: a clock can be asked for no more than some centuries.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Everything that looking at heaps does, but for what becomes of reports.
#[derive(Debug)]
pub(in crate::cli) struct Plan {
    /// The processes.
    pub(in crate::cli) selection: Selection,
    /// How often they are looked at; once, or at the beginning and at the end, without.
    pub(in crate::cli) interval: Option<Duration>,
    /// When they are looked at for the last time.
    pub(in crate::cli) duration: Option<Duration>,
    /// The bounds of a look at one of them.
    pub(in crate::cli) limits: Limits,
    /// Questions beside the figures of heaps.
    pub(in crate::cli) asked: Asked,
    /// Whether reports are drawn over one another on a terminal.
    pub(in crate::cli) is_live: bool,
}

const NOT_ALL: Refusal = Refusal {
    message: "`memtrace heap` looks at processes that are named, not at all of a host",
    hint: "`memtrace watch --all --threshold 512MiB` finds those that are worth a look; then `memtrace heap --pid N`",
};
const NO_COMMAND: Refusal = Refusal {
    message: "`memtrace heap` looks at processes that run already, and starts none",
    hint: "`memtrace --fail-on-leak -- CMD` traces a command from its beginning to its end",
};

/// The plan of these arguments.
pub(in crate::cli) fn plan(arguments: &HeapArguments, facts: Facts) -> Result<Plan, Refusal> {
    if arguments.target.all {
        return Err(NOT_ALL);
    }
    if !arguments.target.command_line.is_empty() {
        return Err(NO_COMMAND);
    }
    let is_table = arguments.format == HeapFormat::Table;
    Ok(Plan {
        selection: arguments.target.selection(),
        interval: arguments.interval.map(|interval| interval.min(LONGEST)),
        duration: arguments.duration.map(|duration| duration.min(LONGEST)),
        limits: Limits { time: arguments.timeout.min(LONGEST), bytes: MAX_BYTES },
        asked: Asked {
            types: true,
            holders: arguments.holders || arguments.retained,
            retained: arguments.retained,
            threads: Vec::new(),
        },
        is_live: facts.has_terminal && is_table && arguments.output.is_none() && arguments.interval.is_some(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{Arguments, Command};

    const TERMINAL: Facts = Facts { has_bpf_loop: false, has_terminal: true, verbose: 0 };

    fn planned(words: &[&str]) -> Result<Plan, Refusal> {
        let arguments = Arguments::parse([&["memtrace", "heap"], words].concat()).unwrap();
        let Some(Command::Heap(heap)) = arguments.command else { panic!("{arguments:?}") };
        plan(&heap, TERMINAL)
    }

    #[test]
    fn what_cannot_be_looked_at_is_refused_with_the_command_that_can() {
        let hint = |words: &[&str]| planned(words).unwrap_err().hint;
        assert!(hint(&["--all"]).contains("memtrace watch --all"));
        assert!(hint(&["--", "true"]).contains("--fail-on-leak -- CMD"));
    }

    #[test]
    fn reports_are_live_where_there_are_several_for_a_person() {
        let is_live = |more: &[&str]| planned(&[&["--pid", "7"], more].concat()).unwrap().is_live;
        assert!(is_live(&["--interval", "1s"]));
        assert!(!is_live(&[]) && !is_live(&["--duration", "1s"]));
        assert!(!is_live(&["--interval", "1s", "--format", "json"]) && !is_live(&["--interval", "1s", "-o", "x"]));
    }

    #[test]
    fn retained_bytes_imply_holders() {
        let asked = |more: &[&str]| planned(&[&["--pid", "7"], more].concat()).unwrap().asked;
        let told = [&[][..], &["--holders"], &["--retained"]].map(|more| (asked(more).holders, asked(more).retained));
        assert_eq!(told, [(false, false), (true, false), (true, true)]);
    }

    #[test]
    fn a_process_that_is_named_twice_is_looked_at_once() {
        let plan = planned(&["--pid", "7", "--pid", "5", "--pid", "7"]).unwrap();
        let Selection::Pids(pids) = plan.selection else { panic!("{plan:?}") };
        assert_eq!(pids.iter().map(|pid| pid.get()).collect::<Vec<_>>(), [5, 7]);
        assert_eq!(plan.limits.time, Duration::from_secs(60));
    }
}
