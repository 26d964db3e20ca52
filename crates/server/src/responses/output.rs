//! What an answer is made of, and how deltas become it.

use cachalot_engine::PositionLogprobs;
use cachalot_prompt::{Defect, Delta};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::answer::Answer;
use crate::decoder::Channel;
use crate::error::ApiError;
use crate::generation::{End, EndReason, Output, TokenOutput};
use crate::token_names::TokenNames;
use crate::wire::chat::call_id;
use crate::wire::logprobs::TokenLogprob;
use crate::wire::usage::Usage;

/// What an answer repeats of its request, as it was sent.
#[derive(Debug, Deserialize)]
pub(super) struct Echo {
    instructions: Option<Value>,
    max_output_tokens: Option<Value>,
    metadata: Option<Value>,
    parallel_tool_calls: Option<Value>,
    reasoning: Option<Map<String, Value>>,
    temperature: Option<Value>,
    text: Option<Value>,
    tool_choice: Option<Value>,
    tools: Option<Value>,
    top_logprobs: Option<Value>,
    top_p: Option<Value>,
    truncation: Option<Value>,
    user: Option<Value>,
}

/// An answer that is being made.
pub(super) struct Reply {
    answer: Answer,
    echo: Echo,
    names: TokenNames,
    encrypts_reasoning: bool,
    /// The last one may still be open.
    items: Vec<Item>,
    is_open: bool,
    num_calls: usize,
    end: Option<(EndReason, Option<Defect>)>,
    error: Option<ApiError>,
    usage: Option<Usage>,
}

/// What happens to an item; with its index among the items.
pub(super) enum Step<'a> {
    Opened(usize, &'a Item),
    Grown(usize, &'a Item, &'a str, &'a [TokenLogprob]),
    Closed(usize, &'a Item),
}

#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Item {
    Reasoning {
        id: String,
        status: &'static str,
        summary: [(); 0],
        content: Vec<Part>,
        /// The same text, for clients that keep this and not the content: both are read when they come back.
        encrypted_content: Option<String>,
    },
    Message {
        id: String,
        status: &'static str,
        role: &'static str,
        content: Vec<Part>,
    },
    FunctionCall {
        id: String,
        status: &'static str,
        call_id: String,
        name: String,
        arguments: String,
    },
}

#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Part {
    ReasoningText { text: String },
    OutputText { text: String, annotations: [(); 0], logprobs: Vec<TokenLogprob> },
}

impl Item {
    fn id(prefix: &str) -> String {
        format!("{prefix}_{}", uuid::Uuid::new_v4().simple())
    }

    fn reasoning() -> Self {
        Item::Reasoning {
            id: Item::id("rs"),
            status: "in_progress",
            summary: [],
            content: Vec::new(),
            encrypted_content: None,
        }
    }

    fn message() -> Self {
        Item::Message { id: Item::id("msg"), status: "in_progress", role: "assistant", content: Vec::new() }
    }

    fn grow(&mut self, more: &str, logprobs: Vec<TokenLogprob>) {
        match self {
            Item::Reasoning { content, .. } => {
                if content.is_empty() {
                    content.push(Part::ReasoningText { text: String::new() });
                }
            }
            Item::Message { content, .. } => {
                if content.is_empty() {
                    content.push(Part::OutputText { text: String::new(), annotations: [], logprobs: Vec::new() });
                }
            }
            Item::FunctionCall { arguments, .. } => return arguments.push_str(more),
        }
        let (Item::Reasoning { content, .. } | Item::Message { content, .. }) = self else { return };
        match content.first_mut() {
            Some(Part::ReasoningText { text }) => text.push_str(more),
            Some(Part::OutputText { text, logprobs: all, .. }) => {
                text.push_str(more);
                all.extend(logprobs);
            }
            None => {}
        }
    }

    fn close(&mut self, is_complete: bool, encrypts_reasoning: bool) {
        if let Item::Reasoning { content, encrypted_content, .. } = self
            && let Some(Part::ReasoningText { text }) = content.first()
        {
            *encrypted_content = encrypts_reasoning.then(|| text.clone());
        }
        let (Item::Reasoning { status, .. } | Item::Message { status, .. } | Item::FunctionCall { status, .. }) = self;
        *status = if is_complete { "completed" } else { "incomplete" };
    }
}

impl Reply {
    pub(super) fn new(answer: Answer, echo: Echo, names: TokenNames, encrypts_reasoning: bool) -> Self {
        Reply {
            answer,
            echo,
            names,
            encrypts_reasoning,
            items: Vec::new(),
            is_open: false,
            num_calls: 0,
            end: None,
            error: None,
            usage: None,
        }
    }

    /// Takes one output; `tell` hears what it does to the items.
    pub(super) fn push(&mut self, output: Output, tell: &mut impl FnMut(Step<'_>)) {
        match output {
            Output::Prompt(_) => {}
            Output::Token(TokenOutput { deltas, channel, logprobs, .. }) => {
                // Only text has log-probabilities here. A token whose text is held back tells its own all the same.
                let logprobs = logprobs.filter(|_| channel == Channel::Content);
                let mut logprobs: Vec<_> = logprobs.iter().map(|position| self.token_logprob(position)).collect();
                if deltas.is_empty() && !logprobs.is_empty() {
                    self.delta(Delta::Content(String::new()), logprobs, tell);
                } else {
                    for delta in deltas {
                        self.delta(delta, std::mem::take(&mut logprobs), tell);
                    }
                }
            }
            Output::End(End { tail, reason, defect }) => {
                for delta in tail {
                    self.delta(delta, Vec::new(), tell);
                }
                self.close(reason != EndReason::Length, tell);
                self.end = Some((reason, defect));
            }
        }
    }

    fn token_logprob(&self, position: &PositionLogprobs) -> TokenLogprob {
        TokenLogprob::new(&self.names, position)
    }

    fn delta(&mut self, delta: Delta, logprobs: Vec<TokenLogprob>, tell: &mut impl FnMut(Step<'_>)) {
        let last = self.items.last().filter(|_| self.is_open);
        let (text, item) = match delta {
            Delta::Reasoning(text) => (text, (!matches!(last, Some(Item::Reasoning { .. }))).then(Item::reasoning)),
            Delta::Content(text) => (text, (!matches!(last, Some(Item::Message { .. }))).then(Item::message)),
            Delta::CallBegin { name } => {
                self.num_calls += 1;
                let item = Item::FunctionCall {
                    id: Item::id("fc"),
                    status: "in_progress",
                    call_id: call_id(self.num_calls - 1),
                    name,
                    arguments: String::new(),
                };
                (String::new(), Some(item))
            }
            Delta::CallArguments(text) => (text, None),
        };
        if let Some(item) = item {
            self.close(true, tell);
            self.is_open = true;
            tell(Step::Opened(self.items.len(), &item));
            self.items.push(item);
        }
        let index = self.items.len() - 1;
        let item = &mut self.items[index];
        // The beginning of a call says all that there is to say.
        if !text.is_empty() || !logprobs.is_empty() {
            let new_logprobs = logprobs.clone();
            item.grow(&text, logprobs);
            tell(Step::Grown(index, item, &text, &new_logprobs));
        }
    }

    fn close(&mut self, is_complete: bool, tell: &mut impl FnMut(Step<'_>)) {
        if std::mem::take(&mut self.is_open) {
            let index = self.items.len() - 1;
            self.items[index].close(is_complete, self.encrypts_reasoning);
            tell(Step::Closed(index, &self.items[index]));
        }
    }

    /// Everything has been pushed.
    pub(super) fn finish(&mut self, usage: Usage) {
        self.usage = Some(usage);
    }

    /// Nothing more will come.
    pub(super) fn fail(&mut self, error: &ApiError) {
        self.error = Some(error.clone());
    }

    /// How the answer stands.
    pub(super) fn status(&self) -> &'static str {
        match (&self.error, &self.end) {
            (Some(_), _) | (None, Some((_, Some(_)))) => "failed",
            (None, None) => "in_progress",
            (None, Some((EndReason::Length, None))) => "incomplete",
            (None, Some(_)) => "completed",
        }
    }

    /// The answer as far as it is there.
    pub(super) fn response(&self) -> impl Serialize {
        let Echo {
            instructions,
            max_output_tokens,
            metadata,
            parallel_tool_calls,
            reasoning,
            temperature,
            text,
            tool_choice,
            tools,
            top_logprobs,
            top_p,
            truncation,
            user,
        } = &self.echo;
        let status = self.status();
        let error = match (&self.error, &self.end) {
            (Some(error), _) => json!({"code": failure_code(error), "message": error.to_string()}),
            (None, Some((_, Some(Defect { message, text })))) => {
                json!({"code": "malformed_tool_call", "message": message, "text": text})
            }
            _ => Value::Null,
        };
        let incomplete_details = match status {
            "incomplete" => json!({"reason": "max_output_tokens"}),
            _ => Value::Null,
        };
        json!({
            "id": format!("resp_{}", self.answer.id.replace('-', "")),
            "object": "response",
            "created_at": self.answer.created,
            "status": status,
            "background": false,
            "error": error,
            "incomplete_details": incomplete_details,
            "instructions": instructions,
            "max_output_tokens": max_output_tokens,
            "metadata": metadata.clone().unwrap_or_else(|| json!({})),
            "model": self.answer.model,
            "output": self.items,
            "parallel_tool_calls": parallel_tool_calls.clone().unwrap_or(Value::Bool(true)),
            "previous_response_id": null,
            "reasoning": {
                "effort": reasoning.as_ref().and_then(|reasoning| reasoning.get("effort")),
                "summary": null,
            },
            "service_tier": self.answer.service_tier,
            "store": false,
            "temperature": temperature,
            "text": text.clone().unwrap_or_else(|| json!({"format": {"type": "text"}})),
            "tool_choice": tool_choice.clone().unwrap_or_else(|| json!("auto")),
            "tools": tools.clone().unwrap_or_else(|| json!([])),
            "top_logprobs": top_logprobs,
            "top_p": top_p,
            "truncation": truncation.clone().unwrap_or_else(|| json!("disabled")),
            "usage": self.usage.as_ref().map(usage),
            "user": user,
        })
    }
}

/// What went wrong, in the words of this API where it has one.
fn failure_code(error: &ApiError) -> &'static str {
    match error.code() {
        "internal_error" => "server_error",
        code => code,
    }
}

/// The same counts under the names of this API.
fn usage(usage: &Usage) -> Value {
    let mut details = json!({"reasoning_tokens": usage.reasoning_tokens()});
    if let (Value::Object(details), Some(drafts)) = (&mut details, usage.drafts()) {
        details.extend(drafts);
    }
    json!({
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.prompt_cache_hit_tokens},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": details,
        "total_tokens": usage.total_tokens,
    })
}
