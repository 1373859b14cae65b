//! Snapshots of a run, and the reports that are made of them: symbols are read and verdicts found outside of the engine, which
//! waits for neither.

use std::sync::Arc;

use super::process_scan::with_targets;
use crate::{
    analysis::{analyse, finished::Finished},
    model::report::{Process, Report},
    profile::Profile,
    symbolize::{NamedImage, Symbolizer},
};

/// The serial number of the first BPF side that is loaded.
pub(super) const FIRST: u64 = 1;

/// All that was measured until some moment of a run.
pub(super) struct Snapshot {
    pub(super) profile: Box<Profile>,
    /// By the index in the profile's places.
    pub(super) images: Vec<Arc<NamedImage>>,
    /// Where another BPF side was loaded, indices of images are others.
    pub(super) serial: u64,
    /// Every process that is selected, where `/proc` was scanned for them.
    pub(super) scanned: Option<Vec<Process>>,
    pub(super) is_last: bool,
}

/// Makes reports of snapshots.
pub(super) struct Reporter {
    symbolizer: Symbolizer,
    /// [`Snapshot::serial`] of the images that the symbolizer knows.
    serial: u64,
    finished: Finished,
}

impl Reporter {
    /// Starts the process that reads symbols: before memtrace gives up its privileges, and before anything of its is in the
    /// kernel, where nothing takes that process for a target.
    pub(super) fn start() -> Self {
        Self { symbolizer: Symbolizer::start(), serial: FIRST, finished: Finished::default() }
    }

    /// The report on a snapshot.
    pub(super) fn report(&mut self, snapshot: Snapshot) -> Report {
        let Snapshot { profile, images, serial, scanned, is_last: _ } = snapshot;
        if std::mem::replace(&mut self.serial, serial) != serial {
            self.symbolizer = Symbolizer::start();
        }
        self.symbolizer.symbolize(&images, profile.places());
        let mut report = analyse(&profile, &self.symbolizer, &mut self.finished);
        if let Some(scanned) = scanned {
            report.processes = with_targets(scanned, report.processes);
            report.processes.iter_mut().for_each(|process| process.tier = report.run.tier);
        }
        report
    }
}
