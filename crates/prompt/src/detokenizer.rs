//! Token ids to text, piece by piece, never half a character.

use std::sync::Arc;

use crate::tokenizer::Tokenizer;

/// Turns a stream of token ids into text as it comes.
///
/// A character of up to four bytes may be spread over as many tokens. Bytes that may still become a character are held
/// back; bytes that cannot become U+FFFD at once. What all calls returned, put together, is exactly
/// [`String::from_utf8_lossy`] of all bytes.
pub struct Detokenizer {
    tokenizer: Arc<Tokenizer>,
    decoder: Utf8Decoder,
}

impl Detokenizer {
    /// A stream that has seen nothing yet.
    pub fn new(tokenizer: Arc<Tokenizer>) -> Self {
        Self { tokenizer, decoder: Utf8Decoder::default() }
    }

    /// Takes the next token and returns the text that became certain.
    pub fn push(&mut self, id: u32) -> String {
        self.decoder.push(self.tokenizer.token_bytes(id))
    }

    /// Ends the stream: an unfinished character becomes U+FFFD.
    pub fn flush(&mut self) -> String {
        self.decoder.flush()
    }
}

/// The part of [`Detokenizer`] that knows no tokens.
#[derive(Default)]
struct Utf8Decoder {
    /// The beginning of a character: at most three bytes.
    pending: Vec<u8>,
}

impl Utf8Decoder {
    fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let mut text = String::new();
        let mut rest = self.pending.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text.push_str(std::str::from_utf8(valid).expect("from_utf8 said it is valid up to here"));
                    rest = after;
                    let Some(invalid) = error.error_len() else { break };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &rest[invalid..];
                }
            }
        }
        self.pending = rest.to_vec();
        text
    }

    fn flush(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        text
    }
}
