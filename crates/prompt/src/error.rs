//! What can go wrong between messages and token ids.

use std::path::PathBuf;

use crate::grammar::Part;
use crate::release::Release;

/// Everything that [`Prompt`](crate::Prompt) and its parts refuse, with the place and the reason.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of the checkpoint is there but could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },

    /// A file that text needs is absent.
    #[error("{name} has no {file}; text needs it. Add the file to the folder, or send token ids instead of text")]
    MissingFile {
        /// File name inside the checkpoint.
        file: &'static str,
        /// Name of the checkpoint.
        name: String,
    },

    /// A JSON file of the checkpoint does not parse, or has a value of the wrong kind.
    #[error("{file}: {reason}")]
    Json {
        /// File name inside the checkpoint.
        file: &'static str,
        /// What was found, and where.
        reason: String,
    },

    /// tokenizer.json is unusable, or text could not be tokenised with it.
    #[error("tokenizer.json: {0}")]
    Tokenizer(String),

    /// The release is not one that this crate can encode for.
    #[error("{reason}; known releases: {}. Name one with --release", Release::names())]
    UnknownRelease {
        /// The name that was given, or what was found in the checkpoint.
        reason: String,
    },

    /// The checkpoint's chat template does not compile, or failed on this conversation.
    #[error("chat template: {0}")]
    Template(String),

    /// The conversation cannot be encoded.
    #[error("messages[{index}]: {reason}")]
    Message {
        /// Position in [`Chat::messages`](crate::Chat::messages).
        index: usize,
        /// What is wrong with the message.
        reason: String,
    },

    /// The request around the messages cannot be encoded.
    #[error("{0}")]
    Chat(String),

    /// What a reply must be like cannot be made into a grammar.
    #[error("it cannot be made into a grammar: {reason}")]
    Grammar {
        /// What of it.
        part: Part,
        /// What is wrong with that part.
        reason: String,
    },

    /// A control token that an encoding cannot do without is not in the vocabulary.
    #[error("the tokenizer has no token {token:?}, which {needed_for} needs")]
    MissingToken {
        /// The token's text.
        token: String,
        /// The feature that asked for it.
        needed_for: &'static str,
    },
}

impl Error {
    /// Whether the request is at fault (an HTTP 400) rather than the checkpoint.
    ///
    /// A template that fails on one conversation counts as the request's fault: templates refuse input with
    /// `raise_exception`, and one that does not compile is refused when the checkpoint is opened.
    pub fn is_request(&self) -> bool {
        matches!(
            self,
            Self::Template(_) | Self::Message { .. } | Self::Chat(_) | Self::Grammar { .. } | Self::MissingToken { .. }
        )
    }
}

/// The result of everything in this crate.
pub type Result<T> = std::result::Result<T, Error>;
