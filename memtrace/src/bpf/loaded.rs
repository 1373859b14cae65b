//! The loaded object with the tables that every use of it has.

use std::fs::File;

use aya::EbpfLoader;
use memtrace_common::{
    ids::{ProcessSlot, SiteIndex, StackId},
    wire::{control::Control, process::Process, site::Site, stack::StackRecord},
};

use super::{
    blocks::BlockTable, capacities::Capacities, control::Controls, error::BpfError, maps::SharedMaps, object::Object,
    pids::Pids, sites::Sites, slots::Slots, stacks::Stacks,
};

/// The loaded object, and as `part` what belongs to one use of it. Dropping it detaches everything.
pub struct Loaded<P> {
    pub(super) object: Object,
    pub(super) pids: Pids,
    pub(super) controls: Controls,
    pub(super) slots: Slots,
    pub(super) sites: Sites,
    pub(super) stacks: Stacks,
    pub(super) blocks: BlockTable,
    pub(super) part: P,
}

impl<P> Loaded<P> {
    /// Loads the object. `make` makes what belongs to this use of it, while the object still has all of its maps.
    ///
    /// # Errors
    /// Where the kernel refuses, mostly for want of privileges or of memory.
    pub(super) fn load_with(
        loader: &mut EbpfLoader<'_>,
        capacities: &Capacities,
        make: impl FnOnce(&mut Object) -> Result<P, BpfError>,
    ) -> Result<Self, BpfError> {
        let mut object = Object::load(loader, capacities)?;
        let pids = Pids::load(&mut object)?;
        let part = make(&mut object)?;
        let maps = SharedMaps::take(&mut object.ebpf)?;
        Ok(Self {
            object,
            pids,
            controls: Controls::new(maps.control, maps.cgroups),
            slots: Slots::new(maps.process_slots, maps.first_process, maps.unused_slots, maps.processes)?,
            sites: Sites::new(maps.sites, maps.site_indices, maps.site_count, maps.unused_sites),
            stacks: Stacks::new(maps.stacks),
            blocks: BlockTable::new(maps.blocks, maps.spare_blocks),
            part,
        })
    }

    /// The kernel side's number for memtrace itself.
    #[must_use]
    pub fn own_tgid(&self) -> u32 {
        self.pids.own()
    }

    /// Makes the programs of one cgroup and below those that are asked about, where that is asked for.
    ///
    /// # Errors
    /// Where `cgroup` is no folder of a cgroup2 file system.
    pub fn set_cgroup(&mut self, cgroup: &File) -> Result<(), BpfError> {
        self.controls.set_cgroup(cgroup)
    }

    /// Tells the kernel side what to do from now on.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub fn set_control(&mut self, control: Control) -> Result<(), BpfError> {
        self.controls.set(control)
    }

    /// The kernel side's record of a target; of the run as a whole for [`ProcessSlot::NONE`].
    ///
    /// # Errors
    /// Where there is no such slot.
    pub fn process(&self, slot: ProcessSlot) -> Result<Process, BpfError> {
        self.slots.process(slot)
    }

    /// Every site of every target.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn sites(&self) -> Result<Vec<(SiteIndex, Site)>, BpfError> {
        self.sites.all()
    }

    /// Every site of these targets.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn sites_of(&self, is_wanted: impl Fn(ProcessSlot) -> bool) -> Result<Vec<(SiteIndex, Site)>, BpfError> {
        self.sites.of(is_wanted)
    }

    /// The stack of a site; `None` where it is not known.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn stack(&self, id: StackId) -> Result<Option<StackRecord>, BpfError> {
        self.stacks.get(id)
    }

    /// The memory that each map takes in the kernel, in bytes, largest first.
    #[must_use]
    pub fn memory_bytes(&self) -> &[(String, u64)] {
        &self.object.map_bytes
    }
}
