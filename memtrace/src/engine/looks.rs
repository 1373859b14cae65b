//! Looks at targets that are about to end, each in a thread of its own: a look may take half a minute, and neither the run nor
//! another target at its end waits for it.

use std::{
    collections::HashSet,
    sync::mpsc::{SyncSender, sync_channel},
};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::{
    attached::Stopped,
    exit_check::{Findings, LookError, Recorded, scan},
};
use crate::model::{target_id::TargetId, unchecked::Unchecked};

/// The looks that are under way.
pub(super) struct Looks {
    sender: UnboundedSender<LookEvent>,
    events: UnboundedReceiver<LookEvent>,
    under_way: HashSet<TargetId>,
}

/// A look has come to a step.
pub(super) struct LookEvent {
    pub(super) id: TargetId,
    pub(super) why: Stopped,
    pub(super) step: LookStep,
}

/// The steps of a look.
pub(super) enum LookStep {
    /// The target is held, and its blocks are asked for.
    Held(SyncSender<Result<Recorded, LookError>>),
    /// The target is let go.
    Over(Result<Findings, LookError>),
}

impl Default for Looks {
    fn default() -> Self {
        let (sender, events) = unbounded_channel();
        Self { sender, events, under_way: HashSet::new() }
    }
}

impl Looks {
    /// Begins to look at the process `pid`, which `ending`, one of its threads, is about to end; 0 where that may yet go on.
    pub(super) fn begin(&mut self, id: TargetId, pid: u32, ending: u32, why: Stopped) {
        self.under_way.insert(id);
        let sender = self.sender.clone();
        tokio::task::spawn_blocking(move || {
            let ask = || {
                let (answer, answered) = sync_channel(1);
                let held = LookEvent { id, why, step: LookStep::Held(answer) };
                // Where nobody answers, the run is over.
                sender.send(held).map_err(|_| LookError::Futile(Unchecked::Stopped))?;
                answered.recv().map_err(|_| LookError::Futile(Unchecked::Stopped))?
            };
            let step = LookStep::Over(scan(pid, ending, ask));
            // As above.
            _ = sender.send(LookEvent { id, why, step });
        });
    }

    /// Whether a target is being looked at.
    pub(super) fn is_under_way(&self, id: TargetId) -> bool {
        self.under_way.contains(&id)
    }

    /// Whether no target is being looked at.
    pub(super) fn are_over(&self) -> bool {
        self.under_way.is_empty()
    }

    /// Waits until a look has come to a step.
    pub(super) async fn next(&mut self) -> LookEvent {
        match self.events.recv().await {
            Some(event) => {
                if let LookStep::Over(_) = event.step {
                    self.under_way.remove(&event.id);
                }
                event
            }
            // Never: a sender is here.
            None => std::future::pending().await,
        }
    }
}
