//! The step loop.

use std::sync::Arc;

use cachalot_model::LanguageModel;

use crate::mailbox::{Mail, Mailbox, Phase};
use crate::{EngineConfig, EngineHandle, EngineStats, Event, Limits, StartError};

/// Computes requests, step by step.
pub struct Engine {
    mailbox: Arc<Mailbox>,
    mail: Mail,
    _model: Box<dyn LanguageModel>,
}

impl Engine {
    /// Starts an engine on a thread of its own. Takes the model's memory first, which can be slow.
    ///
    /// # Errors
    /// If the limits contradict each other or the model, or the memory cannot be had.
    pub fn start(model: Box<dyn LanguageModel>, config: EngineConfig) -> Result<EngineHandle, StartError> {
        let (mut engine, handle) = Engine::new(model, config)?;
        let thread = std::thread::Builder::new()
            .name("engine".into())
            .spawn(move || engine.run())
            .map_err(StartError::Thread)?;
        handle.set_thread(thread);
        Ok(handle)
    }

    fn new(mut model: Box<dyn LanguageModel>, config: EngineConfig) -> Result<(Engine, EngineHandle), StartError> {
        let limits = Limits::derive(&config, &*model)?;
        model.allocate(limits.num_blocks, limits.max_num_batched_tokens, limits.max_num_logits)?;
        let stats = EngineStats {
            healthy: true,
            num_running: 0,
            num_waiting: 0,
            num_blocks_in_use: 0,
            num_blocks_total: limits.num_blocks,
            num_steps: 0,
            num_prompt_tokens: 0,
            num_generated_tokens: 0,
            num_preemptions: 0,
        };
        let mailbox = Arc::new(Mailbox::new(limits.max_live, stats));
        let handle = EngineHandle::new(mailbox.clone(), limits);
        Ok((Engine { mailbox, mail: Mail::default(), _model: model }, handle))
    }

    fn run(&mut self) {
        loop {
            let phase = self.mailbox.take(&mut self.mail);
            for submission in self.mail.submissions.drain(..) {
                let message = "the engine cannot compute yet".to_owned();
                // A reader that is gone wants no answer.
                let _ = submission.events.send(Event::Failed { message });
                self.mailbox.report(1, self.mailbox.stats());
            }
            self.mail.cancellations.clear();
            if phase != Phase::Open {
                return self.mailbox.stop(None);
            }
            self.mailbox.wait();
        }
    }
}
