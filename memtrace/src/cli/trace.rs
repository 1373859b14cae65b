//! `memtrace --pid N` and `memtrace -- CMD`.

use std::{
    io,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{ExitCode, ExitStatus},
};

use tokio::runtime::Runtime;

use super::{
    failure::Failure,
    gate::Gatekeeper,
    output::Output,
    plan::{Note, trace::Plan},
};
use crate::engine::{self, error::PipelineError};

/// Carries out a plan, to its exit status.
pub(super) fn run(plan: &Plan<'_>) -> Result<ExitCode, Failure> {
    plan.notes.iter().copied().for_each(tell);
    let mut gatekeeper = Gatekeeper::new(plan.gate, plan.question)?;
    let mut output = Output::open(plan.report, plan.is_live)?;
    let mut sink = |report: &mut _, is_last| {
        gatekeeper.look_at(report, is_last);
        output.write(report, is_last)
    };
    let outcome = runtime()?.block_on(engine::run(&plan.options, &mut sink));
    // The terminal is the report's until then.
    drop(output);
    gatekeeper.tell();
    match outcome {
        Ok(None) => gatekeeper.status(ExitCode::SUCCESS, true),
        Ok(Some(status)) => gatekeeper.status(command_status(status), status.success()),
        Err(error) => {
            let could_not_look = gatekeeper.could_not_look(&error);
            let failed = failed(error, plan.report.output.as_deref());
            let failed = failed.map_err(|failure| if could_not_look { failure.of_gate() } else { failure });
            failed.and_then(|status| gatekeeper.status(status, true))
        }
    }
}

/// Tells on stderr what a plan has to say.
pub(super) fn tell(note: Note) {
    match note {
        Note::Choice(words) => eprintln!("memtrace: {words}"),
        Note::Warning(words) => log::warn!("{words}"),
    }
}

/// The loop that a run waits in.
pub(super) fn runtime() -> Result<Runtime, Failure> {
    let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
    built.map_err(|source| PipelineError::Wait { what: "anything", source }.into())
}

/// How a run ends that failed, whose reports go to `output`.
pub(super) fn failed(error: PipelineError, output: Option<&Path>) -> Result<ExitCode, Failure> {
    match (error, output) {
        // The reader of the report has enough of it, as `head` does.
        (PipelineError::Write(error), _) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        (PipelineError::Write(error), Some(path)) => Err(Failure::output(path, &error)),
        (error, _) => Err(error.into()),
    }
}

/// The command's own status, or 128 and the signal that ended it, as shells have it.
fn command_status(status: ExitStatus) -> ExitCode {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_was_killed_ends_as_in_a_shell() {
        assert_eq!(command_status(ExitStatus::from_raw(9)), ExitCode::from(137));
        assert_eq!(command_status(ExitStatus::from_raw(3 << 8)), ExitCode::from(3));
    }
}
