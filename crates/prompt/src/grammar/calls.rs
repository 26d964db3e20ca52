//! Tool calls as the encoders write them.

use serde_json::{Map, Value, json};

use super::json;
use super::lark::{Lark, control, literal};
use super::text::Split;
use super::{Strictness, Tool};
use crate::Release;
use crate::encoding::{TOOL_CALL_BEGIN, TOOL_CALL_END, TOOL_CALLS_BEGIN, TOOL_CALLS_END, TOOL_SEP};
use crate::prompt::Prompt;

/// The most parameters of which each is allowed once; a call with more may repeat them. The grammar has a bit for each, and
/// its cost grows with the square.
const MAX_UNIQUE_PARAMETERS: usize = 48;

/// How a release writes calls, with the ids of its control tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CallMarkup {
    /// V3.2: elements with attributes, of which one token is no text.
    Dsml {
        /// `｜DSML｜`
        dsml: u32,
    },
    /// All others: control tokens around names and JSON.
    Tokens { calls_begin: u32, call_begin: u32, separator: u32, call_end: u32, calls_end: u32, style: Style },
}

/// What stands between the control tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// V3 and R1: the word `function`, arguments in a block of code, a newline between calls.
    Fenced,
    /// V3.1 and its successors: nothing.
    Bare,
}

impl CallMarkup {
    /// The markup of a checkpoint.
    ///
    /// # Errors
    /// The token that its vocabulary lacks.
    pub(super) fn of(prompt: &Prompt) -> Result<Self, &'static str> {
        let id = |token: &'static str| prompt.tokenizer().id_of(token).ok_or(token);
        let style = match prompt.release() {
            Release::V3_2 | Release::V3_2Speciale => return Ok(Self::Dsml { dsml: id("｜DSML｜")? }),
            Release::V3_1 | Release::V3_1Terminus | Release::V3_2Exp => Style::Bare,
            Release::V3 | Release::V3_0324 | Release::R1 | Release::R1_0528 | Release::R1_0528Qwen3_8B => Style::Fenced,
        };
        Ok(Self::Tokens {
            calls_begin: id(TOOL_CALLS_BEGIN)?,
            call_begin: id(TOOL_CALL_BEGIN)?,
            separator: id(TOOL_SEP)?,
            call_end: id(TOOL_CALL_END)?,
            calls_end: id(TOOL_CALLS_END)?,
            style,
        })
    }

    /// The tokens by which a call can begin.
    pub(super) fn openers(&self) -> Vec<u32> {
        match *self {
            Self::Dsml { dsml } => vec![dsml],
            Self::Tokens { calls_begin, call_begin, .. } => vec![calls_begin, call_begin],
        }
    }

    /// What a block of calls begins with, up to the opener.
    pub(super) fn opening(&self) -> String {
        match *self {
            Self::Dsml { dsml } => format!("{} {}", literal("\n\n<"), control(dsml)),
            Self::Tokens { calls_begin, .. } => control(calls_begin),
        }
    }

    /// Writes the rules for one or more calls of these tools; returns the body that stands for what follows the opener.
    ///
    /// # Errors
    /// What is wrong with a schema.
    pub(super) fn write_calls(&self, lark: &mut Lark, tools: &[Tool]) -> Result<String, String> {
        let calls = (0..tools.len()).map(|index| format!("call_{index}")).collect::<Vec<_>>().join(" | ");
        lark.rule("call", &calls);
        for (index, tool) in tools.iter().enumerate() {
            if let Some(parameters) = &tool.parameters {
                json::check(parameters)?;
            }
            let body = match *self {
                Self::Dsml { dsml } => {
                    let arguments = Dsml { dsml, index, lark: &mut *lark }.arguments(tool)?;
                    let begin = literal(&format!("invoke name=\"{}\">\n", tool.name));
                    let (open, close, end) = (literal("<"), literal("</"), literal("invoke>\n"));
                    let dsml = control(dsml);
                    format!("{open} {dsml} {begin} {arguments} {close} {dsml} {end}")
                }
                Self::Tokens { call_begin, separator, call_end, style, .. } => {
                    let arguments = json::inline(&arguments_schema(tool));
                    lark.rule(&format!("arguments_{index}"), &arguments);
                    let (begin, separator, end) = (control(call_begin), control(separator), control(call_end));
                    match style {
                        Style::Bare => {
                            format!("{begin} {} {separator} arguments_{index} {end}", literal(&tool.name))
                        }
                        Style::Fenced => {
                            let name = literal(&format!("{}\n```json\n", tool.name));
                            let (kind, fence) = (literal("function"), literal("\n```"));
                            format!("{begin} {kind} {separator} {name} arguments_{index} {fence} {end}")
                        }
                    }
                }
            };
            lark.rule(&format!("call_{index}"), &body);
        }
        let body = match *self {
            Self::Dsml { dsml } => {
                let (begin, close, end) = (literal("function_calls>\n"), literal("</"), literal("function_calls>"));
                format!("{begin} call+ {close} {} {end}", control(dsml))
            }
            Self::Tokens { calls_end, style: Style::Bare, .. } => format!("call+ {}", control(calls_end)),
            Self::Tokens { calls_end, style: Style::Fenced, .. } => {
                format!("call ({} call)* {}", literal("\n"), control(calls_end))
            }
        };
        lark.rule("calls", &body);
        Ok("calls".to_owned())
    }
}

/// The schema of a call's arguments where they are one JSON object.
fn arguments_schema(tool: &Tool) -> Value {
    let is_strict = tool.strictness == Strictness::Strict;
    match &tool.parameters {
        Some(parameters) if is_strict => parameters.clone(),
        None if is_strict => json!({"type": "object", "additionalProperties": false}),
        _ => json!({"type": "object"}),
    }
}

/// Writes the parameters of one tool as DSML.
struct Dsml<'a> {
    dsml: u32,
    index: usize,
    lark: &'a mut Lark,
}

impl Dsml<'_> {
    /// The body for the lines between the tags of a call; without parameters one empty line.
    fn arguments(&mut self, tool: &Tool) -> Result<String, String> {
        let Some(parameters) = &tool.parameters else { return Ok(literal("\n")) };
        let empty = Map::new();
        let properties = parameters.get("properties").and_then(Value::as_object).unwrap_or(&empty);
        let name = format!("arguments_{}", self.index);
        if tool.strictness == Strictness::Strict {
            return self.strict(parameters, properties);
        }
        if properties.is_empty() {
            if parameters.get("additionalProperties") == Some(&Value::Bool(false)) {
                return Ok(literal("\n"));
            }
            let parameter = self.parameter(r#"/[^"<>\n]+/"#);
            let newline = literal("\n");
            self.lark.rule(&name, &format!("{newline} | ({parameter} {newline})+"));
            return Ok(name);
        }
        let parameters: Vec<String> = properties.keys().map(|key| self.parameter(&literal(key))).collect();
        let newline = literal("\n");
        if parameters.len() > MAX_UNIQUE_PARAMETERS {
            self.lark.rule(&name, &format!("{newline} | (({}) {newline})+", parameters.join(" | ")));
            return Ok(name);
        }
        let options = parameters
            .iter()
            .enumerate()
            .map(|(bit, parameter)| format!(" | {parameter} {newline} {name}::set_bit({bit}) %if bit_clear({bit})"));
        let options: String = options.collect();
        self.lark.rule(&format!("{name}::_"), &format!("\"\" %if ne(_, 0) | {newline} %if eq(_, 0){options}"));
        Ok(format!("{name}::0"))
    }

    /// A parameter with any value, its name given by a terminal.
    fn parameter(&mut self, name: &str) -> String {
        let (text, json) = (self.lark.any_text(), self.lark.any_json());
        let dsml = control(self.dsml);
        self.lark.rule_once("any_value", || {
            let (as_text, as_json) = (literal("\" string=\"true\">"), literal("\" string=\"false\">"));
            let (close, end) = (literal("</"), literal("parameter>"));
            format!("{as_text} {text} {dsml} {end} | {as_json} {json} {close} {dsml} {end}")
        });
        format!("{} {dsml} {} {name} any_value", literal("<"), literal("parameter name=\""))
    }

    /// Each parameter by its own schema, in the order of the schema.
    fn strict(&mut self, parameters: &Value, properties: &Map<String, Value>) -> Result<String, String> {
        let required: Vec<&str> = parameters
            .get("required")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let any = Value::Object(Map::new());
        let unlisted = required.iter().filter(|name| !properties.contains_key(**name)).map(|name| (*name, &any));
        let all: Vec<(&str, &Value)> =
            properties.iter().map(|(name, schema)| (name.as_str(), schema)).chain(unlisted).collect();
        let newline = literal("\n");
        let (begun, fresh) = (format!("begun_{}", self.index), format!("fresh_{}", self.index));
        // `begun_N_K` is what may follow once there is a parameter, `fresh_N_K` as long as there is none.
        self.lark.rule(&format!("{begun}_{}", all.len()), "\"\"");
        self.lark.rule(&format!("{fresh}_{}", all.len()), &newline);
        for (place, (name, schema)) in all.iter().enumerate() {
            let next = place + 1;
            let is_required = required.contains(name);
            let parameter = match self.strict_parameter(place, name, schema, parameters) {
                Some(body) => format!("{body} {newline} {begun}_{next}"),
                None if is_required => return Err(format!("no value can be right for the required `{name}`")),
                None => {
                    self.lark.rule(&format!("{begun}_{place}"), &format!("{begun}_{next}"));
                    self.lark.rule(&format!("{fresh}_{place}"), &format!("{fresh}_{next}"));
                    continue;
                }
            };
            let parameter_rule = format!("parameter_{}_{place}", self.index);
            self.lark.rule(&parameter_rule, &parameter);
            for rest in [&begun, &fresh] {
                let skipped = if is_required { String::new() } else { format!(" | {rest}_{next}") };
                self.lark.rule(&format!("{rest}_{place}"), &format!("{parameter_rule}{skipped}"));
            }
        }
        Ok(format!("{fresh}_0"))
    }

    /// The body for one parameter; `None` if nothing can be its value.
    fn strict_parameter(&mut self, place: usize, name: &str, schema: &Value, whole: &Value) -> Option<String> {
        let split = if *schema == Value::Bool(false) { Split::default() } else { Split::of(schema, whole) };
        let dsml = control(self.dsml);
        let end = literal("parameter>");
        let mut forms = Vec::new();
        if !split.texts.is_empty() {
            let terminal = format!("TEXT_{}_{place}", self.index);
            self.lark.rule(&terminal, &format!("({}) {}", split.texts.join(" | "), literal("</")));
            forms.push(format!("{} {terminal} {dsml} {end}", literal("true\">")));
        }
        if let Some(schema) = &split.json {
            let rule = format!("value_{}_{place}", self.index);
            self.lark.rule(&rule, &json::inline(&json::part(schema, whole)));
            forms.push(format!("{} {rule} {} {dsml} {end}", literal("false\">"), literal("</")));
        }
        if forms.is_empty() {
            return None;
        }
        let begin = literal(&format!("parameter name=\"{name}\" string=\""));
        Some(format!("{} {dsml} {begin} ({})", literal("<"), forms.join(" | ")))
    }
}
