//! Carries out what the governors decide: reads their meters, records, arms probes, and tells profiles of windows.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
    time::{Duration, Instant},
};

use memtrace_common::{steps::sampling::MeanGap, wire::control::Recording};
use tokio::time::Instant as Deadline;

use super::{
    attached::AttachedTarget,
    error::PipelineError,
    run_meter::{Requests, RunMeter},
    targets::Targets,
};
use crate::{
    bpf::{Bpf, BpfError, ProbeSet},
    governor::{
        decision::{Change, Closed, Decision, Opening, Phase, WindowStep},
        groups::{Governors, Served},
        meter::{Meter, Metering, Payer},
        tiers::{Governor, Settings},
    },
    model::{
        life::Life,
        stats::windows::Window,
        target_id::{BudgetGroup, TargetId},
        tier::{self, BudgetLog, Tier, TierChange, TierReason},
    },
    profile::reading::Basis,
    report::words,
};

/// How many changes of a tier are told, besides the first of all.
const MAX_CHANGES: usize = 100;

/// The parts of a run that decisions change.
pub(super) struct RunParts<'a> {
    pub(super) bpf: &'a mut Bpf,
    pub(super) targets: &'a mut Targets,
    pub(super) started: Instant,
}

impl RunParts<'_> {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn meter<'a>(&'a self, served: Served, requests: &'a Requests) -> RunMeter<'a> {
        RunMeter { bpf: self.bpf, targets: self.targets, started: self.started, served, requests }
    }

    /// Reads the meter of these groups.
    fn read(&self, served: Served, before: &Metering) -> Metering {
        self.meter(served, &Requests::default()).read(Some(before))
    }
}

/// The kind of recording that a phase takes.
fn recording(phase: Phase) -> Recording {
    match phase {
        Phase::All => Recording::All,
        Phase::Samples { .. } => Recording::Samples,
        Phase::Window { .. } => Recording::Window,
        Phase::Following { .. } | Phase::Gap { .. } => Recording::Frees,
    }
}

/// The mean gap between the samples of a phase.
fn gap(phase: Phase) -> MeanGap {
    if let Phase::Samples { sample_bytes } = phase { MeanGap::of(sample_bytes) } else { MeanGap::OF_RUN }
}

/// The probes that a phase takes.
fn probe_set(phase: Phase) -> ProbeSet {
    match phase {
        Phase::All | Phase::Samples { .. } | Phase::Window { .. } => ProbeSet::Everything,
        Phase::Following { .. } => ProbeSet::Frees,
        Phase::Gap { .. } => ProbeSet::Neither,
    }
}

/// The basis of the figures of a group's targets; where there is no budget, it is the run's.
pub(super) fn basis(governor: Option<&RunGovernor>, group: BudgetGroup, now: Duration) -> Basis {
    governor.map_or_else(Basis::default, |RunGovernor { governors, .. }| Basis {
        tier: Some(governors.tier(group)),
        unjudged: governors.unjudged_since(group).map(|since| now.saturating_sub(since)),
    })
}

/// The governors of a run, and what has come of their decisions.
pub(super) struct RunGovernor {
    governors: Governors,
    /// The processes that are groups by themselves.
    pids: BTreeMap<BudgetGroup, NonZeroU32>,
    /// The probes that are in place. Where nothing is said, all are, and those of a process by itself go by the shared ones.
    probes: BTreeMap<BudgetGroup, ProbeSet>,
    changes: Vec<TierChange>,
}

impl RunGovernor {
    /// Every probe is in place, and nothing is counted yet.
    pub(super) fn new(settings: &Settings) -> Self {
        let governors = Governors::new(settings);
        Self { governors, pids: BTreeMap::new(), probes: BTreeMap::new(), changes: Vec::new() }
    }

    /// The group of a process whose probes are its own.
    pub(super) fn own(&mut self, pid: NonZeroU32) -> BudgetGroup {
        let group = self.governors.own();
        if group != BudgetGroup::SHARED {
            self.pids.insert(group, pid);
        }
        group
    }

    /// Tells the kernel side what is recorded at first.
    pub(super) fn prepare(&self, bpf: &mut Bpf) -> Result<(), BpfError> {
        let phase = Phase::first(self.governors.closest());
        (0..=BudgetGroup::MAX.0).try_for_each(|group| bpf.record(BudgetGroup(group), recording(phase), gap(phase), 0))
    }

    /// The least exact tier so far: what figures rest on.
    pub(super) fn tier(&self) -> Tier {
        self.governors.least_exact()
    }

    /// The part of a target's CPU time that tracing may take.
    pub(super) fn max_overhead(&self) -> f64 {
        self.governors.budget().0
    }

    /// The budget, and what came of it.
    pub(super) fn log(&self) -> BudgetLog {
        BudgetLog {
            max_overhead: self.max_overhead(),
            changes: self.changes.clone(),
            windows: self.governors.windows(),
        }
    }

    /// The present window of a group, for a target of this life that ends now: see [`Governor::window`].
    pub(super) fn window(&self, group: BudgetGroup, now: Duration, target: (TargetId, Life)) -> Option<Window> {
        self.governors.window(group, now, target)
    }

    /// When there is something to be done, where there is.
    pub(super) fn deadline(&self, started: Instant) -> Option<Deadline> {
        self.governors.deadline().map(|deadline| Deadline::from_std(started + deadline))
    }

    /// Forgets processes that are groups by themselves and have gone.
    pub(super) fn let_gone_go(&mut self, targets: &Targets) {
        let live: BTreeSet<BudgetGroup> = targets.live().map(|followed| followed.group).collect();
        for group in self.governors.groups().into_iter().filter(|group| !live.contains(group)) {
            self.governors.leave(group);
        }
    }

    /// Counting begins.
    pub(super) fn begin(&mut self, run: &mut RunParts<'_>) -> Result<(), PipelineError> {
        let (at, reason) = (Duration::ZERO, TierReason::AsAskedFor);
        self.changes.push(TierChange { at, pid: None, tier: self.governors.closest(), reason });
        self.governors.begin();
        self.begin_each(run)?;
        self.share_where_probes_are_shared(run)
    }

    fn begin_each(&mut self, run: &mut RunParts<'_>) -> Result<(), PipelineError> {
        for group in self.governors.groups() {
            self.decide(group, run, &Requests::default(), Governor::begin)?;
        }
        Ok(())
    }

    /// Does what is due.
    pub(super) fn act(&mut self, run: &mut RunParts<'_>) -> Result<(), PipelineError> {
        self.share_where_probes_are_shared(run)?;
        let mut requests = Requests::default();
        for group in self.governors.due(run.now()) {
            if self.decide(group, run, &requests, Governor::step)? {
                // That took time.
                requests = Requests::default();
            }
        }
        Ok(())
    }

    /// Counting is over.
    pub(super) fn end(&mut self, run: &mut RunParts<'_>) -> Result<(), PipelineError> {
        for group in self.governors.groups() {
            self.decide(group, run, &Requests::default(), Governor::end)?;
        }
        Ok(())
    }

    /// Where probes of processes with governors of their own have come to be in every process, one serves them all from now on.
    fn share_where_probes_are_shared(&mut self, run: &mut RunParts<'_>) -> Result<(), PipelineError> {
        if self.pids.is_empty() || !run.bpf.shares_probes() {
            return Ok(());
        }
        self.end(run)?;
        self.governors.share();
        self.pids.clear();
        let tier = self.governors.get(BudgetGroup::SHARED).map_or(self.governors.closest(), Governor::tier);
        let phase = Phase::first(tier);
        self.record(BudgetGroup::SHARED, phase, run)?;
        run.bpf.arm_all(probe_set(phase));
        self.probes = BTreeMap::from([(BudgetGroup::SHARED, probe_set(phase))]);
        // Blocks of windows that are judged must not be taken for those of the next with the same number.
        run.bpf.sweep();
        self.note(TierChange { at: run.now(), pid: None, tier, reason: TierReason::Shared }, "");
        self.begin_each(run)
    }

    /// Lets the governor of a group decide, and carries that out. Returns whether there was anything to be done.
    fn decide(
        &mut self,
        group: BudgetGroup,
        run: &mut RunParts<'_>,
        requests: &Requests,
        decide: impl FnOnce(&mut Governor, Duration, &mut dyn Meter) -> Decision,
    ) -> Result<bool, PipelineError> {
        let (now, served) = (run.now(), self.governors.served(group));
        let Some(governor) = self.governors.get_mut(group) else { return Ok(false) };
        let decision = decide(governor, now, &mut run.meter(served, requests));
        let is_something = decision.phase.is_some() || decision.window.is_some();
        let mut next = Some(decision);
        while let Some(decision) = next {
            next = self.carry_out(group, decision, run)?;
        }
        self.governors.carried_out(group, run.now());
        Ok(is_something)
    }

    /// Carries out a decision. Returns the one that follows from it.
    fn carry_out(
        &mut self,
        group: BudgetGroup,
        decision: Decision,
        run: &mut RunParts<'_>,
    ) -> Result<Option<Decision>, PipelineError> {
        let Decision { change, phase, window, sweeps } = decision;
        if let Some(change) = change {
            self.tell(group, &change, run);
        }
        if let Some(phase) = phase {
            log::debug!("{group:?}: {phase:?}");
            self.record(group, phase, run)?;
        }
        let next = match window {
            None => None,
            Some(step) => self.carry_out_step(group, step, run)?,
        };
        if let Some(phase) = phase {
            self.arm(group, phase, run);
        }
        if sweeps {
            run.bpf.sweep();
        }
        Ok(next)
    }

    /// Carries out a step of a window. Returns the decision that follows from it.
    fn carry_out_step(
        &mut self,
        group: BudgetGroup,
        step: WindowStep,
        run: &mut RunParts<'_>,
    ) -> Result<Option<Decision>, PipelineError> {
        let served = self.governors.served(group);
        let of = |group| served.has(group);
        match step {
            WindowStep::Begin => run.targets.begin_windows(run.bpf, of)?,
            WindowStep::NoteHalfway => run.targets.note_halfway(run.bpf, of)?,
            WindowStep::Open(opening) => {
                let closed = self.hold_open(group, &opening, run)?;
                if let Some(governor) = self.governors.get_mut(group) {
                    governor.opened(run.now(), *opening, closed);
                }
            }
            WindowStep::Judge(judging) => {
                let Some(governor) = self.governors.get_mut(group) else { return Ok(None) };
                let started = run.started;
                run.targets.judge(run.bpf, started, of, |target, cohort| {
                    let window = governor.weigh(&judging, target, cohort);
                    log::debug!("{target:?}: {window:?}");
                    window
                })?;
                return Ok(Some(governor.judged(run.now(), *judging)));
            }
        }
        Ok(None)
    }

    /// Opens a window and closes it. Meanwhile, nothing else is done here: it must not stay open for longer.
    fn hold_open(
        &mut self,
        group: BudgetGroup,
        opening: &Opening,
        run: &mut RunParts<'_>,
    ) -> Result<Closed, PipelineError> {
        let served = self.governors.served(group);
        let (window, following) =
            (Phase::Window { cohort: opening.cohort }, Phase::Following { cohort: opening.cohort });
        self.arm(group, following, run);
        // Of this moment, for all: CPU time is not spent evenly.
        let before = run.meter(served, &Requests::default()).read(None);
        let placed = Instant::now();
        self.arm(group, window, run);
        let opened = Instant::now();
        self.record(group, window, run)?;
        let from = run.now();
        std::thread::sleep(opening.open_for);
        let until = run.now();
        self.record(group, following, run)?;
        let open = opened.elapsed();
        let after = run.read(served, &before);
        self.arm(group, following, run);
        let in_place = placed.elapsed();
        log::debug!("{group:?}: a window of {open:?}, its probes in place for {in_place:?}");
        Ok(Closed { before, after, opened: (from, until), open, in_place })
    }

    /// From now on that is recorded of a group, and of all that its governor serves, which this phase takes.
    fn record(&self, group: BudgetGroup, phase: Phase, run: &mut RunParts<'_>) -> Result<(), BpfError> {
        let served = self.governors.served(group);
        let mut groups = (0..=BudgetGroup::MAX.0).map(BudgetGroup).filter(|group| served.has(*group));
        groups.try_for_each(|group| run.bpf.record(group, recording(phase), gap(phase), phase.cohort()))
    }

    /// Puts the probes of a phase in place, and takes others out.
    fn arm(&mut self, group: BudgetGroup, phase: Phase, run: &mut RunParts<'_>) {
        let probes = probe_set(phase);
        if self.probes.insert(group, probes) != Some(probes) {
            run.bpf.arm(self.pids.get(&group).copied(), probes);
        }
    }

    /// Tells that there is another tier, and why.
    fn tell(&mut self, group: BudgetGroup, change: &Change, run: &RunParts<'_>) {
        let Change { at, from, to, share, payer, is_for_room } = *change;
        let pid = self.pids.get(&group).copied();
        let paying = match payer {
            Payer::Target(target) => run.targets.get(target.slot),
            // Of a process by itself, programs come and go.
            Payer::Passing => run.targets.live().find(|followed| Some(followed.target.pid) == pid),
        };
        let payer = match (paying, payer) {
            (Some(AttachedTarget { target, .. }), _) => {
                tier::Payer::Process { comm: target.comm.clone(), pid: target.pid.get() }
            }
            (None, Payer::Target(_)) => tier::Payer::Gone,
            (None, Payer::Passing) => tier::Payer::Passing,
        };
        let is_less_exact = to > from;
        let max_overhead = self.max_overhead();
        let reason = if is_for_room {
            TierReason::NoRoom { before: from }
        } else if is_less_exact {
            TierReason::TooDear { before: from, share, payer, max_overhead }
        } else {
            TierReason::Affordable { share, payer, max_overhead }
        };
        let hint = if is_less_exact { " (--tier exact: whatever it costs)" } else { "" };
        self.note(TierChange { at, pid: pid.map(NonZeroU32::get), tier: to, reason }, hint);
    }

    /// Tells of a change, and remembers it. Of each process, and of those that share one tier, the last are remembered.
    fn note(&mut self, change: TierChange, hint: &str) {
        let alike: Vec<usize> = (1..self.changes.len()).filter(|at| self.changes[*at].pid == change.pid).collect();
        let before = alike.last().or(Some(&0)).and_then(|at| self.changes.get(*at));
        let told =
            format!("tier {} from now on: {}", words::tier::name(change.tier), words::tier::reason(&change.reason));
        // Of another gap between samples, reports tell.
        if before.is_some_and(|before| before.tier.name() == change.tier.name()) {
            log::info!("{told}");
        } else {
            eprintln!("memtrace: {told}{hint}");
        }
        if alike.len() >= MAX_CHANGES {
            self.changes.remove(alike[0]);
        }
        self.changes.push(change);
    }
}
