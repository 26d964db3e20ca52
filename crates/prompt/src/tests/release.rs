//! Telling releases apart, and what hangs on them.

use super::*;
use Release::*;

#[test]
fn names() {
    for release in Release::ALL {
        assert_eq!(release.to_string().parse::<Release>().unwrap(), release);
        assert_eq!(release.to_string().to_lowercase().parse::<Release>().unwrap(), release);
    }
    assert_eq!(" v3.2-EXP ".parse::<Release>().unwrap(), V3_2Exp);
    assert_eq!(
        "V5".parse::<Release>().unwrap_err().to_string(),
        "unknown release \"V5\"; known releases: V3, V3-0324, R1, R1-0528, V3.1, V3.1-Terminus, V3.2-Exp, V3.2, \
         V3.2-Speciale, R1-0528-Qwen3-8B. Name one with --release"
    );
}

#[test]
fn detection() {
    let r1_template = r"{{'<｜Assistant｜><think>\n'}}";
    let r1_0528_template = "{{'<｜User｜>' + content + '<｜Assistant｜>'}}";
    let v31_template = "{{'<｜Assistant｜></think>'}}";
    let v3 = Some(r#"{"architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3"}"#);
    let v32 = Some(r#"{"model_type": "deepseek_v32"}"#);
    let qwen = Some(r#"{"architectures": ["Qwen3ForCausalLM"]}"#);
    // config.json, whose tokenizer, template, folder: release.
    let cases = [
        (v3, V3, None, "model", V3),
        (v3, V3, None, "DeepSeek-V3-0324", V3_0324),
        (v3, R1, Some(r1_template), "model", R1),
        (v3, R1, Some("{{'<｜Assistant｜><think>\n'}}"), "model", R1),
        (v3, R1, Some(r1_0528_template), "model", R1_0528),
        (v3, R1, None, "deepseek-r1-0528", R1_0528),
        (v3, R1, None, "model", R1),
        (v3, V3_1, None, "model", V3_1),
        (v3, V3_1, None, "DeepSeek-V3.1-Terminus", V3_1Terminus),
        (v3, R1, Some(v31_template), "model", V3_1),
        (v32, V3_1, None, "model", V3_2Exp),
        (v32, V3_2, None, "model", V3_2),
        (v32, V3_2, None, "DeepSeek-V3.2-Speciale", V3_2Speciale),
        // The tokenizer says more about the encoding than the architecture does.
        (v3, V3_2, None, "model", V3_2),
        (qwen, R1, Some(r1_0528_template), "model", R1_0528Qwen3_8B),
        (None, V3_2, None, "model", V3_2),
        (None, V3, None, "model", V3),
    ];
    for (config, tokenizer, template, name, release) in cases {
        let files = PromptFiles {
            config: config.map(|config| config.as_bytes().to_vec()),
            tokenizer: Some(toy_tokenizer(tokenizer)),
            chat_template: template.map(|template: &str| template.as_bytes().to_vec()),
            name: name.to_owned(),
            ..PromptFiles::default()
        };
        let (found, reason) = Release::detect(&files).unwrap();
        assert_eq!(found, release, "{config:?}, {tokenizer}, {template:?}, {name}: {reason}");
        let prompt = Prompt::open(&files, None).unwrap();
        assert_eq!((prompt.release(), prompt.release_reason()), (found, reason));
    }
}

#[test]
fn detection_that_fails() {
    let known = "known releases: V3, V3-0324, R1, R1-0528, V3.1, V3.1-Terminus, V3.2-Exp, V3.2, V3.2-Speciale, \
                 R1-0528-Qwen3-8B. Name one with --release";
    let tokenizer = Some(toy_tokenizer(V3));
    let cases = [
        (
            Some(r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}"#),
            tokenizer.clone(),
            format!(
                "config.json names the architecture LlamaForCausalLM / llama, which is none of DeepSeek's; {known}"
            ),
        ),
        (Some("{}"), tokenizer.clone(), format!("config.json names no architecture; {known}")),
        (Some("{"), tokenizer, "config.json: EOF while parsing an object at line 1 column 1".to_owned()),
        (
            None,
            None,
            "whale has no tokenizer.json; text needs it. Add the file to the folder, or send token ids instead of text"
                .to_owned(),
        ),
        (
            None,
            Some(b"[]".to_vec()),
            "tokenizer.json: invalid type: sequence, expected struct Tokenizer at line 1 column 2".to_owned(),
        ),
    ];
    for (config, tokenizer, message) in cases {
        let config = config.map(|config: &str| config.as_bytes().to_vec());
        let files = PromptFiles { config, tokenizer, name: "whale".to_owned(), ..PromptFiles::default() };
        let error = Prompt::open(&files, None).err().expect("there is nothing to open");
        assert_eq!(error.to_string(), message);
        assert!(!error.is_request(), "{message}");
    }
}

/// A release that was named is not questioned: an architecture of another is no error.
#[test]
fn a_named_release_wins() {
    let files = PromptFiles { config: Some(b"{}".to_vec()), ..toy_files(V3_2) };
    let prompt = Prompt::open(&files, Some(V3_1)).unwrap();
    assert_eq!((prompt.release(), prompt.release_reason()), (V3_1, "it was named"));
}

#[test]
fn thinking() {
    // Release, whether it may be on, whether it may be off.
    let cases = [
        (V3, false, true),
        (V3_0324, false, true),
        (R1, true, false),
        (R1_0528, true, false),
        (V3_1, true, true),
        (V3_1Terminus, true, true),
        (V3_2Exp, true, true),
        (V3_2, true, true),
        (V3_2Speciale, true, false),
        (R1_0528Qwen3_8B, true, false),
    ];
    for (release, on, off) in cases {
        let prompt = toy_prompt(release);
        assert_eq!((prompt.supports_thinking(true), prompt.supports_thinking(false)), (on, off), "{release}");
        assert_eq!(prompt.thinks_by_default(), !off, "{release}");
        for wanted in [true, false] {
            let request = json!({"messages": [{"role": "user", "content": "q"}]});
            let rendered = prompt.render(&chat(&request, wanted)).unwrap();
            assert_eq!(rendered.thinking, if wanted { on } else { !off }, "{release}, {wanted}");
        }
    }
}

#[test]
fn sampling_defaults() {
    let advised = |release| {
        let sampling = toy_prompt(release).sampling_defaults();
        (sampling.temperature, sampling.top_p)
    };
    for (release, temperature, top_p) in [
        (V3, None, None),
        (V3_0324, Some(0.3), None),
        (R1, Some(0.6), Some(0.95)),
        (R1_0528Qwen3_8B, Some(0.6), Some(0.95)),
        (V3_1Terminus, Some(0.6), Some(0.95)),
        (V3_2Exp, None, None),
        (V3_2, Some(1.0), Some(0.95)),
        (V3_2Speciale, Some(1.0), Some(0.95)),
    ] {
        assert_eq!(advised(release), (temperature, top_p), "{release}");
    }
    // The checkpoint's own file wins, also where it says nothing.
    let generation_config =
        |text: &str| PromptFiles { generation_config: Some(text.as_bytes().to_vec()), ..toy_files(V3_2) };
    let all = r#"{"temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.1, "repetition_penalty": 1.1, "x": []}"#;
    let sampling = Prompt::open(&generation_config(all), None).unwrap().sampling_defaults();
    let expected = crate::SamplingDefaults {
        temperature: Some(0.5),
        top_p: Some(0.9),
        top_k: Some(40),
        min_p: Some(0.1),
        repetition_penalty: Some(1.1),
    };
    assert_eq!(sampling, expected);
    let sampling = Prompt::open(&generation_config("{}"), None).unwrap().sampling_defaults();
    assert_eq!(sampling, crate::SamplingDefaults::default());
    let error = Prompt::open(&generation_config(r#"{"temperature": "hot"}"#), None).err().expect("hot is no number");
    assert!(error.to_string().starts_with("generation_config.json: invalid type: string \"hot\""), "{error}");
}

#[test]
fn ends_of_sequence() {
    let user = toy_prompt(V3_2).tokenizer().id_of("<｜User｜>").unwrap();
    let eot = toy_prompt(V3_2).tokenizer().id_of("<|EOT|>").unwrap();
    let cases = [
        (None, None, None, vec![0, 1, user]),
        (Some(r#"{"eos_token_id": 7}"#), None, None, vec![0, 1, 7, user]),
        (None, Some(r#"{"model_type": "deepseek_v32", "eos_token_id": [9, 8]}"#), None, vec![0, 1, 8, 9, user]),
        (None, None, Some(r#"{"eos_token": "<|EOT|>"}"#), vec![0, 1, user, eot]),
        (None, None, Some(r#"{"eos_token": {"content": "<|EOT|>"}}"#), vec![0, 1, user, eot]),
        (None, None, Some(r#"{"eos_token": null}"#), vec![0, 1, user]),
    ];
    for (generation, config, tokenizer_config, ids) in cases {
        let bytes = |text: Option<&str>| text.map(|text| text.as_bytes().to_vec());
        let mut files = toy_files(V3_2);
        files.generation_config = bytes(generation);
        files.tokenizer_config = bytes(tokenizer_config);
        files.config = bytes(config).or(files.config);
        let prompt = Prompt::open(&files, None).unwrap();
        assert_eq!(prompt.eos_token_ids(), ids, "{generation:?}, {config:?}, {tokenizer_config:?}");
    }
}

#[test]
fn a_tokenizer_without_control_tokens() {
    let json = String::from_utf8(toy_tokenizer(V3)).unwrap().replace("<｜User｜>", "<user>");
    let files = PromptFiles { tokenizer: Some(json.into_bytes()), ..toy_files(V3) };
    let prompt = Prompt::open(&files, None).unwrap();
    assert_eq!(prompt.notices(), ["the tokenizer has no <｜User｜>: chat is encoded without it as a token"]);
    let request = json!({"messages": [{"role": "user", "content": "q"}]});
    let rendered = prompt.render(&chat(&request, false)).unwrap();
    assert_eq!(prompt.tokenizer().decode(&rendered.ids), "<｜begin▁of▁sentence｜><｜User｜>q<｜Assistant｜>");
}

#[test]
fn files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("DeepSeek-V3-0324");
    std::fs::create_dir(&path).unwrap();
    let files = PromptFiles::read(&path).unwrap();
    assert_eq!(files.name, "DeepSeek-V3-0324");
    assert!(!files.has_tokenizer());

    std::fs::write(path.join("tokenizer.json"), toy_tokenizer(V3)).unwrap();
    std::fs::write(path.join("config.json"), r#"{"model_type": "deepseek_v3"}"#).unwrap();
    std::fs::write(path.join("generation_config.json"), r#"{"top_k": 3}"#).unwrap();
    std::fs::write(path.join("tokenizer_config.json"), r#"{"add_bos_token": true}"#).unwrap();
    std::fs::write(path.join("chat_template.jinja"), "T").unwrap();
    let files = PromptFiles::read(&path).unwrap();
    assert!(files.has_tokenizer());
    let prompt = Prompt::open(&files, None).unwrap();
    assert_eq!(prompt.release(), V3_0324);
    assert_eq!(prompt.sampling_defaults().top_k, Some(3));
    assert_eq!(prompt.encode_completion("").unwrap(), [0]);
    let request = json!({"messages": [{"role": "user", "content": "q"}]});
    assert_eq!(prompt.render(&chat(&request, false)).unwrap().text, "T");

    std::fs::write(path.join("chat_template.jinja"), [0xFF]).unwrap();
    let error = Prompt::open(&PromptFiles::read(&path).unwrap(), None).err().expect("0xFF is not UTF-8");
    assert!(error.to_string().starts_with("chat template: chat_template.jinja is not UTF-8"), "{error}");

    std::fs::remove_file(path.join("config.json")).unwrap();
    std::fs::create_dir(path.join("config.json")).unwrap();
    let error = PromptFiles::read(&path).unwrap_err().to_string();
    assert!(error.starts_with("cannot read ") && error.contains("config.json: "), "{error}");
    let error = PromptFiles::read(&path.join("nowhere")).unwrap_err().to_string();
    assert!(error.starts_with("cannot read ") && error.contains("nowhere: "), "{error}");
}

/// The checkpoint that ships with the project speaks V3.2's encoding with every control token.
#[test]
fn the_embedded_checkpoint() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/embedded");
    let prompt = Prompt::open(&PromptFiles::read(folder.as_ref()).unwrap(), None).unwrap();
    assert_eq!(prompt.release(), V3_2);
    assert!(prompt.notices().is_empty(), "{:?}", prompt.notices());
    let request: Value = serde_json::from_str(include_str!("vectors/v32_tools.json")).unwrap();
    let rendered = prompt.render(&chat(&request, true)).unwrap();
    let tokenizer = prompt.tokenizer();
    assert_eq!(tokenizer.decode(&rendered.ids), include_str!("vectors/v32_tools.txt"));
    // Every tag of the markup holds the one control token.
    let dsml = id(tokenizer, "｜DSML｜");
    assert_eq!(rendered.ids.iter().filter(|&&id| id == dsml).count(), rendered.text.matches("｜DSML｜").count());
}
