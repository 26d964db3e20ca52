//! JSON as Python's `json.dumps(value, ensure_ascii=False)` writes it.
//!
//! The models were trained on prompts that Python wrote, so its spelling is part of the encoding: `", "` and `": "`
//! between items, keys in their order, characters outside of ASCII as they are, integers of any size exact, and floats
//! in Python's shortest form (`1.0`, `1e+16`, `1.5e-07`).

use std::fmt::Write as _;

use serde_json::{Number, Value};

/// Writes `value` on one line.
pub(crate) fn dumps(value: &Value) -> String {
    let mut out = String::new();
    write_value(&mut out, value);
    out
}

fn write_value(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(number) => out.push_str(&number_repr(number)),
        Value::String(text) => write_string(out, text),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                write_value(out, item);
            }
            out.push(']');
        }
        Value::Object(entries) => {
            out.push('{');
            for (index, (key, item)) in entries.iter().enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                write_string(out, key);
                out.push_str(": ");
                write_value(out, item);
            }
            out.push('}');
        }
    }
}

/// Writes a JSON string: the quote, the backslash and what is below U+0020 are escaped, everything else is itself.
pub(crate) fn write_string(out: &mut String, text: &str) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            control if control < ' ' => {
                write!(out, "\\u{:04x}", u32::from(control)).expect("writing to a String does not fail");
            }
            other => out.push(other),
        }
    }
    out.push('"');
}

/// A number as Python prints it after reading it: integers digit by digit, everything with a point or an exponent as
/// the float it becomes.
pub(crate) fn number_repr(number: &Number) -> String {
    let source = number.to_string();
    if source.contains(['.', 'e', 'E']) {
        // A literal too large for a float parses to infinity, in Python as well.
        float_repr(source.parse().expect("serde_json accepted it as a number"))
    } else if source == "-0" {
        "0".to_owned()
    } else {
        source
    }
}

/// `repr(float)`: the shortest digits that read back as the same float, with an exponent below 1e-4 and from 1e16.
pub(crate) fn float_repr(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific.split_once('e').expect("{:e} writes an exponent");
    let exponent: i32 = exponent.parse().expect("{:e} writes a decimal exponent");
    if (-4..16).contains(&exponent) {
        let plain = value.to_string();
        if plain.contains('.') { plain } else { format!("{plain}.0") }
    } else {
        let sign = if exponent < 0 { '-' } else { '+' };
        format!("{mantissa}e{sign}{:02}", exponent.unsigned_abs())
    }
}
