//! One reply of the model, from a prompt's ids to pieces of text.

use anyhow::bail;
use cachalot_engine::{Event, FinishReason, Request, SamplingParams};
use cachalot_prompt::{Delta, Ending, OutputMode, OutputOptions, OutputParser};

use crate::args::SamplingArgs;
use crate::hint::ResultExt;
use crate::load::Loaded;

/// What is to be continued.
pub(crate) struct Question {
    /// The prompt.
    pub(crate) ids: Vec<u32>,
    /// Whether the reply begins inside its reasoning.
    pub(crate) reasoning_open: bool,
    /// Chat reply or plain completion.
    pub(crate) mode: OutputMode,
}

impl Loaded {
    /// Generates the reply and hands each piece of text to `write` as soon as it is certain. Returns early, and frees what
    /// the request held, if `write` fails or the returned future is dropped.
    ///
    /// # Errors
    /// If the engine refuses or fails, or `write` does.
    pub(crate) async fn reply(
        &self,
        question: Question,
        sampling: &SamplingArgs,
        mut write: impl FnMut(&Delta) -> anyhow::Result<()>,
    ) -> anyhow::Result<FinishReason> {
        let prompt = self.prompt()?;
        let defaults = prompt.sampling_defaults();
        let room = self.engine.limits().max_model_len.saturating_sub(question.ids.len());
        let room = u32::try_from(room).unwrap_or(u32::MAX);
        let seed = sampling.seed.map_or_else(getrandom::u64, Ok)?;
        let sampling = SamplingParams {
            temperature: sampling.temperature.or(defaults.temperature).unwrap_or(1.0),
            top_p: sampling.top_p.or(defaults.top_p).unwrap_or(1.0),
            top_k: defaults.top_k,
            min_p: defaults.min_p.unwrap_or(0.0),
            repetition_penalty: defaults.repetition_penalty.unwrap_or(1.0),
            seed,
            max_tokens: sampling.max_tokens.unwrap_or(room),
            eos_token_ids: self.eos_token_ids.clone(),
            ..SamplingParams::default()
        };
        let options = OutputOptions { mode: question.mode, ..OutputOptions::default() };
        let mut parser = OutputParser::new(prompt, question.reasoning_open, options);
        let request = Request { prompt_ids: question.ids, sampling, ..Request::default() };
        let mut events =
            self.engine.submit(request).hint("shorten the text, or see --max-model-len and --kv-cache-bytes")?;
        loop {
            match events.recv().await {
                Some(Event::Token { id, .. }) => parser.push(id).iter().try_for_each(&mut write)?,
                Some(Event::Finished { reason, .. }) => {
                    let ending = match reason {
                        FinishReason::Stop { .. } | FinishReason::Complete => Ending::Stop,
                        FinishReason::Length => Ending::Length,
                    };
                    parser.finish(ending).iter().try_for_each(&mut write)?;
                    return Ok(reason);
                }
                Some(Event::Failed { message, .. }) => bail!("the engine failed: {message}"),
                Some(Event::Prompt { .. }) => {}
                None => bail!("the engine ended without finishing the reply"),
            }
        }
    }
}
