//! Writes grammars in llguidance's variant of Lark.

use std::collections::HashSet;
use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{Answer, json, text};

/// A grammar that is being written. Rules can come in any order.
#[derive(Default)]
pub(super) struct Lark {
    source: String,
    /// Rules that several tools share.
    shared: HashSet<&'static str>,
}

impl Lark {
    /// Adds a rule, or with an upper-case name a terminal.
    pub(super) fn rule(&mut self, name: &str, body: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.source, "{name}: {body}");
    }

    /// Adds a rule if it is not there yet.
    pub(super) fn rule_once(&mut self, name: &'static str, body: impl FnOnce() -> String) {
        if self.shared.insert(name) {
            self.rule(name, &body());
        }
    }

    pub(super) fn finish(self) -> String {
        self.source
    }

    /// The body of a rule for an answer that is neither free nor a grammar of its own.
    ///
    /// # Errors
    /// Why it is no answer.
    pub(super) fn answer(&mut self, answer: &Answer) -> Result<String, String> {
        match answer {
            Answer::Json => Ok(json::inline(&json!({"type": ["object", "array"]}))),
            Answer::Schema(schema) => {
                json::check(schema)?;
                Ok(json::inline(schema))
            }
            Answer::Regex(pattern) if pattern.is_empty() => Err("the expression is empty".to_owned()),
            Answer::Regex(pattern) => Ok(text::whole(pattern)),
            Answer::Choice(choices) => {
                if choices.is_empty() {
                    return Err("there is nothing to choose from; list at least one text".to_owned());
                }
                if let Some(index) = choices.iter().position(String::is_empty) {
                    return Err(format!("choice {index} is empty"));
                }
                let choices: Vec<String> = choices.iter().map(|choice| literal(choice)).collect();
                self.rule("CHOICE", &choices.join(" | "));
                Ok("CHOICE".to_owned())
            }
            Answer::Free | Answer::Lark(_) => unreachable!("has no rule of its own"),
        }
    }

    /// The name of the rule for any JSON value.
    pub(super) fn any_json(&mut self) -> &'static str {
        self.rule_once("any_json", || json::inline(&json!({})));
        "any_json"
    }

    /// The name of the terminal for any text, and the `</` that follows it.
    pub(super) fn any_text(&mut self) -> &'static str {
        self.rule_once("ANY_TEXT", || r"/(?s:.*)<\//".to_owned());
        "ANY_TEXT"
    }
}

/// A text as it stands.
pub(super) fn literal(text: &str) -> String {
    // JSON leaves DEL as it is, Lark does not take it.
    format!("{} ", Value::from(text).to_string().replace('\x7f', "\\u007f"))
}

/// A token that is not text.
pub(super) fn control(id: u32) -> String {
    format!("<[{id}]>")
}
