//! The settings that the programs are told while they run.

use std::fs::File;

use memtrace_common::wire::control::Control;

use super::{
    error::BpfError,
    named_map::{ArrayMap, CgroupMap},
};

/// The maps that user space alone writes.
pub(super) struct Controls {
    map: ArrayMap<Control>,
    cgroups: CgroupMap,
}

impl Controls {
    pub(super) fn new(map: ArrayMap<Control>, cgroups: CgroupMap) -> Self {
        Self { map, cgroups }
    }

    /// Tells the programs what to do from now on.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub(super) fn set(&mut self, control: Control) -> Result<(), BpfError> {
        self.map.set(0, control)
    }

    /// Says which cgroup is asked about.
    ///
    /// # Errors
    /// Where `cgroup` is no folder of a cgroup2 file system.
    pub(super) fn set_cgroup(&mut self, cgroup: &File) -> Result<(), BpfError> {
        self.cgroups.set(cgroup)
    }
}
