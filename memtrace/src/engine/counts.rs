//! The counts of the kernel side, by target.

use std::collections::{BTreeMap, HashMap, HashSet};

use memtrace_common::ids::{ProcessSlot, SiteIndex};

use super::attached::AttachedTarget;
use crate::{
    bpf::{Bpf, BpfError},
    model::target_id::BudgetGroup,
    profile::reading::Counted,
};

/// Does something with each target of these groups and what the kernel side has counted of it by now.
pub(super) fn each_counted(
    live: &mut BTreeMap<ProcessSlot, AttachedTarget>,
    bpf: &Bpf,
    of: impl Fn(BudgetGroup) -> bool,
    mut with: impl FnMut(&mut AttachedTarget, &Counted) -> Result<(), BpfError>,
) -> Result<(), BpfError> {
    let mut counted = counted(bpf, |slot| live.get(&slot).is_some_and(|followed| of(followed.group)))?;
    let mut chosen = live.iter_mut().filter(|(_, followed)| of(followed.group));
    chosen.try_for_each(|(slot, followed)| with(followed, &counted.remove(slot).unwrap_or_default()))
}

/// The counts of the kernel side by now, of these targets.
pub(super) fn counted(bpf: &Bpf, of: impl Fn(ProcessSlot) -> bool) -> Result<HashMap<ProcessSlot, Counted>, BpfError> {
    let mut counted: HashMap<ProcessSlot, Counted> = HashMap::new();
    for (index, site) in bpf.sites_of(of)? {
        counted.entry(site.process).or_default().sites.push((index, site));
    }
    for (slot, requested) in bpf.requested() {
        counted.entry(slot).or_default().requested = requested;
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
