//! Processes that have ended: each is judged and named once, and told again as it is.
//!
//! A run of days has hundreds of them in every report. Nothing is read of them any more, so that only time could change what is
//! said of them: as soon as that cannot change a verdict, the report on such a process stands.

use std::{sync::Arc, time::Duration};

use super::verdict;
use crate::{model::report::Process, profile::subject::SubjectProfile};

/// The reports on processes that have ended.
#[derive(Debug, Default)]
pub struct Finished(Vec<(Arc<SubjectProfile>, Process)>);

impl Finished {
    /// The report on a process as of `now`: the one that stands, or else the one that is made now.
    pub(super) fn report(
        &mut self,
        profile: &Arc<SubjectProfile>,
        now: Duration,
        make: impl FnOnce() -> Process,
    ) -> Process {
        if let Some((_, process)) = self.0.iter().find(|(known, _)| Arc::ptr_eq(known, profile)) {
            return process.clone();
        }
        let process = make();
        if profile.ended_at().is_some_and(|end| verdict::is_final(now, end)) {
            self.0.push((Arc::clone(profile), process.clone()));
        }
        process
    }

    /// Lets go of all that are not among these.
    pub(super) fn keep_only(&mut self, profiles: &[Arc<SubjectProfile>]) {
        self.0.retain(|(known, _)| profiles.iter().any(|profile| Arc::ptr_eq(known, profile)));
    }
}
