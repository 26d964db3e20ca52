//! V3.2's calls: XML-like markup around the control token `｜DSML｜`.
//!
//! ```text
//! \n\n<｜DSML｜function_calls>\n
//! <｜DSML｜invoke name="NAME">\n
//! <｜DSML｜parameter name="KEY" string="true|false">VALUE</｜DSML｜parameter>\n
//! </｜DSML｜invoke>\n
//! </｜DSML｜function_calls>
//! ```
//!
//! A call's arguments come out as one JSON object, `{"key": value, "key": value}`, piece by piece. A value marked as a
//! string is written as a JSON string as it comes. Any other value is JSON already; it is held back until it is whole, or
//! long enough to be worth streaming, because what turns out not to be JSON becomes a string.
//!
//! As in the published decoder, a value ends at `</｜DSML｜parameter>` and nowhere before. Where that tag is missing, the
//! value ends at the end of its call instead. What is accepted beyond the format: calls without the block around them,
//! whitespace between tags, missing ends, and a JSON object in place of parameters.

use std::collections::HashSet;

use super::json::JsonScanner;
use super::{Ending, Findings, Mark, Symbol};
use crate::python_json;

pub(super) const DSML: &str = "｜DSML｜";

/// A tag's name and attributes are no longer than this.
const MAX_TAG_BYTES: usize = 4096;

/// A container that is JSON so far streams from here on.
const MIN_STREAMED_BYTES: usize = 256;

/// The end of `text` that belongs to a call's markup if `｜DSML｜` comes next: up to two newlines and `<`.
pub(super) fn num_bytes_of_opener(text: &str) -> usize {
    let before = text.strip_suffix('<').unwrap_or(text);
    let newlines = before.bytes().rev().take(2).take_while(|&byte| byte == b'\n').count();
    text.len() - before.len() + newlines
}

/// A tag whose beginning has been read, as it was written.
pub(super) fn opening(tag: &str) -> String {
    format!("<{DSML}{tag}")
}

/// What stands behind `<｜DSML｜` in a text.
pub(super) enum Opened<'a> {
    /// Not enough of it.
    Undecided,
    /// Calls, and what follows the tag.
    Calls(Box<Dsml>, &'a str),
    /// No call.
    Nothing,
}

/// A tag, read from behind `<｜DSML｜`.
#[derive(Debug, PartialEq, Eq)]
enum Tag {
    FunctionCalls,
    Invoke { name: String },
    Parameter { key: String, is_string: Option<bool> },
}

/// A closing tag, read from behind `</｜DSML｜`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClosingTag {
    FunctionCalls,
    Invoke,
    Parameter,
}

/// What became of a tag that is being read.
#[derive(Debug, PartialEq, Eq)]
enum Scan<T> {
    /// More of it has to come.
    Undecided,
    /// The tag, and its length in bytes.
    Found(T, usize),
    /// It is none.
    Nothing,
}

/// Reads what follows the name of a tag.
type ScanRest<T> = fn(&str) -> Scan<T>;

/// Reads the name of a tag, and the rest of it by the function of that name.
fn scan<T>(text: &str, tags: &[(&str, ScanRest<T>)]) -> Scan<T> {
    for (name, attributes) in tags {
        if let Some(rest) = text.strip_prefix(name) {
            return match attributes(rest) {
                Scan::Undecided if text.len() <= MAX_TAG_BYTES => Scan::Undecided,
                Scan::Found(tag, length) if name.len() + length <= MAX_TAG_BYTES => {
                    Scan::Found(tag, name.len() + length)
                }
                _ => Scan::Nothing,
            };
        }
        if name.starts_with(text) {
            return Scan::Undecided;
        }
    }
    Scan::Nothing
}

impl Tag {
    fn scan(text: &str) -> Scan<Self> {
        scan(
            text,
            &[
                ("function_calls", |rest| end_of_tag(rest, Self::FunctionCalls)),
                ("invoke", Self::invoke),
                ("parameter", Self::parameter),
            ],
        )
    }

    fn invoke(rest: &str) -> Scan<Self> {
        named(rest, |name| match name.find("\">") {
            Some(end) => Scan::Found(Self::Invoke { name: name[..end].to_owned() }, end + 2),
            None => Scan::Undecided,
        })
    }

    fn parameter(rest: &str) -> Scan<Self> {
        named(rest, |key| {
            let found = [("\" string=\"true\">", true), ("\" string=\"false\">", false)]
                .into_iter()
                .filter_map(|(end, is_string)| Some((key.find(end)?, end.len(), is_string)))
                .min();
            match found {
                Some((at, length, is_string)) => {
                    Scan::Found(Self::Parameter { key: key[..at].to_owned(), is_string: Some(is_string) }, at + length)
                }
                None => Scan::Undecided,
            }
        })
    }

    /// The tag of a parameter that does not say whether it is a string, from a text that holds its value as well.
    fn parameter_without_kind(text: &str) -> Option<(Self, usize)> {
        let rest = text.strip_prefix("parameter")?.strip_prefix(char::is_whitespace)?;
        let key_at = text.len() - rest.trim_start().strip_prefix("name=\"")?.len();
        let end = text[key_at..].find("\">")?;
        let key = text[key_at..key_at + end].to_owned();
        let length = key_at + end + 2;
        (length <= MAX_TAG_BYTES).then_some((Self::Parameter { key, is_string: None }, length))
    }
}

/// Reads ` name="`, and with `rest` what follows.
fn named(text: &str, rest: impl FnOnce(&str) -> Scan<Tag>) -> Scan<Tag> {
    const NAME: &str = "name=\"";
    let trimmed = text.trim_start();
    match trimmed.strip_prefix(NAME) {
        _ if trimmed.len() == text.len() && !text.is_empty() => Scan::Nothing,
        Some(after) => match rest(after) {
            Scan::Found(tag, length) => Scan::Found(tag, text.len() - after.len() + length),
            other => other,
        },
        None if NAME.starts_with(trimmed) => Scan::Undecided,
        None => Scan::Nothing,
    }
}

fn end_of_tag<T>(rest: &str, tag: T) -> Scan<T> {
    let trimmed = rest.trim_start();
    match trimmed.chars().next() {
        None => Scan::Undecided,
        Some('>') => Scan::Found(tag, rest.len() - trimmed.len() + 1),
        Some(_) => Scan::Nothing,
    }
}

impl ClosingTag {
    fn scan(text: &str) -> Scan<Self> {
        scan(
            text,
            &[
                ("function_calls", |rest| end_of_tag(rest, Self::FunctionCalls)),
                ("invoke", |rest| end_of_tag(rest, Self::Invoke)),
                ("parameter", |rest| end_of_tag(rest, Self::Parameter)),
            ],
        )
    }
}

/// Calls that are being read.
#[derive(Default)]
pub(super) struct Dsml {
    place: Place,
    /// `<` or `</`, which belong to a tag if `｜DSML｜` comes next.
    tail: String,
    tag: Option<UnfinishedTag>,
}

/// A tag after its `｜DSML｜`.
struct UnfinishedTag {
    /// `<`, `</`, or nothing where that is missing.
    before: String,
    text: String,
}

impl UnfinishedTag {
    fn is_closing(&self) -> bool {
        self.before == "</"
    }

    fn characters(&self) -> String {
        format!("{}{DSML}{}", self.before, self.text)
    }
}

#[derive(Default)]
enum Place {
    /// Between calls.
    #[default]
    Block,
    /// Within a call, between parameters.
    Call(Call),
    /// Within the value of a parameter.
    Value(Call, Value),
    /// Within a call whose body is a JSON object.
    Object(JsonScanner),
    /// Behind all calls.
    Behind,
}

/// A call that has begun.
#[derive(Default)]
struct Call {
    keys: HashSet<String>,
    /// Text came that is no parameter.
    has_text: bool,
}

/// A value that is being read.
struct Value {
    kind: Kind,
    /// Ends of the call and of the block, with the text beside them: part of the value if its own end comes after them.
    suspended: Option<Suspended>,
}

enum Kind {
    /// Written as a JSON string.
    Text,
    /// JSON by its own account.
    Json {
        /// What has not been written yet.
        held: String,
        scanner: JsonScanner,
        is_streaming: bool,
    },
    /// Of a key that has a value already.
    Dropped { key: String, text: String },
}

#[derive(Default)]
struct Suspended {
    characters: String,
    ends_block: bool,
    /// Text between the tags.
    between: String,
}

impl Dsml {
    /// Looks at the text behind `<｜DSML｜` in a content.
    pub(super) fn opened_by<'a>(text: &'a str, findings: &mut Findings) -> Opened<'a> {
        let mut calls = Self::default();
        match Tag::scan(text) {
            Scan::Undecided => Opened::Undecided,
            Scan::Found(Tag::Parameter { .. }, _) | Scan::Nothing => Opened::Nothing,
            Scan::Found(tag, length) => {
                calls.open(tag, findings);
                Opened::Calls(Box::new(calls), &text[length..])
            }
        }
    }

    pub(super) fn push(&mut self, symbol: Symbol<'_>, findings: &mut Findings) {
        match symbol {
            Symbol::Text(text) => self.take(&text, findings),
            Symbol::Control(Mark::Dsml, _) => {
                self.give_up_tag(findings);
                let before = std::mem::take(&mut self.tail);
                self.tag = Some(UnfinishedTag { before, text: String::new() });
            }
            // Part of a value like any other character; between the tags it means nothing.
            Symbol::Control(_, text) => {
                self.give_up_tag(findings);
                let tail = std::mem::take(&mut self.tail);
                match &mut self.place {
                    Place::Value(_, value) => value.push(&(tail + &text), findings),
                    Place::Object(scanner) if scanner.is_in_string() => push_object(scanner, &(tail + &text), findings),
                    _ => self.literal(&tail, findings),
                }
            }
        }
    }

    /// Ends the reply.
    pub(super) fn finish(&mut self, ending: Ending, findings: &mut Findings) {
        if let Some(tag) = &self.tag
            && !tag.is_closing()
            && ending == Ending::Stop
        {
            findings.defect("the reply ends within the markup of a tool call", &tag.characters());
        }
        // What is left of a tag's beginning is markup, not text.
        self.tag = None;
        self.tail.clear();
        let is_over = match &self.place {
            Place::Value(_, value) => value.suspended.is_some(),
            _ => false,
        };
        match ending {
            Ending::Stop => self.close_call(findings),
            Ending::Length if is_over => self.resolve_suspended(findings),
            Ending::Length => {
                if let Place::Value(_, Value { kind: Kind::Json { held, .. }, .. }) = &mut self.place {
                    findings.arguments(&std::mem::take(held));
                }
            }
        }
    }

    fn take(&mut self, text: &str, findings: &mut Findings) {
        let Some(tag) = &mut self.tag else { return self.text(text, findings) };
        tag.text.push_str(text);
        let (length, closing, opened) = if tag.is_closing() {
            match ClosingTag::scan(&tag.text) {
                Scan::Undecided => return,
                Scan::Found(tag, length) => (length, Some(tag), None),
                Scan::Nothing => return self.give_up_tag(findings),
            }
        } else {
            match Tag::scan(&tag.text) {
                Scan::Undecided => return,
                Scan::Found(tag, length) => (length, None, Some(tag)),
                Scan::Nothing => return self.give_up_tag(findings),
            }
        };
        let UnfinishedTag { before, text } = self.tag.take().expect("it was there above");
        let (tag_text, rest) = text.split_at(length);
        let characters = || format!("{before}{DSML}{tag_text}");
        match (closing, opened) {
            (Some(tag), _) => self.close(tag, characters, findings),
            (None, Some(tag)) => self.open_within(tag, characters, findings),
            (None, None) => {}
        }
        if !rest.is_empty() {
            self.text(rest, findings);
        }
    }

    /// A tag turned out to be none, or to lack its end.
    fn give_up_tag(&mut self, findings: &mut Findings) {
        let Some(tag) = self.tag.take() else { return };
        if !tag.is_closing()
            && matches!(self.place, Place::Call(_))
            && let Some((parameter, length)) = Tag::parameter_without_kind(&tag.text)
        {
            self.open(parameter, findings);
            return self.text(&tag.text[length..], findings);
        }
        let characters = format!("{}{DSML}", tag.before);
        match &mut self.place {
            Place::Value(_, value) => value.push(&characters, findings),
            Place::Object(scanner) if scanner.is_in_string() => push_object(scanner, &characters, findings),
            _ => self.literal(&characters, findings),
        }
        // The text behind the token may end in the beginning of another tag.
        self.text(&tag.text, findings);
    }

    /// Takes text outside of tags.
    fn text(&mut self, text: &str, findings: &mut Findings) {
        let text = std::mem::take(&mut self.tail) + text;
        let num_held = if text.ends_with("</") { 2 } else { usize::from(text.ends_with('<')) };
        let (text, tail) = text.split_at(text.len() - num_held);
        self.tail = tail.to_owned();
        match &mut self.place {
            Place::Value(_, value) => value.push(text, findings),
            Place::Object(scanner) => push_object(scanner, text, findings),
            Place::Call(call) if call.keys.is_empty() && !call.has_text && text.trim_start().starts_with('{') => {
                let object = text.trim_start();
                findings.junk(&text[..text.len() - object.len()]);
                let mut scanner = JsonScanner::new();
                push_object(&mut scanner, object, findings);
                self.place = Place::Object(scanner);
            }
            Place::Block | Place::Call(_) | Place::Behind => self.literal(text, findings),
        }
    }

    /// Text that belongs to nothing.
    fn literal(&mut self, text: &str, findings: &mut Findings) {
        if let Place::Call(call) = &mut self.place {
            call.has_text |= !text.trim().is_empty();
        }
        findings.junk(text);
    }

    fn open_within(&mut self, tag: Tag, characters: impl FnOnce() -> String, findings: &mut Findings) {
        if let Place::Value(_, value) = &mut self.place {
            match value.suspended {
                Some(_) => self.resolve_suspended(findings),
                None => return value.push(&characters(), findings),
            }
        }
        match (&tag, &mut self.place) {
            (_, Place::Object(scanner)) if scanner.is_in_string() => push_object(scanner, &characters(), findings),
            (Tag::Parameter { .. }, Place::Call(_)) => self.open(tag, findings),
            (Tag::Parameter { .. }, _) => self.literal(&characters(), findings),
            (Tag::Invoke { .. } | Tag::FunctionCalls, _) => {
                self.close_call(findings);
                self.open(tag, findings);
            }
        }
    }

    fn open(&mut self, tag: Tag, findings: &mut Findings) {
        match tag {
            Tag::FunctionCalls => self.place = Place::Block,
            Tag::Invoke { name } => {
                findings.begin_call(&name);
                self.place = Place::Call(Call::default());
            }
            Tag::Parameter { key, is_string } => {
                let Place::Call(mut call) = std::mem::take(&mut self.place) else { return };
                let kind = if call.keys.contains(&key) {
                    Kind::Dropped { key, text: String::new() }
                } else {
                    let mut opening = if call.keys.is_empty() { "{" } else { ", " }.to_owned();
                    python_json::write_string(&mut opening, &key);
                    opening.push_str(": ");
                    call.keys.insert(key);
                    if is_string == Some(true) {
                        opening.push('"');
                        findings.arguments(&opening);
                        Kind::Text
                    } else {
                        findings.arguments(&opening);
                        Kind::Json { held: String::new(), scanner: JsonScanner::new(), is_streaming: false }
                    }
                };
                self.place = Place::Value(call, Value { kind, suspended: None });
            }
        }
    }

    fn close(&mut self, tag: ClosingTag, characters: impl FnOnce() -> String, findings: &mut Findings) {
        match (&mut self.place, tag) {
            (Place::Value(_, value), ClosingTag::Parameter) => {
                if let Some(suspended) = value.suspended.take() {
                    value.push(&suspended.characters, findings);
                }
                self.close_value(findings);
            }
            (Place::Value(_, value), ClosingTag::Invoke | ClosingTag::FunctionCalls) => {
                let suspended = value.suspended.get_or_insert_default();
                suspended.characters.push_str(&characters());
                suspended.ends_block |= tag == ClosingTag::FunctionCalls;
            }
            (Place::Object(scanner), _) if scanner.is_in_string() => push_object(scanner, &characters(), findings),
            (_, ClosingTag::Invoke) => self.close_call(findings),
            (_, ClosingTag::FunctionCalls) => {
                self.close_call(findings);
                self.place = Place::Behind;
            }
            (_, ClosingTag::Parameter) => {}
        }
    }

    fn close_value(&mut self, findings: &mut Findings) {
        let Place::Value(call, value) = std::mem::take(&mut self.place) else { return };
        match value.kind {
            Kind::Text => findings.arguments("\""),
            Kind::Json { held, scanner, is_streaming: false } if scanner.is_complete() => findings.arguments(&held),
            Kind::Json { held, is_streaming: false, .. } => {
                let mut text = String::new();
                python_json::write_string(&mut text, &held);
                findings.arguments(&text);
            }
            Kind::Json { scanner, .. } if scanner.is_complete() => {}
            Kind::Json { scanner, .. } => match scanner.closing() {
                Some(closing) => findings.arguments(&closing),
                None => findings.defect("the arguments of a tool call are not JSON", ""),
            },
            Kind::Dropped { key, text } => {
                findings.defect(&format!("the parameter {key:?} comes more than once; the first value counts"), &text);
            }
        }
        self.place = Place::Call(call);
    }

    /// Ends the call, and the value that is still open in it.
    fn close_call(&mut self, findings: &mut Findings) {
        if let Place::Value(_, value) = &mut self.place {
            match value.suspended {
                Some(_) => self.resolve_suspended(findings),
                None => self.close_value(findings),
            }
        }
        match std::mem::take(&mut self.place) {
            Place::Call(call) => findings.arguments(if call.keys.is_empty() { "{}" } else { "}" }),
            Place::Object(scanner) => close_object(&scanner, findings),
            place => self.place = place,
        }
    }

    /// The value has no end of its own: it ended where its call did.
    fn resolve_suspended(&mut self, findings: &mut Findings) {
        let Place::Value(_, value) = &mut self.place else { return };
        let Some(suspended) = value.suspended.take() else { return };
        self.close_value(findings);
        self.close_call(findings);
        if suspended.ends_block {
            self.place = Place::Behind;
        }
        self.literal(&suspended.between, findings);
    }
}

impl Value {
    fn push(&mut self, text: &str, findings: &mut Findings) {
        if let Some(suspended) = &mut self.suspended {
            suspended.characters.push_str(text);
            return suspended.between.push_str(text);
        }
        match &mut self.kind {
            Kind::Text => {
                let mut escaped = String::with_capacity(text.len());
                python_json::write_escaped(&mut escaped, text);
                findings.arguments(&escaped);
            }
            Kind::Json { held, scanner, is_streaming } => {
                // Where streaming begins depends on the characters, not on how they were cut into pieces.
                for character in text.chars() {
                    scanner.push(character);
                    held.push(character);
                    *is_streaming |= held.len() >= MIN_STREAMED_BYTES && scanner.is_nested() && !scanner.is_invalid();
                }
                if *is_streaming {
                    findings.arguments(&std::mem::take(held));
                }
            }
            Kind::Dropped { text: dropped, .. } => dropped.push_str(text),
        }
    }
}

/// A JSON object in place of parameters goes out as it comes.
fn push_object(scanner: &mut JsonScanner, text: &str, findings: &mut Findings) {
    // Behind its end there is nothing but whitespace that would count.
    let end = text.char_indices().find(|&(_, character)| {
        let is_over = scanner.is_complete();
        if !is_over {
            scanner.push(character);
        }
        is_over
    });
    let (object, behind) = text.split_at(end.map_or(text.len(), |(at, _)| at));
    findings.arguments(object);
    findings.junk(behind);
}

fn close_object(scanner: &JsonScanner, findings: &mut Findings) {
    if scanner.is_complete() {
        return;
    }
    match scanner.closing() {
        Some(closing) => findings.arguments(&closing),
        None => findings.defect("the arguments of a tool call are not JSON", ""),
    }
}
