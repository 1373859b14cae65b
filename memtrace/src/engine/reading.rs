//! A reading of a target: what the kernel side has counted, and what `/proc` says at the moment.

use crate::{
    bpf::{Bpf, BpfError},
    capture::{
        images::Images,
        normalise::NormalisedStack,
        sources::{Source, Sources},
        target::Target,
    },
    process::{cgroup, memory, status},
    profile::{
        reading::{Asked, Basis, Counted, Placed, Reading, Time},
        stack::PlacedStack,
        subject::SubjectProfile,
    },
};

/// The parts that readings of all targets have in common.
pub(super) struct Reader<'a> {
    pub(super) bpf: &'a Bpf,
    pub(super) images: &'a Images,
    pub(super) sources: &'a Sources<Bpf>,
    pub(super) time: Time,
}

impl Reader<'_> {
    /// Reads a target into its profile, of which so much was `counted`; `basis` is that of its figures.
    pub(super) fn read(
        &self,
        profile: &mut SubjectProfile,
        counted: &Counted,
        target: &Target,
        basis: Basis,
    ) -> Result<(), BpfError> {
        let Self { bpf, images, sources, time } = *self;
        let pid = target.pid.get();
        let process = bpf.process(target.slot)?;
        let mut reading = Reading {
            usage: memory::usage(pid),
            limit: &|| cgroup::memory_limit(pid, bpf.tables_bytes()),
            cpu: status::cpu_time(pid),
            cpu_at_end: bpf.cpu_time_at_end(target.slot),
            counters: process.told_counters(),
            sides: process.sides,
            code_changes: process.code_changes,
            contests: target.contests(),
            basis,
            ..Reading::new(time, counted)
        };
        sources.read(bpf, target.slot, &mut reading)?;
        profile.read(&reading, |Asked { stack, during, is_again, .. }| {
            let Some(record) = bpf.stack(stack)? else { return Ok(None) };
            if is_again && !target.is_contested(&record) {
                return Ok(None);
            }
            let NormalisedStack { places, truncation, is_cut, is_inferred } =
                target.normalise(&record, &during, images);
            let stack = PlacedStack { places, truncation, is_inferred, ..PlacedStack::default() };
            Ok(Some(Placed::At { stack, is_cut }))
        })
    }
}
