//! Processes whose main thread has ended before others. The kernel binds the probes of a process to its main thread, and finds
//! by the memory of that thread where they go: once it has ended, none fires that is put in place from then on, and none at all
//! that is a perf event. So the probes of such a process go to every process of the host, and the kernel side lets the others go.

use std::{collections::HashSet, num::NonZeroU32};

use super::attachment::{Attachment, Link, let_go, take_out};
use crate::process::leader;

/// Such processes, and their probes.
#[derive(Default)]
pub(super) struct Leaders {
    /// The processes whose probes are in every process.
    told: HashSet<NonZeroU32>,
    /// Probes that do not fire any more, and were not taken out yet.
    unbound: Vec<Link>,
}

impl Leaders {
    /// Lets a probe that is to be put in place serve every process, where it must. Those of `others` that it makes needless go.
    pub(super) fn widen(&mut self, attachment: &mut Attachment, others: &mut Vec<Attachment>) -> bool {
        let Some(pid) = attachment.widen() else { return false };
        self.tell(pid);
        let needless = others.extract_if(.., |known| attachment.covers(known));
        take_out(needless.flat_map(|needless| needless.links).collect());
        true
    }

    /// The same of all that are not in place.
    pub(super) fn widen_all(&mut self, attachments: Vec<Attachment>) -> Vec<Attachment> {
        let mut kept: Vec<Attachment> = Vec::with_capacity(attachments.len());
        let mut needless = Vec::new();
        for mut attachment in attachments {
            if attachment.links.is_empty()
                && let Some(pid) = attachment.widen()
            {
                self.tell(pid);
            }
            if kept.iter().any(|known| known.covers(&attachment)) {
                needless.extend(attachment.links);
                continue;
            }
            needless.extend(kept.extract_if(.., |known| attachment.covers(known)).flat_map(|known| known.links));
            kept.push(attachment);
        }
        take_out(needless);
        kept
    }

    /// The processes with probes of their own whose main threads have ended.
    pub(super) fn ended(attachments: &[Attachment]) -> Vec<NonZeroU32> {
        let mut pids: Vec<NonZeroU32> = attachments.iter().filter_map(|attachment| attachment.pid).collect();
        pids.sort_unstable();
        pids.dedup();
        pids.retain(|pid| leader::has_ended(pid.get()));
        pids
    }

    /// Takes out the probes of a process whose main thread is another one by now: they do not fire any more.
    pub(super) fn unbind(&mut self, pid: NonZeroU32, attachments: &mut Vec<Attachment>) {
        let bound = attachments.extract_if(.., |attachment| attachment.pid == Some(pid));
        let links = bound.flat_map(|bound| bound.links);
        // Links fire again once others of the process are there. Perf events do not, and take long to go.
        let (links, events): (Vec<Link>, Vec<Link>) = links.partition(|link| matches!(link, Link::Multi(_)));
        self.unbound.extend(events);
        take_out(links);
        self.told.remove(&pid);
    }

    /// Takes out what [`Self::unbind`] has left.
    pub(super) fn let_unbound_go(&mut self) {
        let_go(std::mem::take(&mut self.unbound));
    }

    fn tell(&mut self, pid: NonZeroU32) {
        if self.told.insert(pid) {
            log::warn!(
                "the main thread of process {pid} has ended, so that the kernel can bind no probes to the process: they are in \
                 every process of the host, whose calls take about a microsecond longer\n\
                 hint: --tier growth takes no probes"
            );
        }
    }
}
