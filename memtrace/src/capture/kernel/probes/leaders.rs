//! Processes whose main thread has ended before others. The kernel binds the probes of a process to its main thread, and finds
//! by the memory of that thread where they go: once it has ended, none fires that is put in place from then on, and none at all
//! that is a perf event. So the probes of such a process go to every process of the host, and the kernel side lets the others go.

use std::num::NonZeroU32;

use aya::Ebpf;

use super::{Attachment, Link, Links, Probes, let_go, take_out};
use crate::process::leader;

impl Attachment {
    /// Whether it serves every process, and so all that the other one does.
    pub(super) fn covers(&self, other: &Self) -> bool {
        self.pid.is_none() && (self.handler, &self.path, &self.points) == (other.handler, &other.path, &other.points)
    }

    /// Makes it serve every process, where the main thread of its own has ended. Returns whose that was.
    fn widen(&mut self) -> Option<NonZeroU32> {
        let pid = self.pid.filter(|pid| leader::has_ended(pid.get()))?;
        self.pid = None;
        Some(pid)
    }
}

impl Probes {
    /// Lets a probe that is to be put in place serve every process, where it must. Those that it makes needless go.
    pub(super) fn widen(&mut self, attachment: &mut Attachment) -> bool {
        let Some(pid) = attachment.widen() else { return false };
        self.tell(pid);
        let needless = self.attachments.extract_if(.., |known| attachment.covers(known));
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

    /// Puts those probes in place once more that fire no longer, because the main threads of their processes have ended. Returns
    /// whose they were.
    pub(in super::super) fn follow_leaders(&mut self, ebpf: &mut Ebpf) -> Vec<NonZeroU32> {
        let_go(std::mem::take(&mut self.unbound));
        if self.links != Links::PerfEvent {
            return Vec::new();
        }
        let mut pids: Vec<NonZeroU32> = self.attachments.iter().filter_map(|attachment| attachment.pid).collect();
        pids.sort_unstable();
        pids.dedup();
        pids.retain(|pid| leader::has_ended(pid.get()));
        if !pids.is_empty() {
            let is_bound = |attachment: &&mut Attachment| attachment.pid.is_some_and(|pid| pids.contains(&pid));
            let unbound =
                self.attachments.iter_mut().filter(is_bound).flat_map(|bound| std::mem::take(&mut bound.links));
            let unbound: Vec<_> = unbound.collect();
            self.arm(ebpf, self.armed);
            // They did nothing any more, and take long to go.
            let_go(unbound);
        }
        pids
    }

    /// Takes out the probes of a process whose main thread is another one by now: they do not fire any more.
    pub(in super::super) fn unbind(&mut self, pid: NonZeroU32) {
        let bound = self.attachments.extract_if(.., |attachment| attachment.pid == Some(pid));
        let links = bound.flat_map(|bound| bound.links);
        // Links fire again once others of the process are there. Perf events do not, and take long to go.
        let (links, events): (Vec<Link>, Vec<Link>) = links.partition(|link| matches!(link, Link::Multi(_)));
        self.unbound.extend(events);
        take_out(links);
        self.told.remove(&pid);
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
