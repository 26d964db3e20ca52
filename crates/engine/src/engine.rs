//! The step loop.
//!
//! One step: read the mailbox, schedule, build the batch, run the model (and beside it the constraints of those sequences that
//! will get a token), choose tokens, advance the sequences, draft what may come next, free what has ended, close the accounts,
//! and only then tell the readers: whoever learns that a request has ended finds its place and its blocks free.
//!
//! Telling the readers wakes their threads, which is most of what a step costs beside the model. So the loop of
//! [`Engine::start`] does it while the model computes the next step. [`Engine::step`] does one thing after the other.

use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use cachalot_model::LanguageModel;

use crate::block_hash::BlockHasher;
use crate::constraint::Constrained;
use crate::mailbox::{Mail, Mailbox, Phase};
use crate::metrics::Metrics;
use crate::panics;
use crate::row;
use crate::runner::{Row, Runner};
use crate::sampler::{SampleError, Sampler};
use crate::scheduler::Scheduler;
use crate::sequence::Sequence;
use crate::speculation::DraftDepth;
use crate::{
    EngineConfig, EngineHandle, EngineStats, Failure, FinishReason, IntegrityError, Limits, OnFault, SpeculativeTokens,
    StartError,
};

/// After this many failed steps in a row the model is taken to be broken, and the engine stops.
const MAX_FAILED_STEPS: usize = 3;

/// Computes requests, step by step.
///
/// [`Engine::start`] puts it on a thread of its own. Without a thread, [`Engine::new`] and [`Engine::step`] let the caller
/// decide when a step happens, for tests and benches.
pub struct Engine {
    model: Box<dyn LanguageModel>,
    limits: Limits,
    on_fault: OnFault,
    mailbox: Arc<Mailbox>,
    block_hasher: Option<BlockHasher>,
    scheduler: Scheduler,
    runner: Runner,
    sampler: Sampler,
    draft_depth: DraftDepth,
    /// Where things are done while the model computes. Not the model's own threads, which are busy then.
    side_threads: rayon::ThreadPool,
    metrics: Metrics,
    stats: EngineStats,
    num_failed_steps: usize,
    /// Why the engine stops, if it was not asked to.
    failure: Option<String>,
    /// Scratch, empty between steps.
    mail: Mail,
    /// Sequences that have ended in this step.
    ended: Vec<Sequence>,
    /// Sequences that had ended before, and whose readers are still to be told.
    leaving: Vec<Sequence>,
}

impl Engine {
    /// Starts an engine on a thread of its own. Takes the model's memory first, which can be slow. Metrics go to the recorder
    /// that is installed by then.
    ///
    /// # Errors
    /// If the limits contradict each other or the model, or the memory cannot be had.
    pub fn start(model: Box<dyn LanguageModel>, config: EngineConfig) -> Result<EngineHandle, StartError> {
        let (engine, handle) = Engine::new(model, config)?;
        let thread = std::thread::Builder::new()
            .name("engine".into())
            .spawn(move || engine.run())
            .map_err(StartError::Thread)?;
        handle.set_thread(thread);
        Ok(handle)
    }

    /// An engine without a thread: nothing happens but in [`step`](Self::step).
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn new(mut model: Box<dyn LanguageModel>, config: EngineConfig) -> Result<(Engine, EngineHandle), StartError> {
        let limits = Limits::derive(&config, &*model)?;
        model.allocate(limits.num_blocks, limits.max_num_batched_tokens, limits.max_num_logits)?;
        let stats = EngineStats::new(limits.num_blocks);
        let mailbox = Arc::new(Mailbox::new(limits.max_live, config.step_timeout, stats));
        let block_hasher = config.prefix_cache.then(|| BlockHasher::new(limits.max_draft_tokens > 0));
        let handle = EngineHandle::new(mailbox.clone(), limits, block_hasher.clone());
        let engine = Engine {
            model,
            limits,
            on_fault: config.on_fault,
            mailbox,
            block_hasher,
            scheduler: Scheduler::new(limits),
            runner: Runner::new(limits.vocab_size, limits.max_num_logits, config.mla_prefill),
            sampler: Sampler::default(),
            draft_depth: match config.speculative_tokens {
                SpeculativeTokens::Auto => DraftDepth::auto(limits.max_draft_tokens),
                SpeculativeTokens::Fixed(num_tokens) => DraftDepth::fixed(num_tokens),
            },
            side_threads: side_threads(limits.max_num_seqs)?,
            metrics: Metrics::register(&limits),
            stats,
            num_failed_steps: 0,
            failure: None,
            mail: Mail::default(),
            ended: Vec::new(),
            leaving: Vec::new(),
        };
        Ok((engine, handle))
    }

    /// Steps until nobody can want another, sleeping when there is nothing to do.
    fn run(mut self) {
        loop {
            let has_computed = self.step_without_delivery();
            if self.failure.is_some() {
                break;
            }
            if !has_computed {
                self.deliver();
                if !self.mailbox.wait() {
                    break;
                }
            }
        }
        self.deliver();
    }

    /// Reads the mailbox and computes one step of what there is to compute. False if there was nothing.
    ///
    /// A step that the model fails, by an error, by a panic or by logits that are no numbers, fails the requests that were in
    /// it, and all that the cache knows is forgotten. When that has happened several times in a row, or once if that is what
    /// [`OnFault`] says, all requests fail, and the engine refuses new ones.
    pub fn step(&mut self) -> bool {
        let has_computed = self.step_without_delivery();
        self.deliver();
        has_computed
    }

    fn step_without_delivery(&mut self) -> bool {
        let start = Instant::now();
        self.read_mail(start);
        self.end_overdue(start);
        self.scheduler.schedule();
        let has_computed = !self.scheduler.is_empty();
        if has_computed {
            self.note_first_schedule(start);
            self.runner.build(self.scheduler.running());
            match self.compute() {
                Ok(()) => self.num_failed_steps = 0,
                Err(message) => self.fail_step(message),
            }
            self.scheduler.publish_full_blocks();
            self.stats.num_steps += 1;
            self.metrics.step.record(start.elapsed().as_secs_f64());
        }
        self.close_step();
        has_computed
    }

    /// Checks that no block is lost or held more often than counted, and that every sequence is where it belongs. For tests.
    ///
    /// # Errors
    /// What does not agree.
    pub fn check_integrity(&self) -> Result<(), IntegrityError> {
        self.scheduler.check_integrity()
    }

    fn read_mail(&mut self, now: Instant) {
        let phase = self.mailbox.take(&mut self.mail, now);
        for submission in self.mail.submissions.drain(..) {
            self.scheduler.push(Sequence::new(submission, self.limits.vocab_size));
        }
        for seq_id in self.mail.cancellations.drain(..) {
            // A request may end before its cancellation is read.
            if let Some(sequence) = self.scheduler.remove(seq_id) {
                self.ended.push(sequence);
            }
        }
        if let Phase::Draining { deadline: Some(deadline) } = phase
            && now >= deadline
        {
            self.fail_all("the engine was shut down before the request was finished");
        }
    }

    /// Fails the sequences whose time is over.
    fn end_overdue(&mut self, now: Instant) {
        let mut has_ended = false;
        for sequence in self.scheduler.sequences_mut() {
            if sequence.deadline.is_some_and(|deadline| deadline <= now) {
                let seconds = (now - sequence.times.arrival).as_secs_f64();
                let num_generated = sequence.num_generated_tokens();
                let message = format!(
                    "the request's timeout is over: {seconds:.1} s have passed, {num_generated} tokens are generated"
                );
                sequence.fail(Failure::Timeout, message);
                has_ended = true;
            }
        }
        if has_ended {
            self.scheduler.release_ended(&mut self.ended);
        }
    }

    fn note_first_schedule(&mut self, now: Instant) {
        for sequence in self.scheduler.running_mut() {
            if sequence.times.first_scheduled.is_none() && sequence.num_scheduled_tokens > 0 {
                sequence.times.first_scheduled = Some(now);
                self.metrics.queue.record((now - sequence.times.arrival).as_secs_f64());
                let num_cached_tokens = u64::from(sequence.num_cached_tokens());
                self.metrics.prefix_cache_hit_tokens.increment(num_cached_tokens);
                self.stats.num_cached_tokens += num_cached_tokens;
            }
        }
    }

    /// Everything between the schedule and the accounts.
    fn compute(&mut self) -> Result<(), String> {
        let start = Instant::now();
        let (mut num_generating, mut num_prompt_tokens) = (0, 0);
        for sequence in self.scheduler.running() {
            match sequence.is_generating() {
                true => num_generating += 1,
                false => num_prompt_tokens += sequence.num_scheduled_tokens,
            }
        }
        self.forward()?;
        if num_prompt_tokens == 0 {
            self.draft_depth.note_step(self.runner.num_tokens(), start.elapsed());
        }
        let poison = self.commit();
        if self.limits.max_draft_tokens > 0 {
            self.draft(num_prompt_tokens == 0)?;
        }
        for sequence in self.scheduler.running_mut() {
            sequence.num_scheduled_tokens = 0;
        }
        self.scheduler.pace.note(num_generating, num_prompt_tokens, start.elapsed());
        poison.map_or(Ok(()), Err)
    }

    /// Runs the model, and at the same time finds out what constrained sequences may get next, and tells the readers what came of
    /// the step before.
    fn forward(&mut self) -> Result<(), String> {
        let Engine { model, runner, scheduler, side_threads, metrics, leaving, .. } = self;
        let mut constrained = Vec::new();
        let mut outlets = Vec::new();
        for sequence in scheduler.running_mut() {
            let will_sample = sequence.num_scheduled_tokens > 0 && !sequence.sample_rows().is_empty();
            if let Some(constraint) = sequence.constraint.as_mut().filter(|_| will_sample) {
                constrained.push((constraint, &sequence.sampling, &sequence.draft_ids));
            }
            if sequence.outlet.has_news() {
                outlets.push(&mut sequence.outlet);
            }
        }
        outlets.extend(leaving.iter_mut().map(|sequence| &mut sequence.outlet));
        let result = if constrained.is_empty() && outlets.is_empty() {
            guard_model(|| runner.forward(&mut **model))
        } else {
            side_threads.in_place_scope(|scope| {
                for (constraint, sampling, draft_ids) in constrained {
                    let histogram = &metrics.grammar_mask;
                    scope.spawn(move |_| {
                        let start = Instant::now();
                        constraint.prepare(sampling, draft_ids);
                        histogram.record(start.elapsed().as_secs_f64());
                    });
                }
                scope.spawn(move |_| outlets.into_iter().for_each(|outlet| outlet.deliver()));
                guard_model(|| runner.forward(&mut **model))
            })
        };
        leaving.clear();
        result
    }

    /// Chooses the next tokens, and advances the sequences by what was computed. If the model has computed logits that are no
    /// numbers, the requests that they belong to fail, and what was wrong is returned.
    fn commit(&mut self) -> Option<String> {
        let now = Instant::now();
        let Engine { scheduler, runner, sampler, metrics, stats, limits, draft_depth, .. } = self;
        let running = scheduler.running_mut();
        for sequence in running.iter_mut() {
            // Those of the draft count when they turn out to be right.
            sequence.num_computed_tokens += sequence.num_scheduled_tokens.saturating_sub(sequence.draft_ids.len());
        }
        let mut poison = None;
        let mut tally = Tally { now, metrics, stats };
        // The rows of a sequence come in the order of their positions: the prompt's before those that give tokens, and each of
        // these counts only if the one before it gave the token that was drafted.
        for (row, logits) in runner.rows() {
            let sequence = &mut running[row.index];
            let was_reached =
                || sequence.token_ids.len() == row.position + 1 && sequence.token_ids[row.position] == row.input_id;
            let result = if sequence.has_ended() {
                continue;
            } else if row.position + 1 < sequence.num_prompt_tokens {
                guard_request(|| commit_prompt_row(sampler, sequence, row.position, logits))
            } else if was_reached() {
                if row.position == sequence.num_computed_tokens {
                    sequence.num_computed_tokens += 1;
                }
                tally.note_prompt(sequence);
                guard_request(|| commit_token(sampler, sequence, row, logits, limits.max_model_len, &mut tally))
            } else {
                continue;
            };
            match result {
                Ok(()) => {}
                // Its last token was chosen before something went wrong.
                Err(_) if sequence.has_ended() => {}
                Err((Failure::Step, message)) => {
                    sequence.fail(Failure::Step, message.clone());
                    poison = Some(message);
                }
                Err((failure, message)) => sequence.fail(failure, message),
            }
        }
        for sequence in running.iter_mut().filter(|sequence| sequence.num_scheduled_tokens > 0) {
            if let Some((num_drafted, num_accepted)) = sequence.close_draft() {
                draft_depth.note_draft(num_drafted, num_accepted);
                tally.note_draft(num_drafted, num_accepted);
            }
            // Without a row that gives a token: `max_tokens` is 0.
            if sequence.num_uncomputed_tokens() == 0 && !sequence.has_ended() {
                tally.note_prompt(sequence);
                sequence.finish(FinishReason::Length);
            }
            if let Some(hasher) = &self.block_hasher {
                sequence.extend_hashes(hasher);
            }
        }
        poison
    }

    /// Takes the step's tokens and hidden states over into the MTP module's cache, and drafts for the next step.
    fn draft(&mut self, is_without_prompts: bool) -> Result<(), String> {
        let will_generate = |sequence: &Sequence| sequence.is_generating() && !sequence.has_ended();
        let num_seqs = self.scheduler.running().iter().filter(|sequence| will_generate(sequence)).count();
        let depth = if num_seqs > 0 { self.draft_depth.choose(num_seqs) } else { 0 };
        for index in 0..self.scheduler.running().len() {
            let sequence = &self.scheduler.running()[index];
            let wanted =
                if will_generate(sequence) { depth.min(sequence.largest_draft(self.limits.max_model_len)) } else { 0 };
            let draft_len = if wanted > 0 { self.scheduler.reserve_for_draft(index, wanted) } else { 0 };
            self.scheduler.running_mut()[index].draft_len = draft_len;
        }
        let Engine { model, runner, scheduler, draft_depth, .. } = self;
        let mut pass = |forward: fn(&mut Runner, &mut dyn LanguageModel, &[Sequence]) -> cachalot_model::Result<()>| {
            let start = Instant::now();
            guard_model(|| forward(runner, &mut **model, scheduler.running()))?;
            if is_without_prompts {
                draft_depth.note_pass(runner.num_mtp_tokens(), start.elapsed());
            }
            for (row, logits) in runner.rows() {
                let peak = row::peak(logits).map_err(|error| format!("the MTP module: {error}"))?;
                scheduler.running_mut()[row.index].draft_ids.push(peak.id);
            }
            Ok::<_, String>(scheduler.running().iter().any(Sequence::lacks_draft))
        };
        let mut lacks_drafts = pass(Runner::forward_mtp)?;
        while lacks_drafts {
            lacks_drafts = pass(Runner::forward_mtp_again)?;
        }
        Ok(())
    }

    fn fail_step(&mut self, message: String) {
        tracing::error!(message, "the model failed in a step");
        for sequence in self.scheduler.running_mut() {
            if std::mem::take(&mut sequence.num_scheduled_tokens) > 0 && !sequence.has_ended() {
                sequence.fail(Failure::Step, format!("the model failed while it computed this request: {message}"));
            }
        }
        // Whatever went wrong may have reached what was computed before.
        self.scheduler.forget_cached_blocks();
        self.stats.num_faults += 1;
        self.metrics.faults.increment(1);
        self.mailbox.note_fault(&message);
        self.num_failed_steps += 1;
        let is_last = self.num_failed_steps == MAX_FAILED_STEPS || self.on_fault == OnFault::Exit;
        if is_last {
            let failure = match self.num_failed_steps {
                1 => format!("the model failed in a step: {message}"),
                count => format!("the model failed in {count} steps in a row, last with: {message}"),
            };
            tracing::error!("the engine stops: {failure}");
            self.scheduler.release_ended(&mut self.ended);
            self.fail_all(&format!("the engine has stopped: {failure}"));
            self.stats.healthy = false;
            self.mailbox.stop(Some(failure.clone()));
            self.failure = Some(failure);
        }
    }

    fn fail_all(&mut self, message: &str) {
        let num_ended_before = self.ended.len();
        self.scheduler.release_all(&mut self.ended);
        for sequence in &mut self.ended[num_ended_before..] {
            sequence.fail(Failure::Shutdown, message.to_owned());
        }
    }

    /// Frees what has ended, and closes the accounts.
    fn close_step(&mut self) {
        self.scheduler.release_ended(&mut self.ended);
        let stats = &mut self.stats;
        stats.num_running = self.scheduler.running().len();
        stats.num_waiting = self.scheduler.num_waiting();
        stats.num_blocks_in_use = self.scheduler.num_blocks_in_use();
        stats.num_blocks_cached = self.scheduler.num_blocks_cached();
        self.metrics.preemptions.increment(self.scheduler.num_preemptions() - stats.num_preemptions);
        stats.num_preemptions = self.scheduler.num_preemptions();
        self.metrics.requests_running.set(stats.num_running as f64);
        self.metrics.requests_waiting.set(stats.num_waiting as f64);
        self.metrics.kv_blocks_in_use.set(stats.num_blocks_in_use as f64);
        self.metrics.kv_blocks_cached.set(stats.num_blocks_cached as f64);
        self.mailbox.report(self.ended.len(), self.stats);
        self.leaving.append(&mut self.ended);
    }

    /// Tells the readers.
    fn deliver(&mut self) {
        for sequence in self.scheduler.running_mut().iter_mut().chain(&mut self.leaving) {
            sequence.outlet.deliver();
        }
        self.leaving.clear();
    }
}

impl Drop for Engine {
    /// Whoever still waits for an event is told that none will come: the senders go with the sequences.
    fn drop(&mut self) {
        let failure = std::thread::panicking().then(|| "its thread panicked, which is a bug".to_owned());
        self.mailbox.stop(failure);
    }
}

/// As many threads as there are cores, but no more than sequences that could use them.
fn side_threads(max_num_seqs: usize) -> Result<rayon::ThreadPool, StartError> {
    let num_cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    rayon::ThreadPoolBuilder::new()
        .num_threads(num_cores.min(max_num_seqs))
        .thread_name(|index| format!("engine-side-{index}"))
        .build()
        .map_err(StartError::SideThreads)
}

/// Runs the model. A panic in it is an error: the model's caches are undefined for the blocks of this batch only, and whatever
/// else it keeps it must rebuild in each step.
fn guard_model(call: impl FnOnce() -> cachalot_model::Result<()>) -> Result<(), String> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(panic) => Err(format!("panicked: {}", panics::text(&*panic))),
    }
}

/// Does something for one request, which alone is concerned by an error or a panic, unless the model is to blame.
fn guard_request(call: impl FnOnce() -> Result<(), SampleError>) -> Result<(), (Failure, String)> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error @ SampleError::NotFinite)) => Err((Failure::Step, error.to_string())),
        Ok(Err(error)) => Err((Failure::Request, error.to_string())),
        Err(panic) => Err((Failure::Request, format!("choosing a token panicked: {}", panics::text(&*panic)))),
    }
}

/// Counts and times what a step commits.
struct Tally<'a> {
    now: Instant,
    metrics: &'a Metrics,
    stats: &'a mut EngineStats,
}

impl Tally<'_> {
    fn note_prompt(&mut self, sequence: &mut Sequence) {
        if sequence.complete_prompt() {
            self.stats.num_prompt_tokens += sequence.num_prompt_tokens as u64;
            self.metrics.prompt_tokens.increment(sequence.num_prompt_tokens as u64);
        }
    }

    fn note_token(&mut self, sequence: &mut Sequence) {
        self.stats.num_generated_tokens += 1;
        self.metrics.generated_tokens.increment(1);
        let times = &mut sequence.times;
        if times.first_token.is_none() {
            times.first_token = Some(self.now);
            self.metrics.time_to_first_token.record((self.now - times.arrival).as_secs_f64());
        }
        times.last_token = Some(self.now);
    }

    fn note_draft(&mut self, num_drafted: usize, num_accepted: usize) {
        self.stats.num_drafted_tokens += num_drafted as u64;
        self.stats.num_accepted_tokens += num_accepted as u64;
        self.metrics.draft_tokens.increment(num_drafted as u64);
        self.metrics.accepted_tokens.increment(num_accepted as u64);
        self.metrics.drafted_at[..num_drafted].iter().for_each(|counter| counter.increment(1));
        self.metrics.accepted_at[..num_accepted].iter().for_each(|counter| counter.increment(1));
    }

    fn note_end(&self, sequence: &Sequence) {
        let times = &sequence.times;
        if let (Some(first), Some(last)) = (times.first_token, times.last_token) {
            let num_further_tokens = sequence.num_generated_tokens() - 1;
            if num_further_tokens > 0 {
                let mean = (last - first).as_secs_f64() / num_further_tokens as f64;
                self.metrics.time_per_output_token.record(mean);
            }
        }
    }
}

fn commit_prompt_row(
    sampler: &mut Sampler,
    sequence: &mut Sequence,
    position: usize,
    logits: &[f32],
) -> Result<(), SampleError> {
    let num_top = sequence.sampling.prompt_logprobs.unwrap_or(0);
    let logprobs = sampler.logprobs(logits, sequence.token_ids[position + 1], num_top)?;
    sequence.push_prompt_logprobs(logprobs);
    Ok(())
}

fn commit_token(
    sampler: &mut Sampler,
    sequence: &mut Sequence,
    row: Row,
    logits: &[f32],
    max_model_len: usize,
    tally: &mut Tally<'_>,
) -> Result<(), SampleError> {
    let sampling = &sequence.sampling;
    let mask = sequence.constraint.as_ref().map_or(Ok(None), Constrained::mask)?;
    let id = sampler.sample(logits, sampling, &sequence.counts, sequence.num_generated_tokens(), mask)?;
    let logprobs = sampling.logprobs.map(|num_top| sampler.logprobs(logits, id, num_top)).transpose()?;
    sequence.num_right_drafts += usize::from(row.draft_id == Some(id));
    if sequence.push_token(id, logprobs, max_model_len)? {
        tally.note_token(sequence);
    }
    if sequence.has_ended() {
        tally.note_end(sequence);
    }
    Ok(())
}
