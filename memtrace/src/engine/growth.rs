//! A run in tier `growth`: which of all selected processes are looked at by stack, as the governor decides.

use std::{
    num::NonZeroU32,
    time::{Duration, Instant},
};

use memtrace_common::{ids::ProcessSlot, wire::counters::Counter};

use super::{closing::ProgramEnd, error::PipelineError, session::Session};
use crate::{
    governor::growth_slots::{Slots, Step},
    process::status,
};

/// Looks at new processes wait for the next scan once those of a scan have taken so long: what the run owes to its targets waits
/// meanwhile.
const MOST_AT_ONCE: Duration = Duration::from_millis(100);
/// The part of the tables of sites and stacks beyond which these are nearly full, in eighths.
const CROWDED_EIGHTHS: usize = 7;

impl Session {
    /// Looks at the memory of every selected process. Those that grow become targets: from then on it is told which of their
    /// stacks make it grow. Returns the CPU time of the scan itself.
    pub(super) fn take_scan(&mut self) -> Result<Duration, PipelineError> {
        let (begun, elapsed) = (status::own_cpu_time(), self.started.elapsed());
        self.read_scan(elapsed)?;
        let Some(scan) = &self.scan else { return Ok(Duration::ZERO) };
        self.growth.note(scan, elapsed);
        let steps = if self.tells_stacks { self.decide_looks() } else { Vec::new() };
        let cost = status::own_cpu_time().saturating_sub(begun);
        if steps.is_empty() {
            return Ok(cost);
        }
        if let Err(error) = self.bpf.follow_pages() {
            log::warn!("{error}: which stacks make processes grow is not told");
            self.tells_stacks = false;
            return Ok(cost);
        }
        self.take_steps(&steps)?;
        Ok(cost)
    }

    /// The governor's decision on who is looked at.
    fn decide_looks(&mut self) -> Vec<Step> {
        let Self { targets, bpf, growth, over, .. } = self;
        let (processes, sites) = bpf.room();
        let slots = Slots {
            taken: targets.live().map(|followed| followed.target.pid).collect(),
            // A target whose program is over stands at its slot until it is finished.
            unused: processes.saturating_sub(targets.live().count() + over.len()),
            is_crowded: targets.site_count() >= sites / 8 * CROWDED_EIGHTHS,
        };
        growth.decide(&slots, |pid| targets.images.unknown_code_bytes(pid))
    }

    fn take_steps(&mut self, steps: &[Step]) -> Result<(), PipelineError> {
        let refused = steps.iter().filter(|step| matches!(step, Step::Refuse(_)));
        refused.for_each(|_| self.bpf.count(ProcessSlot::NONE, Counter::ProcessesFull));
        let begun = Instant::now();
        for step in steps {
            match *step {
                _ if begun.elapsed() > MOST_AT_ONCE => break,
                Step::Refuse(_) => {}
                Step::LetGo(pid) => self.let_go(pid)?,
                Step::Look(pid) => self.look_closely(pid),
            }
        }
        Ok(())
    }

    /// A process becomes a target. That it has ended, or may not be looked into, is no failure of the run.
    fn look_closely(&mut self, pid: NonZeroU32) {
        let (code_bytes, begun) = (self.targets.images.unknown_code_bytes(pid), status::own_cpu_time());
        if let Err(error) = self.add_and_hook(pid) {
            log::info!("{error}");
        }
        self.growth.learn(code_bytes, status::own_cpu_time().saturating_sub(begun));
    }

    /// Takes the slot of a target back: another process will have it.
    fn let_go(&mut self, pid: NonZeroU32) -> Result<(), PipelineError> {
        let Some(id) = self.targets.id_of(pid) else { return Ok(()) };
        log::info!("process {pid} does not grow steadily: its stacks are not told any more");
        self.over.push((id, ProgramEnd::LetGo));
        self.bpf.count(ProcessSlot::NONE, Counter::SlotsTakenBack);
        self.finish_targets()
    }

    /// Reads the memory of every selected process, where that is looked at.
    pub(super) fn read_scan(&mut self, elapsed: Duration) -> Result<(), PipelineError> {
        if let Some(scan) = &mut self.scan {
            scan.read(&self.selection.processes()?, elapsed);
        }
        Ok(())
    }
}
