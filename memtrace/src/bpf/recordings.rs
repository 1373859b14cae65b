//! The recording in force of each group, told to the programs while they run.

use memtrace_common::{
    ids::BudgetGroup,
    steps::sampling::MeanGap,
    wire::control::{InForce, Recording},
};

use super::{error::BpfError, named_map::ArrayMap};

const GROUPS: usize = BudgetGroup::MAX.0 as usize + 1;

/// The recordings in force, which user space alone writes.
pub(super) struct Recordings {
    map: ArrayMap<InForce>,
    in_force: [InForce; GROUPS],
}

impl Recordings {
    /// Every allocation is recorded.
    pub(super) fn new(map: ArrayMap<InForce>) -> Self {
        Self { map, in_force: [InForce::default(); GROUPS] }
    }

    /// Tells the programs what to record of a group from now on, under which mean gap if that is samples, and which window's blocks
    /// are followed; 0 for none.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub(super) fn set(
        &mut self,
        group: BudgetGroup,
        recording: Recording,
        gap: MeanGap,
        cohort: u32,
    ) -> Result<(), BpfError> {
        let before = self.of(group);
        let is_partial = before.is_partial | u32::from(recording != Recording::All);
        let in_force = InForce { recording: recording as u32, cohort, is_partial, gap };
        self.map.set(group.0, in_force)?;
        if let Some(known) = self.in_force.get_mut(group.0 as usize) {
            *known = in_force;
        }
        Ok(())
    }

    /// Every allocation of every group is recorded, as at first: another run begins.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub(super) fn begin_again(&mut self) -> Result<(), BpfError> {
        self.in_force = [InForce::default(); GROUPS];
        self.map.fill(&self.in_force)
    }

    /// The window of a group whose blocks are being followed; 0 for none.
    pub(super) fn cohort(&self, group: BudgetGroup) -> u32 {
        self.of(group).cohort
    }

    fn of(&self, group: BudgetGroup) -> InForce {
        self.in_force.get(group.0 as usize).copied().unwrap_or_default()
    }
}
