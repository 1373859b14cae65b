//! Options of a run, and where its reports go.

use std::{io, time::Duration};

use crate::{
    bpf::{Asked, AttachMethod, Capacities, Unwind},
    capture::{allocators::custom::CustomFunction, attach::ProbePrograms, returns::Returns, selection::Selection},
    governor::budget::Budget,
    model::{category::Category, report::Report, sample_gap::SampleGap, tier::Tier},
};

/// How to trace.
#[derive(Clone, Debug)]
pub struct Options {
    /// The processes to trace.
    pub selection: Selection,
    /// Whether children of targets are targets as well.
    pub follow: bool,
    /// Whether those that have left the session of a command are waited for as well.
    pub waits_for_daemons: bool,
    /// The kinds of memory that reports are of.
    pub categories: Vec<Category>,
    /// When to stop; `None`: when the target ends or a signal comes.
    pub duration: Option<Duration>,
    /// How often to report in between; `None`: not at all.
    pub interval: Option<Duration>,
    /// How much the kernel side can hold, and how much of that the user asked for: all else may have to be less.
    pub capacities: Capacities,
    /// See [`Options::capacities`].
    pub asked: Asked,
    /// How stacks are walked.
    pub unwind: Unwind,
    /// How probes are attached; by the best means that the kernel has where nothing is said.
    pub links: Option<AttachMethod>,
    /// How returns of hooked functions are seen.
    pub returns: Returns,
    /// The tier; where there is a budget, the closest that may be taken.
    pub tier: Tier,
    /// The budget that tiers are chosen for; `None`: the tier stays the same, whatever it costs.
    pub budget: Option<BudgetOptions>,
    /// Whether the BPF side writes debug lines to the log.
    pub debug_lines: bool,
    /// Functions that the user named, besides those of the known allocators.
    pub custom: Vec<CustomFunction>,
    /// Whether probes run empty programs, to measure the cost of the probes alone.
    pub has_empty_probes: bool,
    /// Whether blocks that nothing points to any more are looked for when a command ends.
    pub at_exit: bool,
    /// Whether reports go to a file, which takes a privilege that tracing does not.
    pub writes_a_file: bool,
}

/// A budget, and the choice that memtrace has within it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BudgetOptions {
    /// The part of a target's CPU time that tracing may take.
    pub budget: Budget,
    /// The mean gap between samples, where samples are taken.
    pub gap: SampleGap,
}

/// Takes each report as it is made, and may mark what is in it: `true` for the last one.
pub type Sink<'a> = &'a mut dyn FnMut(&mut Report, bool) -> io::Result<()>;

impl Options {
    /// The programs that probes run. Nothing is hooked where only pages are followed.
    pub(crate) fn programs(&self) -> ProbePrograms {
        match self.tier {
            Tier::Growth => ProbePrograms::Nothing,
            Tier::Exact | Tier::Sampled { .. } | Tier::Windowed if self.has_empty_probes => ProbePrograms::Empty,
            Tier::Exact | Tier::Sampled { .. } | Tier::Windowed => ProbePrograms::Tracing,
        }
    }

    /// The first mean number of bytes between samples, in every tier that may be in force.
    pub(crate) fn sample_bytes(&self) -> Option<u64> {
        self.budget.map(|budget| budget.gap.first_bytes()).or(self.tier.sample_bytes())
    }
}
