//! The step loop.
//!
//! One step: read the mailbox, schedule, build the batch, run the model (and beside it the constraints of those sequences that
//! will get a token), choose tokens, advance the sequences, free what has
//! ended, close the accounts, and only then tell the readers: whoever learns that a request has ended finds its place and
//! its blocks free.

use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use cachalot_model::LanguageModel;

use crate::constraint::Constrained;
use crate::mailbox::{Mail, Mailbox, Phase};
use crate::metrics::Metrics;
use crate::panics;
use crate::runner::{Row, Runner};
use crate::sampler::{SampleError, Sampler};
use crate::scheduler::Scheduler;
use crate::sequence::Sequence;
use crate::{EngineConfig, EngineHandle, EngineStats, FinishReason, IntegrityError, Limits, StartError};

/// After this many failed steps in a row the model is taken to be broken, and the engine stops.
const MAX_FAILED_STEPS: usize = 3;

/// Computes requests, step by step.
///
/// [`Engine::start`] puts it on a thread of its own. Without a thread, [`Engine::new`] and [`Engine::step`] let the caller
/// decide when a step happens, for tests and benches.
pub struct Engine {
    model: Box<dyn LanguageModel>,
    limits: Limits,
    mailbox: Arc<Mailbox>,
    scheduler: Scheduler,
    runner: Runner,
    sampler: Sampler,
    /// Where constraints are asked while the model computes. Not the model's own threads, which are busy then.
    mask_threads: rayon::ThreadPool,
    metrics: Metrics,
    stats: EngineStats,
    num_failed_steps: usize,
    /// Why the engine stops, if it was not asked to.
    failure: Option<String>,
    /// Scratch, empty between steps.
    mail: Mail,
    /// Sequences that have ended in this step.
    ended: Vec<Sequence>,
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
        let mailbox = Arc::new(Mailbox::new(limits.max_live, stats));
        let handle = EngineHandle::new(mailbox.clone(), limits);
        let engine = Engine {
            model,
            limits,
            mailbox,
            scheduler: Scheduler::new(limits),
            runner: Runner::new(limits.vocab_size, limits.max_num_logits),
            sampler: Sampler::default(),
            mask_threads: mask_threads(limits.max_num_seqs)?,
            metrics: Metrics::register(limits.num_blocks),
            stats,
            num_failed_steps: 0,
            failure: None,
            mail: Mail::default(),
            ended: Vec::new(),
        };
        Ok((engine, handle))
    }

    /// Steps until nobody can want another, sleeping when there is nothing to do.
    fn run(mut self) {
        loop {
            let has_computed = self.step();
            if self.failure.is_some() {
                return;
            }
            if !has_computed && !self.mailbox.wait() {
                return;
            }
        }
    }

    /// Reads the mailbox and computes one step of what there is to compute. False if there was nothing.
    ///
    /// A step that the model fails, by an error or by a panic, fails the requests that were in it. When that has happened
    /// several times in a row, all requests fail, and the engine refuses new ones.
    pub fn step(&mut self) -> bool {
        let start = Instant::now();
        self.read_mail(start);
        self.scheduler.schedule();
        let has_computed = !self.scheduler.is_empty();
        if has_computed {
            self.note_first_schedule(start);
            self.runner.build(self.scheduler.running());
            match self.forward() {
                Ok(()) => self.commit(),
                Err(message) => self.fail_step(message),
            }
            self.stats.num_steps += 1;
            self.metrics.step.record(start.elapsed().as_secs_f64());
        }
        self.close_step();
        has_computed
    }

    /// Checks that no block is lost or held twice, and that every sequence is where it belongs. For tests.
    ///
    /// # Errors
    /// What does not agree.
    pub fn check_integrity(&self) -> Result<(), IntegrityError> {
        self.scheduler.check_integrity()
    }

    fn read_mail(&mut self, now: Instant) {
        let phase = self.mailbox.take(&mut self.mail);
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

    fn note_first_schedule(&mut self, now: Instant) {
        for sequence in self.scheduler.running_mut() {
            if sequence.times.first_scheduled.is_none() && sequence.num_scheduled_tokens > 0 {
                sequence.times.first_scheduled = Some(now);
                self.metrics.queue.record((now - sequence.times.arrival).as_secs_f64());
            }
        }
    }

    /// Runs the model, and at the same time finds out what constrained sequences may get next. A panic in the model is an error:
    /// the model's caches are undefined for the blocks of this batch only, and whatever else it keeps it must rebuild in each
    /// step.
    fn forward(&mut self) -> Result<(), String> {
        let Engine { model, runner, scheduler, mask_threads, metrics, .. } = self;
        let mut run_model = || match catch_unwind(AssertUnwindSafe(|| runner.forward(&mut **model))) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(panic) => Err(format!("panicked: {}", panics::text(&*panic))),
        };
        let will_sample =
            |sequence: &&mut Sequence| sequence.num_scheduled_tokens > 0 && sequence.sample_row().is_some();
        let constrained = scheduler.running_mut().iter_mut().filter(will_sample);
        let mut constrained =
            constrained.filter_map(|sequence| Some((sequence.constraint.as_mut()?, &sequence.sampling))).peekable();
        if constrained.peek().is_none() {
            return run_model();
        }
        mask_threads.in_place_scope(|scope| {
            for (constraint, sampling) in constrained {
                let histogram = &metrics.grammar_mask;
                scope.spawn(move |_| {
                    let start = Instant::now();
                    constraint.prepare(sampling);
                    histogram.record(start.elapsed().as_secs_f64());
                });
            }
            run_model()
        })
    }

    /// Advances the sequences by what was computed, and chooses their next tokens.
    fn commit(&mut self) {
        self.num_failed_steps = 0;
        let now = Instant::now();
        let running = self.scheduler.running_mut();
        for sequence in running.iter_mut() {
            sequence.num_computed_tokens += std::mem::take(&mut sequence.num_scheduled_tokens);
        }
        let mut tally = Tally { now, metrics: &self.metrics, stats: &mut self.stats };
        // The rows of a sequence come in the order of their positions: the prompt's before the one that gives a token.
        for (Row { index, position }, logits) in self.runner.rows() {
            let sequence = &mut running[index];
            if sequence.has_ended() {
                continue;
            }
            let result = if position + 1 < sequence.num_prompt_tokens {
                commit_prompt_row(&mut self.sampler, sequence, position, logits)
            } else {
                tally.note_prompt(sequence);
                commit_token(&mut self.sampler, sequence, logits, self.limits.max_model_len, &mut tally)
            };
            if let Err(error) = result {
                sequence.fail(error.to_string());
            }
        }
        // Without a row that gives a token: `max_tokens` is 0.
        for sequence in running.iter_mut().filter(|sequence| sequence.num_uncomputed_tokens() == 0) {
            if !sequence.has_ended() {
                tally.note_prompt(sequence);
                sequence.finish(FinishReason::Length);
            }
        }
    }

    fn fail_step(&mut self, message: String) {
        tracing::error!(message, "the model failed in a step");
        for sequence in self.scheduler.running_mut() {
            if std::mem::take(&mut sequence.num_scheduled_tokens) > 0 {
                sequence.fail(format!("the model failed while it computed this request: {message}"));
            }
        }
        self.num_failed_steps += 1;
        if self.num_failed_steps == MAX_FAILED_STEPS {
            let failure = format!("the model failed in {MAX_FAILED_STEPS} steps in a row, last with: {message}");
            tracing::error!("the engine stops: {failure}");
            self.scheduler.release_ended(&mut self.ended);
            self.fail_all(&format!("the engine has stopped: {failure}"));
            self.stats.healthy = false;
            self.mailbox.stop(Some(failure));
        }
    }

    fn fail_all(&mut self, message: &str) {
        let num_ended_before = self.ended.len();
        self.scheduler.release_all(&mut self.ended);
        for sequence in &mut self.ended[num_ended_before..] {
            sequence.fail(message.to_owned());
        }
    }

    /// Frees what has ended, closes the accounts, and tells the readers.
    fn close_step(&mut self) {
        self.scheduler.release_ended(&mut self.ended);
        let stats = &mut self.stats;
        stats.num_running = self.scheduler.running().len();
        stats.num_waiting = self.scheduler.num_waiting();
        stats.num_blocks_in_use = self.scheduler.num_blocks_in_use();
        self.metrics.preemptions.increment(self.scheduler.num_preemptions() - stats.num_preemptions);
        stats.num_preemptions = self.scheduler.num_preemptions();
        self.metrics.requests_running.set(stats.num_running as f64);
        self.metrics.requests_waiting.set(stats.num_waiting as f64);
        self.metrics.kv_blocks_in_use.set(stats.num_blocks_in_use as f64);
        self.mailbox.report(self.ended.len(), self.stats);
        for sequence in self.scheduler.running_mut().iter_mut().chain(&mut self.ended) {
            sequence.deliver();
        }
        self.ended.clear();
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
fn mask_threads(max_num_seqs: usize) -> Result<rayon::ThreadPool, StartError> {
    let num_cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    rayon::ThreadPoolBuilder::new()
        .num_threads(num_cores.min(max_num_seqs))
        .thread_name(|index| format!("mask-{index}"))
        .build()
        .map_err(StartError::MaskThreads)
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
    logits: &[f32],
    max_model_len: usize,
    tally: &mut Tally<'_>,
) -> Result<(), SampleError> {
    let sampling = &sequence.sampling;
    let mask = sequence.constraint.as_ref().map_or(Ok(None), Constrained::mask)?;
    let id = sampler.sample(logits, sampling, &sequence.counts, sequence.num_generated_tokens(), mask)?;
    let logprobs = sampling.logprobs.map(|num_top| sampler.logprobs(logits, id, num_top)).transpose()?;
    if sequence.push_token(id, logprobs, max_model_len)? {
        tally.note_token(sequence);
    }
    if sequence.has_ended() {
        tally.note_end(sequence);
    }
    Ok(())
}
