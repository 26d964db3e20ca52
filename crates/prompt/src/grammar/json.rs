//! JSON within a grammar.

use serde_json::{Map, Value, json};

use super::text;

/// What may stand between two tokens of JSON: one space, or one line break and an indentation.
const WHITESPACE: &str = r" |\n( {0,64}|\t{0,16})";

/// Every escape that JSON has but `\/`, which nobody needs.
const ALL_ESCAPES: &str = "nrbtf\\\"u";
const NAMED_ESCAPES: &str = "nrbtf\\\"";

/// The keys under which definitions stand; the hosted API documents the last.
const DEFINITIONS: [&str; 3] = ["$defs", "definitions", "$def"];

/// Whether something can be a schema at all.
///
/// # Errors
/// Says why not.
pub(super) fn check(schema: &Value) -> Result<(), String> {
    match schema {
        Value::Object(_) | Value::Bool(true) => Ok(()),
        Value::Bool(false) => Err("the schema is `false`, which no JSON follows".to_owned()),
        _ => Err("a JSON schema is an object".to_owned()),
    }
}

/// The body of a rule for JSON that follows a schema.
pub(super) fn inline(schema: &Value) -> String {
    let mut schema = schema.as_object().cloned().unwrap_or_default();
    tighten_formats(&mut schema);
    let escapes = if has_open_object(&Value::Object(schema.clone())) { NAMED_ESCAPES } else { ALL_ESCAPES };
    let options = json!({"whitespace_pattern": WHITESPACE, "json_allowed_escapes": escapes});
    schema.insert("x-guidance".to_owned(), options);
    format!("%json {}", Value::Object(schema))
}

/// Writes the formats that are known here as patterns.
///
/// llguidance's own let through what no validator takes, such as the 60th second of any minute and the 29th of any February.
fn tighten_formats(schema: &mut Map<String, Value>) {
    let pattern = schema.get("format").and_then(Value::as_str).and_then(text::format_pattern);
    if let Some(pattern) = pattern {
        let pattern = format!("^(?:{pattern})$");
        schema.remove("format");
        if schema.contains_key("pattern") {
            let all = schema.entry("allOf").or_insert_with(|| json!([]));
            if let Value::Array(all) = all {
                all.push(json!({"pattern": pattern}));
            }
        } else {
            schema.insert("pattern".to_owned(), Value::from(pattern));
        }
    }
    for (key, value) in schema.iter_mut() {
        match (key.as_str(), value) {
            // Maps of schemas.
            (
                "properties" | "patternProperties" | "$defs" | "definitions" | "$def" | "dependentSchemas",
                Value::Object(schemas),
            ) => schemas.values_mut().filter_map(Value::as_object_mut).for_each(tighten_formats),
            // Lists of schemas.
            ("allOf" | "anyOf" | "oneOf" | "prefixItems" | "items", Value::Array(schemas)) => {
                schemas.iter_mut().filter_map(Value::as_object_mut).for_each(tighten_formats);
            }
            ("items" | "additionalItems" | "additionalProperties", Value::Object(schema)) => tighten_formats(schema),
            _ => {}
        }
    }
}

/// Whether an object may have properties beside those that the schema speaks of.
fn has_open_object(schema: &Value) -> bool {
    match schema {
        Value::Object(members) => {
            let lists = ["properties", "patternProperties", "required"].iter().any(|key| members.contains_key(*key));
            let is_closed = members.get("additionalProperties") == Some(&Value::Bool(false));
            (lists && !is_closed) || members.values().any(has_open_object)
        }
        Value::Array(items) => items.iter().any(has_open_object),
        _ => false,
    }
}

/// A part of a schema, with the definitions of the whole that it may refer to.
pub(super) fn part(part: &Value, whole: &Value) -> Value {
    let Value::Object(members) = part else { return Value::Object(Map::new()) };
    let mut members = members.clone();
    for key in DEFINITIONS {
        if let Some(definitions) = whole.get(key) {
            members.entry(key).or_insert_with(|| definitions.clone());
        }
    }
    Value::Object(members)
}

/// Where a reference within the same document leads.
pub(super) fn resolve<'a>(reference: &str, whole: &'a Value) -> Option<&'a Value> {
    whole.pointer(reference.strip_prefix('#')?)
}
