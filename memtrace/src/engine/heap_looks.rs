//! Looks at the heaps of targets, one at a time, by a thread of its own: neither the run nor a target waits for one. The process
//! that looks lives no longer than the thread.

use std::{
    io,
    os::{fd::AsFd, unix::net::UnixStream},
    sync::mpsc::{Receiver, Sender, channel},
    thread::Builder,
    time::{Duration, Instant},
};

use memtrace_common::ids::SiteIndex;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::look_queue::{LAST_TIME, LAST_TIME_HOLDERS, LookQueue};
use crate::{
    bpf::registers::RegisterReader,
    looking::{self, Asked, AskedOfHolders, Limits},
    model::{
        heap::Heap, heap_look::NotLooked, heap_report::NotRead, holders::Mark, survival::Amount, target_id::TargetId,
    },
    symbolize::HeapNames,
};

/// The facts that readings have told of a target by a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) rss_bytes: u64,
    /// Live blocks of those that were allocated since attach.
    pub(super) since_attach: Amount,
    /// How many blocks from before attach were freed.
    pub(super) older_freed_objects: u64,
}

impl Known {
    /// As of the middle between two moments.
    pub(super) fn between(self, other: Self) -> Self {
        let amount = |one: Amount, other: Amount| Amount {
            bytes: one.bytes.midpoint(other.bytes),
            objects: one.objects.midpoint(other.objects),
        };
        Self {
            rss_bytes: self.rss_bytes.midpoint(other.rss_bytes),
            since_attach: amount(self.since_attach, other.since_attach),
            older_freed_objects: self.older_freed_objects.midpoint(other.older_freed_objects),
        }
    }
}

/// A look is over.
pub(super) struct HeapLooked {
    pub(super) outcome: Result<Heap, NotRead>,
    /// How long it has taken in all.
    pub(super) took: Duration,
}

/// The look that is under way.
#[derive(Clone, Debug)]
pub(super) struct UnderWay {
    pub(super) id: TargetId,
    /// At its beginning.
    pub(super) known: Known,
    /// The sites whose blocks are marked, by the number of the mark.
    pub(super) marked: Vec<SiteIndex>,
}

/// A question to the thread.
struct Question {
    pid: u32,
    limits: Limits,
    asked: Asked,
}

/// The looks of a run.
pub(super) struct HeapLooks {
    /// Why the run makes none; nothing where it does.
    why_none: Option<NotLooked>,
    /// The question about holders, but for marks and threads; nothing where it is not asked.
    holders: Option<AskedOfHolders>,
    pub(super) queue: LookQueue,
    under_way: Option<UnderWay>,
    thread: Option<LookThread>,
    sender: UnboundedSender<HeapLooked>,
    events: UnboundedReceiver<HeapLooked>,
}

impl HeapLooks {
    /// None is under way.
    pub(super) fn new(why_none: Option<NotLooked>, holders: Option<AskedOfHolders>) -> Self {
        let (sender, events) = unbounded_channel();
        Self { why_none, holders, queue: LookQueue::default(), under_way: None, thread: None, sender, events }
    }

    /// Whether holders are asked for.
    pub(super) fn tell_holders(&self) -> bool {
        self.holders.is_some()
    }

    /// How long a last report waits at most.
    pub(super) fn last_time(&self) -> Duration {
        if self.tell_holders() { LAST_TIME_HOLDERS } else { LAST_TIME }
    }

    /// Why the run makes no looks; nothing where it does.
    pub(super) fn why_none(&self) -> Option<&NotLooked> {
        self.why_none.as_ref()
    }

    /// The target that is being looked at.
    pub(super) fn under_way(&self) -> Option<TargetId> {
        self.under_way.as_ref().map(|under_way| under_way.id)
    }

    /// Whether a look is under way.
    pub(super) fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    /// Begins a look at the process `pid`, and for the holders of blocks with these marks where there are any. None is under way.
    ///
    /// # Errors
    /// Where there is no thread to be had.
    pub(super) fn begin(
        &mut self,
        under_way: UnderWay,
        pid: u32,
        limits: Limits,
        marks: Vec<Mark>,
    ) -> Result<(), NotRead> {
        let failed = |error: io::Error| NotRead::Failed { error: format!("no thread of memtrace can look: {error}") };
        let thread = match self.thread.take() {
            Some(thread) => thread,
            None => LookThread::start(self.sender.clone()).map_err(failed)?,
        };
        let holders = self.holders.clone().filter(|_| !marks.is_empty());
        let holders = holders.map(|asked| AskedOfHolders { marks, ..asked });
        let asked = Asked { is_close: false, types: holders.is_some(), holders };
        let asked = thread.asked.send(Question { pid, limits, asked });
        self.thread = Some(thread);
        // Gone: it has panicked.
        asked.map_err(|_| failed(io::ErrorKind::BrokenPipe.into()))?;
        self.under_way = Some(under_way);
        Ok(())
    }

    /// Waits until a look is over. Returns what it was of.
    pub(super) async fn next(&mut self) -> (UnderWay, HeapLooked) {
        let looked = self.events.recv().await;
        match looked.and_then(|looked| Some((self.under_way.take()?, looked))) {
            Some(looked) => looked,
            // Never: a sender is here, and each look was begun.
            None => std::future::pending().await,
        }
    }

    /// Ends the look that is under way. Returns whose heap is not looked at, nor that of those who waited.
    pub(super) fn give_up(&mut self) -> Vec<TargetId> {
        // With the thread, the process that looks ends.
        if self.under_way.is_some() {
            self.thread = None;
            (self.sender, self.events) = unbounded_channel();
        }
        self.under_way.take().map(|under_way| under_way.id).into_iter().chain(self.queue.give_up()).collect()
    }
}

/// The thread that waits for the process that looks. It ends that process, and itself, once this is gone.
struct LookThread {
    asked: Sender<Question>,
    _stop: UnixStream,
}

impl LookThread {
    fn start(sender: UnboundedSender<HeapLooked>) -> io::Result<Self> {
        let (asked, questions) = channel();
        let (own, other) = UnixStream::pair()?;
        Builder::new().name("heap looks".to_owned()).spawn(move || answer(&questions, &sender, &other))?;
        Ok(Self { asked, _stop: own })
    }
}

/// Looks at each process that is asked for, until nobody can ask any more.
fn answer(questions: &Receiver<Question>, sender: &UnboundedSender<HeapLooked>, stop: &UnixStream) {
    let mut names = HeapNames::default();
    while let Ok(Question { pid, limits, mut asked }) = questions.recv() {
        let begun = Instant::now();
        if let Some(holders) = &mut asked.holders {
            let read = RegisterReader::load().and_then(|mut reader| reader.read(pid));
            holders.threads = read.unwrap_or_else(|why| {
                log::info!("process {pid}: no registers of its threads are told: {why:?}");
                Vec::new()
            });
        }
        let mut outcome = looking::look_for(pid, limits, asked, Some(stop.as_fd()));
        if let Ok(heap) = &mut outcome {
            names.name(pid, heap);
        }
        // Nobody listens any more where the run is over.
        _ = sender.send(HeapLooked { outcome, took: begun.elapsed() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use memtrace_common::ids::ProcessSlot;

    #[test]
    fn the_middle_between_two_moments_is_of_both() {
        let of = |figure: u64| Known {
            rss_bytes: figure,
            since_attach: Amount { bytes: 2 * figure, objects: 3 * figure },
            older_freed_objects: 4 * figure,
        };
        assert_eq!(of(10).between(of(20)), of(15));
        assert_eq!(of(u64::MAX / 4).between(of(u64::MAX / 4)), of(u64::MAX / 4));
    }

    #[test]
    fn a_look_that_nobody_waits_for_ends_and_the_next_is_another() {
        let mut looks = HeapLooks::new(None, None);
        // This program is not memtrace: whatever it is asked for, it gives no answer that makes sense.
        let limits = Limits { time: Duration::from_secs(60), bytes: 1 };
        let under_way = |serial| UnderWay {
            id: TargetId { slot: ProcessSlot(1), serial },
            known: Known::default(),
            marked: Vec::new(),
        };
        looks.begin(under_way(1), std::process::id(), limits, Vec::new()).unwrap();
        looks.queue.want(under_way(2).id);
        assert_eq!(looks.under_way(), Some(under_way(1).id));
        assert_eq!(looks.give_up(), [under_way(1).id, under_way(2).id]);
        assert!(!looks.is_under_way() && looks.queue.is_empty());
        looks.begin(under_way(3), std::process::id(), limits, Vec::new()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (over, looked) = runtime.block_on(looks.next());
        assert_eq!(over.id, under_way(3).id);
        assert!(looked.outcome.is_err() && !looks.is_under_way());
    }
}
