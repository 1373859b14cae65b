//! The lives of targets: what the BPF side tells of them, in its order.

use std::{collections::HashSet, num::NonZeroU32, time::Instant};

use memtrace_common::{
    ids::ProcessSlot,
    wire::{
        control::Adoption,
        counters::Counter,
        event::{Event, EventKind},
    },
};
use tokio::time::Instant as Deadline;

use super::{
    attached::{AttachedTarget, Stopped},
    closing::ProgramEnd,
    code_copy,
    error::PipelineError,
    looks::{LookEvent, LookStep},
    session::Session,
};
use crate::{
    capture::target::Target, model::target_id::BudgetGroup, process::helper::is_helper, profile::cpu_clock::Beginning,
};

impl Session {
    /// A target that was stopped, but whose notice found no room, would wait for ever.
    pub(super) fn make_up_for_lost_events(&mut self, lost_events: u64) -> Result<(), PipelineError> {
        if std::mem::replace(&mut self.lost_events, lost_events) < lost_events {
            let slots: Vec<ProcessSlot> = self.targets.live().map(|followed| followed.target.slot).collect();
            for slot in slots {
                self.look_again(slot)?;
                self.resume(slot);
            }
        }
        Ok(())
    }

    /// Lets a target go on that was stopped, unless it is being looked at.
    pub(super) fn resume(&self, slot: ProcessSlot) {
        if let Some(followed) =
            self.targets.get(slot).filter(|followed| self.stops_on_image && !self.looks.is_under_way(followed.id))
        {
            followed.resume();
        }
    }

    /// Handles every notice that is there by now.
    pub(super) fn handle_events(&mut self) -> Result<(), PipelineError> {
        let events = self.events.get_mut().take();
        // After the notices, so that it holds all that processes had mapped before they forked.
        self.targets.read_log();
        let mut looked = HashSet::new();
        for event in &events {
            match EventKind::try_from(event.kind) {
                Ok(EventKind::Exec) => self.begin_program(event)?,
                Ok(EventKind::ExecByThread) => {
                    self.targets.unbind(event.previous, &mut self.bpf);
                    self.begin_program(event)?;
                }
                Ok(EventKind::Forked) => {
                    // It was not stopped: an answer could take back its first stop, or the one before its end.
                    self.begin_child(event);
                    continue;
                }
                Ok(EventKind::ImageMapped) => self.look_when_due(event.slot, &mut looked)?,
                Ok(EventKind::CodeCopy) => {
                    if let Some(followed) = self.targets.get(event.slot) {
                        code_copy::let_go(followed, self.targets.images.scope(), &mut self.bpf);
                    }
                }
                Ok(kind @ (EventKind::Ending | EventKind::Replacing)) => {
                    // Let go once it was looked at.
                    let why = if kind == EventKind::Ending { Stopped::ToEnd } else { Stopped::ToBeReplaced };
                    self.ending.push((event.slot, event.tgid, why));
                    continue;
                }
                Ok(EventKind::Leaving) => {
                    self.note_way_out(event.slot);
                    continue;
                }
                Err(unknown) => log::warn!("unknown event {}", unknown.0),
            }
            self.resume(event.slot);
        }
        Ok(())
    }

    /// A target has mapped code. Where it waits, it is looked at; elsewhere once for all notices of a moment, and when its looks
    /// have not taken more than their share.
    fn look_when_due(&mut self, slot: ProcessSlot, looked: &mut HashSet<ProcessSlot>) -> Result<(), PipelineError> {
        if self.stops_on_image {
            return self.look_again(slot);
        }
        if looked.contains(&slot) {
            return Ok(());
        }
        let Some(followed) = self.targets.get_mut(slot) else { return Ok(()) };
        let (budget, now) = (&mut followed.look_budget, Instant::now());
        if budget.may_look(now) {
            looked.insert(slot);
            return self.look_again(slot);
        }
        if budget.put_off() {
            let Target { comm, pid, .. } = &followed.target;
            log::warn!(
                "{comm} (pid {pid}) maps code more often than memtrace may look at it: of an allocator that comes and goes \
                 meanwhile, nothing is seen (looks_put_off)"
            );
        }
        self.bpf.count(slot, Counter::LooksPutOff);
        Ok(())
    }

    /// When the next look is due that was put off.
    pub(super) fn next_look(&self) -> Option<Deadline> {
        self.targets.live().filter_map(|followed| followed.look_budget.due()).min().map(Deadline::from_std)
    }

    /// Makes up for looks that were put off and are due now.
    pub(super) fn make_up_for_looks(&mut self) -> Result<(), PipelineError> {
        let now = Instant::now();
        let is_due = |followed: &&AttachedTarget| followed.look_budget.due().is_some_and(|due| due <= now);
        let due: Vec<ProcessSlot> = self.targets.live().filter(is_due).map(|followed| followed.target.slot).collect();
        due.into_iter().try_for_each(|slot| self.look_again(slot))
    }

    /// Takes in every change of an address space that is there by now.
    pub(super) fn handle_mapping_events(&mut self) -> Result<(), PipelineError> {
        let events = self.mapping_events.get_mut().take();
        // A target's beginning was told before anything that it did.
        self.handle_events()?;
        self.targets.change_address_spaces(&events);
        Ok(())
    }

    /// A target begins to end. Where it waits, it is read first.
    pub(super) fn note_way_out(&mut self, slot: ProcessSlot) {
        if self.looks_at_exit && self.stops_on_image {
            self.leaving.push(slot);
        } else {
            self.targets.note_way_out(slot, self.started.elapsed());
        }
    }

    /// Reads those once more that are stopped before they free their blocks, and looks at those that are stopped before they
    /// end.
    pub(super) fn look_before_ends(&mut self) -> Result<(), PipelineError> {
        if !self.leaving.is_empty() {
            self.read()?;
        }
        for slot in std::mem::take(&mut self.leaving) {
            self.targets.note_way_out(slot, self.started.elapsed());
            self.resume(slot);
        }
        let ending = std::mem::take(&mut self.ending);
        if ending.iter().any(|(slot, ..)| self.targets.waits_for_a_last_look(*slot)) {
            self.read()?;
            // All that they have mapped was told before their ends were, and is there by now.
            let events = self.mapping_events.get_mut().take();
            self.targets.change_address_spaces(&events);
        }
        for (slot, thread, why) in ending {
            self.look_before_end(slot, thread, why);
        }
        Ok(())
    }

    /// Begins to look at what a target leaves behind that is stopped before its `thread` ends it, or makes it another program;
    /// lets it go where there is nothing to look for.
    fn look_before_end(&mut self, slot: ProcessSlot, thread: u32, why: Stopped) {
        let Some(followed) = self.targets.get(slot) else { return };
        let (id, pid) = (followed.id, followed.target.pid.get());
        if self.looks.is_under_way(id) {
            // Two of its threads came to an end of it at once. It stays stopped for the second.
            self.postponed.push((slot, thread, why));
        } else if self.targets.waits_for_a_last_look(slot) && self.targets.is_worth_a_look(slot, why, &self.bpf) {
            // A thread that calls exec may be refused, and go on: it needs all its registers.
            let ending = if why == Stopped::ToEnd { thread } else { 0 };
            self.looks.begin(id, pid, ending, why);
        } else {
            self.resume(slot);
        }
    }

    /// A look has come to a step.
    pub(super) fn handle_look(&mut self, LookEvent { id, why, step }: LookEvent) {
        match step {
            // A look that does not wait for the answer any more has ended by itself.
            LookStep::Held(answer) => _ = answer.try_send(self.targets.recorded(id, &self.bpf)),
            LookStep::Over(looked) => {
                self.targets.note_looked(id, why, looked);
                let (again, others) =
                    std::mem::take(&mut self.postponed).into_iter().partition(|(slot, ..)| *slot == id.slot);
                (self.postponed, self.ending) = (others, [std::mem::take(&mut self.ending), again].concat());
                if !self.ending.iter().any(|(slot, ..)| *slot == id.slot) {
                    self.resume(id.slot);
                }
            }
        }
    }

    /// A process runs another program.
    pub(super) fn begin_program(&mut self, event: &Event) -> Result<(), PipelineError> {
        let Some(pid) = NonZeroU32::new(event.tgid) else { return Ok(()) };
        if is_helper(event.tgid) && event.slot != ProcessSlot::NONE {
            // It was begun anew, and is no target, whatever is selected.
            self.bpf.close_processes(&[event.slot])?;
            self.bpf.sweep();
            return Ok(self.bpf.recycle(&[event.slot])?);
        }
        let before = self.targets.get(event.previous);
        let next = match before {
            Some(followed) => followed.target.successor(),
            None => Target::find(pid),
        };
        // It may have ended already.
        let next = next.unwrap_or_else(|_| Target::vanished(pid));
        if let Some(followed) = before {
            let was_named = self.adoption == Adoption::default();
            if was_named && (!self.stops_on_image || !followed.profile.is_empty()) {
                let (was, is) = (&followed.target.exe, &next.exe);
                eprintln!("memtrace: process {pid} now runs {is} (was {was}): its figures start afresh");
            }
            let replaced = followed.id;
            // Its process may be known to have ended by now, but that was the end of the next program.
            self.over.retain(|(id, _)| *id != replaced);
            self.over.push((replaced, ProgramEnd::Replaced));
        }
        if event.slot != ProcessSlot::NONE {
            let group = self.bpf.group(event.slot);
            self.follow_new(next, event.slot, group, Beginning::Program);
            self.look_again(event.slot)?;
        }
        Ok(())
    }

    /// A target has a child that is a target.
    pub(super) fn begin_child(&mut self, event: &Event) {
        let Some(pid) = NonZeroU32::new(event.tgid) else { return };
        let child = match self.targets.get(event.previous) {
            Some(AttachedTarget { target: parent, .. }) => {
                let (parent, child) = (parent.pid, parent.child(pid));
                self.targets.note_fork(parent, pid);
                child
            }
            None => Target::find(pid).unwrap_or_else(|_| Target::vanished(pid)),
        };
        let group = self.bpf.group(event.slot);
        self.follow_new(child, event.slot, group, Beginning::Forked);
    }

    pub(super) fn follow_new(
        &mut self,
        mut target: Target,
        slot: ProcessSlot,
        group: BudgetGroup,
        beginning: Beginning,
    ) {
        target.slot = slot;
        let (id, is_there) = self.targets.add(target, group, beginning, self.looks_at_exit);
        if !is_there {
            self.over.push((id, ProgramEnd::Ended));
        }
    }
}
