//! What the rest of the program holds of a running engine.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::block_hash::BlockHasher;
use crate::mailbox::Mailbox;
use crate::{EventStream, Limits, Request, SubmitError};

/// Submits requests to an engine. Clones speak to the same engine.
///
/// When the last one is dropped, the engine finishes what it has accepted and ends.
#[derive(Clone, Debug)]
pub struct EngineHandle {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    mailbox: Arc<Mailbox>,
    limits: Limits,
    /// None without a prefix cache.
    block_hasher: Option<BlockHasher>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl EngineHandle {
    pub(crate) fn new(mailbox: Arc<Mailbox>, limits: Limits, block_hasher: Option<BlockHasher>) -> Self {
        EngineHandle { inner: Arc::new(Inner { mailbox, limits, block_hasher, thread: Mutex::new(None) }) }
    }

    pub(crate) fn set_thread(&self, thread: JoinHandle<()>) {
        *self.inner.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
    }

    /// Hands a request to the engine. Returns at once: the prompt is hashed for the prefix cache, which takes about 2 ns for
    /// each of its tokens, and nothing else is done with it here.
    ///
    /// # Errors
    /// A [`SubmitError`] says what is wrong with the request, or that the engine accepts none.
    pub fn submit(&self, request: Request) -> Result<EventStream, SubmitError> {
        request.check(&self.inner.limits)?;
        let mut block_hashes = Vec::new();
        if let Some(hasher) = &self.inner.block_hasher {
            hasher.extend(&mut block_hashes, &request.cache_salt, &request.prompt_ids);
        }
        let accepted = self.inner.mailbox.submit(request, block_hashes)?;
        Ok(EventStream::new(accepted, self.inner.mailbox.clone()))
    }

    /// What the engine works within.
    pub fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    /// How the engine stood after its latest step.
    pub fn stats(&self) -> EngineStats {
        self.inner.mailbox.stats()
    }

    /// Whether the engine does what it is there for.
    pub fn health(&self) -> Health {
        self.inner.mailbox.health(Instant::now())
    }

    /// Refuses new requests, computes the accepted ones for up to `deadline`, fails the rest, and waits for the engine's
    /// thread to end. A step that has begun is finished first. Blocks: call it from a thread that may
    /// (`tokio::task::spawn_blocking`). A second call waits for the same end, with the nearer deadline.
    pub fn shutdown(&self, deadline: Duration) {
        self.inner.mailbox.drain(Instant::now().checked_add(deadline));
        // The lock is held while joining, so that a second call waits as well.
        let mut thread = self.inner.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the engine's thread had panicked");
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.mailbox.drain(None);
    }
}

/// How an engine is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It computes, or would.
    Ready,
    /// It computes, but a step has failed within the last [`Health::DEGRADED_FOR`], or as many requests wait as may.
    Degraded {
        /// What is wrong.
        reason: String,
    },
    /// A step has taken longer than the engine's `step_timeout`, and is not over.
    Stuck {
        /// How long it has taken.
        since: Duration,
    },
    /// It has stopped: it refuses every request.
    Stopped {
        /// Why, if nobody asked for it.
        failure: Option<String>,
    },
}

impl Health {
    /// How long a step that has failed counts.
    pub const DEGRADED_FOR: Duration = Duration::from_secs(60);
}

/// A snapshot of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineStats {
    /// False once the engine has stopped after repeated failures; it then refuses every request.
    pub healthy: bool,
    /// Sequences that hold blocks.
    pub num_running: usize,
    /// Requests that wait for blocks or for a place.
    pub num_waiting: usize,
    /// Blocks that sequences hold.
    pub num_blocks_in_use: usize,
    /// Blocks that nobody holds, with the keys of ended requests for later ones to use.
    pub num_blocks_cached: usize,
    /// Blocks of the cache.
    pub num_blocks_total: usize,
    /// Steps computed.
    pub num_steps: u64,
    /// Prompt tokens of requests whose prompt has been computed.
    pub num_prompt_tokens: u64,
    /// Those of them whose keys came from the prefix cache.
    pub num_cached_tokens: u64,
    /// Tokens generated.
    pub num_generated_tokens: u64,
    /// Drafted tokens that were verified.
    pub num_drafted_tokens: u64,
    /// Those of them that were accepted.
    pub num_accepted_tokens: u64,
    /// Times that a sequence gave up its blocks to be computed again.
    pub num_preemptions: u64,
    /// Steps that have failed.
    pub num_faults: u64,
}

impl EngineStats {
    pub(crate) fn new(num_blocks_total: usize) -> Self {
        EngineStats {
            healthy: true,
            num_running: 0,
            num_waiting: 0,
            num_blocks_in_use: 0,
            num_blocks_cached: 0,
            num_blocks_total,
            num_steps: 0,
            num_prompt_tokens: 0,
            num_cached_tokens: 0,
            num_generated_tokens: 0,
            num_drafted_tokens: 0,
            num_accepted_tokens: 0,
            num_preemptions: 0,
            num_faults: 0,
        }
    }
}
