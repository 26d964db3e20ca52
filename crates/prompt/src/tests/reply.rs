//! Replies with tool calls: what is decoded, what is repaired, what is told as an error, and that it makes no difference
//! how a reply was cut.

use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::Map;

use super::*;
use crate::reply::CallForm;
use crate::{Delta, Ending, OutputOptions, OutputParser, Reply, encoding, python_json};
use Release::*;

const EOS: &str = "<｜end▁of▁sentence｜>";

/// A whole reply, in pieces of every length that could matter; they must all agree.
fn read(release: Release, open: bool, text: &str) -> Reply {
    let whole = Reply::from_text(release, open, text, usize::MAX);
    for piece_len in [1, 2, 3, 5, 8, 64] {
        assert_eq!(Reply::from_text(release, open, text, piece_len), whole, "pieces of {piece_len}: {text:?}");
    }
    whole
}

/// What is expected of a reply: reasoning, content, calls, and what the defect's message says, if there is one.
type Expected = (&'static str, &'static str, &'static [(&'static str, &'static str)], Option<&'static str>);

fn check(release: Release, open: bool, text: &str, expected: Expected) {
    let (reasoning, content, calls, defect) = expected;
    let reply = read(release, open, text);
    let found: Vec<_> = reply.calls.iter().map(|(name, arguments)| (name.as_str(), arguments.as_str())).collect();
    assert_eq!((reply.reasoning.as_str(), reply.content.as_str(), &found[..]), (reasoning, content, calls), "{text}");
    match (&reply.defect, defect) {
        (None, None) => {}
        (Some(found), Some(expected)) => assert!(found.message.contains(expected), "{found:?} in {text}"),
        (found, expected) => panic!("found {found:?}, expected {expected:?} in {text}"),
    }
}

/// `D` stands for `｜DSML｜`.
fn dsml(text: &str) -> String {
    text.replace('D', "｜DSML｜") + EOS
}

#[test]
fn dsml_calls() {
    let weather = r#"<DfunctionXcalls>
<Dinvoke name="weather">
<Dparameter name="city" string="true">Paris</Dparameter>
<Dparameter name="days" string="false">3</Dparameter>
</Dinvoke>
</DfunctionXcalls>"#;
    let weather = weather.replace('X', "_");
    let calls: &[_] = &[("weather", r#"{"city": "Paris", "days": 3}"#)];
    check(V3_2, false, &dsml(&format!("\n\n{weather}")), ("", "", calls, None));
    check(V3_2, false, &dsml(&format!("Let me look.\n\n{weather}")), ("", "Let me look.", calls, None));
    check(V3_2, true, &dsml(&format!("why</think>Look.\n\n{weather}")), ("why", "Look.", calls, None));
    // The two newlines belong to the marker, further ones to the content; fewer are accepted.
    check(V3_2, false, &dsml(&format!("a\n\n\n{weather}")), ("", "a\n", calls, None));
    check(V3_2, false, &dsml(&format!("a\n{weather}")), ("", "a", calls, None));
    check(V3_2, false, &dsml(&format!("a<\n\n{weather}")), ("", "a<", calls, None));
    // A call that opens within the reasoning ends it.
    check(V3_2, true, &dsml(&format!("why\n\n{weather}")), ("why", "", calls, None));
    // Whitespace behind the block is nothing.
    check(V3_2, false, &dsml(&format!("{weather}\n \n")), ("", "", calls, None));
    let behind = ("", "", calls, Some("text between or behind"));
    check(V3_2, false, &dsml(&format!("{weather}\nSo it is.")), behind);

    // Two calls, two blocks, no arguments.
    let now = "<DfunctionXcalls>\n<Dinvoke name=\"now\">\n\n</Dinvoke>\n<Dinvoke name=\"now\">\n</Dinvoke>\n</DfunctionXcalls>";
    let now = now.replace('X', "_");
    check(V3_2, false, &dsml(&now), ("", "", &[("now", "{}"), ("now", "{}")], None));
    let twice: &[_] = &[("now", "{}"), ("now", "{}"), ("now", "{}"), ("now", "{}")];
    check(V3_2, false, &dsml(&format!("{now}\n\n{now}")), ("", "", twice, None));
}

/// One call of `f` around this body, in a block.
fn call_of_f(body: &str) -> String {
    dsml(&format!("<Dfunction_calls>\n<Dinvoke name=\"f\">\n{body}\n</Dinvoke>\n</Dfunction_calls>"))
}

#[test]
fn dsml_values() {
    let long = format!("[{}1]", "\"abc\", ".repeat(60));
    let cases: &[(&str, &str, &str)] = &[
        // Kind, value, JSON.
        ("true", "", r#""""#),
        ("true", "5", r#""5""#),
        ("true", "a \"b\" \\ \n\t\u{1}", r#""a \"b\" \\ \n\t\u0001""#),
        ("true", "鲸🐋é", "\"鲸🐋é\""),
        ("true", "1 2>&1", r#""1 2>&1""#),
        ("true", "</x> <b>&lt;</", r#""</x> <b>&lt;</""#),
        ("true", "<", r#""<""#),
        ("true", "</</", r#""</</""#),
        ("true", "</think><think>", r#""</think><think>""#),
        ("true", "</Dinvoke>", r#""</｜DSML｜invoke>""#),
        ("true", "</Dinvoke>\n</Dfunction_calls>", r#""</｜DSML｜invoke>\n</｜DSML｜function_calls>""#),
        ("true", "<Dinvoke name=\"g\">", r#""<｜DSML｜invoke name=\"g\">""#),
        ("true", "a D b </Dother> <Dx", r#""a ｜DSML｜ b </｜DSML｜other> <｜DSML｜x""#),
        ("true", "{\"a\": 1}", r#""{\"a\": 1}""#),
        ("false", "5", "5"),
        ("false", "-1.5e-07", "-1.5e-07"),
        ("false", "1E400", "1E400"),
        ("false", "null", "null"),
        ("false", "[1,  {\"a\": \"</Dx\"}]", "[1,  {\"a\": \"</｜DSML｜x\"}]"),
        ("false", "\"text\"", r#""text""#),
        // What is not JSON becomes a string.
        ("false", "Paris", r#""Paris""#),
        ("false", "", r#""""#),
        ("false", "{'a': 1}", r#""{'a': 1}""#),
        ("false", "nul", r#""nul""#),
        ("false", "NaN", r#""NaN""#),
        ("false", "[1, 2", r#""[1, 2""#),
        ("false", &long, &long),
    ];
    for (is_string, value, json) in cases {
        let text = call_of_f(&format!("<Dparameter name=\"k\" string=\"{is_string}\">{value}</Dparameter>"));
        let arguments = format!("{{\"k\": {json}}}");
        let reply = read(V3_2, false, &text);
        assert_eq!((reply.calls, reply.defect), (vec![("f".to_owned(), arguments)], None), "{text}");
    }
    // Keys are text, too.
    for key in ["a b", "名", "a\"b", "a>b", "a\">b", "string=\"true\""] {
        let body = format!("<Dparameter name=\"{key}\" string=\"true\">v</Dparameter>");
        let mut arguments = "{".to_owned();
        python_json::write_string(&mut arguments, key);
        arguments += ": \"v\"}";
        let reply = read(V3_2, false, &call_of_f(&body));
        assert_eq!((reply.calls, reply.defect), (vec![("f".to_owned(), arguments)], None), "{key}");
    }
}

#[test]
fn dsml_repairs() {
    let p = |key: &str, value: &str| format!("<Dparameter name=\"{key}\" string=\"true\">{value}</Dparameter>");
    let one: &[_] = &[("f", r#"{"k": "v"}"#)];
    let repaired = ("", "", one, None);
    let check = |text: &str, expected: Expected| check(V3_2, false, &dsml(text), expected);
    // The block around the call, or its end, or the ends within it are missing.
    check(&format!("<Dinvoke name=\"f\">\n{}\n</Dinvoke>", p("k", "v")), repaired);
    check(&format!("<Dfunction_calls>\n<Dinvoke name=\"f\">\n{}\n</Dinvoke>", p("k", "v")), repaired);
    check(&format!("<Dfunction_calls>\n<Dinvoke name=\"f\">\n{}\n</Dfunction_calls>", p("k", "v")), repaired);
    check(&format!("<Dfunction_calls>\n<Dinvoke name=\"f\">\n{}", p("k", "v")), repaired);
    check("<Dinvoke name=\"f\"><Dparameter name=\"k\" string=\"true\">v", repaired);
    check("<Dinvoke name=\"f\"><Dparameter name=\"k\" string=\"true\">v</", repaired);
    check("<Dinvoke name=\"f\"><Dparameter name=\"k\" string=\"true\">v</Dparam", repaired);
    check("<Dinvoke name=\"f\"><Dparameter name=\"k\" string=\"true\">v</Dinvoke>\n</Dfunction_calls>", repaired);
    check("<Dinvoke name=\"f\"><Dparameter name=\"k\" string=\"true\">v</Dfunction_calls>", repaired);
    check(
        "<Dinvoke name=\"f\"><Dparameter name=\"k\" string=\"false\">[1</Dinvoke>",
        ("", "", &[("f", r#"{"k": "[1"}"#)], None),
    );
    let two: &[_] = &[("f", r#"{"k": "v"}"#), ("g", r#"{"l": "w"}"#)];
    let g = format!("<Dinvoke name=\"g\">\n{}\n</Dinvoke>\n", p("l", "w"));
    // An unfinished sibling does not take the others with it.
    check(
        &format!("<Dinvoke name=\"f\">\n<Dparameter name=\"k\" string=\"true\">v</Dinvoke>\n{g}"),
        ("", "", two, None),
    );
    check(&format!("<Dinvoke name=\"f\">\n{}\n{g}", p("k", "v")), ("", "", two, None));
    // The block opens without its angle bracket.
    check(&format!("aDfunction_calls>\n{g}"), ("", "a", &[("g", r#"{"l": "w"}"#)], None));
    // A parameter does not say what it is.
    check("<Dinvoke name=\"f\"><Dparameter name=\"k\">v</Dparameter></Dinvoke>", repaired);
    check(
        "<Dinvoke name=\"f\"><Dparameter name=\"k\">[1]</Dparameter></Dinvoke>",
        ("", "", &[("f", "{\"k\": [1]}")], None),
    );
    // A JSON object in place of parameters.
    check("<Dinvoke name=\"f\">\n{\"k\":\"v\"}\n</Dinvoke>", ("", "", &[("f", r#"{"k":"v"}"#)], None));
    check(
        "<Dinvoke name=\"f\">{\"k\":\"</Dinvoke>\"}</Dinvoke>",
        ("", "", &[("f", "{\"k\":\"</｜DSML｜invoke>\"}")], None),
    );
    check("<Dinvoke name=\"f\">{\"k\":[\"v", ("", "", &[("f", r#"{"k":["v"]}"#)], None));
    // Whitespace where the format has none, and none where it has some.
    let spaced = "<Dfunction_calls >\n\n <Dinvoke  name=\"f\">  <Dparameter name=\"k\" string=\"true\">v</Dparameter >\n</Dinvoke\n>\n";
    check(spaced, repaired);
    check(&format!("<Dfunction_calls><Dinvoke name=\"f\">{}</Dinvoke></Dfunction_calls>", p("k", "v")), repaired);
}

#[test]
fn dsml_defects() {
    let p = |key: &str, value: &str| format!("<Dparameter name=\"{key}\" string=\"true\">{value}</Dparameter>");
    let check = |text: &str, expected: Expected| check(V3_2, false, &dsml(text), expected);
    let one: &[_] = &[("f", r#"{"k": "v"}"#)];
    check("a\n\n<Dfunc", ("", "a", &[], Some("ends within the markup that opens")));
    check("a\n\n<Dfunction_calls>\n<Dinvoke name=\"f", ("", "a", &[], Some("ends within the markup")));
    check(
        &format!("<Dinvoke name=\"f\">{}<Dparameter name=\"l", p("k", "v")),
        ("", "", one, Some("ends within the markup")),
    );
    check(
        &format!("<Dinvoke name=\"f\">{}{}", p("k", "v"), p("k", "w")),
        ("", "", one, Some("\"k\" comes more than once")),
    );
    check(&format!("<Dinvoke name=\"f\">text {}", p("k", "v")), ("", "", one, Some("text between or behind")));
    check(&format!("<Dinvoke name=\"f\">{}</Dinvoke> <Dother>", p("k", "v")), ("", "", one, Some("text between")));
    // Whitespace before an object counts like all other between the tags, however it was cut.
    let body = "<Dinvoke name=\"f\">x</Dinvoke>\n<Dinvoke name=\"f\">\n{} y";
    check(body, ("", "", &[("f", "{}"), ("f", "{}")], Some("text between")));
    check("<Dinvoke name=\"f\">{\"k\": no}", ("", "", &[("f", "{\"k\": no}")], Some("are not JSON")));
    // A token that opens nothing is dropped, and the text around it is text.
    check("a D b", ("", "a  b", &[], Some("opens no tool call")));
    check(
        "a <Dparameter name=\"k\" string=\"true\">",
        ("", "a <parameter name=\"k\" string=\"true\">", &[], Some("opens no")),
    );
    check("a\n\n<D</think>b", ("", "a\n\n<b", &[], Some("opens no")));
    super::reply::check(V3_2, true, &dsml("a\n\n<Dx</think>b"), ("a\n\n<x", "b", &[], Some("opens no")));
    let long = "x".repeat(5000);
    let reply = read(V3_2, false, &dsml(&format!("<Dinvoke name=\"{long}")));
    assert_eq!((reply.content.len(), reply.calls.len()), (5014, 0));
    let reply =
        read(V3_2, false, &dsml(&format!("<Dinvoke name=\"f\">\n<Dparameter name=\"{long}\" string=\"true\">v")));
    assert!(reply.calls == [("f".to_owned(), "{}".to_owned())] && reply.defect.is_some());
}

/// The first `at` bytes of a text, without a part of a control token at the end: tokens are cut off whole.
fn cut_off(release: Release, text: &str, at: usize) -> &str {
    let is_within = |token: &&str| {
        let from = at.saturating_sub(token.len() - 1);
        (from..at).find(|&start| text.is_char_boundary(start) && text[start..].starts_with(*token))
    };
    let start = release.control_tokens().filter_map(|token| is_within(&token)).min();
    &text[..start.unwrap_or(at)]
}

#[test]
fn a_reply_that_is_cut_off_stays_open() {
    let text = format!(
        "why</think>a\n\n{}",
        call_of_f("<Dparameter name=\"k\" string=\"true\">v w</Dparameter>").replace(EOS, "")
    );
    let whole = read(V3_2, true, &text);
    for (at, _) in text.char_indices() {
        let text = cut_off(V3_2, &text, at);
        let cut = read(V3_2, true, text);
        assert_eq!(cut.defect, None, "{text:?}");
        assert!(whole.reasoning.starts_with(&cut.reasoning), "{cut:?}");
        // The newlines and the bracket before a tag are content if nothing comes after them.
        assert!("a\n\n<".starts_with(&cut.content), "{cut:?}");
        match cut.calls.as_slice() {
            [] => {}
            [(name, arguments)] => {
                assert!(name == "f" && whole.calls[0].1.starts_with(arguments), "{cut:?}");
                // A half call is never a whole one.
                let is_whole = serde_json::from_str::<Value>(arguments).is_ok();
                assert_eq!(is_whole, text.contains("</｜DSML｜invoke>"), "{cut:?}");
            }
            _ => panic!("{cut:?}"),
        }
    }
}

/// `B E b e S` within braces stand for the tokens of calls.
fn marked(text: &str) -> String {
    let tokens = [
        ("{B}", "<｜tool▁calls▁begin｜>"),
        ("{E}", "<｜tool▁calls▁end｜>"),
        ("{b}", "<｜tool▁call▁begin｜>"),
        ("{e}", "<｜tool▁call▁end｜>"),
        ("{S}", "<｜tool▁sep｜>"),
    ];
    tokens.iter().fold(text.to_owned(), |text, (short, token)| text.replace(short, token)) + EOS
}

#[test]
fn calls_before_v32() {
    let classic = "{B}{b}function{S}f\n```json\n{\"a\": 1}\n```{e}\n{b}function{S}g\n```json\n{}\n```{e}{E}";
    let v31 = "{B}{b}f{S}{\"a\": 1}{e}{b}g{S}{}{e}{E}";
    let calls: &[_] = &[("f", "{\"a\": 1}"), ("g", "{}")];
    for release in [V3, V3_0324, V3_1, V3_1Terminus, V3_2Exp] {
        for text in [classic, v31] {
            check(release, false, &marked(&format!("Look.{text}")), ("", "Look.", calls, None));
        }
    }
    for release in [R1, R1_0528] {
        let text = format!("<think>\nwhy\n</think>\n\nLook.{classic}\n");
        check(release, false, &marked(&text), ("why", "Look.", calls, None));
        check(release, true, &marked(&format!("why\n{classic}")), ("why", "", calls, None));
    }
    check(V3_1, true, &marked(&format!("why</think>{v31}")), ("why", "", calls, None));
    check(V3_1, true, &marked(&format!("why{v31}")), ("why", "", calls, None));
    // As they were written, spaces and all; a name of its own for a tool that is called like the marker.
    let spaced: &[_] = &[("function", "{ \"a\" :\n[ ] }")];
    check(V3_1, false, &marked("{B}{b}function{S} { \"a\" :\n[ ] } {e}{E}"), ("", "", spaced, None));

    // Tokens within strings are text if the string goes on.
    let within: &[_] = &[("f", "{\"a\": \"<｜tool▁call▁end｜><｜tool▁calls▁end｜> </think>\"}")];
    check(V3_1, false, &marked("{B}{b}f{S}{\"a\": \"{e}{E} </think>\"}{e}{E}"), ("", "", within, None));
    let unfinished: &[_] = &[("f", "{\"a\": \"v\"}"), ("g", "{}")];
    check(V3_1, false, &marked("{B}{b}f{S}{\"a\": \"v{e}\n{b}g{S}{}{e}{E}"), ("", "", unfinished, None));

    // Repairs: a missing end, no block, no arguments, brackets.
    let one: &[_] = &[("f", "{\"a\": [1]}")];
    for text in
        ["{b}f{S}{\"a\": [1]}{e}", "{B}{b}f{S}{\"a\": [1]}", "{B}{b}f{S}{\"a\": [1{e}{E}", "{B}{b}f{S}{\"a\": [1"]
    {
        check(V3_1, false, &marked(text), ("", "", one, None));
    }
    for text in [
        "{B}{b}f{S}{e}{E}",
        "{B}{b}f{S}null{e}{E}",
        "{B}{b}function{S}f\n```json\n\n```{e}{E}",
        "{B}{b}function{S}f{e}",
    ] {
        check(V3, false, &marked(text), ("", "", &[("f", "{}")], None));
    }
    // Defects.
    check(V3_1, false, &marked("a{B}{b}f"), ("", "a", &[], Some("ends within")));
    check(V3_1, false, &marked("a{B}{b}f{e}{E}"), ("", "a", &[], Some("no separator")));
    check(V3_1, false, &marked("{B}{b}f{S}[1]{e}{E}"), ("", "", &[("f", "[1]")], Some("no JSON object")));
    check(V3_1, false, &marked("{B}{b}f{S}{\"a\": no}{e}{E}"), ("", "", &[("f", "{\"a\": no}")], Some("not JSON")));
    check(V3_1, false, &marked("{B}{b}f{S}{}{e}{E}So."), ("", "", &[("f", "{}")], Some("between or behind")));
    check(V3_1, false, &marked("a{e}b{S}c{E}"), ("", "abc", &[], None));
    // Another release's markup is text.
    check(V3, false, "<think>a</think>", ("", "<think>a</think>", &[], None));
    check(V3_1, false, &dsml("<Dinvoke name=\"f\">"), ("", "<｜DSML｜invoke name=\"f\">", &[], None));
    check(V3_2, false, "a<｜tool▁calls▁begin｜>", ("", "a<｜tool▁calls▁begin｜>", &[], None));
}

/// Arguments stream: a long string value and a long JSON value come out as they go in.
#[test]
fn arguments_stream() {
    let prompt = toy_prompt(V3_2);
    let list = format!("[{}0]", "12345678, ".repeat(100));
    let body = format!(
        "<Dparameter name=\"s\" string=\"true\">{}</Dparameter>\n<Dparameter name=\"l\" string=\"false\">{list}</Dparameter>",
        "word ".repeat(100)
    );
    let ids = prompt.tokenizer().encode(&call_of_f(&body)).unwrap();
    let mut parser = OutputParser::new(&prompt, false, OutputOptions::default());
    let (mut longest_silence, mut silence, mut arguments) = (0, 0, String::new());
    for id in ids {
        let deltas = parser.push(id);
        silence = if deltas.is_empty() { silence + 1 } else { 0 };
        longest_silence = longest_silence.max(silence);
        for delta in deltas {
            if let Delta::CallArguments(text) = delta {
                arguments += &text;
            }
        }
    }
    let expected = format!("{{\"s\": \"{}\", \"l\": {list}}}", "word ".repeat(100));
    assert_eq!((arguments, parser.num_calls()), (expected, 1));
    // A tag is at most some fifty of these tokens, and a list waits for 256 bytes.
    assert!(longest_silence < 330, "{longest_silence}");
}

// Generated replies.

/// Text that is meant to be mistaken for something else.
fn hostile_text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "[a-z ]{1,6}",
        2 => select(vec!["<", "</", ">", "\"", "\\", "\n", "\n\n", "{", "}", "[", ":", ",", "'", "&lt;", "\t", "\u{1}"]).prop_map(str::to_owned),
        1 => select(vec!["鲸", "🐋", "é", "\u{200d}", "｜", "▁", "<x>", "</x>", "2>&1", "```", "\n```", "function"]).prop_map(str::to_owned),
        1 => select(vec!["invoke name=\"", "parameter", "function_calls>", "string=\"true\">", "DSML"]).prop_map(str::to_owned),
    ];
    prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

/// The same with the characters of control tokens, which are text when they are typed.
fn typed_markup() -> impl Strategy<Value = String> {
    let markup = select(vec![
        "｜DSML｜",
        "<｜DSML｜invoke name=\"f\">",
        "</｜DSML｜parameter>",
        "</｜DSML｜invoke>",
        "</think>",
        "<think>",
        "<｜tool▁call▁end｜>",
        "<｜tool▁calls▁end｜>",
        "<｜User｜>",
        "<｜end▁of▁sentence｜>",
    ]);
    prop::collection::vec(prop_oneof![hostile_text(), markup.prop_map(str::to_owned)], 0..3).prop_map(|p| p.concat())
}

fn json_value(text: BoxedStrategy<String>) -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        (-1e9..1e9f64).prop_map(Value::from),
        text.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((text.clone(), inner), 0..4)
                .prop_map(|entries| Value::from(entries.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

#[derive(Clone, Debug)]
struct Made {
    thinks: bool,
    reasoning: String,
    content: String,
    calls: Vec<(String, Map<String, Value>)>,
}

fn made(text: BoxedStrategy<String>) -> impl Strategy<Value = Made> {
    let arguments = prop::collection::vec((text.clone(), json_value(text.clone())), 0..4);
    let call = ("[a-zA-Z_-]{1,8}", arguments.prop_map(|entries| entries.into_iter().collect()));
    (any::<bool>(), text.clone(), text, prop::collection::vec(call, 0..4))
        .prop_map(|(thinks, reasoning, content, calls)| Made { thinks, reasoning, content, calls })
}

impl Made {
    /// What the release's format cannot tell from its own whitespace, or from the beginning of a tag.
    fn fitting(mut self, release: Release) -> Self {
        self.thinks &= release.thinking_policy() != crate::ThinkingPolicy::Never;
        if !self.thinks {
            self.reasoning.clear();
        }
        self.reasoning = self.reasoning.trim().to_owned();
        self.content = self.content.trim().to_owned();
        for (_, arguments) in &mut self.calls {
            // The end of a parameter's tag is the one thing that a key cannot hold.
            *arguments = std::mem::take(arguments)
                .into_iter()
                .filter(|(key, _)| !key.contains("string=\"") && !key.contains('｜'))
                .collect();
        }
        self
    }

    fn expected(&self) -> Reply {
        let calls = self
            .calls
            .iter()
            .map(|(name, arguments)| (name.clone(), python_json::dumps(&Value::Object(arguments.clone()))));
        Reply { reasoning: self.reasoning.clone(), content: self.content.clone(), calls: calls.collect(), defect: None }
    }

    fn message(&self) -> Message {
        let calls = self.expected().calls.into_iter();
        Message {
            tool_calls: calls.map(|(name, arguments)| ToolCall { id: String::new(), name, arguments }).collect(),
            ..Message::new(Role::Assistant, self.content.clone())
        }
    }

    /// The reply as the release's own encoding writes it, and whether the prompt has opened its reasoning.
    fn encoded(&self, prompt: &Prompt) -> (String, Vec<u32>, bool) {
        let release = prompt.release();
        let question = Chat { messages: vec![Message::new(Role::User, "q")], ..Chat::default() };
        let mut answered = question.clone();
        answered.messages.push(self.message());
        let script = encoding::encode(release, &answered, false).unwrap();
        let (text, ids) = script.finish(prompt.tokenizer()).unwrap();
        // The reply begins behind the assistant's token, or the closed tag behind it.
        let closes = !release.pads_reasoning_with_newlines() && release.can_think();
        let opening = if closes { "</think>" } else { "<｜Assistant｜>" };
        let at = text.find(opening).unwrap() + opening.len();
        let opening_id = id(prompt.tokenizer(), opening);
        let id_at = ids.iter().position(|&id| id == opening_id).unwrap() + 1;
        let end = text.len() - text[at..].rfind(EOS).map_or(0, |eos| text.len() - at - eos - EOS.len());
        let eos = id(prompt.tokenizer(), EOS);
        let id_end = ids.iter().rposition(|&id| id == eos).unwrap() + 1;
        let (text, ids) = (&text[at..end], &ids[id_at..id_end]);
        if !self.thinks {
            return (text.to_owned(), ids.to_vec(), false);
        }
        let padded = release.pads_reasoning_with_newlines();
        let (before, after) = if padded { ("\n</think>", "\n\n") } else { ("</think>", "") };
        let plain = |text: &str| prompt.tokenizer().encode_plain(text).unwrap();
        let mut reasoned = plain(&(self.reasoning.clone() + before.trim_end_matches("</think>")));
        reasoned.push(id(prompt.tokenizer(), "</think>"));
        reasoned.extend(plain(after));
        reasoned.extend(ids);
        (format!("{}{before}{after}{text}", self.reasoning), reasoned, true)
    }
}

const RELEASES: [Release; 6] = [V3, R1, R1_0528, V3_1, V3_2Exp, V3_2];

static PROMPTS: LazyLock<Vec<Prompt>> = LazyLock::new(|| RELEASES.map(toy_prompt).into());

/// Reads ids as a server does.
fn read_ids(prompt: &Prompt, open: bool, ids: &[u32]) -> Reply {
    let eos = id(prompt.tokenizer(), EOS);
    let mut parser = OutputParser::new(prompt, open, OutputOptions::default());
    let mut reply = Reply::default();
    let end = ids.iter().position(|&id| id == eos);
    for &id in &ids[..end.unwrap_or(ids.len())] {
        parser.push(id).into_iter().for_each(|delta| reply.push(delta));
    }
    let ending = if end.is_some() { Ending::Stop } else { Ending::Length };
    parser.finish(ending).into_iter().for_each(|delta| reply.push(delta));
    reply.defect = parser.defect().cloned();
    reply
}

/// Every token but the control tokens, byte by byte.
fn as_bytes(prompt: &Prompt, ids: &[u32]) -> Vec<u32> {
    let tokenizer = prompt.tokenizer();
    let first_byte = 3;
    let bytes = ids.iter().map(|&id| match tokenizer.control_text(id) {
        Some(_) => vec![id],
        None => tokenizer.token_bytes(id).iter().map(|&byte| first_byte + u32::from(byte)).collect(),
    });
    bytes.flatten().collect()
}

/// Whatever a reply is made of, its parts are sound.
fn check_sound(release: Release, reply: &Reply, text: &str) -> std::result::Result<(), TestCaseError> {
    // Where a token is dropped, the characters around it may come to look like one.
    let mut without_tokens = text.to_owned();
    while let Some((at, token)) =
        release.control_tokens().filter_map(|token| Some((without_tokens.find(token)?, token))).next()
    {
        without_tokens.replace_range(at..at + token.len(), "\0");
    }
    let without_tokens = without_tokens.replace('\0', "");
    for token in release.control_tokens().filter(|token| !without_tokens.contains(token)) {
        prop_assert!(!reply.content.contains(token) && !reply.reasoning.contains(token), "{reply:?} of {text:?}");
    }
    for (index, (_, arguments)) in reply.calls.iter().enumerate() {
        let is_object = matches!(serde_json::from_str(arguments), Ok(Value::Object(_)));
        let is_cut_off = !text.contains(EOS) && index + 1 == reply.calls.len();
        prop_assert!(is_object || is_cut_off || reply.defect.is_some(), "{reply:?} of {text:?}");
    }
    Ok(())
}

/// Cuts, repeats, moves and inserts.
fn mutate(text: &str, edits: &[(u8, Index, Index, String)]) -> String {
    let mut characters: Vec<char> = text.chars().collect();
    for (kind, first, second, insertion) in edits {
        if characters.is_empty() {
            break;
        }
        let (first, second) = (first.index(characters.len()), second.index(characters.len()));
        let (from, to) = (first.min(second), first.max(second).min(first.min(second) + 30));
        match kind % 5 {
            0 => drop(characters.drain(from..to)),
            1 => {
                let copy: Vec<char> = characters[from..to].to_vec();
                characters.splice(to..to, copy);
            }
            2 => characters.truncate(second),
            3 => drop(characters.splice(from..from, insertion.chars())),
            _ => characters.swap(first, second),
        }
    }
    characters.into_iter().collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, ..ProptestConfig::default() })]

    /// What the encodings write is read back, by tokens as BPE makes them and byte by byte; typed markup stays text.
    #[test]
    fn encoded_replies_are_read_back(made in made(typed_markup().boxed()), index in 0..RELEASES.len()) {
        let prompt = &PROMPTS[index];
        let made = made.fitting(prompt.release());
        // R1's family and V3.1 cut inline reasoning out of what they encode.
        prop_assume!(!made.content.contains("</think>") || matches!(prompt.release(), V3 | V3_2));
        let (_, ids, open) = made.encoded(prompt);
        prop_assert_eq!(read_ids(prompt, open, &ids), made.expected());
        prop_assert_eq!(read_ids(prompt, open, &as_bytes(prompt, &ids)), made.expected());
    }

    /// The same as text, in pieces of any length.
    #[test]
    fn pieces_make_no_difference(made in made(hostile_text().boxed()), index in 0..RELEASES.len(), piece_len in 1..40usize) {
        let prompt = &PROMPTS[index];
        let made = made.fitting(prompt.release());
        let (text, _, open) = made.encoded(prompt);
        for piece_len in [1, piece_len, usize::MAX] {
            prop_assert_eq!(Reply::from_text(prompt.release(), open, &text, piece_len), made.expected());
        }
        // Cut off anywhere, what has come is the beginning of the whole.
        let at = text.char_indices().nth(piece_len * 7).map_or(text.len(), |(at, _)| at);
        let cut = cut_off(prompt.release(), &text, at);
        let reply = Reply::from_text(prompt.release(), open, cut, piece_len);
        check_sound(prompt.release(), &reply, cut)?;
        if reply.calls.len() <= made.calls.len() && reply.defect.is_none() {
            let expected = made.expected();
            prop_assert!(expected.reasoning.starts_with(reply.reasoning.trim()));
            for ((name, arguments), (whole_name, whole)) in reply.calls.iter().zip(&expected.calls) {
                prop_assert!(name == whole_name && whole.starts_with(arguments), "{:?} of {:?}", reply, cut);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100_000, ..ProptestConfig::default() })]

    /// Replies that no model should write: they are read the same in pieces of any length, nothing panics, no control
    /// token shows, and every call has an object for arguments or a defect that says why not.
    #[test]
    fn mutated_replies_are_sound(
        made in made(hostile_text().boxed()),
        index in 0..RELEASES.len(),
        piece_len in 1..12usize,
        edits in prop::collection::vec((any::<u8>(), any::<Index>(), any::<Index>(), typed_markup()), 1..4),
    ) {
        let prompt = &PROMPTS[index];
        let release = prompt.release();
        let (text, _, open) = made.fitting(release).encoded(prompt);
        let text = mutate(&text, &edits);
        let whole = Reply::from_text(release, open, &text, usize::MAX);
        check_sound(release, &whole, &text)?;
        prop_assert_eq!(&Reply::from_text(release, open, &text, 1), &whole, "{:?}", text);
        prop_assert_eq!(&Reply::from_text(release, open, &text, piece_len), &whole, "{:?}", text);
        if CallForm::of(release) == CallForm::Dsml {
            let stopped = Reply::from_text(release, open, &(text.clone() + EOS), piece_len);
            check_sound(release, &stopped, &(text + EOS))?;
        }
    }
}
