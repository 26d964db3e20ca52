//! A server over a model that says what the test tells it to.

// Each test program uses its part of these helpers.
#![allow(dead_code)]

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode, header};
use axum::{Router, http::HeaderMap};
use cachalot_engine::{Engine, EngineConfig, EngineHandle, KvCacheSize};
use cachalot_model::{BLOCK_SIZE, Batch, HiddenStates, LanguageModel, Result};
use cachalot_prompt::{Prompt, PromptFiles};
use cachalot_server::{AppState, Served, ServerConfig, install_metrics, router};
use serde_json::{Value, json};
use tower::ServiceExt;

/// Token ids are bytes up to here; then come three merged tokens and the control tokens.
pub(crate) const NEWLINE: u32 = b'\n' as u32;
pub(crate) const HE: u32 = 256;
pub(crate) const LL: u32 = 257;
pub(crate) const HELL: u32 = 258;
pub(crate) const BOS: u32 = 259;
pub(crate) const EOS: u32 = 260;
pub(crate) const USER: u32 = 261;
pub(crate) const ASSISTANT: u32 = 262;
pub(crate) const THINK: u32 = 263;
pub(crate) const END_THINK: u32 = 264;
pub(crate) const DSML: u32 = 265;
pub(crate) const FIM_BEGIN: u32 = 266;
pub(crate) const FIM_HOLE: u32 = 267;
pub(crate) const FIM_END: u32 = 268;
const CONTROL: [(u32, &str); 7] = [
    (BOS, "<｜begin▁of▁sentence｜>"),
    (EOS, "<｜end▁of▁sentence｜>"),
    (USER, "<｜User｜>"),
    (ASSISTANT, "<｜Assistant｜>"),
    (THINK, "<think>"),
    (END_THINK, "</think>"),
    (DSML, "｜DSML｜"),
];
/// The model has a few more rows than the tokenizer has tokens, as real checkpoints do.
pub(crate) const VOCAB_SIZE: usize = 272;

/// The character that stands for a byte in a byte-level vocabulary.
fn byte_character(byte: u8) -> char {
    let is_printable = |byte: u8| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    if is_printable(byte) {
        return char::from(byte);
    }
    let rank = (0..byte).filter(|&other| !is_printable(other)).count() as u32;
    char::from_u32(256 + rank).unwrap()
}

/// The tokens around a gap, which not every checkpoint has.
pub(crate) const FILL_IN_THE_MIDDLE: [(u32, &str); 3] =
    [(FIM_BEGIN, "<｜fim▁begin｜>"), (FIM_HOLE, "<｜fim▁hole｜>"), (FIM_END, "<｜fim▁end｜>")];

/// The files of a V3.2 checkpoint whose tokens are bytes, three merges and the control tokens.
pub(crate) fn prompt_files() -> PromptFiles {
    prompt_files_with(&[])
}

/// [`prompt_files`] with more control tokens.
pub(crate) fn prompt_files_with(control: &[(u32, &str)]) -> PromptFiles {
    let mut vocab = serde_json::Map::new();
    for byte in 0..=255u8 {
        vocab.insert(byte_character(byte).to_string(), json!(byte));
    }
    for (text, id) in [("he", HE), ("ll", LL), ("hell", HELL)] {
        vocab.insert(text.to_owned(), json!(id));
    }
    let added = CONTROL.iter().chain(control).map(|(id, content)| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    });
    let added: Vec<Value> = added.collect();
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                  "vocab": vocab, "merges": ["h e", "l l", "he ll"]}
    });
    let config = json!({"architectures": ["DeepseekV32ForCausalLM"], "eos_token_id": EOS});
    let tokenizer_config = json!({"bos_token": CONTROL[0].1, "eos_token": CONTROL[1].1, "pad_token": CONTROL[1].1, "add_bos_token": false});
    PromptFiles {
        config: Some(config.to_string().into_bytes()),
        tokenizer: Some(tokenizer.to_string().into_bytes()),
        tokenizer_config: Some(tokenizer_config.to_string().into_bytes()),
        name: "tiny".to_owned(),
        ..PromptFiles::default()
    }
}

/// Answers with `script`, whatever it is asked, then with the end of sequence.
///
/// It keeps the tokens of each sequence in its cache, as a real model keeps keys, and finds the beginning of its answer there:
/// after the tag behind the last `<｜Assistant｜>`, after the last `<think>`, or in a prompt that has neither, after the last
/// newline. Scripts have no such tokens, and those of plain completions no newlines.
#[derive(Clone)]
pub(crate) struct ScriptedModel {
    pub(crate) script: Vec<u32>,
    /// The script starts again instead of ending.
    pub(crate) endless: bool,
    /// How much likelier the script's token is than each other: its logit.
    pub(crate) certainty: f32,
    pub(crate) max_model_len: usize,
    pub(crate) step_time: Duration,
    /// Every step after so many fails.
    pub(crate) breaks_after: Option<usize>,
    /// It drafts what it is about to say.
    pub(crate) has_mtp: bool,
    num_steps: usize,
    cache: Vec<u32>,
}

impl ScriptedModel {
    pub(crate) fn new(script: &[u32]) -> Self {
        ScriptedModel {
            script: script.to_vec(),
            endless: false,
            certainty: 20.0,
            max_model_len: 2048,
            step_time: Duration::ZERO,
            breaks_after: None,
            has_mtp: false,
            num_steps: 0,
            cache: Vec::new(),
        }
    }

    /// Says this text as the tokenizer cuts it, which grammars insist on; `D` and `T` stand for `｜DSML｜` and `</think>`.
    pub(crate) fn saying_tokens(text: &str) -> Self {
        let prompt = Prompt::open(&prompt_files(), None).unwrap();
        let text = text.replace('D', "｜DSML｜").replace('T', "</think>");
        Self::new(&prompt.tokenizer().encode(&text).unwrap())
    }

    /// Says this text, byte by byte.
    pub(crate) fn saying(text: &str) -> Self {
        Self::new(&text.bytes().map(u32::from).collect::<Vec<_>>())
    }
}

impl ScriptedModel {
    /// The token that comes `distance` after that of a row.
    fn next(&self, batch: &Batch, row: u32, distance: usize) -> u32 {
        let seq = batch.query_start_loc.partition_point(|&start| start <= row) - 1;
        let blocks = &batch.block_table[seq * batch.max_blocks..(seq + 1) * batch.max_blocks];
        let position = batch.positions[row as usize] as usize;
        let token = |at: usize| self.cache[blocks[at / BLOCK_SIZE] as usize * BLOCK_SIZE + at % BLOCK_SIZE];
        let in_chat = (0..=position).rev().find_map(|at| match token(at) {
            ASSISTANT => Some(at + 2),
            THINK => Some(at + 1),
            _ => None,
        });
        let start = in_chat.or_else(|| (0..=position).rev().find(|&at| token(at) == NEWLINE).map(|at| at + 1));
        let said = (position + distance).saturating_sub(start.unwrap_or(1));
        let said = if self.endless { said % self.script.len() } else { said };
        self.script.get(said).copied().unwrap_or(EOS)
    }
}

impl LanguageModel for ScriptedModel {
    fn vocab_size(&self) -> usize {
        VOCAB_SIZE
    }

    fn max_model_len(&self) -> usize {
        self.max_model_len
    }

    fn kv_block_bytes(&self) -> usize {
        BLOCK_SIZE
    }

    fn allocate(&mut self, num_blocks: usize, _: usize, _: usize) -> Result<()> {
        self.cache = vec![0; num_blocks * BLOCK_SIZE];
        Ok(())
    }

    fn forward(&mut self, batch: &Batch, logits: &mut [f32]) -> Result<()> {
        if !self.step_time.is_zero() {
            std::thread::sleep(self.step_time);
        }
        self.num_steps += 1;
        if self.breaks_after.is_some_and(|num_good| self.num_steps > num_good) {
            return Err(cachalot_model::Error::Invalid("the model is broken".to_owned()));
        }
        for (&slot, &id) in batch.slot_mapping.iter().zip(&batch.input_ids) {
            self.cache[slot as usize] = id;
        }
        logits.fill(0.0);
        for (&row, logits) in batch.logits_indices.iter().zip(logits.chunks_exact_mut(VOCAB_SIZE)) {
            logits[self.next(batch, row, 1) as usize] = self.certainty;
        }
        Ok(())
    }

    fn has_mtp(&self) -> bool {
        self.has_mtp
    }

    fn forward_mtp(&mut self, batch: &Batch, _: HiddenStates<'_>, logits: &mut [f32]) -> Result<()> {
        logits.fill(0.0);
        for (&row, logits) in batch.logits_indices.iter().zip(logits.chunks_exact_mut(VOCAB_SIZE)) {
            logits[self.next(batch, row, 2) as usize] = self.certainty;
        }
        Ok(())
    }
}

/// What to start a server with.
pub(crate) struct Setup {
    pub(crate) model: ScriptedModel,
    pub(crate) engine: EngineConfig,
    pub(crate) server: ServerConfig,
    /// `None` is a checkpoint without a tokenizer.
    pub(crate) files: Option<PromptFiles>,
}

impl Setup {
    pub(crate) fn new(model: ScriptedModel) -> Self {
        let engine = EngineConfig { kv_cache: KvCacheSize::Blocks(256), ..EngineConfig::default() };
        Setup { model, engine, server: ServerConfig::default(), files: Some(prompt_files()) }
    }

    pub(crate) fn saying(text: &str) -> Self {
        Self::new(ScriptedModel::saying(text))
    }

    pub(crate) fn start(self) -> TestServer {
        let state = loading(self.server);
        let engine = Engine::start(Box::new(self.model), self.engine).unwrap();
        let prompt = self.files.map(|files| Arc::new(Prompt::open(&files, None).unwrap()));
        state.publish(Served {
            model_name: "tiny".to_owned(),
            engine: engine.clone(),
            prompt,
            eos_token_ids: vec![EOS],
        });
        TestServer { router: router(state.clone()), state, engine }
    }
}

/// The state of a server without a model. The recorder belongs to the process, so all servers of a test program share it.
pub(crate) fn loading(config: ServerConfig) -> AppState {
    static METRICS: OnceLock<metrics_exporter_prometheus::PrometheusHandle> = OnceLock::new();
    AppState::loading(config, METRICS.get_or_init(|| install_metrics().unwrap()).clone())
}

pub(crate) struct TestServer {
    pub(crate) router: Router,
    pub(crate) state: AppState,
    pub(crate) engine: EngineHandle,
}

/// An answer, read to its end.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {:?}", self.body))
    }

    /// The value at a JSON pointer.
    pub(crate) fn at(&self, pointer: &str) -> Value {
        self.json().pointer(pointer).cloned().unwrap_or_else(|| panic!("no {pointer} in {}", self.body))
    }

    /// The chunks of a stream, which ends with `[DONE]`.
    pub(crate) fn chunks(&self) -> Vec<Value> {
        assert_eq!(self.headers[header::CONTENT_TYPE], "text/event-stream", "{}", self.body);
        let mut events: Vec<&str> = self
            .body
            .split_terminator("\n\n")
            .filter(|event| !event.starts_with(':'))
            .map(|event| event.strip_prefix("data: ").unwrap())
            .collect();
        assert_eq!(events.pop(), Some("[DONE]"));
        events.into_iter().map(|event| serde_json::from_str(event).unwrap()).collect()
    }
}

impl TestServer {
    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = String::from_utf8(to_bytes(body, usize::MAX).await.unwrap().into()).unwrap();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path).body(Body::empty()).unwrap()).await
    }

    pub(crate) async fn post_text(&self, path: &str, body: impl Into<String>) -> Answer {
        let request = Request::post(path).header(header::CONTENT_TYPE, "application/json");
        self.send(request.body(Body::from(body.into())).unwrap()).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.post_text(path, body.to_string()).await
    }

    pub(crate) async fn chat(&self, body: Value) -> Answer {
        self.post("/v1/chat/completions", body).await
    }

    pub(crate) async fn complete(&self, body: Value) -> Answer {
        self.post("/v1/completions", body).await
    }
}

/// The members of `extra` put over those of `base`.
pub(crate) fn merged(base: &Value, extra: Value) -> Value {
    let mut merged = base.clone();
    let Value::Object(extra) = extra else { panic!("{extra} is not an object") };
    merged.as_object_mut().unwrap().extend(extra);
    merged
}
