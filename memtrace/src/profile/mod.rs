//! Profiles: what was measured, and nothing that is thought of it.
//!
//! In: readings of processes or of the kernel. Out: pure data with a version, which can be kept, sent, compared and judged elsewhere, and later.
//! Knows nothing of BPF, symbols or verdicts.

pub(crate) mod age_cohorts;
mod allocated;
pub(crate) mod before_end;
pub(crate) mod cpu_clock;
pub(crate) mod left_blocks;
pub(crate) mod reading;
pub(crate) mod rss_history;
pub(crate) mod stack;
pub(crate) mod subject;
pub(crate) mod tracked_site;
pub(crate) mod window_estimates;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use self::{reading::Counters, subject::SubjectProfile};
use crate::model::{category::Category, code_place::CodePlace, frame::ImageName, overhead::TrapCost, run::Run};

/// The version of what [`Profile`] holds.
pub const VERSION: u32 = 3;

/// All that was measured in a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Profile {
    /// [`VERSION`] of the memtrace that made it.
    pub version: u32,
    /// The run that it is of.
    pub run: Run,
    /// The kinds of memory that were asked about.
    pub categories: Vec<Category>,
    /// The cost of a probe, where that is known.
    pub trap: Option<TrapCost>,
    /// Whether what was recorded might change.
    pub is_adaptive: bool,
    /// The images that stacks lead through, by the index in their places.
    pub images: Vec<Arc<ImageName>>,
    /// The counts of loss of the run as a whole, not of one process.
    pub(crate) counters: Counters,
    /// How often the kernel has passed a program over that should have counted; nothing where that does not happen.
    pub missed_runs: Option<u64>,
    /// The subjects: processes, or the kernel. The profile of a process that has ended is the same in every snapshot.
    pub(crate) subjects: Vec<Arc<SubjectProfile>>,
}

impl Profile {
    /// Every place in code that its stacks lead through; some of them more than once.
    pub fn places(&self) -> impl Iterator<Item = CodePlace> {
        let stacks = self.subjects.iter().flat_map(|subject| subject.stacks.values());
        stacks.flat_map(|stack| stack.places.iter().copied())
    }
}
