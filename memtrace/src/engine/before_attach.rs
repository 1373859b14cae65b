//! Memory from before attach: looks at the heaps of targets, soon after the start of a run and for its reports.

use std::time::Instant;

use memtrace_common::wire::counters::Counter;

use super::{
    attached::AttachedTarget,
    closing::ProgramEnd,
    error::PipelineError,
    heap_looks::{HeapLooked, Known, UnderWay},
    look_queue::{MOST_TARGETS, ROUND},
    marks::Marks,
    session::Session,
};
use crate::{
    looking::{Limits, pressure},
    model::{category::Category, heap_look::NotLooked, heap_report::NotRead, survival::Amount, target_id::TargetId},
    process::memory,
    profile::{
        cpu_clock::Beginning,
        heap_history::{HeapHistory, HeapLook},
        subject::SubjectProfile,
    },
};

/// Whether a target's heap is looked at that begins so; `why_none` is why the run looks at none.
pub(super) fn expected(beginning: Beginning, why_none: Option<&NotLooked>) -> HeapHistory {
    HeapHistory::without(match (why_none, beginning) {
        (Some(why @ (NotLooked::NoBlocks | NotLooked::NotWanted)), _) => why.clone(),
        (_, Beginning::Program) => NotLooked::BegunTraced,
        (_, Beginning::Forked) => NotLooked::Forked,
        (Some(why), Beginning::Before) => why.clone(),
        (None, Beginning::Before) => NotLooked::UnderWay,
    })
}

impl Session {
    /// Lets those targets be looked at that were never.
    pub(super) fn look_at_heaps(&mut self) {
        let waits = |followed: &&AttachedTarget| followed.profile.heap.waits();
        let waiting: Vec<TargetId> = self.targets.live().filter(waits).map(|followed| followed.id).collect();
        if waiting.is_empty() {
            return;
        }
        if self.targets.live().count() > MOST_TARGETS {
            let why = NotLooked::TooMany { most: MOST_TARGETS };
            waiting.into_iter().for_each(|id| self.note_not_looked(id, why.clone()));
            return;
        }
        let under_way = self.heap_looks.under_way();
        waiting.into_iter().filter(|id| Some(*id) != under_way).for_each(|id| self.heap_looks.queue.want(id));
        self.begin_heap_look();
    }

    /// Looks again for a report, where the last looks are long enough ago.
    pub(super) fn look_at_heaps_again(&mut self) -> Result<(), PipelineError> {
        if !self.heap_looks.is_under_way() && self.heap_looks.queue.may_begin_again(Instant::now()) {
            self.begin_round(ROUND)?;
        }
        Ok(())
    }

    /// Looks again for the last report, whose time has not come yet.
    pub(super) fn look_at_heaps_ahead(&mut self) -> Result<(), PipelineError> {
        if !self.heap_looks.is_under_way() {
            self.begin_round(ROUND)?;
        }
        Ok(())
    }

    /// Looks again for the last report, unless it would have to wait for too long.
    pub(super) fn look_at_heaps_at_last(&mut self) -> Result<(), PipelineError> {
        if self.heap_looks.is_under_way() {
            return Ok(());
        }
        let time = self.heap_looks.last_time();
        if self.heap_looks.queue.is_quick(time) {
            return self.begin_round(Limits { time, ..ROUND });
        }
        let looked: Vec<TargetId> = self.looked_at().collect();
        looked.into_iter().for_each(|id| self.note_not_looked(id, NotLooked::TooSlow));
        Ok(())
    }

    /// Ends looks that nobody waits for any more.
    pub(super) fn leave_heap_looks(&mut self) {
        for id in self.heap_looks.give_up() {
            self.note_not_looked(id, NotLooked::TooSlow);
        }
    }

    /// A look is over.
    pub(super) fn handle_heap_look(&mut self, begun: UnderWay, looked: HeapLooked) -> Result<(), PipelineError> {
        // As of now; and if it runs another program by now, that was told.
        self.read()?;
        let UnderWay { id, known, marked } = begun;
        let elapsed = self.started.elapsed();
        let is_over = self.over.iter().any(|(over, why)| *over == id && *why == ProgramEnd::Replaced);
        let HeapLooked { outcome, took } = looked;
        self.heap_looks.queue.looked(known.rss_bytes, took, Instant::now());
        if let Some(followed) = self.targets.get_mut(id.slot).filter(|followed| followed.id == id) {
            let is_gone = is_over || followed.has_ended();
            match outcome {
                Ok(_) if is_gone => followed.profile.heap.not_looked = Some(NotLooked::Failed(NotRead::Gone)),
                Ok(heap) => {
                    let at = elapsed.saturating_sub(heap.duration / 2);
                    let Known { rss_bytes, since_attach, older_freed_objects } =
                        known.between(self::known(&followed.profile));
                    let look = HeapLook { at, heap, rss_bytes, since_attach, older_freed_objects, marked };
                    followed.profile.heap.note(look);
                }
                Err(why) => followed.profile.heap.not_looked = Some(NotLooked::Failed(why)),
            }
        }
        self.begin_heap_look();
        Ok(())
    }

    /// Looks at all that were looked at before, within these limits. Looks are held against what was counted at their beginning.
    fn begin_round(&mut self, limits: Limits) -> Result<(), PipelineError> {
        self.read()?;
        let looked: Vec<TargetId> = self.looked_at().collect();
        self.heap_looks.queue.begin_round(limits);
        looked.into_iter().for_each(|id| self.heap_looks.queue.want(id));
        self.begin_heap_look();
        Ok(())
    }

    fn looked_at(&self) -> impl Iterator<Item = TargetId> {
        self.targets.live().filter(|followed| followed.profile.heap.first.is_some()).map(|followed| followed.id)
    }

    /// Begins the next look, unless one is under way.
    fn begin_heap_look(&mut self) {
        while !self.heap_looks.is_under_way() {
            let Some((id, limits)) = self.heap_looks.queue.next() else { return };
            let Some(followed) = self.targets.get(id.slot).filter(|followed| followed.id == id) else { continue };
            let (pid, known) = (followed.target.pid.get(), known(&followed.profile));
            // A first look comes too soon for suspects.
            let is_first = followed.profile.heap.first.is_none();
            let is_told = self.heap_looks.tell_holders() && !is_first;
            let begun = limits.and_then(|limits| {
                refusal(pid, limits).map_or(Ok(()), Err)?;
                let Marks { sites: marked, marks } =
                    if is_told { self.targets.marks(id.slot, &self.bpf) } else { Marks::default() };
                let under_way = UnderWay { id, known, marked };
                self.heap_looks.begin(under_way, pid, limits, marks).map_err(NotLooked::Failed)
            });
            if let Err(why) = begun {
                self.note_not_looked(id, why);
            }
        }
    }

    fn note_not_looked(&mut self, id: TargetId, why: NotLooked) {
        if let Some(followed) = self.targets.get_mut(id.slot).filter(|followed| followed.id == id) {
            log::info!("process {}: its heap is not looked at: {}", followed.target.pid, why.cause());
            followed.profile.heap.not_looked = Some(why);
        }
    }
}

/// Why a process is not looked at just now; nothing where it is.
fn refusal(pid: u32, limits: Limits) -> Option<NotLooked> {
    let Some(usage) = memory::usage(pid) else { return Some(NotLooked::Failed(NotRead::NoMemory)) };
    let rss_bytes = usage.rss_bytes();
    if rss_bytes > ROUND.bytes {
        return Some(NotLooked::TooLarge { rss_bytes, most_bytes: ROUND.bytes });
    }
    if rss_bytes > limits.bytes {
        return Some(NotLooked::UsedUp);
    }
    pressure::on(pid).map(NotLooked::Pressure)
}

/// The facts as of the last reading.
fn known(profile: &SubjectProfile) -> Known {
    let live = profile.totals_of(Category::Heap);
    Known {
        rss_bytes: profile.memory.history.latest().unwrap_or_default().rss_bytes(),
        since_attach: Amount { bytes: live.live_bytes(), objects: live.live_objects() },
        older_freed_objects: profile.count(Counter::UnmatchedFrees),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_programs_from_before_are_looked_at_and_the_others_tell_why() {
        let why = |beginning, why_none: Option<NotLooked>| expected(beginning, why_none.as_ref()).not_looked.unwrap();
        assert_eq!(why(Beginning::Before, None), NotLooked::UnderWay);
        assert_eq!(why(Beginning::Program, None), NotLooked::BegunTraced);
        assert_eq!(why(Beginning::Forked, None), NotLooked::Forked);
        for beginning in [Beginning::Before, Beginning::Program, Beginning::Forked] {
            assert_eq!(why(beginning, Some(NotLooked::NotWanted)), NotLooked::NotWanted);
        }
        let many = NotLooked::TooMany { most: MOST_TARGETS };
        assert_eq!(why(Beginning::Before, Some(many.clone())), many);
        assert_eq!(why(Beginning::Program, Some(many)), NotLooked::BegunTraced);
    }

    #[test]
    fn a_process_without_memory_or_with_more_than_is_left_is_not_looked_at() {
        let own = std::process::id();
        assert_eq!(refusal(2, ROUND), Some(NotLooked::Failed(NotRead::NoMemory)));
        assert_eq!(refusal(own, Limits { bytes: 1, ..ROUND }), Some(NotLooked::UsedUp));
    }
}
