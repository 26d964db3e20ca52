//! Log-probabilities in the two forms of the OpenAI API.

use cachalot_engine::PositionLogprobs;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use crate::token_names::TokenNames;

/// The least log-probability that is sent: JSON has no minus infinity, and the hosted API uses this number for "none".
pub(crate) const LOGPROB_FLOOR: f32 = -9999.0;

/// One token of a chat answer.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct TokenLogprob {
    /// The token's text; bytes that are not UTF-8 on their own become replacement characters.
    pub(crate) token: String,
    pub(crate) logprob: f32,
    /// The token's bytes.
    pub(crate) bytes: Vec<u8>,
    pub(crate) top_logprobs: Vec<TopLogprob>,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct TopLogprob {
    pub(crate) token: String,
    pub(crate) logprob: f32,
    pub(crate) bytes: Vec<u8>,
}

impl TokenLogprob {
    pub(crate) fn new(names: &TokenNames, position: &PositionLogprobs) -> Self {
        let top = position.top.iter().map(|entry| TopLogprob {
            token: names.name(entry.id),
            logprob: entry.logprob.max(LOGPROB_FLOOR),
            bytes: names.bytes(entry.id),
        });
        let own = position.token;
        TokenLogprob {
            token: names.name(own.id),
            logprob: own.logprob.max(LOGPROB_FLOOR),
            bytes: names.bytes(own.id),
            top_logprobs: top.collect(),
        }
    }
}

/// `logprobs` of a text completion: four lists with one entry per token.
#[derive(Debug, Default, Serialize)]
pub(crate) struct LegacyLogprobs {
    pub(crate) tokens: Vec<String>,
    /// Null for the first prompt token of an echo: nothing precedes it.
    pub(crate) token_logprobs: Vec<Option<f32>>,
    pub(crate) top_logprobs: Vec<Option<TopMap>>,
    /// Characters of the returned text before the token.
    pub(crate) text_offset: Vec<usize>,
}

impl LegacyLogprobs {
    /// Appends the tokens that follow.
    pub(crate) fn extend(&mut self, next: LegacyLogprobs) {
        self.tokens.extend(next.tokens);
        self.token_logprobs.extend(next.token_logprobs);
        self.top_logprobs.extend(next.top_logprobs);
        self.text_offset.extend(next.text_offset);
    }
}

/// Token text to log-probability, best first.
///
/// Different tokens can have the same text (half characters all read as a replacement character); the likelier one stays.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct TopMap(Vec<(String, f32)>);

impl TopMap {
    /// Adds an entry; the caller adds in descending order of likelihood.
    pub(crate) fn insert(&mut self, token: String, logprob: f32) {
        if self.0.iter().all(|(known, _)| *known != token) {
            self.0.push((token, logprob));
        }
    }
}

impl Serialize for TopMap {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(token, logprob)| (token, logprob)))
    }
}

/// vLLM's `prompt_logprobs` at one position: token id to its entry, the prompt's own token first.
#[derive(Debug)]
pub(crate) struct PromptPosition(pub(crate) Vec<(u32, PromptLogprob)>);

#[derive(Debug, Serialize)]
pub(crate) struct PromptLogprob {
    pub(crate) logprob: f32,
    /// 1 is the likeliest token; null when the token is not among the likeliest that were asked for.
    pub(crate) rank: Option<usize>,
    pub(crate) decoded_token: String,
}

impl Serialize for PromptPosition {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (id, entry) in &self.0 {
            map.serialize_entry(id, entry)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likelier_of_two_tokens_with_one_text_stays() {
        let mut map = TopMap::default();
        for (token, logprob) in [("a", -1.0), ("\u{fffd}", -2.0), ("\u{fffd}", -3.0), ("b", -4.0)] {
            map.insert(token.to_owned(), logprob);
        }
        assert_eq!(serde_json::to_string(&map).unwrap(), "{\"a\":-1.0,\"\u{fffd}\":-2.0,\"b\":-4.0}");
    }
}
