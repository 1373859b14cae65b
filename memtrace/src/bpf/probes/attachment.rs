//! A group of probes in one file, and what holds them in place.

use std::{num::NonZeroU32, os::fd::OwnedFd, path::PathBuf, thread};

use aya::programs::uprobe::UProbeLink;

use crate::{
    bpf::{point::Point, probe_kind::ProbeKind},
    process::leader,
};

/// Places of one file that programs of one kind serve.
pub(super) struct Attachment {
    pub(super) kind: ProbeKind,
    pub(super) pid: Option<NonZeroU32>,
    pub(super) path: PathBuf,
    pub(super) points: Vec<Point>,
    /// The links that hold its probes in place, while they are.
    pub(super) links: Vec<Link>,
}

/// Holds probes in place.
#[expect(dead_code, reason = "held for its drop")]
pub(super) enum Link {
    Multi(OwnedFd),
    PerfEvent(UProbeLink),
}

impl Attachment {
    /// Whether it serves every process, and so all that the other one does.
    pub(super) fn covers(&self, other: &Self) -> bool {
        self.pid.is_none() && (self.kind, &self.path, &self.points) == (other.kind, &other.path, &other.points)
    }

    /// Makes it serve every process, where the main thread of its own has ended. Returns whose that was.
    pub(super) fn widen(&mut self) -> Option<NonZeroU32> {
        let pid = self.pid.filter(|pid| leader::has_ended(pid.get()))?;
        self.pid = None;
        Some(pid)
    }
}

/// Takes probes out. The breakpoints of a link go at once; that nobody is on his way through them any more, the kernel may
/// take a tenth of a second to know, which is not waited for. Those of perf events go one by one, and each waits.
pub(super) fn let_go(links: Vec<Link>) {
    for link in links {
        match link {
            // Where there is no thread to be had, it is dropped here.
            Link::Multi(_) => drop(thread::Builder::new().spawn(move || drop(link))),
            Link::PerfEvent(_) => drop(link),
        }
    }
}

/// The same, and waits until they are out: others take their places, and no call is to be seen twice.
pub(super) fn take_out(links: Vec<Link>) {
    thread::scope(|scope| {
        for link in links {
            match link {
                // Together they take no longer than one.
                Link::Multi(_) => drop(thread::Builder::new().spawn_scoped(scope, move || drop(link))),
                Link::PerfEvent(_) => drop(link),
            }
        }
    });
}
