//! `POST /v1/completions`: text or token ids in, a continuation out.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use cachalot_engine::{Constraint, PositionLogprobs, SamplingParams};
use cachalot_prompt::{Answer as Wanted, Delta, Detokenizer, SamplingDefaults, Tokenizer};

use crate::answer::Answer;
use crate::blocking::on_blocking_thread;
use crate::body::JsonBytes;
use crate::caller::Caller;
use crate::chat_prompt::prompt_error;
use crate::constraint::{self, Wish};
use crate::decoder::Decoder;
use crate::error::ApiError;
use crate::generation::{AnswerLimit, End, Generation, Output, Plan, TokenOutput};
use crate::hosted;
use crate::record::Record;
use crate::sampling::{self, Excess, MAX_LOGPROBS, Streaming, ValidFields, check_token_id};
use crate::service::Service;
use crate::sse::{self, ChunkWriter, WriteChunks, write_json};
use crate::state::{AppState, Served};
use crate::token_names::TokenNames;
use crate::whole;
use crate::wire::common::CommonFields;
use crate::wire::completion::{Completion, CompletionChoice, CompletionFields, Prompts};
use crate::wire::logprobs::{LOGPROB_FLOOR, LegacyLogprobs, PromptLogprob, PromptPosition, TopMap};
use crate::wire::usage::Usage;

/// What OpenAI's API has always generated when it is not told how much.
const DEFAULT_MAX_TOKENS: u32 = 16;
/// What fills a gap has an end of its own; this is the most that the hosted API generates.
const DEFAULT_MIDDLE_TOKENS: u32 = 4 << 10;

pub(crate) async fn complete(
    State(state): State<AppState>,
    caller: Caller,
    body: JsonBytes,
) -> Result<Response, ApiError> {
    let served = state.served()?;
    let mut fields: CompletionFields = body.parse()?;
    let common: CommonFields = body.parse()?;
    let model = served.check_model(common.model.as_deref())?;
    let service = Service::validate(&common, None, &caller, state.config().request_timeout)?;
    let answer = Answer::new(model, service.tier);
    let options = Options::validate(&fields)?;
    let wish = Wish::of_completion(&mut fields)?;
    let defaults = served.prompt.as_ref().map_or_else(SamplingDefaults::default, |prompt| prompt.sampling_defaults());
    let limits = served.engine.limits();
    let valid = sampling::validate(&common, &defaults, &served.eos_token_ids, limits)?;
    if options.prompt_logprobs.is_some() && valid.streaming != Streaming::Off {
        return Err(ApiError::invalid("prompt_logprobs is not available with stream: true; use echo and logprobs")
            .with_param("prompt_logprobs"));
    }
    if served.prompt.is_none() && !valid.stop.is_empty() {
        // Without a tokenizer there is no text to watch.
        served.prompt()?;
    }
    let fills_in = fields.suffix.is_some();
    let prompts = read_prompts(served, fields.prompt, fields.suffix).await?;
    let constraint = compile(served, wish).await?;
    let at_most =
        if hosted::is_named(common.model.as_deref()) { hosted::MAX_COMPLETION_TOKENS } else { limits.max_model_len };
    // 0 tokens make sense when the prompt itself is what is asked about.
    let at_least = if options.echo || options.prompt_logprobs.is_some() { 0 } else { 1 };
    let default = if fills_in { DEFAULT_MIDDLE_TOKENS } else { DEFAULT_MAX_TOKENS };
    let record = Record::new(&caller, "text_completion", model);
    let plan = plan(&prompts, &valid, &options, (service, record), |num_prompt_tokens| {
        sampling::max_tokens(
            fields.max_tokens,
            Excess::Refuse,
            at_least..=at_most,
            Some(default),
            num_prompt_tokens,
            limits,
        )
    })?;
    let plan = Plan { constraint, ..plan };
    let new_decoder = || Decoder::completion(served.prompt.as_deref(), &valid.stop);
    let generation = Generation::submit(&state, plan, new_decoder)?;
    let tokenizer = served.prompt.as_ref().map(|prompt| prompt.tokenizer());
    let prompts = prompts.into_iter().map(|prompt| Echoed::new(prompt, tokenizer, &options)).collect();
    let names = TokenNames::new(tokenizer.cloned(), options.tokens_as_ids);
    let choices = (0..generation.num_choices())
        .map(|index| ChoiceState { prompt: index / valid.num_choices, has_begun: false })
        .collect();
    let renderer = Renderer { names, options, prompts, choices };
    match valid.streaming {
        Streaming::Off => whole::respond(&state, collect(generation, renderer, answer)).await,
        Streaming::On { include_usage } => {
            let chunks = ChunkWriter::new(&answer, "text_completion", include_usage);
            sse::respond(&state, generation, Chunks { renderer, chunks }).await
        }
    }
}

/// The checked fields that only text completions have.
struct Options {
    echo: bool,
    logprobs: Option<u8>,
    prompt_logprobs: Option<u8>,
    tokens_as_ids: bool,
}

impl Options {
    fn validate(fields: &CompletionFields) -> Result<Self, ApiError> {
        let echo = fields.echo.unwrap_or(false);
        let scores_prompt = fields.prompt_logprobs.is_some() || (echo && fields.logprobs.is_some());
        if fields.suffix.is_some() && scores_prompt {
            return Err(ApiError::invalid(
                "Invalid suffix value, prompt_logprobs and logprobs with echo are about a prompt that the text continues; \
                 what is filled in stands between prompt and suffix",
            )
            .with_param("suffix"));
        }
        if fields.best_of.is_some_and(|best_of| best_of > 1) {
            return Err(
                ApiError::invalid("best_of is not supported; ask for n choices and choose").with_param("best_of")
            );
        }
        Ok(Options {
            echo,
            logprobs: num_logprobs("logprobs", fields.logprobs)?,
            prompt_logprobs: num_logprobs("prompt_logprobs", fields.prompt_logprobs)?,
            tokens_as_ids: fields.return_tokens_as_token_ids.unwrap_or(false),
        })
    }

    /// How many log-probabilities per prompt token the engine is to report.
    fn engine_prompt_logprobs(&self) -> Option<u8> {
        let echoed = if self.echo { self.logprobs } else { None };
        // `None` is less than any count.
        echoed.max(self.prompt_logprobs)
    }
}

fn num_logprobs(param: &str, value: Option<i64>) -> Result<Option<u8>, ApiError> {
    match value.map(u8::try_from) {
        None => Ok(None),
        Some(Ok(count)) if count <= MAX_LOGPROBS => Ok(Some(count)),
        Some(_) => Err(ApiError::range(param, format_args!("[0, {MAX_LOGPROBS}]"))),
    }
}

/// One prompt as the engine gets it.
struct ReadPrompt {
    /// As it was sent; `None` for token ids.
    text: Option<String>,
    ids: Vec<u32>,
}

async fn read_prompts(served: &Served, prompts: Prompts, suffix: Option<String>) -> Result<Vec<ReadPrompt>, ApiError> {
    let read: Vec<ReadPrompt> = match prompts {
        Prompts::Ids(_) if suffix.is_some() => {
            return Err(ApiError::invalid("Invalid prompt value, with a suffix it must be text").with_param("prompt"));
        }
        Prompts::Ids(lists) => {
            for (i, ids) in lists.iter().enumerate() {
                for (j, &id) in ids.iter().enumerate() {
                    let at = || if lists.len() == 1 { format!("prompt[{j}]") } else { format!("prompt[{i}][{j}]") };
                    check_token_id("prompt", at, id, served.engine.limits())?;
                }
            }
            lists.into_iter().map(|ids| ReadPrompt { text: None, ids }).collect()
        }
        Prompts::Texts(texts) => {
            let prompt = served.prompt()?.clone();
            let encode = move |text: String| {
                let ids = match &suffix {
                    Some(suffix) => prompt.encode_fill_in_the_middle(&text, suffix),
                    None => prompt.encode_completion(&text),
                };
                let ids = ids.map_err(prompt_error)?;
                Ok(ReadPrompt { text: Some(text), ids })
            };
            on_blocking_thread(move || texts.into_iter().map(encode).collect()).await?
        }
    };
    if read.iter().any(|prompt| prompt.ids.is_empty()) {
        return Err(ApiError::invalid("The prompt is empty; it must have at least one token").with_param("prompt"));
    }
    Ok(read)
}

/// Compiles what the text must be, off the threads that serve sockets.
async fn compile(served: &Served, wish: Wish) -> Result<Option<Box<dyn Constraint>>, ApiError> {
    if wish.answer == Wanted::Free {
        return Ok(None);
    }
    let prompt = served.prompt()?.clone();
    let grammar =
        on_blocking_thread(move || prompt.completion_grammar(&wish.answer).map_err(|error| wish.refusal(error)));
    Ok(grammar.await?.map(constraint::boxed))
}

fn plan(
    prompts: &[ReadPrompt],
    valid: &ValidFields,
    options: &Options,
    (service, record): (Service, Record),
    max_tokens: impl Fn(usize) -> Result<u32, ApiError>,
) -> Result<Plan, ApiError> {
    let mut planned = Vec::with_capacity(prompts.len());
    for prompt in prompts {
        let sampling = SamplingParams {
            max_tokens: max_tokens(prompt.ids.len())?,
            logprobs: options.logprobs,
            prompt_logprobs: options.engine_prompt_logprobs(),
            ..valid.sampling.clone()
        };
        sampling::check_min_tokens(&sampling)?;
        planned.push((prompt.ids.clone(), sampling));
    }
    Ok(Plan {
        prompts: planned,
        constraint: None,
        service,
        record,
        choices_per_prompt: valid.num_choices,
        counts_reasoning: false,
        answer_limit: AnswerLimit::default(),
    })
}

/// What an answer repeats of its prompt.
struct Echoed {
    ids: Vec<u32>,
    /// Empty without `echo`.
    text: String,
    /// Characters of `text` before each token; empty without `echo`.
    text_offsets: Vec<usize>,
    num_chars: usize,
}

impl Echoed {
    fn new(read: ReadPrompt, tokenizer: Option<&Arc<Tokenizer>>, options: &Options) -> Self {
        let ReadPrompt { text, ids } = read;
        if !options.echo {
            return Echoed { ids, text: String::new(), text_offsets: Vec::new(), num_chars: 0 };
        }
        let mut detokenizer = tokenizer.map(|tokenizer| Detokenizer::new(tokenizer.clone()));
        let mut decoded = String::new();
        let mut num_decoded_chars = 0;
        let mut text_offsets = Vec::with_capacity(ids.len());
        for &id in &ids {
            text_offsets.push(num_decoded_chars);
            let piece = detokenizer.as_mut().map(|detokenizer| detokenizer.push(id)).unwrap_or_default();
            num_decoded_chars += piece.chars().count();
            decoded.push_str(&piece);
        }
        decoded.push_str(&detokenizer.map(|mut detokenizer| detokenizer.flush()).unwrap_or_default());
        let num_decoded_chars = decoded.chars().count();
        let text = text.unwrap_or(decoded);
        let num_chars = text.chars().count();
        // A begin-of-sequence token that was put in front is no part of the text that was sent.
        let num_added_chars = num_decoded_chars.saturating_sub(num_chars);
        for offset in &mut text_offsets {
            *offset = offset.saturating_sub(num_added_chars);
        }
        Echoed { ids, text, text_offsets, num_chars }
    }
}

struct ChoiceState {
    /// Index of its prompt.
    prompt: usize,
    /// The echo has been rendered.
    has_begun: bool,
}

/// Renders outputs as pieces of text and log-probabilities.
struct Renderer {
    names: TokenNames,
    options: Options,
    prompts: Vec<Echoed>,
    choices: Vec<ChoiceState>,
}

/// Some of the text of a choice.
#[derive(Default)]
struct Piece {
    text: String,
    logprobs: Option<LegacyLogprobs>,
    prompt_logprobs: Option<Vec<Option<PromptPosition>>>,
    finish_reason: Option<&'static str>,
}

impl Renderer {
    /// The pieces of one output: the echo comes before whatever is first.
    fn render(&mut self, index: usize, output: Output, mut emit: impl FnMut(Piece)) {
        let is_first = !std::mem::replace(&mut self.choices[index].has_begun, true);
        let echoed = &self.prompts[self.choices[index].prompt];
        match output {
            Output::Prompt(logprobs) => return emit(self.prompt_piece(echoed, &logprobs)),
            // An echo without log-probabilities: the engine has nothing to say about the prompt.
            _ if is_first && self.options.echo => emit(Piece { text: echoed.text.clone(), ..Piece::default() }),
            _ => {}
        }
        match output {
            Output::Prompt(_) => {}
            Output::Token(token) => emit(self.token_piece(token, echoed.num_chars)),
            Output::End(End { tail, reason, .. }) => {
                emit(Piece { text: content(tail), finish_reason: Some(reason.name()), ..Piece::default() });
            }
        }
    }

    fn prompt_piece(&self, echoed: &Echoed, logprobs: &[PositionLogprobs]) -> Piece {
        let prompt_logprobs = self.options.prompt_logprobs.map(|count| {
            std::iter::once(None)
                .chain(logprobs.iter().map(|position| Some(self.prompt_position(position, count))))
                .collect()
        });
        let logprobs = self.options.logprobs.filter(|_| self.options.echo).map(|count| {
            let mut lists = LegacyLogprobs::default();
            for (i, (&id, &text_offset)) in echoed.ids.iter().zip(&echoed.text_offsets).enumerate() {
                lists.tokens.push(self.names.name(id));
                lists.text_offset.push(text_offset);
                let position = i.checked_sub(1).and_then(|i| logprobs.get(i));
                lists.token_logprobs.push(position.map(|position| position.token.logprob.max(LOGPROB_FLOOR)));
                lists.top_logprobs.push(position.map(|position| self.top_map(position, count)));
            }
            lists
        });
        Piece { text: echoed.text.clone(), logprobs, prompt_logprobs, finish_reason: None }
    }

    fn token_piece(&self, token: TokenOutput, num_echoed_chars: usize) -> Piece {
        let TokenOutput { id, deltas, logprobs, text_offset, .. } = token;
        let logprobs = self.options.logprobs.zip(logprobs).map(|(count, position)| LegacyLogprobs {
            tokens: vec![self.names.name(id)],
            token_logprobs: vec![Some(position.token.logprob.max(LOGPROB_FLOOR))],
            top_logprobs: vec![Some(self.top_map(&position, count))],
            text_offset: vec![num_echoed_chars + text_offset],
        });
        Piece { text: content(deltas), logprobs, ..Piece::default() }
    }

    /// The `count` likeliest tokens, and the position's own token if it is not among them.
    fn top_map(&self, position: &PositionLogprobs, count: u8) -> TopMap {
        let mut map = TopMap::default();
        for entry in position.top.iter().take(count.into()).chain([&position.token]) {
            map.insert(self.names.name(entry.id), entry.logprob.max(LOGPROB_FLOOR));
        }
        map
    }

    fn prompt_position(&self, position: &PositionLogprobs, count: u8) -> PromptPosition {
        let rank = |id| position.top.iter().position(|entry| entry.id == id).map(|i| i + 1);
        let own = position.token;
        let others = position.top.iter().take(count.into()).filter(|entry| entry.id != own.id);
        let entries = std::iter::once(&own).chain(others).map(|entry| {
            let logprob = entry.logprob.max(LOGPROB_FLOOR);
            (entry.id, PromptLogprob { logprob, rank: rank(entry.id), decoded_token: self.names.name(entry.id) })
        });
        PromptPosition(entries.collect())
    }
}

/// In a completion everything is content.
fn content(deltas: Vec<Delta>) -> String {
    let mut text = String::new();
    for delta in deltas {
        if let Delta::Content(part) = delta {
            if text.is_empty() { text = part } else { text.push_str(&part) }
        }
    }
    text
}

async fn collect(mut generation: Generation, mut renderer: Renderer, answer: Answer) -> Result<Vec<u8>, ApiError> {
    let mut choices: Vec<CompletionChoice> = (0..generation.num_choices())
        .map(|index| CompletionChoice {
            index,
            text: String::new(),
            logprobs: renderer.options.logprobs.map(|_| LegacyLogprobs::default()),
            finish_reason: "",
            prompt_logprobs: None,
        })
        .collect();
    while let Some(next) = generation.next().await {
        let (index, output) = next?;
        let choice = &mut choices[index];
        renderer.render(index, output, |piece| {
            choice.text.push_str(&piece.text);
            if let (Some(all), Some(new)) = (&mut choice.logprobs, piece.logprobs) {
                all.extend(new);
            }
            if piece.prompt_logprobs.is_some() {
                choice.prompt_logprobs = piece.prompt_logprobs;
            }
            choice.finish_reason = piece.finish_reason.unwrap_or(choice.finish_reason);
        });
    }
    let mut body = Vec::new();
    write_json(
        &mut body,
        &Completion {
            id: &answer.id,
            object: "text_completion",
            created: answer.created,
            model: &answer.model,
            choices,
            usage: generation.usage(),
            system_fingerprint: answer.system_fingerprint,
            service_tier: answer.service_tier,
        },
    );
    Ok(body)
}

struct Chunks {
    renderer: Renderer,
    chunks: ChunkWriter,
}

impl WriteChunks for Chunks {
    fn write(&mut self, index: usize, output: Output, usage: Option<&Usage>, frame: &mut Vec<u8>) {
        let Chunks { renderer, chunks } = self;
        renderer.render(index, output, |piece| {
            let usage = usage.filter(|_| piece.finish_reason.is_some());
            let payload = |frame: &mut Vec<u8>| {
                frame.extend_from_slice(br#""text":"#);
                write_json(frame, &piece.text);
            };
            chunks.chunk(frame, index, payload, piece.logprobs.as_ref(), piece.finish_reason, usage);
        });
    }
}
