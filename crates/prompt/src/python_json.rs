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

/// Writes a JSON string.
pub(crate) fn write_string(out: &mut String, text: &str) {
    out.push('"');
    write_escaped(out, text);
    out.push('"');
}

/// Writes what stands between the quotes of a JSON string, or a part of it: the quote, the backslash and what is below
/// U+0020 are escaped, everything else is itself.
pub(crate) fn write_escaped(out: &mut String, text: &str) {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Each pair was written by Python: `json.dumps(json.loads(left), ensure_ascii=False)`.
    #[test]
    fn is_pythons() {
        let cases = [
            ("[1,2 ,3]", "[1, 2, 3]"),
            (r#"{"b":1,"a":{},"c":[]}"#, r#"{"b": 1, "a": {}, "c": []}"#),
            (r#"{"a":1,"b":2,"a":3}"#, r#"{"a": 3, "b": 2}"#),
            ("[null,true,false]", "[null, true, false]"),
            (r#""\u9cb8 \ud83d\udc0b é""#, r#""鲸 🐋 é""#),
            (
                r#""\"\\\/\b\f\n\r\t\u0000\u001f\u007f\u2028""#,
                "\"\\\"\\\\/\\b\\f\\n\\r\\t\\u0000\\u001f\u{7f}\u{2028}\"",
            ),
            ("0", "0"),
            ("-0", "0"),
            ("-0.0", "-0.0"),
            ("123456789012345678901234567890", "123456789012345678901234567890"),
            ("-9223372036854775809", "-9223372036854775809"),
            ("1.0", "1.0"),
            ("2.50", "2.5"),
            ("1e3", "1000.0"),
            ("1E+2", "100.0"),
            ("0.1", "0.1"),
            ("0.30000000000000004", "0.30000000000000004"),
            ("-1.5e-7", "-1.5e-07"),
            ("0.0001", "0.0001"),
            ("0.00001", "1e-05"),
            ("1e15", "1000000000000000.0"),
            ("9999999999999998.0", "9999999999999998.0"),
            ("1e16", "1e+16"),
            ("123456789012345680.0", "1.2345678901234568e+17"),
            ("1e100", "1e+100"),
            ("5e-324", "5e-324"),
            ("1e-400", "0.0"),
            ("1e400", "Infinity"),
            ("-1e400", "-Infinity"),
        ];
        for (source, expected) in cases {
            let value: Value = serde_json::from_str(source).unwrap();
            assert_eq!(dumps(&value), expected, "{source}");
        }
        assert_eq!(float_repr(f64::NAN), "NaN");
    }
}
