//! What passes between the threads that submit requests and the thread that computes them.

use std::collections::VecDeque;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::block_hash::BlockHash;
use crate::sequence::SeqId;
use crate::{EngineStats, Event, Health, Request, SubmitError};

/// A request on its way to the scheduler.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) seq_id: SeqId,
    pub(crate) request: Request,
    /// Names of the full blocks of the prompt; empty without a prefix cache.
    pub(crate) block_hashes: Vec<BlockHash>,
    /// Set when the request is first computed.
    pub(crate) num_cached_tokens: Arc<AtomicU32>,
    pub(crate) events: UnboundedSender<Event>,
    pub(crate) arrival: Instant,
}

/// What the submitter gets of a request that was accepted.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) seq_id: SeqId,
    pub(crate) events: UnboundedReceiver<Event>,
    pub(crate) num_cached_tokens: Arc<AtomicU32>,
}

/// Whether requests are accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Yes.
    Open,
    /// No; those that were are computed until the deadline, or to their end if there is none.
    Draining { deadline: Option<Instant> },
    /// No, and nothing is computed any more; the reason if it was not wanted.
    Stopped { failure: Option<String> },
}

/// What the engine finds when it looks into the mailbox.
#[derive(Debug, Default)]
pub(crate) struct Mail {
    pub(crate) submissions: VecDeque<Submission>,
    pub(crate) cancellations: Vec<SeqId>,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    mail: Mail,
    next_seq_id: u64,
    /// Requests that were accepted and have not ended.
    num_live: usize,
    /// The engine waits on `arrived`.
    asleep: bool,
    stats: EngineStats,
    /// When the step in progress began.
    step_began: Option<Instant>,
    /// The latest step that failed, and how.
    latest_fault: Option<(Instant, String)>,
}

/// Bounded by the count of accepted requests; one short lock per call.
#[derive(Debug)]
pub(crate) struct Mailbox {
    max_live: usize,
    step_timeout: Duration,
    state: Mutex<State>,
    arrived: Condvar,
}

impl Mailbox {
    pub(crate) fn new(max_live: usize, step_timeout: Duration, stats: EngineStats) -> Self {
        let state = State {
            phase: Phase::Open,
            mail: Mail::default(),
            next_seq_id: 0,
            num_live: 0,
            asleep: false,
            stats,
            step_began: None,
            latest_fault: None,
        };
        Mailbox { max_live, step_timeout, state: Mutex::new(state), arrived: Condvar::new() }
    }

    /// Every critical section leaves the state whole, so a panic of another thread does not spoil it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn submit(&self, request: Request, block_hashes: Vec<BlockHash>) -> Result<Accepted, SubmitError> {
        let mut state = self.lock();
        match &state.phase {
            Phase::Open => {}
            Phase::Draining { .. } | Phase::Stopped { failure: None } => return Err(SubmitError::ShuttingDown),
            Phase::Stopped { failure: Some(message) } => return Err(SubmitError::Unhealthy(message.clone())),
        }
        if state.num_live >= self.max_live {
            return Err(SubmitError::QueueFull { max_live: self.max_live });
        }
        let seq_id = SeqId(state.next_seq_id);
        state.next_seq_id += 1;
        state.num_live += 1;
        let (sender, events) = unbounded_channel();
        let num_cached_tokens = Arc::<AtomicU32>::default();
        let accepted = Accepted { seq_id, events, num_cached_tokens: num_cached_tokens.clone() };
        state.mail.submissions.push_back(Submission {
            seq_id,
            request,
            block_hashes,
            num_cached_tokens,
            events: sender,
            arrival: Instant::now(),
        });
        if state.asleep {
            self.arrived.notify_one();
        }
        Ok(accepted)
    }

    /// Asks the engine to forget a sequence. A sleeping engine has none, and need not wake.
    pub(crate) fn cancel(&self, seq_id: SeqId) {
        self.lock().mail.cancellations.push(seq_id);
    }

    /// Accepts nothing from now on. A second call can bring the deadline forward, not put it off.
    pub(crate) fn drain(&self, deadline: Option<Instant>) {
        let mut state = self.lock();
        let deadline = match state.phase {
            Phase::Open => deadline,
            Phase::Draining { deadline: earlier } => match (earlier, deadline) {
                (Some(earlier), Some(deadline)) => Some(earlier.min(deadline)),
                (earlier, deadline) => earlier.or(deadline),
            },
            Phase::Stopped { .. } => return,
        };
        state.phase = Phase::Draining { deadline };
        if state.asleep {
            self.arrived.notify_one();
        }
    }

    /// The engine's end: refuses everything from now on and forgets what was not taken, which ends those streams. The
    /// first reason given stays.
    pub(crate) fn stop(&self, failure: Option<String>) {
        let mut state = self.lock();
        state.mail = Mail::default();
        if !matches!(state.phase, Phase::Stopped { .. }) {
            state.stats.healthy &= failure.is_none();
            state.phase = Phase::Stopped { failure };
        }
    }

    /// Takes the mail into `mail`, which is empty and keeps its memory. A step begins.
    pub(crate) fn take(&self, mail: &mut Mail, now: Instant) -> Phase {
        let mut state = self.lock();
        state.step_began = Some(now);
        std::mem::swap(&mut state.mail, mail);
        state.phase.clone()
    }

    /// Notes that a step has failed.
    pub(crate) fn note_fault(&self, message: &str) {
        self.lock().latest_fault = Some((Instant::now(), message.to_owned()));
    }

    pub(crate) fn health(&self, now: Instant) -> Health {
        let state = self.lock();
        if let Phase::Stopped { failure } = &state.phase {
            return Health::Stopped { failure: failure.clone() };
        }
        if let Some(since) = state.step_began.map(|began| now.saturating_duration_since(began))
            && since > self.step_timeout
        {
            return Health::Stuck { since };
        }
        match &state.latest_fault {
            Some((when, message)) if now.saturating_duration_since(*when) < Health::DEGRADED_FOR => {
                Health::Degraded { reason: format!("a step has failed: {message}") }
            }
            _ if state.num_live >= self.max_live => {
                Health::Degraded { reason: format!("the queue is full: {} requests wait or run", self.max_live) }
            }
            _ => Health::Ready,
        }
    }

    /// A step is over. Notes that `num_ended` requests have ended, and what a reader of the statistics shall see.
    pub(crate) fn report(&self, num_ended: usize, stats: EngineStats) {
        let mut state = self.lock();
        state.step_began = None;
        state.num_live -= num_ended;
        let num_submitted = state.mail.submissions.len();
        state.stats = EngineStats { num_waiting: stats.num_waiting + num_submitted, ..stats };
    }

    /// Waits until there is a submission, or can be none any more. Whether there is one.
    pub(crate) fn wait(&self) -> bool {
        let mut state = self.lock();
        state.asleep = true;
        while state.mail.submissions.is_empty() && state.phase == Phase::Open {
            state = self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.asleep = false;
        !state.mail.submissions.is_empty()
    }

    pub(crate) fn stats(&self) -> EngineStats {
        self.lock().stats
    }
}
