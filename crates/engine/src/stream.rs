//! The reader's end of a request.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use crate::mailbox::{Accepted, Mailbox};
use crate::{Event, Failure};

/// The events of one accepted request. Dropping it cancels the request; its blocks are free before the next step.
///
/// A stream always ends with exactly one [`Event::Finished`] or [`Event::Failed`], then yields `None`.
///
/// The engine never waits for a reader. What has not been read is kept here: at most one event per generated token and two
/// more, so `max_tokens` bounds the memory, and a slow reader holds no blocks once its tokens are generated.
#[derive(Debug)]
pub struct EventStream {
    accepted: Accepted,
    mailbox: Arc<Mailbox>,
    ended: bool,
}

impl EventStream {
    pub(crate) fn new(accepted: Accepted, mailbox: Arc<Mailbox>) -> Self {
        EventStream { accepted, mailbox, ended: false }
    }

    /// Prompt tokens whose keys came from the prefix cache, known from the first token on. The same is told at the end, but
    /// whoever has enough before drops the stream and sees no end.
    pub fn num_cached_tokens(&self) -> u32 {
        self.accepted.num_cached_tokens.load(Ordering::Relaxed)
    }

    /// The next event; `None` after the last. Cancel safe.
    pub async fn recv(&mut self) -> Option<Event> {
        std::future::poll_fn(|context| self.poll_recv(context)).await
    }

    /// [`recv`](Self::recv) for a thread outside of an async runtime.
    ///
    /// # Panics
    /// If called within an async runtime.
    pub fn blocking_recv(&mut self) -> Option<Event> {
        if self.ended {
            return None;
        }
        let event = self.accepted.events.blocking_recv();
        self.note(event)
    }

    /// The next event if there is one already. A writer takes what one wake-up brought with this, and writes it at once.
    pub fn try_recv(&mut self) -> Option<Event> {
        if self.ended {
            return None;
        }
        // A closed channel is reported by the next `recv`; here it is only "nothing yet".
        let event = self.accepted.events.try_recv().ok()?;
        self.note(Some(event))
    }

    /// Polls for the next event.
    pub fn poll_recv(&mut self, context: &mut Context<'_>) -> Poll<Option<Event>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let event = ready!(self.accepted.events.poll_recv(context));
        Poll::Ready(self.note(event))
    }

    /// Remembers the end of the stream, and makes one if the engine is gone without having sent it.
    fn note(&mut self, event: Option<Event>) -> Option<Event> {
        let event = event.unwrap_or_else(|| {
            let message = "the engine stopped before the request was finished".into();
            Event::Failed { failure: Failure::Shutdown, message }
        });
        self.ended = matches!(event, Event::Finished { .. } | Event::Failed { .. });
        Some(event)
    }
}

impl futures::Stream for EventStream {
    type Item = Event;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        self.get_mut().poll_recv(context)
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        if !self.ended {
            self.mailbox.cancel(self.accepted.seq_id);
        }
    }
}
