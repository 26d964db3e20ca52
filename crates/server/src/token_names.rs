//! How log-probabilities name tokens.

use std::sync::Arc;

use cachalot_prompt::Tokenizer;

/// Names tokens by their text, or by their id where that is asked for or where there is no text.
pub(crate) struct TokenNames {
    tokenizer: Option<Arc<Tokenizer>>,
    as_ids: bool,
}

impl TokenNames {
    pub(crate) fn new(tokenizer: Option<Arc<Tokenizer>>, as_ids: bool) -> Self {
        TokenNames { tokenizer, as_ids }
    }

    /// The token's text, bytes that are no UTF-8 on their own replaced; or vLLM's `token_id:N`.
    pub(crate) fn name(&self, id: u32) -> String {
        match &self.tokenizer {
            Some(tokenizer) if !self.as_ids && !tokenizer.token_bytes(id).is_empty() => tokenizer.decode(&[id]),
            _ => format!("token_id:{id}"),
        }
    }

    /// The token's bytes; none for an id that the tokenizer does not know.
    pub(crate) fn bytes(&self, id: u32) -> Vec<u8> {
        self.tokenizer.as_ref().map_or_else(Vec::new, |tokenizer| tokenizer.token_bytes(id).to_vec())
    }
}
