//! Byte-level BPE from tokenizer.json, with control tokens recognised only where they are asked for.
//!
//! DeepSeek's encodings are one flat string in which `<｜User｜>` is both a token and something that a person can type.
//! The library's tokenizer knows the flat string only, so two ways in are kept apart here: [`Tokenizer::encode`] reads
//! control tokens in its text, [`Tokenizer::encode_plain`] reads none. Going back, every token is a fixed run of bytes,
//! so text is made from bytes here and the library's decoders are not used.

use std::collections::{HashMap, HashSet};

use serde::Deserialize;
use tokenizers::{
    Model, NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer,
};

use crate::error::{Error, Result};

/// A tokenizer: text to ids, ids to bytes.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// Added tokens by their text.
    added: HashMap<String, u32>,
    /// Their ids.
    added_ids: HashSet<u32>,
    /// The bytes of all tokens, one after the other.
    bytes: Vec<u8>,
    /// Token `id` is `bytes[starts[id]..starts[id + 1]]`.
    starts: Vec<u32>,
}

/// A stretch of text that was read for control tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    /// A control token, by id.
    Control(u32),
    /// Text without control tokens.
    Text(&'a str),
}

impl Tokenizer {
    /// Reads tokenizer.json.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when the file is malformed, or is not byte-level BPE: the only kind DeepSeek has published,
    /// and the only kind whose tokens are fixed runs of bytes.
    pub fn from_bytes(json: &[u8]) -> Result<Self> {
        let inner = tokenizers::Tokenizer::from_bytes(json).map_err(|error| Error::Tokenizer(error.to_string()))?;
        if !decodes_byte_level(json)? {
            return Err(Error::Tokenizer(
                "the decoder is not ByteLevel; only byte-level BPE, as every DeepSeek release has it, is supported"
                    .to_owned(),
            ));
        }
        let added_by_id = inner.get_added_tokens_decoder();
        let added: HashMap<_, _> = added_by_id.iter().map(|(id, token)| (token.content.clone(), *id)).collect();

        let vocabulary = inner.get_vocab(true);
        let vocab_size = vocabulary.values().max().map_or(0, |&id| id as usize + 1);
        let mut texts: Vec<Option<&str>> = vec![None; vocab_size];
        for (text, id) in &vocabulary {
            texts[*id as usize] = Some(text);
        }
        let mut bytes = Vec::new();
        let mut starts = Vec::with_capacity(vocab_size + 1);
        let start = |bytes: &Vec<u8>| {
            u32::try_from(bytes.len()).map_err(|_| Error::Tokenizer("the vocabulary is over 4 GiB of text".to_owned()))
        };
        for (id, text) in texts.into_iter().enumerate() {
            starts.push(start(&bytes)?);
            // The number was a u32 before it became an index.
            if let Some(token) = added_by_id.get(&(id as u32)) {
                bytes.extend_from_slice(token.content.as_bytes());
            } else if let Some(text) = text {
                push_bytes_of(text, &mut bytes);
            }
        }
        starts.push(start(&bytes)?);
        let added_ids = added.values().copied().collect();
        Ok(Self { inner, added, added_ids, bytes, starts })
    }

    /// Token ids of a text in which control tokens are recognised: a rendered prompt. Nothing is added to it.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when the library fails; with a byte-level vocabulary no text is known to make it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_pieces(self.split(text))
    }

    /// Token ids of a text in which control tokens are nothing but characters: what people and tools write.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>> {
        let failed = |error: tokenizers::Error| Error::Tokenizer(format!("cannot tokenise: {error}"));
        let mut normalized = NormalizedString::from(text);
        if let Some(normalizer) = self.inner.get_normalizer() {
            normalizer.normalize(&mut normalized).map_err(failed)?;
        }
        let mut words = PreTokenizedString::from(normalized);
        if let Some(pre_tokenizer) = self.inner.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut words).map_err(failed)?;
        }
        let model = self.inner.get_model();
        words.tokenize(|word| model.tokenize(word.get())).map_err(failed)?;
        let splits = words.get_splits(OffsetReferential::Normalized, OffsetType::Byte);
        Ok(splits.into_iter().flat_map(|(_, _, tokens)| tokens.iter().flatten().map(|token| token.id)).collect())
    }

    /// Token ids of pieces, with neighbouring text joined first: how two texts tokenise depends on what they touch.
    pub(crate) fn encode_pieces<'a>(&self, pieces: impl IntoIterator<Item = Piece<'a>>) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        let mut text = String::new();
        for piece in pieces {
            match piece {
                Piece::Text(part) => text.push_str(part),
                Piece::Control(id) => {
                    ids.extend(self.encode_plain(&text)?);
                    text.clear();
                    ids.push(id);
                }
            }
        }
        ids.extend(self.encode_plain(&text)?);
        Ok(ids)
    }

    /// Cuts a text at its control tokens, the leftmost and then longest first.
    pub(crate) fn split<'a>(&self, text: &'a str) -> Vec<Piece<'a>> {
        let split = self.inner.get_added_vocabulary().extract_and_normalize(self.inner.get_normalizer(), text);
        split
            .get_splits(OffsetReferential::Original, OffsetType::Byte)
            .into_iter()
            .map(|(_, (start, end), tokens)| match tokens.as_deref() {
                Some([token, ..]) => Piece::Control(token.id),
                _ => Piece::Text(&text[start..end]),
            })
            .collect()
    }

    /// The text of token ids, control tokens included. Bytes that are not UTF-8 become U+FFFD, ids that the vocabulary
    /// lacks become nothing.
    pub fn decode(&self, ids: &[u32]) -> String {
        let bytes: Vec<u8> = ids.iter().flat_map(|&id| self.token_bytes(id)).copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The bytes that a token stands for, often a part of a character only; empty for an id that the vocabulary lacks.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        let id = id as usize;
        match (self.starts.get(id), self.starts.get(id + 1)) {
            (Some(&start), Some(&end)) => &self.bytes[start as usize..end as usize],
            _ => &[],
        }
    }

    /// The text of a control token; `None` for every other.
    pub(crate) fn control_text(&self, id: u32) -> Option<&str> {
        let bytes = self.added_ids.contains(&id).then(|| self.token_bytes(id))?;
        Some(std::str::from_utf8(bytes).expect("a control token is written as text in tokenizer.json"))
    }

    /// The id of a token: a control token by its text, any other as tokenizer.json writes it.
    pub fn id_of(&self, token: &str) -> Option<u32> {
        self.added.get(token).copied().or_else(|| self.inner.token_to_id(token))
    }

    /// The ids that are recognised in a prompt's own text only, and are no text in an output.
    pub(crate) fn control_ids(&self) -> &HashSet<u32> {
        &self.added_ids
    }

    /// The highest id and one more. The model may have more rows than this, never fewer.
    pub fn vocab_size(&self) -> usize {
        self.starts.len() - 1
    }
}

/// Whether the `decoder` is ByteLevel, alone or within a sequence.
fn decodes_byte_level(json: &[u8]) -> Result<bool> {
    #[derive(Deserialize)]
    struct TokenizerJson {
        #[serde(default)]
        decoder: Option<Decoder>,
    }
    #[derive(Deserialize)]
    struct Decoder {
        r#type: String,
        #[serde(default)]
        decoders: Vec<Decoder>,
    }
    impl Decoder {
        fn is_byte_level(&self) -> bool {
            self.r#type == "ByteLevel" || self.decoders.iter().any(Self::is_byte_level)
        }
    }
    let parsed: TokenizerJson = serde_json::from_slice(json).map_err(|error| Error::Tokenizer(error.to_string()))?;
    Ok(parsed.decoder.is_some_and(|decoder| decoder.is_byte_level()))
}

/// Appends the bytes behind a token of the byte-level alphabet, in which every byte is written as one printable
/// character: itself where it is printable Latin-1, and U+0100 onwards, in order, for the 68 that are not. A character
/// outside the alphabet stands for itself.
fn push_bytes_of(token: &str, bytes: &mut Vec<u8>) {
    for character in token.chars() {
        match byte_of(character) {
            Some(byte) => bytes.push(byte),
            None => bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

fn byte_of(character: char) -> Option<u8> {
    let point = u32::from(character);
    match point {
        0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => u8::try_from(point).ok(),
        // 0x00..=0x20 are the first 33 of the unprintable bytes, 0x7F..=0xA0 the next 34, 0xAD the last.
        0x100..=0x120 => u8::try_from(point - 0x100).ok(),
        0x121..=0x142 => u8::try_from(point - 0x121 + 0x7F).ok(),
        0x143 => Some(0xAD),
        _ => None,
    }
}
