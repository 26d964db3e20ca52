//! Grammars of replies, held against what the encoders write.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::{chat, id, toy_prompt};
use crate::encoding::{ASSISTANT, EOS, THINK_CLOSE, THINK_OPEN, TOOL_CALL_BEGIN, TOOL_CALLS_BEGIN};
use crate::{
    Allowed, Answer, Calls, Error, Grammar, Part, Progress, Prompt, Release, ReplySpec, Strictness, Tool, python_json,
};

/// Releases that differ in how they write calls or reasoning.
const RELEASES: [Release; 5] = [Release::V3, Release::R1, Release::R1_0528, Release::V3_1, Release::V3_2];

fn tool(name: &str, parameters: Value, strict: bool) -> Tool {
    let strictness = if strict { Strictness::Strict } else { Strictness::Loose };
    Tool { name: name.to_owned(), parameters: Some(parameters).filter(|value| !value.is_null()), strictness }
}

#[test]
fn a_schema_is_followed_where_a_grammar_can_be_made_of_it() {
    let tool = |parameters: Value| Tool { strictness: Strictness::IfPossible, ..tool("f", parameters, false) };
    let kind = |kind: &str| json!({"type": "object", "properties": {"path": {"type": kind}}, "required": ["path"]});
    let impossible = json!({"type": "object", "properties": {"path": {"type": "array", "contains": {}}}});
    // Parameters, arguments, whether a call may have them.
    let cases = [
        (kind("integer"), json!({"path": 1}), true),
        (kind("integer"), json!({"path": "p"}), false),
        (kind("integer"), json!({}), false),
        // No grammar knows `contains`, so any value will do.
        (impossible.clone(), json!({"path": "p"}), true),
        (impossible, json!({}), true),
        // Nothing is listed, so anything goes.
        (json!({"type": "object"}), json!({"p": [1]}), true),
    ];
    for release in RELEASES {
        let prompt = toy_prompt(release);
        for (parameters, arguments, fits) in &cases {
            let spec = ReplySpec { calls: Calls::Required(vec![tool(parameters.clone())]), ..ReplySpec::default() };
            let ids = encoded_calls(&prompt, &[("f".to_owned(), python_json::dumps(arguments))]);
            let found = fate(compile(&prompt, &spec), &ids);
            assert_eq!(found == Fate::Complete, *fits, "{release} {parameters} {arguments}: {found:?}");
        }
    }
}

/// Whether a token may come next, and whether the end may.
fn may_come(grammar: &mut Grammar, id: u32) -> (bool, bool) {
    let has = |words: &[u32]| words.get(id as usize / 32).is_some_and(|word| word >> (id % 32) & 1 == 1);
    match grammar.allowed().expect("the grammar is not too complex") {
        Allowed::Anything => (true, true),
        Allowed::Tokens(words) => (has(words), false),
        Allowed::TokensOrEnd(words) => (has(words), true),
    }
}

/// How a reply fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// The token at this place is not allowed.
    RefusedAt(usize),
    /// The reply is allowed so far, and cannot end.
    Unfinished,
    /// The reply may end.
    MayEnd,
    /// The reply must end.
    Complete,
}

fn fate(mut grammar: Grammar, ids: &[u32]) -> Fate {
    let mut progress = Progress::Open;
    for (at, &id) in ids.iter().enumerate() {
        if progress == Progress::Complete || !may_come(&mut grammar, id).0 {
            return Fate::RefusedAt(at);
        }
        progress = grammar.accept(id).expect("an allowed token is accepted");
    }
    match progress {
        Progress::Complete => Fate::Complete,
        Progress::Open if may_come(&mut grammar, u32::MAX).1 => Fate::MayEnd,
        Progress::Open => Fate::Unfinished,
    }
}

fn compile(prompt: &Prompt, spec: &ReplySpec) -> Grammar {
    prompt.grammar(spec, false, false).expect("the grammar is sound").expect("something is restricted")
}

fn fate_of_text(prompt: &Prompt, spec: &ReplySpec, text: &str) -> Fate {
    fate(compile(prompt, spec), &prompt.tokenizer().encode(text).expect("it tokenises"))
}

/// The ids that an assistant turn with these calls is encoded as, behind the prompt for it and without its end.
fn encoded_calls(prompt: &Prompt, calls: &[(String, String)]) -> Vec<u32> {
    let calls: Vec<Value> =
        calls.iter().map(|(name, arguments)| json!({"function": {"name": name, "arguments": arguments}})).collect();
    let value = json!({"messages": [{"role": "user", "content": "go"}, {"role": "assistant", "content": "", "tool_calls": calls}]});
    let ids = prompt.render(&chat(&value, false)).expect("it can be encoded").ids;
    let tokenizer = prompt.tokenizer();
    let assistant = ids.iter().position(|&at| at == id(tokenizer, ASSISTANT)).expect("there is an assistant turn");
    let mut reply = &ids[assistant + 1..];
    while let Some((&first, rest)) = reply.split_first()
        && [THINK_OPEN, THINK_CLOSE].iter().any(|tag| tokenizer.id_of(tag) == Some(first))
    {
        reply = rest;
    }
    let end = reply.iter().position(|&at| at == id(tokenizer, EOS)).expect("the turn ends");
    reply[..end].to_vec()
}

fn text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        "[ -~]{0,12}",
        "\\PC{0,6}",
        prop::sample::select(vec![
            "</",
            "</｜DSML｜parameter>",
            "<｜DSML｜invoke name=\"",
            "\n",
            "\n\n",
            ">\n",
            "\"",
            "\\",
            "</x>",
            "```",
            "<｜tool▁call▁end｜>",
            "中文",
            "🐳",
            "\t",
            "2>&1",
        ])
        .prop_map(str::to_owned),
    ];
    prop::collection::vec(part, 0..5).prop_map(|parts| parts.concat())
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        text().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1e6..1e6f64).prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        Just(Value::Null),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((text(), inner), 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn written(arguments: &Map<String, Value>, style: u8) -> String {
    let value = Value::Object(arguments.clone());
    match style {
        0 => python_json::dumps(&value),
        1 => value.to_string(),
        _ => serde_json::to_string_pretty(&value).expect("JSON can be written"),
    }
}

/// JSON writes DEL as it is, and llguidance wants it escaped; no model has been seen to write one.
fn has_del(value: &impl ToString) -> bool {
    value.to_string().contains('\x7f')
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Whatever calls an encoder writes are calls for the grammar, when they must come and when they may.
    #[test]
    fn encoded_calls_are_accepted(
        calls in prop::collection::vec(
            (0usize..4, prop::collection::vec((0usize..4, value()), 0..4), 0u8..3),
            1..4,
        ),
    ) {
        let names = ["a", "ab", "get_weather", "run-it"];
        let keys = ["path", "p", "text", "the key"];
        let calls: Vec<(String, String)> = calls
            .into_iter()
            .map(|(name, members, style)| {
                let arguments = members.into_iter().map(|(key, value)| (keys[key].to_owned(), value)).collect();
                (names[name].to_owned(), written(&arguments, style))
            })
            .collect();
        prop_assume!(!calls.iter().any(|(_, arguments)| has_del(arguments)));
        let listed: Map<String, Value> = keys.iter().map(|key| ((*key).to_owned(), json!({"type": "integer"}))).collect();
        let tools: Vec<Tool> = vec![
            tool("a", json!({"type": "object", "properties": listed}), false),
            tool("ab", json!({"type": "object"}), false),
            tool("get_weather", json!({"type": "object", "properties": listed, "required": ["p"]}), false),
            tool("run-it", json!({"properties": {}}), false),
        ];
        for release in RELEASES {
            let prompt = toy_prompt(release);
            let ids = encoded_calls(&prompt, &calls);
            let required = ReplySpec { calls: Calls::Required(tools.clone()), ..ReplySpec::default() };
            prop_assert_eq!(fate(compile(&prompt, &required), &ids), Fate::Complete, "{} {:?}", release, calls);
            let allowed = ReplySpec { calls: Calls::Allowed(tools.clone()), ..ReplySpec::default() };
            let with_text = [prompt.tokenizer().encode_plain("hello").unwrap(), ids.clone()].concat();
            prop_assert_eq!(fate(compile(&prompt, &allowed), &with_text), Fate::Complete, "{} {:?}", release, calls);
            let or_json = ReplySpec { answer: Answer::Json, ..allowed };
            prop_assert_eq!(fate(compile(&prompt, &or_json), &ids), Fate::Complete, "{} {:?}", release, calls);
            // Only the tools that there are.
            let others = ReplySpec { calls: Calls::Required(vec![tool("b", Value::Null, false)]), ..ReplySpec::default() };
            prop_assert!(matches!(fate(compile(&prompt, &others), &ids), Fate::RefusedAt(_)));
        }
    }
}

#[test]
fn strict_arguments_follow_the_schema() {
    let schema = json!({
        "type": "object",
        "properties": {
            "city": {"type": "string", "pattern": "^[A-Z][a-z]+$"},
            "unit": {"enum": ["C", "F", 0]},
            "days": {"type": "integer", "minimum": 1, "maximum": 9},
            "note": {"type": ["string", "null"], "maxLength": 3},
            "mail": {"type": "string", "format": "email"},
            "place": {"$ref": "#/$defs/place"},
        },
        "required": ["city", "days"],
        "additionalProperties": false,
        "$defs": {"place": {"type": "object", "properties": {"x": {"type": "number"}, "in": {"$ref": "#/$defs/place"}},
                            "required": ["x"], "additionalProperties": false}},
    });
    let tools = vec![tool("f", schema, true)];
    let good = [
        json!({"city": "Paris", "days": 3}),
        json!({"city": "Paris", "unit": "F", "days": 9, "note": "</", "mail": "a.b@c.de"}),
        json!({"city": "Oslo", "unit": 0, "days": 1, "note": null}),
        json!({"city": "Oslo", "days": 1, "place": {"x": 1.5, "in": {"x": 2, "in": {"x": -3}}}}),
    ];
    let bad = [
        json!({"city": "paris", "days": 3}),
        json!({"city": "Paris</", "days": 3}),
        json!({"city": "Paris", "unit": "K", "days": 3}),
        json!({"city": "Paris", "days": "3"}),
        json!({"city": "Paris", "days": 10}),
        json!({"city": "Paris"}),
        json!({"days": 3, "city": "Paris"}),
        json!({"city": "Paris", "days": 3, "note": "long"}),
        json!({"city": "Paris", "days": 3, "mail": "nobody"}),
        json!({"city": "Paris", "days": 3, "place": {"in": {"x": 2}}}),
        json!({"city": "Paris", "days": 3, "other": 1}),
        json!({}),
    ];
    for release in RELEASES {
        let prompt = toy_prompt(release);
        let spec = ReplySpec { calls: Calls::Required(tools.clone()), ..ReplySpec::default() };
        let grammar = compile(&prompt, &spec);
        let check = |arguments: &Value| {
            let calls = [("f".to_owned(), written(arguments.as_object().unwrap(), 0))];
            fate(grammar.clone(), &encoded_calls(&prompt, &calls))
        };
        for arguments in &good {
            assert_eq!(check(arguments), Fate::Complete, "{release} {arguments}");
        }
        for arguments in &bad {
            assert!(matches!(check(arguments), Fate::RefusedAt(_)), "{release} {arguments}");
        }
    }
    // Without required parameters a call may have none.
    let prompt = toy_prompt(Release::V3_2);
    let optional = json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {"const": 1}}, "additionalProperties": false});
    let spec = ReplySpec { calls: Calls::Required(vec![tool("f", optional, true)]), ..ReplySpec::default() };
    for arguments in ["{}", r#"{"a": "x"}"#, r#"{"b": 1}"#, r#"{"a": "", "b": 1}"#] {
        let ids = encoded_calls(&prompt, &[("f".to_owned(), arguments.to_owned())]);
        assert_eq!(fate(compile(&prompt, &spec), &ids), Fate::Complete, "{arguments}");
    }
}

#[test]
fn each_listed_parameter_comes_at_most_once() {
    let prompt = toy_prompt(Release::V3_2);
    let parameters = json!({"type": "object", "properties": {"a": {}, "b": {}}});
    let spec = ReplySpec { calls: Calls::Required(vec![tool("f", parameters, false)]), ..ReplySpec::default() };
    let check = |names: &[&str], expected: bool| {
        let lines = names
            .iter()
            .map(|name| format!("<｜DSML｜parameter name=\"{name}\" string=\"true\">x</｜DSML｜parameter>"));
        let lines = lines.collect::<Vec<_>>().join("\n");
        let text = format!(
            "\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"f\">\n{lines}\n</｜DSML｜invoke>\n</｜DSML｜function_calls>"
        );
        assert_eq!(fate_of_text(&prompt, &spec, &text) == Fate::Complete, expected, "{names:?}");
    };
    check(&[], true);
    check(&["a"], true);
    check(&["b", "a"], true);
    check(&["a", "a"], false);
    check(&["a", "b", "a"], false);
    check(&["c"], false);
}

#[test]
fn answers_have_the_form_that_was_asked_for() {
    #[track_caller]
    fn check(answer: Answer, text: &str, expected: Fate) {
        for release in [Release::V3, Release::V3_2] {
            let prompt = toy_prompt(release);
            let spec = ReplySpec { answer: answer.clone(), ..ReplySpec::default() };
            let got = fate_of_text(&prompt, &spec, text);
            let is_as_expected = match expected {
                Fate::RefusedAt(_) => matches!(got, Fate::RefusedAt(_)),
                expected => got == expected,
            };
            assert!(is_as_expected, "{answer:?} {text:?}: {got:?}, expected {expected:?}");
            let completion = prompt.completion_grammar(&answer).unwrap().unwrap();
            assert_eq!(fate(completion, &prompt.tokenizer().encode(text).unwrap()), got);
        }
    }
    let refused = Fate::RefusedAt(0);
    check(Answer::Json, "{}", Fate::Complete);
    check(Answer::Json, "[1, 2.5e3,\n  {\"a\": [null, \"b\\n\\u001b中\"]}]", Fate::Complete);
    check(Answer::Json, "{\"a\": ", Fate::Unfinished);
    check(Answer::Json, "12", refused);
    check(Answer::Json, "{} ", refused);
    check(Answer::Json, "{\"a\":  1}", refused);
    check(Answer::Json, "{<｜User｜>", refused);
    let schema = Answer::Schema(
        json!({"type": "object", "properties": {"n": {"type": "integer", "minimum": 5}}, "required": ["n"]}),
    );
    check(schema.clone(), "{\"n\": 7}", Fate::Complete);
    check(schema.clone(), "{\"n\": 4}", refused);
    check(schema, "{\"n\": 7, \"\\u006e\": 1}", refused);
    check(Answer::Regex("[0-9]{2}|x/y".to_owned()), "42", Fate::Complete);
    check(Answer::Regex("^a+$".to_owned()), "aaa", Fate::MayEnd);
    check(Answer::Regex("x/y".to_owned()), "x/y", Fate::Complete);
    check(Answer::Regex("[0-9]{2}".to_owned()), "4x", refused);
    let choice = Answer::Choice(vec!["yes".to_owned(), "yes!\n\"".to_owned(), "no".to_owned()]);
    check(choice.clone(), "no", Fate::Complete);
    check(choice.clone(), "yes", Fate::MayEnd);
    check(choice.clone(), "yes!\n\"", Fate::Complete);
    check(choice, "maybe", refused);
    let lark = Answer::Lark("start: \"a\" (\",\" \"a\")*".to_owned());
    check(lark.clone(), "a,a", Fate::MayEnd);
    check(lark, "a,b", refused);
}

#[test]
fn an_answer_can_have_been_begun() {
    let prompt = toy_prompt(Release::V3_2);
    let spec = |begun: &str| ReplySpec { answer: Answer::Json, begun: begun.to_owned(), ..ReplySpec::default() };
    assert_eq!(fate_of_text(&prompt, &spec("{\"a\": ["), "1]}"), Fate::Complete);
    assert!(matches!(fate_of_text(&prompt, &spec("{\"a\": ["), "}"), Fate::RefusedAt(_)));
    let error = prompt.grammar(&spec("Sure: "), false, false).err().expect("that is no JSON");
    assert!(matches!(error, Error::Grammar { part: Part::Begun, .. }), "{error}");
}

#[test]
fn reasoning_comes_before_the_answer() {
    let spec = |reasoning_budget| ReplySpec { answer: Answer::Json, reasoning_budget, ..ReplySpec::default() };
    for (release, think_newlines) in [(Release::V3_1, false), (Release::V3_2, false), (Release::R1, true)] {
        let prompt = toy_prompt(release);
        let tokenizer = prompt.tokenizer();
        let eos = id(tokenizer, EOS);
        let (before, behind) = if think_newlines { ("\n", "\n\n") } else { ("", "") };
        let start = |budget| prompt.grammar(&spec(budget), true, true).unwrap().unwrap();
        let encode = |text: &str| tokenizer.encode(text).unwrap();
        // Free until the tag, but it cannot end there, and the answer has its form.
        assert_eq!(may_come(&mut start(None), eos), (true, false), "the engine rules end tokens out");
        assert_eq!(fate(start(None), &encode("he said {\n")), Fate::Unfinished);
        assert_eq!(fate(start(None), &encode(&format!("hm{before}</think>{behind}{{}}"))), Fate::Complete);
        let ids = encode(&format!("hm{before}</think>{behind}no"));
        assert_eq!(fate(start(None), &ids), Fate::RefusedAt(ids.len() - 2), "{release}");
        for opener in [TOOL_CALLS_BEGIN, "｜DSML｜"] {
            // A token of another release's markup is as good as any.
            if let Some(opener) = tokenizer.id_of(opener)
                && (release == Release::V3_2) == (tokenizer.id_of("｜DSML｜") == Some(opener))
            {
                assert!(!may_come(&mut start(None), opener).0, "{release}");
            }
        }
        // A budget closes it.
        let closing = encode(&format!("{before}</think>{behind}"));
        assert_eq!(fate(start(Some(0)), &[closing.clone(), encode("[]")].concat()), Fate::Complete);
        assert_eq!(fate(start(Some(2)), &[encode("xy"), closing.clone(), encode("[]")].concat()), Fate::Complete);
        assert_eq!(fate(start(Some(2)), &[encode("xyz"), closing].concat()), Fate::RefusedAt(2));
        // Fewer are as good.
        assert_eq!(fate(start(Some(9)), &encode(&format!("x{before}</think>{behind}{{}}"))), Fate::Complete);
        // A budget alone leaves the answer free.
        let budget = ReplySpec { reasoning_budget: Some(1), ..ReplySpec::default() };
        let free = prompt.grammar(&budget, true, true).unwrap().unwrap();
        assert_eq!(fate(free, &encode(&format!("x{before}</think>{behind}anything"))), Fate::MayEnd);
        assert!(
            prompt.grammar(&budget, false, false).unwrap().is_none(),
            "without reasoning there is nothing to limit"
        );
    }
}

#[test]
fn r1_0528_opens_its_reasoning_itself() {
    let prompt = toy_prompt(Release::R1_0528);
    let encode = |text: &str| prompt.tokenizer().encode(text).unwrap();
    let start = |budget| {
        let spec = ReplySpec { answer: Answer::Json, reasoning_budget: budget, ..ReplySpec::default() };
        prompt.grammar(&spec, false, true).unwrap().unwrap()
    };
    assert_eq!(fate(start(None), &encode("<think>\nx\n</think>\n\n{}")), Fate::Complete);
    assert_eq!(fate(start(None), &encode("{}")), Fate::Complete);
    assert_eq!(
        fate(start(Some(1)), &encode("<think>\n\n</think>\n\n{}")),
        Fate::RefusedAt(2),
        "merged newlines are one token"
    );
    assert_eq!(fate(start(Some(0)), &encode("<think>")), Fate::RefusedAt(0));
    assert_eq!(fate(start(Some(0)), &encode("{}")), Fate::Complete);
}

#[test]
fn calls_that_must_not_come_do_not() {
    for release in RELEASES {
        let prompt = toy_prompt(release);
        let opener = if release == Release::V3_2 { "｜DSML｜" } else { TOOL_CALLS_BEGIN };
        let opener = id(prompt.tokenizer(), opener);
        let none = ReplySpec { calls: Calls::Forbidden, ..ReplySpec::default() };
        for (reasoning_open, thinking) in [(false, false), (true, true)] {
            let mut grammar = prompt.grammar(&none, reasoning_open, thinking).unwrap().unwrap();
            let letters = prompt.tokenizer().encode("ab <").unwrap();
            for id in letters {
                assert_eq!(may_come(&mut grammar, opener), (false, true), "{release}");
                assert_eq!(may_come(&mut grammar, id), (true, true));
                grammar.accept(id).unwrap();
            }
            assert!(!may_come(&mut grammar, opener).0);
        }
        assert!(prompt.grammar(&ReplySpec::default(), true, true).unwrap().is_none());
    }
}

#[test]
fn calls_begin_where_the_model_opens_them() {
    let tools = Calls::Allowed(vec![tool("f", Value::Null, false)]);
    let spec = ReplySpec { calls: tools, ..ReplySpec::default() };
    let prompt = toy_prompt(Release::V3_2);
    let calls = "<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"f\">\n\n</｜DSML｜invoke>\n</｜DSML｜function_calls>";
    let check = |text: &str, expected: Fate| assert_eq!(fate_of_text(&prompt, &spec, text), expected, "{text:?}");
    check("no call", Fate::MayEnd);
    check(&format!("text\n\n{calls}"), Fate::Complete);
    check(&format!("ab{calls}"), Fate::Complete);
    check("x｜DSML｜", Fate::RefusedAt(1));
    check("</｜DSML｜", Fate::RefusedAt(1));
    check("<｜DSML｜", Fate::Unfinished);
    check("<｜DSML｜f<", Fate::RefusedAt(3));
    // Within the reasoning they end it.
    let open = prompt.grammar(&spec, true, true).unwrap().unwrap();
    assert_eq!(fate(open, &prompt.tokenizer().encode(&format!("hm {calls}")).unwrap()), Fate::Complete);
    let open = prompt.grammar(&spec, true, true).unwrap().unwrap();
    assert_eq!(fate(open, &prompt.tokenizer().encode(&format!("hm</think>{calls}")).unwrap()), Fate::Complete);

    let prompt = toy_prompt(Release::V3_1);
    let begin = id(prompt.tokenizer(), TOOL_CALL_BEGIN);
    assert!(!may_come(&mut compile(&prompt, &spec), begin).0, "a call is within a block of calls");
}

#[test]
fn clones_go_on_by_themselves() {
    let prompt = toy_prompt(Release::V3_2);
    let spec = ReplySpec { answer: Answer::Json, ..ReplySpec::default() };
    let mut first = compile(&prompt, &spec);
    let bracket = prompt.tokenizer().encode("[").unwrap()[0];
    first.accept(bracket).unwrap();
    let second = first.clone();
    let digits = prompt.tokenizer().encode("12]").unwrap();
    assert_eq!(fate(first, &digits), Fate::Complete);
    assert_eq!(fate(second, &digits), Fate::Complete);
}

#[test]
fn what_cannot_be_a_grammar_says_what_and_why() {
    #[track_caller]
    fn check(spec: ReplySpec, part: Part, words: &str) {
        let error = toy_prompt(Release::V3_2).grammar(&spec, false, false).err().expect("it is refused");
        let Error::Grammar { part: found, reason } = &error else { panic!("{error}") };
        assert_eq!(*found, part, "{reason}");
        assert!(reason.contains(words), "{reason}");
        assert!(error.is_request());
    }
    let answer = |answer| ReplySpec { answer, ..ReplySpec::default() };
    let schema = |schema| answer(Answer::Schema(schema));
    check(schema(json!(["no schema"])), Part::Answer, "a JSON schema is an object");
    check(schema(json!(false)), Part::Answer, "no JSON follows");
    check(schema(json!({"type": "array", "uniqueItems": true})), Part::Answer, "uniqueItems");
    check(schema(json!({"type": "string", "format": "made-up"})), Part::Answer, "made-up");
    check(schema(json!({"type": "integer", "minimum": 5, "maximum": 4})), Part::Answer, "minimum");
    check(schema(json!({"$ref": "#/$defs/none"})), Part::Answer, "/$defs/none");
    check(schema(json!({"enum": ["x".repeat(600_000)]})), Part::Answer, "more than the limit");
    check(answer(Answer::Regex("(".to_owned())), Part::Answer, "(");
    check(answer(Answer::Regex(String::new())), Part::Answer, "empty");
    check(answer(Answer::Choice(Vec::new())), Part::Answer, "nothing to choose");
    check(answer(Answer::Lark("start: missing".to_owned())), Part::Answer, "missing");
    let strict = |parameters| tool("f", parameters, true);
    let bad = strict(json!({"type": "object", "properties": {"a": {"type": "array", "contains": {}}}}));
    let tools = vec![strict(json!({"type": "object"})), bad];
    check(ReplySpec { calls: Calls::Required(tools.clone()), ..ReplySpec::default() }, Part::Tool(1), "contains");
    check(ReplySpec { calls: Calls::Allowed(tools), ..ReplySpec::default() }, Part::Tool(1), "contains");
    let none = strict(json!({"type": "object", "properties": {"a": false}, "required": ["a"]}));
    check(ReplySpec { calls: Calls::Required(vec![none]), ..ReplySpec::default() }, Part::Tool(0), "`a`");
}
