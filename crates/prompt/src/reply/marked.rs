//! The calls of every release before V3.2: control tokens around a name and a JSON object.
//!
//! V3, V3-0324, R1 and R1-0528, with newlines between calls:
//!
//! ```text
//! <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>NAME\n```json\nARGUMENTS\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>
//! ```
//!
//! V3.1, V3.1-Terminus and V3.2-Exp:
//!
//! ```text
//! <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>NAME<｜tool▁sep｜>ARGUMENTS<｜tool▁call▁end｜><｜tool▁calls▁end｜>
//! ```
//!
//! Both are read whatever the release: the first is known by its `function` and the name on a line of its own. The
//! arguments go out as they were written, byte by byte. Within a string of theirs the tokens that end a call are text, if
//! the string and the object go on to their ends after them; else they end the call.

use super::json::JsonScanner;
use super::{Ending, Findings, Mark, Symbol};

/// Calls that are being read.
#[derive(Default)]
pub(super) struct Marked {
    place: Place,
}

#[derive(Default)]
enum Place {
    /// Between calls.
    #[default]
    Block,
    /// Before the separator.
    Header(String),
    /// Behind the separator; where the arguments begin tells what was the name.
    Lead { header: String, text: String },
    /// Within the arguments.
    Arguments(Arguments),
    /// Behind the arguments of a call.
    Tail,
    /// Behind all calls.
    Behind,
}

struct Arguments {
    scanner: JsonScanner,
    /// What came after the end of the call within a string.
    suspended: Option<Suspended>,
}

struct Suspended {
    symbols: Vec<Symbol<'static>>,
    /// Where the arguments stand if all of these are text.
    scanner: JsonScanner,
}

impl Marked {
    pub(super) fn push(&mut self, symbol: Symbol<'_>, findings: &mut Findings) {
        if let Place::Arguments(Arguments { suspended: Some(_), .. }) = self.place {
            return self.suspend(symbol, findings);
        }
        match symbol {
            Symbol::Text(text) => self.take(&text, findings),
            Symbol::Control(mark, text) => match &mut self.place {
                Place::Arguments(arguments) if arguments.scanner.is_in_string() => {
                    if matches!(mark, Mark::CallEnd | Mark::CallsEnd | Mark::CallBegin) {
                        arguments.suspended =
                            Some(Suspended { symbols: Vec::new(), scanner: arguments.scanner.clone() });
                        self.suspend(Symbol::Control(mark, text), findings);
                    } else {
                        self.take(&text, findings);
                    }
                }
                _ => self.mark(mark, findings),
            },
        }
    }

    /// Ends the reply.
    pub(super) fn finish(&mut self, ending: Ending, findings: &mut Findings) {
        self.resolve_suspended(findings);
        match (&self.place, ending) {
            (Place::Block | Place::Tail | Place::Behind, _) | (_, Ending::Length) => {}
            (Place::Arguments(_), Ending::Stop) => self.close_call(findings),
            (Place::Header(text) | Place::Lead { header: text, .. }, Ending::Stop) => {
                findings.defect("the reply ends within the markup of a tool call", text);
            }
        }
    }

    fn mark(&mut self, mark: Mark, findings: &mut Findings) {
        match (mark, &mut self.place) {
            (Mark::CallSep, Place::Header(header)) => {
                let header = std::mem::take(header);
                self.place = Place::Lead { header, text: String::new() };
            }
            (Mark::CallBegin, _) => {
                self.close_call(findings);
                self.place = Place::Header(String::new());
            }
            (Mark::CallEnd, _) => {
                self.close_call(findings);
                self.place = Place::Block;
            }
            (Mark::CallsEnd, _) => {
                self.close_call(findings);
                self.place = Place::Behind;
            }
            (Mark::CallsBegin, Place::Behind) => self.place = Place::Block,
            // Out of place.
            _ => {}
        }
    }

    fn take(&mut self, text: &str, findings: &mut Findings) {
        match &mut self.place {
            Place::Header(header) => header.push_str(text),
            Place::Lead { text: lead, .. } => {
                lead.push_str(text);
                if let Some(at) = lead.find('{') {
                    let arguments = lead.split_off(at);
                    let between = self.begin_call(findings);
                    findings.junk(&between);
                    self.take(&arguments, findings);
                }
            }
            Place::Arguments(Arguments { scanner, .. }) => {
                let end = text.char_indices().find_map(|(at, character)| {
                    scanner.push(character);
                    scanner.is_complete().then_some(at + character.len_utf8())
                });
                let (arguments, rest) = text.split_at(end.unwrap_or(text.len()));
                findings.arguments(arguments);
                if end.is_some() {
                    let rest = rest.to_owned();
                    self.place = Place::Tail;
                    self.take(&rest, findings);
                }
            }
            // The end of the fence that some releases put around arguments.
            Place::Tail => findings.junk(&text.replace('`', "")),
            Place::Block | Place::Behind => findings.junk(text),
        }
    }

    /// Tells the name from what stands before the arguments.
    fn begin_call(&mut self, findings: &mut Findings) -> String {
        let Place::Lead { header, text } = std::mem::take(&mut self.place) else { return String::new() };
        let (name, rest) = match text.trim_start().split_once('\n') {
            Some((name, rest)) if header.trim() == "function" && !name.starts_with("```") => (name.trim(), rest),
            None if header.trim() == "function" && !text.trim().is_empty() => (text.trim(), ""),
            _ => (header.trim(), text.as_str()),
        };
        findings.begin_call(name);
        self.place = Place::Arguments(Arguments { scanner: JsonScanner::new(), suspended: None });
        let rest = rest.trim();
        rest.strip_prefix("```json")
            .or_else(|| rest.strip_prefix("```"))
            .unwrap_or(rest)
            .trim_end_matches('`')
            .trim()
            .to_owned()
    }

    /// Ends the call that is open, if one is.
    fn close_call(&mut self, findings: &mut Findings) {
        match &self.place {
            Place::Arguments(Arguments { scanner, .. }) => match scanner.closing() {
                Some(closing) => findings.arguments(&closing),
                None => findings.defect("the arguments of a tool call are not JSON", ""),
            },
            Place::Header(header) => {
                findings.defect("a tool call has no separator between its name and its arguments", header);
            }
            // No object came. No arguments at all are none; anything else is no object.
            Place::Lead { .. } => {
                let arguments = self.begin_call(findings);
                if arguments.is_empty() || arguments == "null" {
                    findings.arguments("{}");
                } else {
                    findings.arguments(&arguments);
                    findings.defect("the arguments of a tool call are no JSON object", "");
                }
            }
            Place::Block | Place::Tail | Place::Behind => {}
        }
        self.place = Place::Block;
    }

    /// The call's end came within a string: it is text if the arguments end after it, and their end if they do not.
    fn suspend(&mut self, symbol: Symbol<'_>, findings: &mut Findings) {
        let Place::Arguments(Arguments { suspended: Some(suspended), .. }) = &mut self.place else { return };
        let mut is_whole = false;
        for character in symbol.characters().chars() {
            if !is_whole {
                suspended.scanner.push(character);
                is_whole = suspended.scanner.is_complete();
            }
        }
        let is_broken = suspended.scanner.is_invalid();
        suspended.symbols.push(symbol.into_owned());
        if is_whole {
            let text: String = suspended.symbols.iter().map(Symbol::characters).collect();
            self.unsuspend();
            self.take(&text, findings);
        } else if is_broken {
            self.resolve_suspended(findings);
        }
    }

    fn unsuspend(&mut self) -> Option<Suspended> {
        match &mut self.place {
            Place::Arguments(arguments) => arguments.suspended.take(),
            _ => None,
        }
    }

    fn resolve_suspended(&mut self, findings: &mut Findings) {
        let Some(suspended) = self.unsuspend() else { return };
        for symbol in suspended.symbols {
            match symbol {
                Symbol::Control(mark, _) => self.mark(mark, findings),
                text => self.push(text, findings),
            }
        }
    }
}
