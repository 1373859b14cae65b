//! The latest snapshot of a run, for whoever makes a report of it.
//!
//! Nobody who puts a snapshot in ever waits: one that was not taken yet is replaced, and counted. So a reader of the output who
//! takes his time holds up nothing but his own reports.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Room for one.
pub(super) struct Mailbox<T> {
    content: Mutex<Content<T>>,
    is_there: Notify,
}

struct Content<T> {
    latest: Option<T>,
    replaced: u64,
}

impl<T> Default for Mailbox<T> {
    fn default() -> Self {
        Self { content: Mutex::new(Content { latest: None, replaced: 0 }), is_there: Notify::new() }
    }
}

impl<T> Mailbox<T> {
    /// Puts in what is the latest from now on.
    pub(super) fn put(&self, latest: T) {
        let mut content = self.content();
        content.replaced += u64::from(content.latest.replace(latest).is_some());
        drop(content);
        self.is_there.notify_one();
    }

    /// Takes the latest, once there is one that was not taken.
    pub(super) async fn take(&self) -> T {
        loop {
            if let Some(latest) = self.try_take() {
                return latest;
            }
            self.is_there.notified().await;
        }
    }

    /// Takes the latest, if it was not taken.
    pub(super) fn try_take(&self) -> Option<T> {
        self.content().latest.take()
    }

    /// How many were never taken. The count begins again.
    pub(super) fn take_replaced(&self) -> u64 {
        std::mem::take(&mut self.content().replaced)
    }

    fn content(&self) -> MutexGuard<'_, Content<T>> {
        // A thread that has panicked with it has left it whole.
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{sync::Arc, thread};

    #[test]
    fn the_latest_is_taken_and_what_it_replaces_is_counted() {
        let mailbox = Mailbox::default();
        (0..5).for_each(|number| mailbox.put(number));
        assert_eq!((mailbox.try_take(), mailbox.try_take()), (Some(4), None));
        assert_eq!((mailbox.take_replaced(), mailbox.take_replaced()), (4, 0));
    }

    #[test]
    fn who_waits_is_woken() {
        let mailbox = Arc::new(Mailbox::default());
        let writer = Arc::clone(&mailbox);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let thread = thread::spawn(move || writer.put(7));
        assert_eq!(runtime.block_on(mailbox.take()), 7);
        thread.join().unwrap();
    }
}
