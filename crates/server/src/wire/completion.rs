//! `/v1/completions`.

use std::fmt;

use serde::Serialize;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Unexpected, Visitor};
use serde_json::Value;

use super::guided::StructuredOutputs;
use super::logprobs::{LegacyLogprobs, PromptPosition};
use super::number;
use super::usage::Usage;

/// What a completion request has beside [`CommonFields`](super::common::CommonFields).
#[derive(Debug, serde::Deserialize)]
pub(crate) struct CompletionFields {
    pub(crate) prompt: Prompts,
    pub(crate) suffix: Option<String>,
    pub(crate) max_tokens: Option<i64>,
    pub(crate) echo: Option<bool>,
    pub(crate) logprobs: Option<i64>,
    pub(crate) best_of: Option<u32>,
    pub(crate) return_tokens_as_token_ids: Option<bool>,
    pub(crate) prompt_logprobs: Option<i64>,
    pub(crate) guided_json: Option<Value>,
    pub(crate) guided_regex: Option<String>,
    pub(crate) guided_choice: Option<Vec<String>>,
    pub(crate) guided_grammar: Option<String>,
    pub(crate) structured_outputs: Option<StructuredOutputs>,
}

/// `prompt`: a string, an array of strings, an array of token ids, or an array of arrays of token ids.
#[derive(Debug, PartialEq)]
pub(crate) enum Prompts {
    Texts(Vec<String>),
    Ids(Vec<Vec<u32>>),
}

const EXPECTED: &str = "a string, an array of strings, an array of token ids, or an array of arrays of token ids";

const ELEMENT_EXPECTED: &str = "a string, a token id, or an array of token ids";

enum Element {
    Text(String),
    Id(u32),
    Ids(Vec<u32>),
}

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ElementVisitor;
        impl<'de> Visitor<'de> for ElementVisitor {
            type Value = Element;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(ELEMENT_EXPECTED)
            }

            fn visit_str<E>(self, text: &str) -> Result<Element, E> {
                Ok(Element::Text(text.to_owned()))
            }

            fn visit_u64<E: Error>(self, id: u64) -> Result<Element, E> {
                let too_large = |_| E::invalid_value(Unexpected::Unsigned(id), &"a token id below 4294967296");
                u32::try_from(id).map(Element::Id).map_err(too_large)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Element, A::Error> {
                Err(number::refuse_map(map, ELEMENT_EXPECTED))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Element, A::Error> {
                let mut ids = Vec::new();
                while let Some(id) = seq.next_element()? {
                    ids.push(id);
                }
                Ok(Element::Ids(ids))
            }
        }
        deserializer.deserialize_any(ElementVisitor)
    }
}

impl<'de> Deserialize<'de> for Prompts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PromptsVisitor;
        impl<'de> Visitor<'de> for PromptsVisitor {
            type Value = Prompts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(EXPECTED)
            }

            fn visit_str<E>(self, text: &str) -> Result<Prompts, E> {
                Ok(Prompts::Texts(vec![text.to_owned()]))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Prompts, A::Error> {
                Err(number::refuse_map(map, EXPECTED))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Prompts, A::Error> {
                // An empty array reads as one empty prompt of token ids; what an empty prompt means is decided with the rest of
                // the checks.
                let mut prompts = Prompts::Ids(vec![Vec::new()]);
                let mut num_elements = 0usize;
                let mut is_flat = true;
                while let Some(element) = seq.next_element()? {
                    match (&mut prompts, element) {
                        (_, Element::Text(text)) if num_elements == 0 => prompts = Prompts::Texts(vec![text]),
                        (_, Element::Ids(ids)) if num_elements == 0 => {
                            is_flat = false;
                            prompts = Prompts::Ids(vec![ids]);
                        }
                        (Prompts::Texts(texts), Element::Text(text)) => texts.push(text),
                        (Prompts::Ids(lists), Element::Ids(ids)) if !is_flat => lists.push(ids),
                        (Prompts::Ids(lists), Element::Id(id)) if is_flat => lists[0].push(id),
                        _ => {
                            return Err(A::Error::invalid_type(
                                Unexpected::Other("an array of mixed types"),
                                &EXPECTED,
                            ));
                        }
                    }
                    num_elements += 1;
                }
                Ok(prompts)
            }
        }
        deserializer.deserialize_any(PromptsVisitor)
    }
}

/// The answer when it is not streamed.
#[derive(Serialize)]
pub(crate) struct Completion<'a> {
    pub(crate) id: &'a str,
    pub(crate) object: &'static str,
    pub(crate) created: u64,
    pub(crate) model: &'a str,
    pub(crate) choices: Vec<CompletionChoice>,
    pub(crate) usage: Usage,
    pub(crate) system_fingerprint: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) service_tier: Option<&'static str>,
}

#[derive(Serialize)]
pub(crate) struct CompletionChoice {
    pub(crate) index: usize,
    pub(crate) text: String,
    pub(crate) logprobs: Option<LegacyLogprobs>,
    pub(crate) finish_reason: &'static str,
    /// vLLM's extension, present when it was asked for; null for the first token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) prompt_logprobs: Option<Vec<Option<PromptPosition>>>,
}
