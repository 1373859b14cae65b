//! A target while probes are in place, and what remains of it once it has ended.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::task::JoinHandle;

use super::{ended::EndedTarget, exit_check, look_budget::LookBudget, process_handle::ProcessHandle};
use crate::{
    bpf::Bpf,
    capture::{allocator_mappings::AllocatorMappings, images::Images, target::Target},
    model::{
        at_exit::{AtExit, Checked},
        life::Life,
        subject::{Program, Subject},
        target_id::{BudgetGroup, TargetId},
        unchecked::{Cause, Unchecked},
    },
    process::status,
    profile::{
        reading::Counted,
        subject::{SubjectProfile, live_heap_objects},
    },
};

/// A target and what is known of it.
pub(crate) struct AttachedTarget {
    pub(crate) id: TargetId,
    /// With whom it shares the recording in force.
    pub(crate) group: BudgetGroup,
    pub(crate) target: Target,
    /// Its process; nothing where that had ended before it could be looked at.
    pub(super) process: Option<Arc<ProcessHandle>>,
    pub(crate) profile: SubjectProfile,
    /// Where it is looked at what it leaves behind when it ends.
    pub(super) exit: Option<ExitCheck>,
    pub(super) since: Instant,
    /// When its process was found to have ended.
    pub(super) ended: Option<Instant>,
    /// Waits for the end of its process.
    pub(super) waiting: Option<JoinHandle<()>>,
    /// Stacks that were cut at unknown code, as of the last look.
    pub(super) cut_stacks: u64,
    /// The CPU time that looks at its mappings may take.
    pub(super) look_budget: LookBudget,
}

/// The knowledge of how a target ends.
#[derive(Default)]
pub(super) struct ExitCheck {
    pub(super) areas: AllocatorMappings,
    pub(super) found: Option<AtExit>,
    /// The findings when it was about to become another program.
    pub(super) replaced: Option<AtExit>,
    /// Whether it began as a copy of its parent.
    pub(super) is_forked: bool,
    /// The reason why memtrace could not hook something in it.
    pub(super) refused: Option<String>,
}

impl ExitCheck {
    /// Takes in what there is to say of a target that was stopped for this reason.
    pub(super) fn note(&mut self, why: Stopped, found: AtExit) {
        match why {
            Stopped::ToEnd => self.found = Some(found),
            Stopped::ToBeReplaced => self.replaced = Some(found),
        }
    }
}

/// Why a target is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// It is about to end.
    ToEnd,
    /// It is about to become another program.
    ToBeReplaced,
}

impl AttachedTarget {
    /// Its process has become another program: what was found just before that is what it left.
    pub(super) fn note_replaced(&mut self, counted: Option<&Counted>, images: &Images) {
        let Some(exit) = &mut self.exit else { return };
        let live = counted.map_or(0, live_heap_objects);
        exit.found = match exit.replaced.take() {
            // A child that has held nothing of its own has left nothing, whatever way it went.
            None if exit.is_forked && live == 0 => Some(AtExit::Checked(Checked::default())),
            None => {
                let why = exit_check::why_unchecked(&self.target, images, exit.refused.take());
                let is_of_its_end = matches!(why.cause(), Cause::EndNotSeen | Cause::Killed);
                Some(AtExit::Unchecked(if is_of_its_end { Unchecked::ExecNotSeen } else { why }))
            }
            found => found,
        };
    }

    /// Whether it was to be looked at, and was not.
    fn is_unchecked(&self) -> bool {
        let found = self.exit.as_ref().and_then(|exit| exit.found.as_ref());
        matches!(found, Some(AtExit::Unchecked(_)))
    }

    /// Whether there is something to say of what it left, where it was replaced.
    pub(super) fn has_left_something(&self) -> bool {
        match self.exit.as_ref().and_then(|exit| exit.found.as_ref()) {
            None => false,
            Some(AtExit::Checked(checked)) => checked.unreachable.objects > 0,
            Some(AtExit::Unchecked(_)) => true,
        }
    }
}

impl AttachedTarget {
    /// Lets its process go on, where that is stopped.
    pub(super) fn resume(&self) {
        if let Some(process) = &self.process {
            process.resume();
        }
    }

    /// Whether its process has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.process.as_ref().is_none_or(|process| process.has_ended())
    }

    /// All that is left of it once it has ended.
    pub(super) fn finish(&mut self) -> EndedTarget {
        self.profile.ended = true;
        self.describe();
        let is_unchecked = self.is_unchecked();
        EndedTarget { profile: Arc::new(std::mem::take(&mut self.profile)), is_unchecked }
    }

    /// Puts into its profile what it is by now.
    pub(super) fn describe(&mut self) {
        let Self { target, profile, exit, .. } = self;
        let (pid, comm, exe) = (target.pid.get(), target.comm.clone(), target.exe.clone());
        profile.subject = Subject::Process(Program { pid, comm, exe });
        profile.allocators.clone_from(&target.allocators);
        profile.at_exit = exit.as_ref().and_then(|exit| exit.found.clone());
    }

    /// The life of its program so far, after the start of the run.
    pub(super) fn life(&self, bpf: &Bpf, started: Instant) -> Life {
        let life = self.life_that_is_over(bpf, started);
        // A thread may have ended while others go on. The end of the last need not be told yet.
        if self.ended.is_some() || self.has_ended() { life } else { Life::since(life.began) }
    }

    /// The same where its program is over. The kernel side tells of those that begin under its eyes: by the time user space has heard
    /// of a process that lives for milliseconds, that is over.
    pub(super) fn life_that_is_over(&self, bpf: &Bpf, started: Instant) -> Life {
        let start = status::monotonic_time().saturating_sub(started.elapsed());
        let (began, ended) = bpf.began_and_ended(self.target.slot);
        let after_start = |time: Duration| time.saturating_sub(start);
        let found = self.ended.map(|ended| ended.saturating_duration_since(started));
        Life {
            began: began.map_or_else(|| self.since.saturating_duration_since(started), after_start),
            ended: ended.map(after_start).or(found),
        }
    }
}

impl Drop for AttachedTarget {
    fn drop(&mut self) {
        if let Some(waiting) = &self.waiting {
            waiting.abort();
        }
    }
}
