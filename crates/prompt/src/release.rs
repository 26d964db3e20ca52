//! The DeepSeek releases, and how to tell from a checkpoint's files which one it is.
//!
//! The release decides the chat encoding, whether the model thinks, what its output looks like and how it likes to be
//! sampled. Several releases differ in their weights only; those are told apart by the folder's name, and by a stated
//! default where the name says nothing: a wrong guess there changes nothing but the label and the advised temperature.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::files::PromptFiles;

/// A published set of weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Release {
    /// DeepSeek-V3, December 2024.
    V3,
    /// DeepSeek-V3-0324.
    V3_0324,
    /// DeepSeek-R1, January 2025: the prompt opens the reasoning.
    R1,
    /// DeepSeek-R1-0528: the model opens the reasoning itself.
    R1_0528,
    /// DeepSeek-V3.1: one model for both modes.
    V3_1,
    /// DeepSeek-V3.1-Terminus.
    V3_1Terminus,
    /// DeepSeek-V3.2-Exp: V3.1's encoding on the sparse-attention model.
    V3_2Exp,
    /// DeepSeek-V3.2: DSML tool calls, reasoning kept within a tool turn.
    V3_2,
    /// DeepSeek-V3.2-Speciale: V3.2's encoding, always thinking.
    V3_2Speciale,
    /// DeepSeek-R1-0528-Qwen3-8B: R1-0528's encoding on the Qwen3 vocabulary.
    R1_0528Qwen3_8B,
}

/// Whether a release thinks, and who decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThinkingPolicy {
    /// The model was not trained to think.
    Never,
    /// The model thinks before every reply.
    Always,
    /// The prompt decides; the model replies at once unless asked to think.
    Switch,
}

impl Release {
    /// Every release, oldest first.
    pub const ALL: [Self; 10] = [
        Self::V3,
        Self::V3_0324,
        Self::R1,
        Self::R1_0528,
        Self::V3_1,
        Self::V3_1Terminus,
        Self::V3_2Exp,
        Self::V3_2,
        Self::V3_2Speciale,
        Self::R1_0528Qwen3_8B,
    ];

    /// The name that [`FromStr`] takes and [`fmt::Display`] prints.
    pub fn name(self) -> &'static str {
        match self {
            Self::V3 => "V3",
            Self::V3_0324 => "V3-0324",
            Self::R1 => "R1",
            Self::R1_0528 => "R1-0528",
            Self::V3_1 => "V3.1",
            Self::V3_1Terminus => "V3.1-Terminus",
            Self::V3_2Exp => "V3.2-Exp",
            Self::V3_2 => "V3.2",
            Self::V3_2Speciale => "V3.2-Speciale",
            Self::R1_0528Qwen3_8B => "R1-0528-Qwen3-8B",
        }
    }

    /// Every name, for messages.
    pub fn names() -> String {
        Self::ALL.map(Self::name).join(", ")
    }

    /// Whether the release thinks, and who decides.
    pub fn thinking_policy(self) -> ThinkingPolicy {
        match self {
            Self::V3 | Self::V3_0324 => ThinkingPolicy::Never,
            Self::R1 | Self::R1_0528 | Self::R1_0528Qwen3_8B | Self::V3_2Speciale => ThinkingPolicy::Always,
            Self::V3_1 | Self::V3_1Terminus | Self::V3_2Exp | Self::V3_2 => ThinkingPolicy::Switch,
        }
    }

    /// Whether reasoning is written on lines of its own (`<think>\n…\n</think>\n\n`), so that the newlines beside the
    /// tags belong to the format and not to the text. From V3.1 on the tags stand alone.
    pub fn pads_reasoning_with_newlines(self) -> bool {
        matches!(self, Self::R1 | Self::R1_0528 | Self::R1_0528Qwen3_8B)
    }

    /// The control tokens that mean something in replies of this release, by their text.
    pub(crate) fn control_tokens(self) -> impl Iterator<Item = &'static str> {
        use crate::encoding::{
            ASSISTANT, BOS, EOS, THINK_CLOSE, THINK_OPEN, TOOL_CALL_BEGIN, TOOL_CALL_END, TOOL_CALLS_BEGIN,
            TOOL_CALLS_END, TOOL_SEP, USER,
        };
        let think: &[_] = if self.can_think() { &[THINK_OPEN, THINK_CLOSE] } else { &[] };
        let calls: &[_] = match self {
            Self::V3_2 | Self::V3_2Speciale => &["｜DSML｜"],
            _ => &[TOOL_CALLS_BEGIN, TOOL_CALLS_END, TOOL_CALL_BEGIN, TOOL_CALL_END, TOOL_SEP],
        };
        [BOS, EOS, USER, ASSISTANT].iter().chain(think).chain(calls).copied()
    }

    /// Whether the release can reply with reasoning.
    pub fn can_think(self) -> bool {
        self.thinking_policy() != ThinkingPolicy::Never
    }

    /// Whether the prompt for a reply with reasoning opens it; R1-0528 leaves that to the model.
    pub fn opens_reasoning_in_prompt(self) -> bool {
        self.can_think() && !matches!(self, Self::R1_0528 | Self::R1_0528Qwen3_8B)
    }

    /// Finds the release of a checkpoint, with the observation that decided.
    ///
    /// The architecture comes first, then control tokens (`｜DSML｜` came with V3.2, the search tokens with V3.1, the
    /// think tokens with R1), then the chat template, and the folder's name last.
    ///
    /// # Errors
    /// [`Error::UnknownRelease`] for an architecture that is not a DeepSeek text model's; [`Error::MissingFile`] without
    /// tokenizer.json; [`Error::Json`] for a file that does not parse.
    pub fn detect(files: &PromptFiles) -> Result<(Self, &'static str)> {
        let architecture = Architecture::of(files)?;
        let tokens = added_tokens(files)?;
        let name = files.name.to_ascii_lowercase();

        if architecture == Architecture::Qwen3 {
            return Ok((Self::R1_0528Qwen3_8B, "config.json names the Qwen3 architecture"));
        }
        if architecture == Architecture::Unstated && tokens.contains("<|im_start|>") {
            return Ok((Self::R1_0528Qwen3_8B, "the tokenizer has Qwen's control tokens"));
        }
        if tokens.contains("｜DSML｜") {
            return Ok(if name.contains("speciale") {
                (Self::V3_2Speciale, "the tokenizer has ｜DSML｜, and the folder's name says Speciale")
            } else {
                (Self::V3_2, "the tokenizer has ｜DSML｜")
            });
        }
        if architecture == Architecture::DeepseekV32 {
            return Ok((Self::V3_2Exp, "config.json names the V3.2 architecture, and the tokenizer has no ｜DSML｜"));
        }
        if !tokens.contains("<think>") {
            return Ok(if name.contains("0324") {
                (Self::V3_0324, "the tokenizer has no <think>, and the folder's name says 0324")
            } else {
                (Self::V3, "the tokenizer has no <think>")
            });
        }
        let template = files.chat_template_source()?;
        let template = template.as_deref().unwrap_or("");
        if tokens.contains("<｜search▁begin｜>") || template.contains("<｜Assistant｜></think>") {
            return Ok(if name.contains("terminus") {
                (Self::V3_1Terminus, "the tokenizer has search tokens, and the folder's name says Terminus")
            } else {
                (Self::V3_1, "the tokenizer has search tokens or the template closes the reasoning, and no ｜DSML｜")
            });
        }
        if template.contains(r"<｜Assistant｜><think>\n") || template.contains("<｜Assistant｜><think>\n") {
            return Ok((Self::R1, "the chat template ends with <think> and a newline"));
        }
        if !template.is_empty() {
            return Ok((Self::R1_0528, "the tokenizer has <think>, and the chat template leaves it to the model"));
        }
        Ok(if name.contains("0528") {
            (Self::R1_0528, "the tokenizer has <think>, and the folder's name says 0528")
        } else {
            (Self::R1, "the tokenizer has <think>, and there is no chat template")
        })
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Release {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|release| release.name().eq_ignore_ascii_case(name.trim()))
            .ok_or_else(|| Error::UnknownRelease { reason: format!("unknown release {name:?}") })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Architecture {
    DeepseekV3,
    DeepseekV32,
    Qwen3,
    /// No config.json: the tokenizer decides.
    Unstated,
}

impl Architecture {
    fn of(files: &PromptFiles) -> Result<Self> {
        #[derive(Deserialize)]
        struct Config {
            #[serde(default)]
            architectures: Option<Vec<String>>,
            #[serde(default)]
            model_type: Option<String>,
        }
        let Some(bytes) = &files.config else { return Ok(Self::Unstated) };
        let config: Config = serde_json::from_slice(bytes)
            .map_err(|error| Error::Json { file: "config.json", reason: error.to_string() })?;
        let stated = config.architectures.iter().flatten().chain(&config.model_type);
        for name in stated.clone() {
            match name.as_str() {
                "DeepseekV3ForCausalLM" | "deepseek_v3" => return Ok(Self::DeepseekV3),
                "DeepseekV32ForCausalLM" | "deepseek_v32" => return Ok(Self::DeepseekV32),
                "Qwen3ForCausalLM" | "qwen3" => return Ok(Self::Qwen3),
                _ => {}
            }
        }
        let stated: Vec<_> = stated.map(String::as_str).collect();
        Err(Error::UnknownRelease {
            reason: if stated.is_empty() {
                "config.json names no architecture".to_owned()
            } else {
                format!("config.json names the architecture {}, which is none of DeepSeek's", stated.join(" / "))
            },
        })
    }
}

/// The texts of tokenizer.json's added tokens; the vocabulary is skipped over.
fn added_tokens(files: &PromptFiles) -> Result<HashSet<String>> {
    #[derive(Deserialize)]
    struct TokenizerJson {
        #[serde(default)]
        added_tokens: Vec<AddedToken>,
    }
    #[derive(Deserialize)]
    struct AddedToken {
        content: String,
    }
    let bytes = files.tokenizer_bytes()?;
    let parsed: TokenizerJson = serde_json::from_slice(bytes)
        .map_err(|error| Error::Json { file: "tokenizer.json", reason: error.to_string() })?;
    Ok(parsed.added_tokens.into_iter().map(|token| token.content).collect())
}
