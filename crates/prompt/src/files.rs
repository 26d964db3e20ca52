//! The files of a checkpoint that text needs, read from a folder or held in memory.

use std::borrow::Cow;
use std::path::Path;

use serde::Deserialize;

use crate::error::{Error, Result};

/// The files beside the weights. Each may be absent; what cannot be done without them is an error where it is tried.
#[derive(Clone, Debug, Default)]
pub struct PromptFiles {
    /// config.json: the architecture and the end-of-sequence ids.
    pub config: Option<Vec<u8>>,
    /// tokenizer.json. A checkpoint without it can be served by token ids alone, and then no
    /// [`Prompt`](crate::Prompt) is opened.
    pub tokenizer: Option<Vec<u8>>,
    /// tokenizer_config.json: the names of the special tokens, often the chat template.
    pub tokenizer_config: Option<Vec<u8>>,
    /// chat_template.jinja, which wins over a template inside tokenizer_config.json.
    pub chat_template: Option<Vec<u8>>,
    /// generation_config.json: sampling defaults and end-of-sequence ids.
    pub generation_config: Option<Vec<u8>>,
    /// The folder's name, without its parents: the last resort of [`Release::detect`](crate::Release::detect).
    pub name: String,
}

impl PromptFiles {
    /// Reads what is there from a folder.
    ///
    /// # Errors
    /// [`Error::Read`] for a folder that does not exist or a file that cannot be read; a file that does not exist is
    /// not an error.
    pub fn read(folder: &Path) -> Result<Self> {
        let failed = |path: &Path, source| Error::Read { path: path.to_owned(), source };
        let canonical = folder.canonicalize().map_err(|source| failed(folder, source))?;
        let name = canonical.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Self::from_lookup(name, |file| {
            let path = folder.join(file);
            match std::fs::read(&path) {
                Ok(bytes) => Ok(Some(bytes)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(failed(&path, error)),
            }
        })
    }

    /// Takes each file from `lookup`, by its name: for a checkpoint that is embedded in the binary.
    ///
    /// # Errors
    /// Those of `lookup`.
    pub fn from_lookup(
        name: impl Into<String>,
        mut lookup: impl FnMut(&'static str) -> Result<Option<Vec<u8>>>,
    ) -> Result<Self> {
        Ok(Self {
            config: lookup("config.json")?,
            tokenizer: lookup("tokenizer.json")?,
            tokenizer_config: lookup("tokenizer_config.json")?,
            chat_template: lookup("chat_template.jinja")?,
            generation_config: lookup("generation_config.json")?,
            name: name.into(),
        })
    }

    /// Whether text can be served at all.
    pub fn has_tokenizer(&self) -> bool {
        self.tokenizer.is_some()
    }

    /// The bytes of tokenizer.json.
    ///
    /// # Errors
    /// [`Error::MissingFile`] where there is none.
    pub(crate) fn tokenizer_bytes(&self) -> Result<&[u8]> {
        let missing = || Error::MissingFile { file: "tokenizer.json", name: self.name.clone() };
        self.tokenizer.as_deref().ok_or_else(missing)
    }

    /// The source of the chat template: chat_template.jinja, or the one in tokenizer_config.json, where several may
    /// have names; then it is the one called `default`, or the first.
    ///
    /// # Errors
    /// [`Error::Json`] when tokenizer_config.json does not parse; [`Error::Template`] for a file that is not UTF-8.
    pub(crate) fn chat_template_source(&self) -> Result<Option<Cow<'_, str>>> {
        if let Some(bytes) = &self.chat_template {
            let text = std::str::from_utf8(bytes)
                .map_err(|error| Error::Template(format!("chat_template.jinja is not UTF-8: {error}")))?;
            return Ok(Some(Cow::Borrowed(text)));
        }
        Ok(self.tokenizer_config()?.chat_template.and_then(ChatTemplates::choose).map(Cow::Owned))
    }

    pub(crate) fn tokenizer_config(&self) -> Result<TokenizerConfig> {
        parse("tokenizer_config.json", self.tokenizer_config.as_deref())
    }

    pub(crate) fn generation_config(&self) -> Result<GenerationConfig> {
        parse("generation_config.json", self.generation_config.as_deref())
    }

    /// `eos_token_id` of config.json.
    pub(crate) fn config_eos(&self) -> Result<Option<TokenIds>> {
        #[derive(Default, Deserialize)]
        struct Config {
            #[serde(default)]
            eos_token_id: Option<TokenIds>,
        }
        Ok(parse::<Config>("config.json", self.config.as_deref())?.eos_token_id)
    }
}

fn parse<T: Default + serde::de::DeserializeOwned>(file: &'static str, bytes: Option<&[u8]>) -> Result<T> {
    let Some(bytes) = bytes else { return Ok(T::default()) };
    serde_json::from_slice(bytes).map_err(|error| Error::Json { file, reason: error.to_string() })
}

/// The part of tokenizer_config.json that is used.
#[derive(Default, Deserialize)]
pub(crate) struct TokenizerConfig {
    #[serde(default)]
    pub(crate) bos_token: Option<TokenName>,
    #[serde(default)]
    pub(crate) eos_token: Option<TokenName>,
    #[serde(default)]
    pub(crate) pad_token: Option<TokenName>,
    #[serde(default)]
    pub(crate) add_bos_token: Option<bool>,
    #[serde(default)]
    pub(crate) chat_template: Option<ChatTemplates>,
}

/// A special token, written as its text or as an object that holds it.
#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum TokenName {
    Text(String),
    Object { content: String },
}

impl TokenName {
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Text(text) => text,
            Self::Object { content } => content,
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum ChatTemplates {
    One(String),
    Named(Vec<NamedTemplate>),
}

#[derive(Deserialize)]
pub(crate) struct NamedTemplate {
    name: String,
    template: String,
}

impl ChatTemplates {
    fn choose(self) -> Option<String> {
        match self {
            Self::One(template) => Some(template),
            Self::Named(mut named) => {
                let default = named.iter().position(|template| template.name == "default").unwrap_or(0);
                (default < named.len()).then(|| named.swap_remove(default).template)
            }
        }
    }
}

/// The part of generation_config.json that is used.
#[derive(Default, Deserialize)]
pub(crate) struct GenerationConfig {
    #[serde(default)]
    pub(crate) eos_token_id: Option<TokenIds>,
    #[serde(default)]
    pub(crate) temperature: Option<f32>,
    #[serde(default)]
    pub(crate) top_p: Option<f32>,
    #[serde(default)]
    pub(crate) top_k: Option<u32>,
    #[serde(default)]
    pub(crate) min_p: Option<f32>,
    #[serde(default)]
    pub(crate) repetition_penalty: Option<f32>,
}

/// One id, or several.
#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum TokenIds {
    One(u32),
    Many(Vec<u32>),
}

impl TokenIds {
    pub(crate) fn as_slice(&self) -> &[u32] {
        match self {
            Self::One(id) => std::slice::from_ref(id),
            Self::Many(ids) => ids,
        }
    }
}
