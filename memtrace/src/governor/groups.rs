//! The governors of a run: one for each process whose probes are its own, and one for all that share probes.
//!
//! A link on a file serves every process that maps it, so that the one that pays most decides for all of them. Where a process has
//! links of its own, only its own load says what is recorded of it.

use std::{collections::BTreeMap, time::Duration};

use super::{
    budget::Budget,
    tiers::{Governor, Settings},
};
use crate::model::{
    life::Life,
    stats::windows::Window,
    target_id::{BudgetGroup, TargetId},
    tier::Tier,
};

/// Checks that are due within this time are made together: one reading serves them all.
const TOGETHER: Duration = Duration::from_millis(25);

/// The groups that one governor serves.
#[derive(Clone, Copy, Debug)]
pub struct Served {
    server: BudgetGroup,
    are_all: bool,
}

impl Served {
    /// Whether a group is one of them.
    #[must_use]
    pub fn has(self, group: BudgetGroup) -> bool {
        self.are_all || group == self.server
    }
}

/// One of the governors.
struct Governed {
    governor: Governor,
    /// When it has something to do.
    due: Duration,
}

/// The governors of a run.
pub struct Governors {
    settings: Settings,
    present: BTreeMap<BudgetGroup, Governed>,
    /// The least exact tiers of groups that have none of their own any more.
    past: BTreeMap<BudgetGroup, Tier>,
    /// The windows of those.
    past_windows: u32,
    /// How many groups are one process.
    own: u32,
    has_begun: bool,
    /// Whether one governor serves those as well that had their own.
    is_shared: bool,
}

impl Governors {
    /// There are no targets yet.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        Self {
            settings: *settings,
            present: BTreeMap::new(),
            past: BTreeMap::new(),
            past_windows: 0,
            own: 0,
            has_begun: false,
            is_shared: false,
        }
    }

    /// The group of a process whose probes are its own. Where there are too many, or counting has begun, it is one of those
    /// that share a governor.
    pub fn own(&mut self) -> BudgetGroup {
        if self.has_begun || self.own == BudgetGroup::MAX.0 {
            return self.shared();
        }
        self.own += 1;
        let group = BudgetGroup(self.own);
        self.add(group);
        group
    }

    /// The group of all that share probes.
    pub fn shared(&mut self) -> BudgetGroup {
        if !self.has_begun && !self.present.contains_key(&BudgetGroup::SHARED) {
            self.add(BudgetGroup::SHARED);
        }
        BudgetGroup::SHARED
    }

    fn add(&mut self, group: BudgetGroup) {
        // Windows of different groups need not come at the same moments.
        let seed = self.settings.seed.wrapping_add(u64::from(group.0));
        let governor = Governor::new(&Settings { seed, ..self.settings });
        self.present.insert(group, Governed { governor, due: Duration::ZERO });
    }

    /// Counting begins: each governor does, next.
    pub fn begin(&mut self) {
        if self.present.is_empty() {
            self.shared();
        }
        self.has_begun = true;
    }

    /// Every group that has a governor.
    #[must_use]
    pub fn groups(&self) -> Vec<BudgetGroup> {
        self.present.keys().copied().collect()
    }

    /// The group whose governor serves this one.
    fn server(&self, group: BudgetGroup) -> BudgetGroup {
        if self.is_shared { BudgetGroup::SHARED } else { group }
    }

    /// The groups that the governor of this one serves.
    #[must_use]
    pub fn served(&self, group: BudgetGroup) -> Served {
        Served { server: self.server(group), are_all: self.is_shared }
    }

    /// The governor that serves a group; `None` once its process has gone.
    #[must_use]
    pub fn get(&self, group: BudgetGroup) -> Option<&Governor> {
        self.present.get(&self.server(group)).map(|governed| &governed.governor)
    }

    /// The same, to let it decide.
    pub fn get_mut(&mut self, group: BudgetGroup) -> Option<&mut Governor> {
        let server = self.server(group);
        self.present.get_mut(&server).map(|governed| &mut governed.governor)
    }

    /// The groups whose governors have something to do now. Of those that open a window, during which nothing else is done, it is
    /// the one that was due first, after all others.
    #[must_use]
    pub fn due(&self, now: Duration) -> Vec<BudgetGroup> {
        let is_due = |governed: &Governed| governed.due <= now;
        let checks = self.present.values().any(|governed| is_due(governed) && governed.governor.only_checks());
        let soon = now.saturating_add(TOGETHER);
        let joins = |governed: &Governed| checks && governed.governor.only_checks() && governed.due <= soon;
        let due = self.present.iter().filter(|(_, governed)| is_due(governed) || joins(governed));
        let (opening, others): (Vec<_>, Vec<_>) = due.partition(|(_, governed)| governed.governor.opens_window());
        let first = opening.into_iter().min_by_key(|(_, governed)| governed.due);
        others.into_iter().chain(first).map(|(group, _)| *group).collect()
    }

    /// The decisions of a governor are carried out.
    pub fn carried_out(&mut self, group: BudgetGroup, now: Duration) {
        let server = self.server(group);
        if let Some(Governed { governor, due }) = self.present.get_mut(&server) {
            *due = governor.deadline(now);
        }
    }

    /// When there is something to be done next, where there is.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        self.present.values().map(|governed| governed.due).min()
    }

    /// The process of a group has gone.
    pub fn leave(&mut self, group: BudgetGroup) {
        if group != BudgetGroup::SHARED
            && let Some(Governed { governor, .. }) = self.present.remove(&group)
        {
            self.note_past(group, &governor);
        }
    }

    /// From now on one governor serves all, in the least exact tier that is in force; it begins next. Each has ended before.
    pub fn share(&mut self) {
        let present = std::mem::take(&mut self.present);
        for (group, Governed { governor, .. }) in &present {
            self.note_past(*group, governor);
        }
        let governor = Governor::succeeding(&self.settings, present.values().map(|governed| &governed.governor));
        self.present.insert(BudgetGroup::SHARED, Governed { governor, due: Duration::ZERO });
        self.is_shared = true;
    }

    fn note_past(&mut self, group: BudgetGroup, governor: &Governor) {
        self.past.insert(group, governor.least_exact());
        self.past_windows = self.past_windows.saturating_add(governor.windows());
    }

    /// The closest tier that may be taken, which is the first.
    #[must_use]
    pub fn closest(&self) -> Tier {
        self.settings.closest
    }

    /// The part of a target's CPU time that tracing may take.
    #[must_use]
    pub fn budget(&self) -> Budget {
        self.settings.budget
    }

    /// The least exact tier so far of a group: what its figures rest on.
    #[must_use]
    pub fn tier(&self, group: BudgetGroup) -> Tier {
        let present = self.get(group).map(Governor::least_exact);
        present.into_iter().chain(self.past.get(&group).copied()).max().unwrap_or(self.settings.closest)
    }

    /// The least exact tier so far of all.
    #[must_use]
    pub fn least_exact(&self) -> Tier {
        let present = self.present.values().map(|governed| governed.governor.least_exact());
        present.chain(self.past.values().copied()).max().unwrap_or(self.settings.closest)
    }

    /// How many windows were judged.
    #[must_use]
    pub fn windows(&self) -> u32 {
        let present = self.present.values().map(|governed| governed.governor.windows());
        present.fold(self.past_windows, u32::saturating_add)
    }

    /// See [`Governor::unjudged_since`].
    #[must_use]
    pub fn unjudged_since(&self, group: BudgetGroup) -> Option<Duration> {
        self.get(group)?.unjudged_since()
    }

    /// See [`Governor::window`].
    #[must_use]
    pub fn window(&self, group: BudgetGroup, now: Duration, target: (TargetId, Life)) -> Option<Window> {
        self.get(group)?.window(now, target)
    }
}
