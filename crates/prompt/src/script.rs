//! A prompt under construction: text of the encoding, in which control tokens count, and text of others, in which they
//! do not.

use crate::error::Result;
use crate::tokenizer::{Piece, Tokenizer};

/// The text of a prompt, with the origin of every stretch of it.
#[derive(Debug, Default)]
pub(crate) struct Script {
    text: String,
    /// Where each stretch begins, and whose it is. Neighbours differ in origin.
    stretches: Vec<(usize, Origin)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// Written by the encoding.
    Encoding,
    /// Written by a person, a tool or the model.
    Other,
}

impl Script {
    /// Appends text of the encoding: control tokens in it become control tokens.
    pub(crate) fn control(&mut self, text: &str) {
        self.push(text, Origin::Encoding);
    }

    /// Appends text of somebody else: whatever it says, it stays text.
    pub(crate) fn verbatim(&mut self, text: &str) {
        self.push(text, Origin::Other);
    }

    fn stretches(&self) -> impl Iterator<Item = (Origin, &str)> {
        let ends = self.stretches.iter().skip(1).map(|&(start, _)| start).chain([self.text.len()]);
        self.stretches.iter().zip(ends).map(|(&(start, origin), end)| (origin, &self.text[start..end]))
    }

    fn push(&mut self, text: &str, origin: Origin) {
        if text.is_empty() {
            return;
        }
        if self.stretches.last().is_none_or(|&(_, last)| last != origin) {
            self.stretches.push((self.text.len(), origin));
        }
        self.text.push_str(text);
    }

    /// The text with every stretch passed through the function for its origin.
    pub(crate) fn map(
        &self,
        mut control: impl FnMut(&str) -> String,
        mut verbatim: impl FnMut(&str) -> String,
    ) -> String {
        let mapped = self.stretches().map(|(origin, stretch)| match origin {
            Origin::Encoding => control(stretch),
            Origin::Other => verbatim(stretch),
        });
        mapped.collect()
    }

    /// Removes `end` if the encoding itself wrote it last; says whether it did.
    pub(crate) fn strip_control_suffix(&mut self, end: &str) -> bool {
        let Some(length) = self.text.strip_suffix(end).map(str::len) else { return false };
        let Some(&(start, Origin::Encoding)) = self.stretches.last() else { return false };
        if start > length {
            return false;
        }
        self.text.truncate(length);
        if start == length {
            self.stretches.pop();
        }
        true
    }

    /// Tokenises, and returns the flat text with the ids.
    ///
    /// Text that touches text is joined before BPE, whatever its origin, since a token may reach across.
    pub(crate) fn finish(self, tokenizer: &Tokenizer) -> Result<(String, Vec<u32>)> {
        let mut pieces = Vec::new();
        for (origin, stretch) in self.stretches() {
            match origin {
                Origin::Encoding => pieces.extend(tokenizer.split(stretch)),
                Origin::Other => pieces.push(Piece::Text(stretch)),
            }
        }
        let ids = tokenizer.encode_pieces(pieces)?;
        Ok((self.text, ids))
    }
}
