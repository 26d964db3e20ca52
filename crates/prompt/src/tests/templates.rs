//! Chat templates: the dialect, the values they see, and what happens to defective ones.

use super::*;
use Release::*;

/// Renders a template with one user message "q" unless the request says otherwise.
fn render(template: &str, request: &Value) -> Result<String, String> {
    let files = PromptFiles { chat_template: Some(template.as_bytes().to_vec()), ..toy_files(V3_1) };
    let prompt = Prompt::open(&files, Some(V3_1)).map_err(|error| error.to_string())?;
    let mut request = request.clone();
    if request["messages"].is_null() {
        request["messages"] = json!([{"role": "user", "content": "q"}]);
    }
    prompt.render(&chat(&request, false)).map(|rendered| rendered.text).map_err(|error| error.to_string())
}

#[test]
fn dialect() {
    let kwargs = |value: Value| json!({"template_kwargs": {"v": value}});
    let cases = [
        // Values.
        ("{{ bos_token }}|{{ eos_token }}", json!({}), "<｜begin▁of▁sentence｜>|<｜end▁of▁sentence｜>"),
        ("{{ add_generation_prompt }} {{ thinking }} {{ enable_thinking }}", json!({}), "True False False"),
        ("{{ thinking }}", json!({"template_kwargs": {"thinking": true}}), "False"),
        ("{{ tools is none }}", json!({}), "True"),
        ("{{ messages[0].role }}: {{ messages[0]['content'] }}", json!({}), "user: q"),
        ("{{ 'tool_calls' in messages[0] }}", json!({}), "False"),
        ("{{ messages[0].name is defined }}", json!({}), "False"),
        ("{{ messages[0].name }}", json!({"messages": [{"role": "user", "content": "q", "name": "Ahab"}]}), "Ahab"),
        (
            "{{ messages[1].reasoning_content }}",
            json!({"messages": [{"role": "user", "content": "q"},
                                {"role": "assistant", "content": "a", "reasoning_content": "t"}]}),
            "t",
        ),
        (
            "{{ messages[0].tool_call_id }}",
            json!({"messages": [{"role": "tool", "content": "1", "tool_call_id": "call_7"}]}),
            "call_7",
        ),
        ("[{{ messages[0].content }}]", json!({"messages": [{"role": "assistant", "content": null}]}), "[]"),
        ("{{ messages[0].role }}", json!({"messages": [{"role": "developer", "content": "S"}]}), "system"),
        // Numbers keep their kind.
        ("{{ v + 1 }} {{ v * 2 }}", kwargs(json!(20)), "21 40"),
        ("{{ v | tojson }}", kwargs(json!(12345678901234567890123_u128)), "12345678901234567890123"),
        ("{{ v | tojson }}", kwargs(json!(2.50)), "2.5"),
        // Python's spelling of JSON, without HTML escapes.
        (
            "{{ v | tojson }}",
            kwargs(json!({"z": [1, 2.0, null, true, "é<&>'\""], "a": {}, "e": []})),
            r#"{"z": [1, 2.0, null, true, "é<&>'\""], "a": {}, "e": []}"#,
        ),
        ("{{ v | tojson(ensure_ascii=false) }}", kwargs(json!("鲸")), "\"鲸\""),
        (
            "{{ v | tojson(indent=2) }}",
            kwargs(json!({"a": [1, {}], "b": []})),
            "{\n  \"a\": [\n    1,\n    {}\n  ],\n  \"b\": []\n}",
        ),
        // Python's methods on strings and maps.
        ("{{ v.split('</x>')[-1].strip().upper() }}", kwargs(json!("a</x> b ")), "B"),
        ("{{ v.split('-', 1)[1] }}", kwargs(json!("a-b-c")), "b-c"),
        ("{% if v.startswith('a') %}yes{% endif %}", kwargs(json!("ab")), "yes"),
        ("{% for k, x in v.items() %}{{ k }}={{ x }};{% endfor %}", kwargs(json!({"b": 1, "a": 2})), "b=1;a=2;"),
        ("{{ v.get('x', 'none') }}", kwargs(json!({})), "none"),
        // Whitespace control, namespaces, loop controls, as transformers sets Jinja up.
        ("a\n  {% if true %}\nb\n  {% endif %}\nc\n", json!({}), "a\nb\nc"),
        (
            "{% set ns = namespace(n=0) %}{% for i in range(9) %}{% if i == 3 %}{% break %}{% endif %}\
          {% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}",
            json!({}),
            "3",
        ),
        ("{{ missing }}{% if missing is not defined %}x{% endif %}", json!({}), "x"),
    ];
    for (template, request, text) in cases {
        assert_eq!(render(template, &request).as_deref(), Ok(text), "{template}");
    }
    let year = render("{{ strftime_now('%Y') }}", &json!({})).unwrap();
    assert!(year.parse::<u32>().is_ok_and(|year| year >= 2025), "{year}");
}

#[test]
fn what_templates_refuse() {
    let cases = [
        ("{{ raise_exception('only ' + 'whales') }}", "chat template: only whales (line 1)"),
        ("{% if %}", "chat template: unexpected end of block (line 1)"),
        ("a\n{{ 1 | nope }}", "chat template: filter nope is unknown (line 2)"),
        ("{{ strftime_now('%Q') }}", "chat template: strftime_now does not know %Q (line 1)"),
        ("{{ 'é' | tojson(ensure_ascii=true) }}", "chat template: tojson(ensure_ascii=true) is not supported (line 1)"),
        ("{{ range | tojson }}", "chat template: tojson cannot write a value of the kind plain object (line 1)"),
        ("{{ '\u{F0000}' }}", "chat template: characters of plane 15 (U+F0000 and on) are reserved"),
    ];
    for (template, message) in cases {
        assert_eq!(render(template, &json!({})).unwrap_err(), message, "{template}");
    }
}

/// Where the checkpoint keeps its template.
#[test]
fn where_templates_are() {
    let in_config = |template: Value| Some(json!({ "chat_template": template }).to_string().into_bytes());
    let named = json!([{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]);
    let unnamed = json!([{"name": "a", "template": "A"}, {"name": "b", "template": "B"}]);
    let cases = [
        (None, in_config(json!("C")), "C"),
        (Some("J"), in_config(json!("C")), "J"),
        (Some("J"), None, "J"),
        (None, in_config(named), "D"),
        (None, in_config(unnamed), "A"),
        (None, in_config(json!([])), "<｜begin▁of▁sentence｜><｜User｜>q<｜Assistant｜></think>"),
        (None, in_config(Value::Null), "<｜begin▁of▁sentence｜><｜User｜>q<｜Assistant｜></think>"),
        (None, None, "<｜begin▁of▁sentence｜><｜User｜>q<｜Assistant｜></think>"),
    ];
    for (jinja, tokenizer_config, text) in cases {
        let chat_template = jinja.map(|template: &str| template.as_bytes().to_vec());
        let files = PromptFiles { chat_template, tokenizer_config, ..toy_files(V3_1) };
        let prompt = Prompt::open(&files, None).unwrap();
        let request = json!({"messages": [{"role": "user", "content": "q"}]});
        assert_eq!(prompt.render(&chat(&request, false)).unwrap().text, text);
    }
}

#[test]
fn v32_does_not_use_a_template() {
    let prompt = toy_prompt_with_template(V3_2, "T");
    let request = json!({"messages": [{"role": "user", "content": "q"}]});
    let rendered = prompt.render(&chat(&request, true)).unwrap();
    assert_eq!(rendered.text, "<｜begin▁of▁sentence｜><｜User｜>q<｜Assistant｜><think>");
    let notice = "the checkpoint's chat template is not used: V3.2 is encoded by its published algorithm";
    assert_eq!(prompt.notices(), [notice]);
}

/// Tools go to a template that mentions them, and into the system text of one that does not.
#[test]
fn who_lists_the_tools() {
    let tools = json!([{"type": "function", "function": {"name": "f"}}]);
    let user = json!({"role": "user", "content": "q"});
    let system = |content: &str| json!({"role": "system", "content": content});
    let contents = "{% for m in messages %}[{{ m.role }}:{{ m.content }}]{% endfor %}";
    let listing = format!("{contents}{{% for t in tools %}}{{{{ t.function.name }}}}{{% endfor %}}");

    let request = json!({"tools": tools, "messages": [user]});
    assert_eq!(render(&listing, &request).unwrap(), "[user:q]f");
    let text = render(contents, &request).unwrap();
    assert!(text.starts_with("[system:\n\n## Tools\n") && text.ends_with("or spaces][user:q]"), "{text}");

    let request = json!({"tools": tools, "messages": [system("A"), user, system("B")]});
    let text = render(contents, &request).unwrap();
    assert!(text.starts_with("[system:A][user:q][system:B\n\n## Tools\n"), "{text}");
}

/// A template that loses tool calls, or runs rounds of them together, is not used where there are any.
#[test]
fn defective_tool_calls() {
    let built_in = "<｜begin▁of▁sentence｜><｜User｜>q<｜Assistant｜></think><｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f\
                    <｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜><｜end▁of▁sentence｜>\
                    <｜tool▁output▁begin｜>1<｜tool▁output▁end｜>";
    let request = json!({"messages": [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": null,
         "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "content": "1"}]});
    let names = "{% for m in messages %}{% for c in m.tool_calls %}{{ c.function.name }} {% endfor %}{% endfor %}";
    let blocks = "{% for m in messages %}{% if m.tool_calls %}<｜tool▁calls▁begin｜>{% for c in m.tool_calls %}\
                  {{ c.function.name }}{% endfor %}<｜tool▁calls▁end｜>{% endif %}{% endfor %}";
    let one_block = "<｜tool▁calls▁begin｜>{% for m in messages %}{% for c in m.tool_calls %}{{ c.function.name }}\
                     {% endfor %}{% endfor %}<｜tool▁calls▁end｜>";
    let unclosed = "{% for m in messages %}{% if m.tool_calls %}<｜tool▁calls▁begin｜>{% for c in m.tool_calls %}\
                    {{ c.function.name }}{% endfor %}{% endif %}{% endfor %}";
    let fails = "{{ raise_exception('no tools') if messages | length > 1 }}";
    let cases = [
        ("no calls", "{{ messages[0].content }}", built_in),
        ("one block for two rounds", one_block, built_in),
        ("blocks are not closed", unclosed, built_in),
        ("it fails", fails, built_in),
        ("markup of its own", names, "f "),
        ("sound", blocks, "<｜tool▁calls▁begin｜>f<｜tool▁calls▁end｜>"),
    ];
    for (name, template, text) in cases {
        let prompt = toy_prompt_with_template(V3_1, template);
        assert_eq!(prompt.render(&chat(&request, false)).unwrap().text, text, "{name}");
        let notices: &[&str] = if text == built_in {
            &[
                "the checkpoint's chat template loses or mixes up tool calls: conversations that have any are encoded by \
               the built-in V3.1 encoding",
            ]
        } else {
            &[]
        };
        assert_eq!(prompt.notices(), notices, "{name}");
    }
    // Without calls the template is used, defective or not.
    let prompt = toy_prompt_with_template(V3_1, "{{ messages[0].content }}");
    let plain = json!({"messages": [{"role": "user", "content": "q"}]});
    assert_eq!(prompt.render(&chat(&plain, false)).unwrap().text, "q");
}

/// A template gets the answer without its reasoning, cut as the release cuts it, and typed tags are text to it.
#[test]
fn reasoning_in_content() {
    let template = "{% for m in messages %}[{{ m.content }}]{% endfor %}";
    let request = json!({"messages": [
        {"role": "user", "content": "x</think>y"}, {"role": "assistant", "content": "a</think>b</think>c"}]});
    for (release, text) in
        [(V3_1, "[x</think>y][b</think>c]"), (R1, "[x</think>y][c]"), (V3, "[x</think>y][a</think>b</think>c]")]
    {
        let prompt = toy_prompt_with_template(release, template);
        assert_eq!(prompt.render(&chat(&request, false)).unwrap().text, text, "{release}");
    }
}

#[test]
fn continuing_a_message_with_a_template() {
    let template = "{% for m in messages %}[{{ m.content }}]{% endfor %}<｜Assistant｜>{{ '<think>' if thinking else '</think>' }}";
    let request = json!({"messages": [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "be", "reasoning_content": "why", "prefix": true}]});
    let prompt = toy_prompt_with_template(V3_1, template);
    assert_eq!(prompt.render(&chat(&request, true)).unwrap().text, "[q]<｜Assistant｜><think>why</think>be");
    assert_eq!(prompt.render(&chat(&request, false)).unwrap().text, "[q]<｜Assistant｜></think>be");
}
