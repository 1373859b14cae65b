//! The counts of the kernel side, by target.

use std::collections::{BTreeMap, HashMap, HashSet};

use memtrace_common::ids::{ProcessSlot, SiteIndex};

use super::attached::AttachedTarget;
use crate::{
    bpf::{Bpf, BpfError},
    profile::reading::Counted,
};

/// Does something with each of these targets and what the kernel side has counted of it by now.
pub(super) fn each_counted(
    live: &mut BTreeMap<ProcessSlot, AttachedTarget>,
    bpf: &Bpf,
    of: impl Fn(&AttachedTarget) -> bool,
    mut with: impl FnMut(&mut AttachedTarget, &Counted) -> Result<(), BpfError>,
) -> Result<(), BpfError> {
    let mut chosen: Vec<&mut AttachedTarget> = live.values_mut().filter(|followed| of(followed)).collect();
    let mut counted = counted(bpf, chosen.iter().map(|followed| followed.target.slot))?;
    chosen.iter_mut().try_for_each(|followed| {
        let counted = counted.remove(&followed.target.slot).unwrap_or_default();
        with(followed, &counted)
    })
}

/// The counts of the kernel side by now, of these targets.
pub(super) fn counted(
    bpf: &Bpf,
    of: impl Iterator<Item = ProcessSlot>,
) -> Result<HashMap<ProcessSlot, Counted>, BpfError> {
    let beginning =
        of.map(|slot| Ok((slot, Counted { code_changes: bpf.process(slot)?.code_changes, ..Counted::default() })));
    let mut counted = beginning.collect::<Result<HashMap<ProcessSlot, Counted>, BpfError>>()?;
    for (index, site) in bpf.sites_of(|slot| counted.contains_key(&slot))? {
        if let Some(counted) = counted.get_mut(&site.process) {
            counted.sites.push((index, site));
        }
    }
    for (slot, requested) in bpf.requested() {
        if let Some(counted) = counted.get_mut(&slot) {
            counted.requested = requested;
        }
    }
    let sides = bpf.free_sites()?;
    if !sides.is_empty() {
        for counted in counted.values_mut() {
            let own: HashSet<SiteIndex> = counted.sites.iter().map(|(index, _)| *index).collect();
            counted.free_sites = sides.iter().filter(|(side, _)| own.contains(&side.site)).copied().collect();
        }
    }
    Ok(counted)
}
