//! Tests, and what they share: toy tokenizers, and conversations written as JSON.

mod encoding;
mod grammar;
mod official;
mod output;
mod release;
mod reply;
mod templates;
mod tokenizer;

use std::sync::Arc;

use serde_json::{Value, json};

use crate::{Chat, Message, Prompt, PromptFiles, Release, Role, ToolCall};

/// Reads `{"messages": [...], "tools": [...]}` in the OpenAI form.
pub(crate) fn chat(value: &Value, thinking: bool) -> Chat {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let messages = list(&value["messages"]).iter().map(message).collect();
    let template_kwargs = value["template_kwargs"].as_object().cloned().unwrap_or_default();
    Chat { messages, tools: list(&value["tools"]), thinking, template_kwargs }
}

fn message(value: &Value) -> Message {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let role = match value["role"].as_str().expect("a message has a role") {
        "system" => Role::System,
        "user" => Role::User,
        "assistant" => Role::Assistant,
        "tool" => Role::Tool,
        "developer" => Role::Developer,
        other => panic!("unknown role {other}"),
    };
    let call = |call: &Value| ToolCall {
        id: text(&call["id"]).unwrap_or_default(),
        name: text(&call["function"]["name"]).expect("a call has a name"),
        arguments: text(&call["function"]["arguments"]).expect("a call has arguments"),
    };
    Message {
        role,
        content: text(&value["content"]),
        reasoning_content: text(&value["reasoning_content"]),
        tool_calls: list(&value["tool_calls"]).iter().map(call).collect(),
        tool_call_id: text(&value["tool_call_id"]),
        name: text(&value["name"]),
        tools: list(&value["tools"]),
        response_format: Some(value["response_format"].clone()).filter(|format| !format.is_null()),
        prefix: value["prefix"].as_bool().unwrap_or(false),
    }
}

/// A tokenizer.json as the release's own, but with a vocabulary of single bytes, a few merges and the control tokens
/// that are told apart by.
pub(crate) fn toy_tokenizer(release: Release) -> Vec<u8> {
    const CONTROL: [&str; 3] = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"];
    let mut vocabulary: Vec<String> = CONTROL.map(str::to_owned).to_vec();
    vocabulary.extend((0..=u8::MAX).map(|byte| alphabet(byte).to_string()));
    let newline = alphabet(b'\n');
    let merges = [
        [newline.to_string(), newline.to_string()],
        [">".to_owned(), newline.to_string()],
        ["<".to_owned(), "/".to_owned()],
        ["a".to_owned(), "b".to_owned()],
        ["h".to_owned(), "e".to_owned()],
        ["l".to_owned(), "l".to_owned()],
        ["he".to_owned(), "ll".to_owned()],
    ];
    vocabulary.extend(merges.iter().map(|pair| pair.concat()));
    let model_size = vocabulary.len();

    let mut added: Vec<&str> = Vec::new();
    if matches!(release, Release::V3_2 | Release::V3_2Speciale) {
        added.push("｜DSML｜");
    }
    if !matches!(release, Release::V3 | Release::V3_0324 | Release::R1 | Release::R1_0528 | Release::R1_0528Qwen3_8B) {
        added.extend(["<｜search▁begin｜>", "<｜search▁end｜>"]);
    }
    if !matches!(release, Release::V3 | Release::V3_0324) {
        added.extend(["<think>", "</think>"]);
    }
    added.extend(["<｜fim▁hole｜>", "<｜fim▁begin｜>", "<｜fim▁end｜>", "<｜User｜>", "<｜Assistant｜>", "<|EOT|>"]);
    added.extend([
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁calls▁end｜>",
        "<｜tool▁call▁begin｜>",
        "<｜tool▁call▁end｜>",
        "<｜tool▁outputs▁begin｜>",
        "<｜tool▁outputs▁end｜>",
        "<｜tool▁output▁begin｜>",
        "<｜tool▁output▁end｜>",
        "<｜tool▁sep｜>",
    ]);
    let tokens = CONTROL.iter().copied().enumerate().chain(added.iter().enumerate().map(|(i, t)| (model_size + i, *t)));
    let added: Vec<_> = tokens
        .map(|(id, content)| {
            json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": true, "special": id < 3 || content == "｜DSML｜"})
        })
        .collect();
    let vocabulary: serde_json::Map<_, _> =
        vocabulary.into_iter().enumerate().map(|(id, token)| (token, json!(id))).collect();
    let words = r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": []},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": words}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                  "vocab": vocabulary, "merges": merges},
    });
    tokenizer.to_string().into_bytes()
}

/// The character that the byte-level alphabet writes for a byte: itself where it is printable, and the next free one
/// from U+0100 on where it is not.
fn alphabet(byte: u8) -> char {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if printable(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|&byte| !printable(byte)).count();
    char::from_u32(0x100 + before as u32).expect("a small number")
}

/// A checkpoint of the release with a toy tokenizer and no template.
pub(crate) fn toy_files(release: Release) -> PromptFiles {
    let architecture = match release {
        Release::R1_0528Qwen3_8B => "Qwen3ForCausalLM",
        Release::V3_2Exp | Release::V3_2 | Release::V3_2Speciale => "DeepseekV32ForCausalLM",
        _ => "DeepseekV3ForCausalLM",
    };
    PromptFiles {
        config: Some(json!({"architectures": [architecture]}).to_string().into_bytes()),
        tokenizer: Some(toy_tokenizer(release)),
        name: format!("DeepSeek-{release}"),
        ..PromptFiles::default()
    }
}

pub(crate) fn toy_prompt(release: Release) -> Prompt {
    Prompt::open(&toy_files(release), Some(release)).expect("the toy checkpoint is sound")
}

pub(crate) fn toy_prompt_with_template(release: Release, template: &str) -> Prompt {
    let files = PromptFiles { chat_template: Some(template.as_bytes().to_vec()), ..toy_files(release) };
    Prompt::open(&files, Some(release)).expect("the toy checkpoint is sound")
}

pub(crate) fn id(tokenizer: &Arc<crate::Tokenizer>, token: &str) -> u32 {
    tokenizer.id_of(token).unwrap_or_else(|| panic!("the tokenizer has {token}"))
}
