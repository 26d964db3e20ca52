//! From a conversation to token ids, as the release was trained to see it.

use std::sync::{Arc, OnceLock};

use crate::chat::{Chat, Message, Role};
use crate::encoding::{self, ASSISTANT, BOS, EOS, THINK_CLOSE, THINK_OPEN, USER};
use crate::error::{Error, Result};
use crate::files::PromptFiles;
use crate::grammar::Vocabulary;
use crate::release::{Release, ThinkingPolicy};
use crate::script::Script;
use crate::template::{self, ChatTemplate};
use crate::tokenizer::Tokenizer;

/// Everything between text and token ids for one checkpoint. It never changes after it was opened.
pub struct Prompt {
    release: Release,
    reason: &'static str,
    notices: Vec<String>,
    tokenizer: Arc<Tokenizer>,
    template: Option<ChatTemplate>,
    adds_bos: bool,
    eos_token_ids: Vec<u32>,
    silent: Arc<[u32]>,
    sampling: SamplingDefaults,
    /// Made for the first grammar: most checkpoints that are opened never need it.
    vocabulary: OnceLock<std::result::Result<Arc<Vocabulary>, String>>,
}

/// An encoded conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// The prompt as one string. Its ids are not those of tokenising this string wherever a message holds the text of a
    /// control token: in the string the two look the same.
    pub text: String,
    /// The prompt's token ids.
    pub ids: Vec<u32>,
    /// Whether the prompt's last think tag is an opening one, so that the reply begins inside its reasoning.
    pub reasoning_open: bool,
    /// Whether the prompt was encoded for a reply with reasoning, opened by the prompt or by the model.
    pub thinking: bool,
}

/// How the release likes to be sampled; a request's own values win.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SamplingDefaults {
    /// Softmax temperature.
    pub temperature: Option<f32>,
    /// Nucleus sampling: the probability mass to keep.
    pub top_p: Option<f32>,
    /// How many tokens to keep.
    pub top_k: Option<u32>,
    /// The smallest probability to keep, relative to the highest.
    pub min_p: Option<f32>,
    /// Divides the logits of tokens that were seen.
    pub repetition_penalty: Option<f32>,
}

impl Prompt {
    /// Opens a checkpoint's text side. Without `release`, it is [detected](Release::detect).
    ///
    /// # Errors
    /// For files that are missing or malformed, a release that cannot be told, and a template that does not compile.
    pub fn open(files: &PromptFiles, release: Option<Release>) -> Result<Self> {
        let (release, reason) = match release {
            Some(release) => (release, "it was named"),
            None => Release::detect(files)?,
        };
        let tokenizer = Arc::new(Tokenizer::from_bytes(files.tokenizer_bytes()?)?);
        let config = files.tokenizer_config()?;
        let generation = files.generation_config()?;
        let mut notices = Vec::new();

        let special_tokens = template::special_tokens(&config);
        let source = files.chat_template_source()?;
        let template = match release {
            Release::V3_2 | Release::V3_2Speciale => {
                if source.is_some() {
                    notices.push(format!(
                        "the checkpoint's chat template is not used: {release} is encoded by its published algorithm"
                    ));
                }
                None
            }
            _ => source.map(|source| ChatTemplate::compile(source.into_owned(), special_tokens.clone())).transpose()?,
        };
        if template.as_ref().is_some_and(|template| !template.keeps_tool_calls) {
            notices.push(format!(
                "the checkpoint's chat template loses or mixes up tool calls: conversations that have any are encoded by \
                 the built-in {release} encoding"
            ));
        }
        for token in [BOS, EOS, USER, ASSISTANT] {
            if tokenizer.id_of(token).is_none() {
                notices.push(format!("the tokenizer has no {token}: chat is encoded without it as a token"));
            }
        }

        let named = special_tokens.iter().filter_map(|(_, text)| tokenizer.id_of(text));
        let guards = [BOS, EOS, USER, ASSISTANT, "<｜▁pad▁｜>", "<|EOT|>"];
        let guards = guards.into_iter().filter_map(|token| tokenizer.id_of(token));
        let eos_token_ids = eos_token_ids(files, &tokenizer)?;
        let mut silent: Vec<u32> = eos_token_ids.iter().copied().chain(named).chain(guards).collect();
        silent.sort_unstable();
        silent.dedup();

        let sampling = if files.generation_config.is_some() {
            SamplingDefaults {
                temperature: generation.temperature,
                top_p: generation.top_p,
                top_k: generation.top_k,
                min_p: generation.min_p,
                repetition_penalty: generation.repetition_penalty,
            }
        } else {
            advised_sampling(release)
        };
        Ok(Self {
            release,
            reason,
            notices,
            tokenizer,
            template,
            adds_bos: config.add_bos_token.unwrap_or(false),
            eos_token_ids,
            silent: silent.into(),
            sampling,
            vocabulary: OnceLock::new(),
        })
    }

    /// The release whose encoding is used.
    pub fn release(&self) -> Release {
        self.release
    }

    /// Why it is that release: the observation that decided.
    pub fn release_reason(&self) -> &'static str {
        self.reason
    }

    /// What whoever runs the checkpoint should know: files that are not used, tokens that are missing.
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    /// Ids that end a reply, sorted: those of generation_config.json, config.json and tokenizer_config.json, and as
    /// guards the tokens that begin a text or a user turn, after which nothing of a reply can follow.
    pub fn eos_token_ids(&self) -> &[u32] {
        &self.eos_token_ids
    }

    pub(crate) fn vocabulary_cell(&self) -> &OnceLock<std::result::Result<Arc<Vocabulary>, String>> {
        &self.vocabulary
    }

    /// Ids that never become text in an output.
    pub(crate) fn silent_token_ids(&self) -> &Arc<[u32]> {
        &self.silent
    }

    /// Sampling parameters for requests that name none: those of generation_config.json, or without that file the ones
    /// that the release's publication advises.
    pub fn sampling_defaults(&self) -> SamplingDefaults {
        self.sampling
    }

    /// Whether the model thinks when a request does not say.
    pub fn thinks_by_default(&self) -> bool {
        self.release.thinking_policy() == ThinkingPolicy::Always
    }

    /// Whether a request may ask for `thinking` to be so.
    pub fn supports_thinking(&self, thinking: bool) -> bool {
        match self.release.thinking_policy() {
            ThinkingPolicy::Never => !thinking,
            ThinkingPolicy::Always => thinking,
            ThinkingPolicy::Switch => true,
        }
    }

    /// Encodes a conversation, up to the point where the model goes on.
    ///
    /// # Errors
    /// [`Error::Chat`] and [`Error::Message`] for conversations that cannot be encoded, [`Error::Template`] when the
    /// checkpoint's template refuses.
    pub fn render(&self, chat: &Chat) -> Result<Rendered> {
        let Some(last) = chat.messages.last() else { return Err(Error::Chat("messages is empty".to_owned())) };
        let thinking = self.thinks(chat);
        if let Some(index) = misplaced_prefix(&chat.messages) {
            let reason = "prefix is for the last message, and only if it is an assistant message".to_owned();
            return Err(Error::Message { index, reason });
        }
        let script = if last.prefix { self.encode_prefix(chat, last, thinking)? } else { self.encode(chat, thinking)? };
        let (text, ids) = script.finish(&self.tokenizer)?;
        let reasoning_open = self.reasoning_is_open(&ids);
        Ok(Rendered { text, ids, reasoning_open, thinking })
    }

    /// The ids of a plain completion's prompt: control tokens in it count, and it begins with the token that begins a
    /// text if tokenizer_config.json asks for that.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_completion(&self, text: &str) -> Result<Vec<u32>> {
        let ids = self.tokenizer.encode(text)?;
        match self.tokenizer.id_of(BOS) {
            Some(bos) if self.adds_bos && ids.first() != Some(&bos) => Ok([vec![bos], ids].concat()),
            _ => Ok(ids),
        }
    }

    /// The ids that ask for the middle between two texts, in which control tokens are text.
    ///
    /// # Errors
    /// [`Error::MissingToken`] when the vocabulary has no tokens for it.
    pub fn encode_fill_in_the_middle(&self, before: &str, after: &str) -> Result<Vec<u32>> {
        let id = |token: &str| {
            let missing = || Error::MissingToken { token: token.to_owned(), needed_for: "filling in the middle" };
            self.tokenizer.id_of(token).ok_or_else(missing)
        };
        let mut ids = vec![id(BOS)?, id("<｜fim▁begin｜>")?];
        ids.extend(self.tokenizer.encode_plain(before)?);
        ids.push(id("<｜fim▁hole｜>")?);
        ids.extend(self.tokenizer.encode_plain(after)?);
        ids.push(id("<｜fim▁end｜>")?);
        Ok(ids)
    }

    /// Whether the reply will have reasoning. V3.1 and its successors before V3.2 were not trained to call tools while
    /// they think, so with tools they reply at once, as the hosted service does.
    pub fn thinks(&self, chat: &Chat) -> bool {
        let calls_without_thinking =
            matches!(self.release, Release::V3_1 | Release::V3_1Terminus | Release::V3_2Exp) && !chat.tools.is_empty();
        match self.release.thinking_policy() {
            ThinkingPolicy::Never => false,
            ThinkingPolicy::Always => true,
            ThinkingPolicy::Switch => chat.thinking && !calls_without_thinking,
        }
    }

    fn encode(&self, chat: &Chat, thinking: bool) -> Result<Script> {
        let has_calls = chat.messages.iter().any(|message| !message.tool_calls.is_empty());
        match &self.template {
            Some(template) if template.keeps_tool_calls || !has_calls => {
                template.encode(&self.tokenizer, self.release, chat, thinking)
            }
            _ => encoding::encode(self.release, chat, thinking),
        }
    }

    /// Encodes a conversation whose last message the model is to continue: the prompt for a reply, and the beginning of
    /// the reply after it.
    ///
    /// The message's reasoning belongs between the tags; with reasoning and no content, the reasoning is what goes on.
    /// Content without reasoning means that the model does not think, whatever was asked.
    fn encode_prefix(&self, chat: &Chat, last: &Message, thinking: bool) -> Result<Script> {
        if !last.tool_calls.is_empty() {
            let reason = "a message that is to be continued cannot have tool_calls".to_owned();
            return Err(Error::Message { index: chat.messages.len() - 1, reason });
        }
        let before = Chat { messages: chat.messages[..chat.messages.len() - 1].to_vec(), ..chat.clone() };
        let mut script = match before.messages.as_slice() {
            [] => return Err(Error::Chat("there is no message before the one to continue".to_owned())),
            _ => self.encode(&before, thinking)?,
        };
        let padded = self.release.pads_reasoning_with_newlines();
        let (opening, closing) = if padded { ("<think>\n", "\n</think>\n\n") } else { (THINK_OPEN, THINK_CLOSE) };
        let opened = script.strip_control_suffix(opening);
        if !last.reasoning().is_empty() && (opened || padded) {
            script.control(opening);
            script.verbatim(last.reasoning());
            if !last.text().is_empty() {
                script.control(closing);
            }
        } else if opened && last.text().is_empty() {
            script.control(opening);
        } else if opened && padded {
            script.control(opening);
            script.control(closing);
        } else if opened {
            script.control(closing);
        }
        script.verbatim(last.text());
        Ok(script)
    }

    fn reasoning_is_open(&self, ids: &[u32]) -> bool {
        let open = self.tokenizer.id_of(THINK_OPEN);
        let close = self.tokenizer.id_of(THINK_CLOSE);
        let is_tag = |id: &&u32| Some(**id) == open || Some(**id) == close;
        ids.iter().rev().find(is_tag).is_some_and(|&id| Some(id) == open)
    }
}

/// The first message that has `prefix` and must not.
fn misplaced_prefix(messages: &[Message]) -> Option<usize> {
    let last = messages.len() - 1;
    let allowed = |index: usize, message: &Message| index == last && message.role == Role::Assistant;
    messages.iter().enumerate().position(|(index, message)| message.prefix && !allowed(index, message))
}

fn eos_token_ids(files: &PromptFiles, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
    let mut ids = Vec::new();
    for stated in [files.generation_config()?.eos_token_id, files.config_eos()?].iter().flatten() {
        ids.extend_from_slice(stated.as_slice());
    }
    let named = files.tokenizer_config()?.eos_token;
    let texts = named.iter().map(|name| name.text()).chain([EOS, BOS, USER]);
    ids.extend(texts.filter_map(|text| tokenizer.id_of(text)));
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

/// What the model cards advise, for checkpoints without generation_config.json.
fn advised_sampling(release: Release) -> SamplingDefaults {
    let (temperature, top_p) = match release {
        Release::V3 | Release::V3_2Exp => (None, None),
        Release::V3_0324 => (Some(0.3), None),
        Release::R1 | Release::R1_0528 | Release::R1_0528Qwen3_8B | Release::V3_1 | Release::V3_1Terminus => {
            (Some(0.6), Some(0.95))
        }
        Release::V3_2 | Release::V3_2Speciale => (Some(1.0), Some(0.95)),
    };
    SamplingDefaults { temperature, top_p, ..SamplingDefaults::default() }
}
