//! The published encodings and tokenizers, where they are at hand.
//!
//! The files are not part of the repository. The build script looks for them; without them these tests are reported as
//! ignored.

use std::path::PathBuf;

use serde_json::Map;

use super::*;
use crate::encoding::EOS;
use crate::{Reply, Tokenizer, encoding};
use Release::*;

macro_rules! official {
    ($(#[$attribute:meta])* fn $name:ident() $body:block) => {
        $(#[$attribute])*
        #[test]
        #[cfg_attr(not(official_data), ignore = "the published encodings and tokenizers are not at hand")]
        fn $name() $body
    };
}

fn data() -> PathBuf {
    PathBuf::from(env!("CACHALOT_OFFICIAL_DATA"))
}

fn open(name: &str) -> Prompt {
    let files = PromptFiles::read(&data().join("tokenizers").join(name)).unwrap();
    Prompt::open(&files, None).unwrap()
}

const TOKENIZERS: [(&str, Release, usize); 5] = [
    ("deepseek-v3", V3, 128_815),
    ("deepseek-r1", R1, 128_815),
    ("deepseek-v3.1", V3_1, 128_815),
    ("deepseek-v3.2", V3_2, 128_815),
    ("deepseek-r1-0528-qwen3-8b", R1_0528Qwen3_8B, 151_671),
];

official! {
    fn v32_vectors() {
        let prompt = open("deepseek-v3.2");
        for name in ["main_en", "main_zh", "search_w_date", "search_wo_date"] {
            let read = |end: &str| std::fs::read_to_string(data().join("encoding").join(format!("v32_{name}_{end}"))).unwrap();
            let request: Value = serde_json::from_str(&read("input.json")).unwrap();
            let expected = read("expected.txt");
            let rendered = prompt.render(&chat(&request, true)).unwrap();
            assert!(rendered.text == expected, "{name} differs at {:?}", first_difference(&rendered.text, &expected));
            assert_eq!(rendered.ids, prompt.tokenizer().encode(&expected).unwrap(), "{name}");
        }
    }
}

official! {
    /// Every turn of the assistant is read back from the text that the published encoder made of it.
    fn v32_vectors_are_read_back() {
        let mut num_turns = 0;
        for name in ["main_en", "main_zh", "search_w_date", "search_wo_date"] {
            let read = |end: &str| std::fs::read_to_string(data().join("encoding").join(format!("v32_{name}_{end}"))).unwrap();
            let request: Value = serde_json::from_str(&read("input.json")).unwrap();
            let messages = request["messages"].as_array().unwrap();
            let expected = read("expected.txt");
            let turns = messages.iter().filter(|message| message["role"] == "assistant");
            for (turn, message) in expected.split_inclusive(EOS).zip(turns) {
                // A reply begins behind the tag that ends a user's turn or the results of calls.
                let starts = ["<｜Assistant｜>", "</function_results>\n\n"].map(|end| turn.rfind(end).map(|at| at + end.len()));
                let tagged = &turn[starts.into_iter().flatten().max().unwrap()..];
                let (open, text) = match tagged.strip_prefix("<think>") {
                    Some(text) => (true, text),
                    None => (false, tagged.strip_prefix("</think>").unwrap()),
                };
                let text_of = |key: &str| message[key].as_str().unwrap_or("").to_owned();
                let object = |arguments: &str| serde_json::from_str::<Map<String, Value>>(arguments).unwrap();
                let calls = message["tool_calls"].as_array().into_iter().flatten();
                let calls: Vec<_> = calls
                    .map(|call| {
                        let function = &call["function"];
                        (function["name"].as_str().unwrap(), object(function["arguments"].as_str().unwrap()))
                    })
                    .collect();
                for piece_len in [1, 3, 17, usize::MAX] {
                    let reply = Reply::from_text(V3_2, open, text, piece_len);
                    let reasoning = if open { text_of("reasoning_content") } else { String::new() };
                    assert_eq!((&reply.reasoning, &reply.content), (&reasoning, &text_of("content")), "{name}");
                    let found: Vec<_> =
                        reply.calls.iter().map(|(name, arguments)| (name.as_str(), object(arguments))).collect();
                    assert_eq!((found, reply.defect), (calls.clone(), None), "{name}");
                }
                num_turns += 1;
            }
        }
        assert_eq!(num_turns, 35);
    }
}

fn first_difference<'a>(left: &'a str, right: &'a str) -> Option<(&'a str, &'a str)> {
    let at = left.char_indices().zip(right.chars()).find(|((_, l), r)| l != r).map(|((at, _), _)| at)?;
    Some((left[at..].get(..80).unwrap_or(&left[at..]), right[at..].get(..80).unwrap_or(&right[at..])))
}

official! {
    fn releases_and_sizes() {
        for (name, release, vocab_size) in TOKENIZERS {
            let prompt = open(name);
            assert_eq!(prompt.release(), release, "{name}: {}", prompt.release_reason());
            assert_eq!(prompt.tokenizer().vocab_size(), vocab_size, "{name}");
        }
    }
}

official! {
    fn known_ids() {
        let talk = |lines: &[(&str, &str)]| {
            let messages: Vec<_> = lines.iter().map(|(role, text)| json!({"role": role, "content": text})).collect();
            json!({ "messages": messages })
        };
        let hello = talk(&[("user", "hello")]);
        let sums = talk(&[("user", "hello"), ("assistant", "Hello! I am DeepSeek."), ("user", "1+1=?")]);
        let cases: [(&str, &Value, bool, &[u32]); 6] = [
            ("deepseek-v3", &hello, false, &[0, 128803, 33310, 128804]),
            ("deepseek-r1", &hello, false, &[0, 128803, 33310, 128804, 128798, 201]),
            ("deepseek-v3.1", &hello, false, &[0, 128803, 33310, 128804, 128799]),
            ("deepseek-v3.1", &hello, true, &[0, 128803, 33310, 128804, 128798]),
            ("deepseek-v3.2", &hello, false, &[0, 128803, 33310, 128804, 128799]),
            (
                "deepseek-v3.2",
                &sums,
                true,
                &[
                    0, 128803, 33310, 128804, 128799, 19923, 3, 342, 1030, 22651, 4374, 1465, 16, 1, 128803, 19, 13, 19,
                    127252, 128804, 128798,
                ],
            ),
        ];
        for (name, request, thinking, ids) in cases {
            assert_eq!(open(name).render(&chat(request, thinking)).unwrap().ids, ids, "{name}");
        }
        let prompt = open("deepseek-v3.2");
        assert_eq!(prompt.eos_token_ids(), [0, 1, 128803]);
        let tokenizer = prompt.tokenizer();
        assert_eq!(tokenizer.encode("<｜DSML｜function_calls>").unwrap(), [30, 128793, 8701, 4941, 12548, 32]);
        assert_eq!(tokenizer.encode("</").unwrap(), [1718]);
        assert_eq!(tokenizer.encode("\n\n").unwrap(), [271]);
        assert_eq!(tokenizer.encode(">\n").unwrap().len(), 1);
        let middle = prompt.encode_fill_in_the_middle("hello", "hello").unwrap();
        assert_eq!(middle, [0, 128801, 33310, 128800, 33310, 128802]);
    }
}

/// Conversations on which a published template and the built-in encoding must agree. Tool calls are V3.1's and
/// R1-0528's only: the templates of V3 and R1 are not used for them.
fn conversations() -> Vec<Value> {
    let call = |name: &str, arguments: &str| json!({"id": "c", "type": "function", "function": {"name": name, "arguments": arguments}});
    let tool_turn = json!([
        {"role": "system", "content": "S"},
        {"role": "user", "content": "天气？"},
        {"role": "assistant", "content": null, "tool_calls": [call("f", "{\"a\": 1.0}"), call("g", "{}")]},
        {"role": "tool", "content": "晴 <x>"},
        {"role": "tool", "content": "{\"t\": 2}"}]);
    let mut answered = tool_turn.clone();
    answered.as_array_mut().unwrap().extend([
        json!({"role": "assistant", "content": "more", "tool_calls": [call("h", "not json")]}),
        json!({"role": "tool", "content": ""}),
        json!({"role": "assistant", "content": "Sunny."}),
        json!({"role": "user", "content": "Thanks"}),
    ]);
    let conversations = json!([
        [{"role": "user", "content": "hello"}],
        [{"role": "system", "content": "S"}, {"role": "user", "content": " padded \n"}],
        [{"role": "system", "content": "A"}, {"role": "system", "content": "B"}, {"role": "user", "content": "q"},
         {"role": "assistant", "content": "a"}, {"role": "user", "content": "r"}],
        [{"role": "user", "content": "q"}, {"role": "assistant", "content": "<think>t</think>\n\na"},
         {"role": "user", "content": "r"}],
        [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "reasoning_content": "t"},
         {"role": "user", "content": ""}],
        [{"role": "user", "content": "q"}, {"role": "user", "content": "r"}],
        [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
        [{"role": "assistant", "content": "a"}, {"role": "user", "content": "q"}],
        tool_turn,
        answered
    ]);
    conversations.as_array().unwrap().iter().map(|messages| json!({ "messages": messages })).collect()
}

official! {
    fn built_in_encodings_are_the_templates() {
        for (name, release, _) in TOKENIZERS {
            if release == V3_2 {
                continue;
            }
            let prompt = open(name);
            let keeps_tool_calls = !matches!(release, V3 | R1);
            assert_eq!(prompt.notices().len(), usize::from(!keeps_tool_calls), "{name}: {:?}", prompt.notices());
            for conversation in conversations() {
                for thinking in [false, true] {
                    let request = chat(&conversation, thinking);
                    let from_template = prompt.render(&request).unwrap();
                    let built_in = encoding::encode(release, &request, from_template.thinking).unwrap();
                    let (text, ids) = built_in.finish(prompt.tokenizer()).unwrap();
                    assert_eq!(from_template.text, text, "{name}, {conversation}");
                    assert_eq!(from_template.ids, ids, "{name}, {conversation}");
                }
            }
        }
    }
}

official! {
    /// Where a template does without them, tool definitions of a request reach it in the system text, the same as the
    /// built-in encoding has them.
    fn tool_definitions_in_templates() {
        let request = json!({
            "tools": [{"type": "function", "function": {"name": "f", "description": "<｜User｜>", "parameters": {}}}],
            "messages": [{"role": "user", "content": "q"}]});
        for (name, release, _) in TOKENIZERS {
            if release == V3_2 {
                continue;
            }
            let prompt = open(name);
            let rendered = prompt.render(&chat(&request, true)).unwrap();
            let built_in = encoding::encode(release, &chat(&request, true), rendered.thinking).unwrap();
            assert_eq!((rendered.text, rendered.ids), built_in.finish(prompt.tokenizer()).unwrap(), "{name}");
        }
    }
}

official! {
    /// The ids of real text are the library's, and come back as the text.
    fn real_text() {
        let text = std::fs::read_to_string(data().join("encoding").join("v32_search_w_date_expected.txt")).unwrap();
        for (name, ..) in TOKENIZERS {
            let json = std::fs::read(data().join("tokenizers").join(name).join("tokenizer.json")).unwrap();
            let library = tokenizers::Tokenizer::from_bytes(&json).unwrap();
            let tokenizer = Tokenizer::from_bytes(&json).unwrap();
            let ids = tokenizer.encode(&text).unwrap();
            assert!(ids == library.encode(text.as_str(), false).unwrap().get_ids(), "{name}");
            assert!(tokenizer.decode(&ids) == text, "{name}");
            let plain = tokenizer.encode_plain(&text).unwrap();
            assert!(tokenizer.decode(&plain) == text, "{name}");
            let controls: std::collections::HashSet<_> = library.get_added_tokens_decoder().into_keys().collect();
            assert!(plain.iter().all(|id| !controls.contains(id)), "{name}");
            for id in controls {
                let token = library.id_to_token(id).unwrap();
                assert_eq!(tokenizer.encode(&token).unwrap(), [id], "{name}");
                assert_eq!(tokenizer.token_bytes(id), token.as_bytes(), "{name}");
            }
        }
    }
}

official! {
    /// Every token's bytes are what the library decodes it to, where that is text at all.
    fn token_bytes_are_the_librarys() {
        for (name, ..) in TOKENIZERS {
            let json = std::fs::read(data().join("tokenizers").join(name).join("tokenizer.json")).unwrap();
            let library = tokenizers::Tokenizer::from_bytes(&json).unwrap();
            let tokenizer = Tokenizer::from_bytes(&json).unwrap();
            for id in 0..tokenizer.vocab_size() as u32 {
                let text = library.decode(&[id], false).unwrap();
                assert_eq!(String::from_utf8_lossy(tokenizer.token_bytes(id)), text, "{name}, {id}");
            }
        }
    }
}
