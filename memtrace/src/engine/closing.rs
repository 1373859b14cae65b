//! The end of targets: their last figures are read, their slots become unused, and the profiles of those that have ended are kept.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use memtrace_common::ids::{ProcessSlot, SiteIndex};

use super::{
    attached::{AttachedTarget, ExitCheck},
    counts::counted,
    exit_check,
    reading::Reader,
    targets::Targets,
};
use crate::{
    analysis::{identity::Identities, view::View},
    bpf::{Bpf, BpfError},
    capture::sources::Source,
    model::{
        at_exit::AtExit,
        life::Life,
        stats::windows::Window,
        target_id::{BudgetGroup, TargetId},
        tier::Tier,
    },
    profile::reading::{Basis, Counted, Time},
};

/// The facts that matter where targets are finished.
pub(crate) struct Close<'a> {
    pub(crate) time: Time,
    /// The start of the run.
    pub(crate) started: Instant,
    /// The tier that was asked for.
    pub(crate) tier: Tier,
    /// The present window of a group, for a target of such a life.
    pub(crate) window: &'a dyn Fn(BudgetGroup, (TargetId, Life)) -> Option<Window>,
    /// The basis of a group's figures.
    pub(crate) basis: &'a dyn Fn(BudgetGroup) -> Basis,
}

/// Why a target's program is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProgramEnd {
    /// Its process has ended.
    Ended,
    /// Its process runs another program, whose profile is another.
    Replaced,
    /// It goes on, and another process has its slot.
    LetGo,
}

impl Targets {
    /// Finishes targets whose programs are over. Their memory is kept for the report, unless they
    /// became other programs.
    pub(crate) fn close(
        &mut self,
        over: &[(TargetId, ProgramEnd)],
        bpf: &mut Bpf,
        close: &Close<'_>,
    ) -> Result<(), BpfError> {
        let mut leaving: Vec<(AttachedTarget, ProgramEnd)> =
            over.iter().filter_map(|(id, why)| Some((self.remove(*id)?, *why))).collect();
        if leaving.is_empty() {
            return Ok(());
        }
        let closed: Vec<ProcessSlot> = leaving.iter().map(|(followed, _)| followed.target.slot).collect();
        bpf.close_processes(&closed)?;
        bpf.sweep();
        // Once more, though it was just read: what has ended since has told the last of it since.
        self.read_log();
        let mut counted = counted(bpf, closed.iter().copied())?;
        for (followed, _) in &leaving {
            let slot = followed.target.slot;
            let requested = counted.get(&slot).map(|counted| counted.requested).unwrap_or_default();
            let done = self.done.entry(followed.group).or_default();
            done.requested = done.requested.plus(requested);
            done.cpu += bpf.cpu_time_at_end(slot).unwrap_or_default();
        }
        let oldest_born_ms = self.sources.oldest_born_ms(bpf, &closed);
        for (followed, why) in &mut leaving {
            match why {
                ProgramEnd::Ended => {
                    let counted = counted.remove(&followed.target.slot).unwrap_or_default();
                    self.read_last(followed, &counted, &oldest_born_ms, bpf, close)?;
                }
                ProgramEnd::Replaced => {
                    followed.note_replaced(counted.get(&followed.target.slot), &self.images);
                }
                ProgramEnd::LetGo => {}
            }
        }
        closed.iter().for_each(|slot| self.sources.end(*slot));
        bpf.recycle(&closed)?;
        self.keep(leaving, bpf, close);
        Ok(())
    }

    /// Takes a target out, unless that has happened already and another has its slot.
    fn remove(&mut self, id: TargetId) -> Option<AttachedTarget> {
        if self.live.get(&id.slot)?.id == id { self.live.remove(&id.slot) } else { None }
    }

    /// Reads a target whose process has ended for the last time.
    fn read_last(
        &mut self,
        followed: &mut AttachedTarget,
        counted: &Counted,
        oldest_born_ms: &HashMap<SiteIndex, u64>,
        bpf: &mut Bpf,
        Close { time, started, window, basis, .. }: &Close<'_>,
    ) -> Result<(), BpfError> {
        let (id, life) = (followed.id, followed.life_that_is_over(bpf, *started));
        let AttachedTarget { target, group, profile, exit, .. } = followed;
        if let Some(log) = &mut self.log {
            target.learn(log.take(target.pid.get()), &mut self.images, bpf);
        }
        let mut basis = basis(*group);
        if let Some(window) = window(*group, (id, life)) {
            // Those of the present window's blocks that it has left have survived, and it stands for all until its end.
            profile.judge(counted, |_| window);
            basis.unjudged = basis.unjudged.map(|_| Duration::ZERO);
        }
        // Since the last window it was there only until its end.
        basis.unjudged =
            basis.unjudged.map(|unjudged| life.within(time.elapsed.saturating_sub(unjudged), time.elapsed));
        let reader = Reader { bpf, images: &self.images, sources: &self.sources, time: *time };
        reader.read(profile, counted, target, basis)?;
        let is_seen = basis.unjudged.is_none() || !profile.windows.is_empty() || !profile.is_empty();
        self.between_windows += u64::from(!is_seen);
        profile.read_blocks(|index| bpf.live_blocks(index), oldest_born_ms);
        if let Some(ExitCheck { found: found @ None, refused, .. }) = exit {
            *found = Some(AtExit::Unchecked(exit_check::why_unchecked(target, &self.images, refused.take())));
        }
        Ok(())
    }

    /// Keeps what reports tell of targets that have left, and lets go of those that there is no room for.
    fn keep(&mut self, leaving: Vec<(AttachedTarget, ProgramEnd)>, bpf: &Bpf, Close { time, tier, .. }: &Close<'_>) {
        let is_kept = |followed: &AttachedTarget, why| match why {
            ProgramEnd::Ended => true,
            ProgramEnd::Replaced => followed.has_left_something(),
            ProgramEnd::LetGo => false,
        };
        for (mut followed, why) in leaving {
            if is_kept(&followed, why) {
                self.ended.kept.push(followed.finish());
            }
        }
        if !self.ended.is_overfull() {
            return;
        }
        let identities = Identities::of(self.images.all().iter().map(|image| &*image.name));
        let (now, is_adaptive) = (time.elapsed, bpf.is_adaptive());
        let view =
            View { categories: &self.categories, identities: &identities, now, trap: None, is_adaptive, tier: *tier };
        self.ended.let_go(&view);
    }
}
