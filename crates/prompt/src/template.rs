//! Chat templates, in the dialect of Jinja that transformers speaks.
//!
//! A template sees strings and returns one, so the origin of its output's parts is lost, and with it the difference
//! between a control token and somebody typing its characters. It is kept by a detour: before rendering, every control
//! token's text inside a string of the request is replaced by one private-use character; after rendering, the
//! characters are replaced back, as text. A template may join, cut and strip such strings as it likes. Control tokens
//! that the template wrote itself are never touched.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, ErrorKind, Value as Jinja};
use serde_json::{Map, Value as Json};

use crate::chat::{Chat, Message, Role, ToolCall};
use crate::clock;
use crate::encoding::{self, BOS, EOS, TOOL_CALLS_BEGIN, TOOL_CALLS_END};
use crate::error::{Error, Result};
use crate::python_json;
use crate::release::Release;
use crate::script::Script;
use crate::tokenizer::{Piece, Tokenizer};

const NAME: &str = "chat_template";

/// The first of the private-use characters that stand in for control tokens: plane 15, which no script and no icon font
/// is known to use.
const STAND_INS: u32 = 0xF_0000;
const NUM_STAND_INS: u32 = 0xFFFE;

/// A checkpoint's chat template, compiled.
pub(crate) struct ChatTemplate {
    environment: Environment<'static>,
    special_tokens: [(&'static str, String); 3],
    /// The template lists the tools itself.
    lists_tools: bool,
    /// Rounds of tool calls come out whole; see [`ChatTemplate::keeps_tool_calls`].
    pub(crate) keeps_tool_calls: bool,
}

impl ChatTemplate {
    /// Compiles a template. `special_tokens` are the variables `bos_token`, `eos_token` and `pad_token`.
    pub(crate) fn compile(source: String, special_tokens: [(&'static str, String); 3]) -> Result<Self> {
        if source.chars().any(is_stand_in) {
            return Err(Error::Template("characters of plane 15 (U+F0000 and on) are reserved".to_owned()));
        }
        let mut environment = Environment::new();
        // As transformers sets Jinja up.
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| describe(&error))?);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", tojson);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment.add_template_owned(NAME, source).map_err(|error| describe(&error))?;
        let variables = environment.get_template(NAME).map_err(|error| describe(&error))?.undeclared_variables(false);
        let lists_tools = variables.contains("tools");
        let mut template = Self { environment, special_tokens, lists_tools, keeps_tool_calls: false };
        template.keeps_tool_calls = template.probe_tool_calls();
        Ok(template)
    }

    /// Encodes a conversation, up to the point where the model goes on.
    pub(crate) fn encode(
        &self,
        tokenizer: &Tokenizer,
        release: Release,
        chat: &Chat,
        thinking: bool,
    ) -> Result<Script> {
        encoding::refuse_v32_only(release, &chat.messages)?;
        let mut stand_ins = StandIns::new(tokenizer);
        let definitions = if self.lists_tools { String::new() } else { stand_ins.definitions(release, &chat.tools)? };
        let rendered = self.render(release, chat, thinking, &definitions, &mut |text| stand_ins.put(text))?;
        Ok(stand_ins.restore(&rendered))
    }

    fn render(
        &self,
        release: Release,
        chat: &Chat,
        thinking: bool,
        definitions: &str,
        guard: &mut dyn FnMut(&str) -> String,
    ) -> Result<String> {
        let mut messages = Vec::with_capacity(chat.messages.len() + 1);
        // Where the template does not list the tools, their definitions end the system text.
        let last_system = chat.messages.iter().rposition(encoding::is_system);
        if last_system.is_none() && !definitions.is_empty() {
            messages.push(Jinja::from_pairs([("role", Jinja::from("system")), ("content", Jinja::from(definitions))]));
        }
        for (index, message) in chat.messages.iter().enumerate() {
            let definitions = if last_system == Some(index) { definitions } else { "" };
            messages.push(message_value(release, message, definitions, guard));
        }
        let tools = match chat.tools.as_slice() {
            [] => Jinja::from(()),
            tools => Jinja::from(tools.iter().map(|tool| to_jinja(tool, guard)).collect::<Vec<_>>()),
        };
        let mut variables = vec![
            ("messages".to_owned(), Jinja::from(messages)),
            ("tools".to_owned(), tools),
            ("add_generation_prompt".to_owned(), Jinja::from(true)),
        ];
        variables.extend(self.special_tokens.iter().map(|(name, text)| ((*name).to_owned(), Jinja::from(text))));
        for (name, value) in &chat.template_kwargs {
            variables.push((name.clone(), to_jinja(value, guard)));
        }
        for name in ["thinking", "enable_thinking"] {
            variables.push((name.to_owned(), Jinja::from(thinking)));
        }
        let template = self.environment.get_template(NAME).map_err(|error| describe(&error))?;
        template.render(Jinja::from_pairs(variables)).map_err(|error| describe(&error))
    }

    /// Tries the template on two rounds of tool calls, and says whether every call came out and every round was opened
    /// and closed. V3's published template fails both ways, R1's does not open the second round.
    fn probe_tool_calls(&self) -> bool {
        let call = |name: &str| ToolCall { id: name.to_owned(), name: name.to_owned(), arguments: "{}".to_owned() };
        let calls = |content: &str, names: &[&str]| Message {
            tool_calls: names.iter().map(|name| call(name)).collect(),
            ..Message::new(Role::Assistant, content)
        };
        let messages = vec![
            Message::new(Role::User, "question"),
            calls("", &["first_call"]),
            Message::new(Role::Tool, "result"),
            calls("remark", &["second_call", "third_call"]),
            Message::new(Role::Tool, "result"),
            Message::new(Role::Tool, "result"),
        ];
        let chat = Chat { messages, ..Chat::default() };
        // V3.1 is the release whose history needs no cutting; the probe has none to cut.
        let Ok(text) = self.render(Release::V3_1, &chat, false, "", &mut str::to_owned) else { return false };
        let opened = text.matches(TOOL_CALLS_BEGIN).count();
        let closed = text.matches(TOOL_CALLS_END).count();
        // A template with markup of its own is judged by the names alone.
        ["first_call", "second_call", "third_call"].iter().all(|name| text.contains(name))
            && opened == closed
            && (opened == 0 || opened == 2)
    }
}

/// A message as templates expect it. Keys without a value are absent, since some templates test with `in` and some with
/// `is none`; content is always a string, since R1-0528's template fails on `none`.
fn message_value(
    release: Release,
    message: &Message,
    definitions: &str,
    guard: &mut dyn FnMut(&str) -> String,
) -> Jinja {
    let role = if encoding::is_system(message) { Role::System } else { message.role };
    let content = match role {
        Role::Assistant => encoding::answer(release, message.text()),
        _ => message.text(),
    };
    let mut entries = vec![
        ("role", Jinja::from(role.as_str())),
        ("content", Jinja::from(format!("{}{definitions}", guard(content)))),
    ];
    let optional = [
        ("reasoning_content", &message.reasoning_content),
        ("tool_call_id", &message.tool_call_id),
        ("name", &message.name),
    ];
    for (key, value) in optional {
        if let Some(value) = value {
            entries.push((key, Jinja::from(guard(value))));
        }
    }
    if !message.tool_calls.is_empty() {
        let mut call_value = |call: &ToolCall| {
            let function =
                [("name", Jinja::from(guard(&call.name))), ("arguments", Jinja::from(guard(&call.arguments)))];
            Jinja::from_pairs([
                ("id", Jinja::from(guard(&call.id))),
                ("type", Jinja::from("function")),
                ("function", Jinja::from_pairs(function)),
            ])
        };
        let calls: Vec<_> = message.tool_calls.iter().map(&mut call_value).collect();
        entries.push(("tool_calls", Jinja::from(calls)));
    }
    Jinja::from_pairs(entries)
}

/// Converts by hand: serde_json keeps a number as its digits, and would hand a template a map in its place.
fn to_jinja(value: &Json, guard: &mut dyn FnMut(&str) -> String) -> Jinja {
    match value {
        Json::Null => Jinja::from(()),
        Json::Bool(flag) => Jinja::from(*flag),
        Json::Number(number) => {
            let digits = number.to_string();
            match digits.parse::<i128>() {
                Ok(integer) => Jinja::from(integer),
                // Integers past 128 bits have no counterpart in the template language.
                Err(_) => Jinja::from(digits.parse::<f64>().expect("serde_json accepted it as a number")),
            }
        }
        Json::String(text) => Jinja::from(guard(text)),
        Json::Array(items) => Jinja::from(items.iter().map(|item| to_jinja(item, guard)).collect::<Vec<_>>()),
        Json::Object(entries) => object_to_jinja(entries, guard),
    }
}

fn object_to_jinja(entries: &Map<String, Json>, guard: &mut dyn FnMut(&str) -> String) -> Jinja {
    let entries: Vec<_> = entries.iter().map(|(key, item)| (guard(key), to_jinja(item, guard))).collect();
    Jinja::from_pairs(entries)
}

/// The control tokens found in the strings of a request, and the characters that stand in for them.
struct StandIns<'a> {
    tokenizer: &'a Tokenizer,
    /// `originals[i]` is what the character `STAND_INS + i` stands for.
    originals: Vec<String>,
}

impl<'a> StandIns<'a> {
    fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer, originals: Vec::new() }
    }

    /// The text with a stand-in for every control token in it. A character that is itself one of the stand-ins gets
    /// another, so that it comes back too.
    fn put(&mut self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        for piece in self.tokenizer.split(text) {
            match piece {
                Piece::Control(id) => {
                    let control = String::from_utf8_lossy(self.tokenizer.token_bytes(id)).into_owned();
                    out.push(self.stand_in_for(&control));
                }
                Piece::Text(text) => {
                    for character in text.chars() {
                        if is_stand_in(character) {
                            out.push(self.stand_in_for(character.encode_utf8(&mut [0; 4])));
                        } else {
                            out.push(character);
                        }
                    }
                }
            }
        }
        out
    }

    fn stand_in_for(&mut self, original: &str) -> char {
        let index = self.originals.iter().position(|known| known == original).unwrap_or_else(|| {
            self.originals.push(original.to_owned());
            self.originals.len() - 1
        });
        let offset = u32::try_from(index).unwrap_or(NUM_STAND_INS).min(NUM_STAND_INS - 1);
        char::from_u32(STAND_INS + offset).expect("plane 15 has no surrogates")
    }

    /// The tool definitions as one string: control tokens of the block as they are, those within the tools replaced.
    fn definitions(&mut self, release: Release, tools: &[Json]) -> Result<String> {
        let mut block = Script::default();
        encoding::definitions(&mut block, release, tools)?;
        Ok(block.map(str::to_owned, |text| self.put(text)))
    }

    /// The rendered text with everything back in its place.
    fn restore(&self, rendered: &str) -> Script {
        let mut script = Script::default();
        let mut rest = rendered;
        while let Some((at, stand_in)) = rest.char_indices().find(|&(_, character)| is_stand_in(character)) {
            script.control(&rest[..at]);
            let index = (u32::from(stand_in) - STAND_INS) as usize;
            script.verbatim(self.originals.get(index).map_or("", String::as_str));
            rest = &rest[at + stand_in.len_utf8()..];
        }
        script.control(rest);
        script
    }
}

fn is_stand_in(character: char) -> bool {
    (STAND_INS..STAND_INS + NUM_STAND_INS).contains(&u32::from(character))
}

/// `tojson` as transformers defines it: Python's spelling, nothing escaped for HTML, characters outside of ASCII as
/// they are.
fn tojson(value: &Jinja, options: Kwargs) -> std::result::Result<Jinja, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    let ensure_ascii: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    if ensure_ascii == Some(true) {
        return Err(minijinja::Error::new(ErrorKind::InvalidOperation, "tojson(ensure_ascii=true) is not supported"));
    }
    let mut out = String::new();
    write_json(&mut out, value, indent, 0)?;
    Ok(Jinja::from(out))
}

fn write_json(
    out: &mut String,
    value: &Jinja,
    indent: Option<usize>,
    depth: usize,
) -> std::result::Result<(), minijinja::Error> {
    let line = |out: &mut String, depth: usize| {
        if let Some(indent) = indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent * depth));
        }
    };
    let separator = if indent.is_some() { "," } else { ", " };
    match value.kind() {
        ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number if value.is_integer() => out.push_str(&value.to_string()),
        ValueKind::Number => out.push_str(&python_json::float_repr(f64::try_from(value.clone())?)),
        ValueKind::String => python_json::write_string(out, value.as_str().unwrap_or_default()),
        ValueKind::Seq | ValueKind::Iterable => {
            out.push('[');
            let mut empty = true;
            for item in value.try_iter()? {
                if !empty {
                    out.push_str(separator);
                }
                empty = false;
                line(out, depth + 1);
                write_json(out, &item, indent, depth + 1)?;
            }
            if !empty {
                line(out, depth);
            }
            out.push(']');
        }
        ValueKind::Map => {
            out.push('{');
            let mut empty = true;
            for key in value.try_iter()? {
                if !empty {
                    out.push_str(separator);
                }
                empty = false;
                line(out, depth + 1);
                python_json::write_string(out, &key.to_string());
                out.push_str(": ");
                write_json(out, &value.get_item(&key)?, indent, depth + 1)?;
            }
            if !empty {
                line(out, depth);
            }
            out.push('}');
        }
        other => {
            return Err(minijinja::Error::new(
                ErrorKind::BadSerialization,
                format!("tojson cannot write a value of the kind {other}"),
            ));
        }
    }
    Ok(())
}

fn raise_exception(message: String) -> std::result::Result<Jinja, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
}

fn strftime_now(format: String) -> std::result::Result<String, minijinja::Error> {
    clock::strftime(std::time::SystemTime::now(), &format)
        .map_err(|reason| minijinja::Error::new(ErrorKind::InvalidOperation, reason))
}

fn describe(error: &minijinja::Error) -> Error {
    let line = error.line().map(|line| format!(" (line {line})")).unwrap_or_default();
    let reason = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    Error::Template(format!("{reason}{line}"))
}

/// The variables for special tokens, from tokenizer_config.json or DeepSeek's own names.
pub(crate) fn special_tokens(config: &crate::files::TokenizerConfig) -> [(&'static str, String); 3] {
    let text = |name: &Option<crate::files::TokenName>, default: &str| {
        name.as_ref().map_or(default, |name| name.text()).to_owned()
    };
    [
        ("bos_token", text(&config.bos_token, BOS)),
        ("eos_token", text(&config.eos_token, EOS)),
        ("pad_token", text(&config.pad_token, EOS)),
    ]
}
