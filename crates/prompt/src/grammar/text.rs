//! Strings that are written as they stand, not as JSON: the values of DSML's `string="true"` parameters, and regular
//! expressions for whole answers.
//!
//! A parameter whose schema takes strings and other values has two forms, one for each. A schema of which it cannot be told
//! what strings it takes is written as JSON altogether, strings in quotes: the reader of DSML understands both.

use serde_json::{Map, Value, json};

use super::json;
use super::lark::literal;

/// How deep references and alternatives are followed.
const MAX_DEPTH: usize = 8;

/// Keywords that say something about strings; annotations, which say nothing about any value, are not listed anywhere.
const ABOUT_STRINGS: [&str; 4] = ["pattern", "format", "minLength", "maxLength"];
/// Keywords that combine other schemas, or list values.
const COMBINING: [&str; 11] = [
    "$ref",
    "allOf",
    "anyOf",
    "oneOf",
    "not",
    "if",
    "enum",
    "const",
    "$dynamicRef",
    "dependentSchemas",
    "dependentRequired",
];

/// A schema in two parts.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Split {
    /// Terminals for the strings that it takes, as they stand.
    pub(super) texts: Vec<String>,
    /// The rest, which is written as JSON.
    pub(super) json: Option<Value>,
}

impl Split {
    /// Splits a schema; `whole` is the document that its references are about.
    pub(super) fn of(schema: &Value, whole: &Value) -> Self {
        Self::try_of(schema, whole, 0).unwrap_or_else(|| Split { texts: Vec::new(), json: Some(schema.clone()) })
    }

    fn try_of(schema: &Value, whole: &Value, depth: usize) -> Option<Self> {
        let empty = Map::new();
        let members = match schema {
            Value::Object(members) => members,
            Value::Bool(true) => &empty,
            _ => return None,
        };
        if depth > MAX_DEPTH {
            return None;
        }
        let combining: Vec<&str> = COMBINING.into_iter().filter(|key| members.contains_key(*key)).collect();
        let types: Option<Vec<&str>> = match members.get("type") {
            None => None,
            Some(Value::String(name)) => Some(vec![name]),
            Some(Value::Array(names)) => Some(names.iter().map(Value::as_str).collect::<Option<_>>()?),
            Some(_) => return None,
        };
        let takes_strings = types.as_ref().is_none_or(|types| types.contains(&"string"));
        if !takes_strings {
            return Some(Split { texts: Vec::new(), json: Some(schema.clone()) });
        }
        let is_alone = |key: &str| {
            combining == [key] && types.is_none() && ABOUT_STRINGS.iter().all(|about| !members.contains_key(*about))
        };
        match combining.as_slice() {
            [] => {}
            ["$ref"] if is_alone("$ref") => {
                let target = json::resolve(members["$ref"].as_str()?, whole)?;
                let split = Self::try_of(target, whole, depth + 1)?;
                // Nothing was split off: the reference may be part of a circle, and stays.
                let json = if split.texts.is_empty() { Some(schema.clone()) } else { split.json };
                return Some(Split { json, ..split });
            }
            [key @ ("anyOf" | "oneOf")] if is_alone(key) => {
                let mut texts = Vec::new();
                let mut rest = Vec::new();
                for option in members[*key].as_array()? {
                    let split = Self::try_of(option, whole, depth + 1)?;
                    texts.extend(split.texts);
                    rest.extend(split.json);
                }
                let json = (!rest.is_empty()).then(|| {
                    let mut members = members.clone();
                    members.insert((*key).to_owned(), Value::Array(rest));
                    Value::Object(members)
                });
                return Some(Split { texts, json });
            }
            ["enum"] if ABOUT_STRINGS.iter().all(|about| !members.contains_key(*about)) => {
                let values = members["enum"].as_array()?;
                let (strings, others): (Vec<&Value>, Vec<&Value>) = values.iter().partition(|value| value.is_string());
                let texts = strings.into_iter().filter_map(Value::as_str).map(text_of).collect();
                let is_typed_string = types.as_ref().is_some_and(|types| types == &["string"]);
                let json = (!others.is_empty() && !is_typed_string).then(|| {
                    let mut members = members.clone();
                    members.insert("enum".to_owned(), json!(others));
                    Value::Object(members)
                });
                return Some(Split { texts, json });
            }
            ["const"] if ABOUT_STRINGS.iter().all(|about| !members.contains_key(*about)) => {
                return Some(match members["const"].as_str() {
                    Some(text) => Split { texts: vec![text_of(text)], json: None },
                    None => Split { texts: Vec::new(), json: Some(schema.clone()) },
                });
            }
            _ => return None,
        }
        let rest: Vec<&str> = match &types {
            None => vec!["null", "boolean", "number", "array", "object"],
            Some(types) => types.iter().copied().filter(|name| *name != "string").collect(),
        };
        let json = (!rest.is_empty()).then(|| {
            let mut members = members.clone();
            members.insert("type".to_owned(), json!(rest));
            Value::Object(members)
        });
        Some(Split { texts: vec![terminal(members)?], json })
    }
}

/// An empty text needs no terminal of its own where another terminal follows.
fn text_of(text: &str) -> String {
    if text.is_empty() { "/(?s:)/".to_owned() } else { literal(text) }
}

/// The body of a terminal for the strings that a schema without alternatives takes.
fn terminal(members: &Map<String, Value>) -> Option<String> {
    let mut conditions = Vec::new();
    if let Some(pattern) = members.get("pattern") {
        conditions.push(found(pattern.as_str()?));
    }
    if let Some(format) = members.get("format") {
        conditions.push(format!("/{}/", format_pattern(format.as_str()?)?.replace('/', r"\/")));
    }
    let min = members.get("minLength").map_or(Some(0), Value::as_u64)?;
    let max = members.get("maxLength").map(|max| max.as_u64().ok_or(())).transpose().ok()?;
    if min > 0 || max.is_some() {
        let max = max.map_or(String::new(), |max| max.to_string());
        conditions.push(format!("/(?s:.{{{min},{max}}})/"));
    }
    if conditions.is_empty() {
        conditions.push("/(?s:.*)/".to_owned());
    }
    Some(format!("({})", conditions.join(" & ")))
}

/// The terminal for a text that an expression matches as a whole; anchors at its ends are allowed and change nothing.
pub(super) fn whole(pattern: &str) -> String {
    let branches = branches(pattern).into_iter().map(|branch| {
        let (_, inner, _) = strip_anchors(branch);
        format!("(?:{inner})")
    });
    written(&branches.collect::<Vec<_>>().join("|"), "")
}

/// The terminal for a text within which an expression matches, as JSON schema has it.
fn found(pattern: &str) -> String {
    let branches = branches(pattern).into_iter().map(|branch| {
        let (at_start, inner, at_end) = strip_anchors(branch);
        let (before, after) = (if at_start { "" } else { "(?s:.*)" }, if at_end { "" } else { "(?s:.*)" });
        format!("(?:{before}(?:{inner}){after})")
    });
    written(&branches.collect::<Vec<_>>().join("|"), "dw")
}

fn written(pattern: &str, ascii_classes: &str) -> String {
    format!("/{}/", llguidance::regex_to_lark(pattern, ascii_classes))
}

/// The alternatives of an expression at its top level.
fn branches(pattern: &str) -> Vec<&str> {
    let mut branches = Vec::new();
    let (mut depth, mut in_class, mut is_escaped, mut start) = (0usize, false, false, 0);
    for (at, character) in pattern.char_indices() {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            ']' => in_class = false,
            _ if in_class => {}
            '[' => in_class = true,
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            '|' if depth == 0 => {
                branches.push(&pattern[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    branches.push(&pattern[start..]);
    branches
}

/// Whether a branch begins with `^`, what is between, and whether it ends with `$`.
fn strip_anchors(branch: &str) -> (bool, &str, bool) {
    let (at_start, branch) = branch.strip_prefix('^').map_or((false, branch), |rest| (true, rest));
    match branch.strip_suffix('$') {
        Some(rest) if (rest.len() - rest.trim_end_matches('\\').len()) % 2 == 0 => (at_start, rest, true),
        _ => (at_start, branch, false),
    }
}

/// A regular expression for the values of a format; `None` for one that is not known here.
pub(super) fn format_pattern(name: &str) -> Option<String> {
    const DATE: &str = "(?:[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)\
                        |02-(?:0[1-9]|1[0-9]|2[0-8]))\
                        |(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][48]|[13579][26]|[2468]0)00)-02-29)";
    const TIME: &str = "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{1,9})?\
                        (?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])";
    const LABEL: &str = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?";
    const ATOM: &str = "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+";
    const OCTET: &str = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";
    Some(match name {
        "date" => DATE.to_owned(),
        "time" => TIME.to_owned(),
        "date-time" => format!("{DATE}T{TIME}"),
        "hostname" => format!(r"{LABEL}(?:\.{LABEL})*"),
        "email" => format!(r"{ATOM}(?:\.{ATOM})*@{LABEL}(?:\.{LABEL})*"),
        "ipv4" => format!(r"(?:{OCTET}\.){{3}}{OCTET}"),
        "ipv6" => {
            // `::` stands for at least two groups, so at most six are written beside it, or none on one side.
            let group = "[0-9A-Fa-f]{1,4}";
            let full = format!("(?:{group}:){{7}}{group}");
            let cut = (1..=5).map(|before| format!("(?:{group}:){{{before}}}(?::{group}){{1,{}}}", 6 - before));
            let ends = [format!("(?:{group}:){{1,6}}:"), format!(":(?::{group}){{1,6}}"), "::".to_owned()];
            std::iter::once(full).chain(cut).chain(ends).collect::<Vec<_>>().join("|")
        }
        "uuid" => "[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}".to_owned(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_cut_at_their_own_alternatives() {
        for (pattern, expected) in [
            ("a|b", vec!["a", "b"]),
            ("^(a|b)$", vec!["^(a|b)$"]),
            (r"[|\]|]x|\|y", vec![r"[|\]|]x", r"\|y"]),
            ("", vec![""]),
        ] {
            assert_eq!(branches(pattern), expected);
        }
        for (branch, expected) in [
            ("^a$", (true, "a", true)),
            (r"a\$", (false, r"a\$", false)),
            (r"a\\$", (false, r"a\\", true)),
            ("$", (false, "", true)),
        ] {
            assert_eq!(strip_anchors(branch), expected);
        }
    }

    #[test]
    fn schemas_split_into_text_and_json() {
        #[track_caller]
        fn check(schema: Value, num_texts: usize, json: Option<Value>) {
            let whole = json!({"$defs": {"name": {"type": "string", "minLength": 1}, "tree": {"type": "object"}}});
            let split = Split::of(&schema, &whole);
            assert_eq!((split.texts.len(), split.json), (num_texts, json), "{schema}");
        }
        check(json!({"type": "string"}), 1, None);
        check(json!({"type": "string", "pattern": "^a", "maxLength": 3, "description": "x"}), 1, None);
        check(json!({"type": ["string", "null"]}), 1, Some(json!({"type": ["null"]})));
        check(json!({"type": "integer", "minimum": 1}), 0, Some(json!({"type": "integer", "minimum": 1})));
        check(json!({"enum": ["a", "b", 1, null]}), 2, Some(json!({"enum": [1, null]})));
        check(json!({"type": "string", "enum": ["a", ""]}), 2, None);
        check(json!({"const": "a"}), 1, None);
        check(json!({"const": 3}), 0, Some(json!({"const": 3})));
        check(json!({"$ref": "#/$defs/name"}), 1, None);
        check(json!({"$ref": "#/$defs/tree"}), 0, Some(json!({"$ref": "#/$defs/tree"})));
        check(
            json!({"anyOf": [{"type": "string"}, {"type": "number"}, {"$ref": "#/$defs/name"}]}),
            2,
            Some(json!({"anyOf": [{"type": "number"}]})),
        );
        check(json!({}), 1, Some(json!({"type": ["null", "boolean", "number", "array", "object"]})));
        // What strings these take is for the JSON grammar to say.
        for schema in [json!({"allOf": [{"type": "string"}]}), json!({"type": "string", "format": "uri"})] {
            check(schema.clone(), 0, Some(schema));
        }
    }
}
