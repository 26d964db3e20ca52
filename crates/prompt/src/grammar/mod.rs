//! Constrained replies: from what is wanted to the tokens that may come next.
//!
//! A [`ReplySpec`] says what a reply must be like: its [`Answer`] and its [`Calls`] of tools. [`Prompt::grammar`] makes a
//! [`Grammar`] of it, a small automaton over token ids in its start state. It knows what surrounds the answer: reasoning is
//! free until `</think>`, a budget may cut it short, and R1's family sets the tags apart with newlines. For the answer itself
//! it has an llguidance parser over the release's own markup, byte for byte as the encoder writes it. Where nothing is
//! restricted nothing is computed.
//!
//! # Decisions
//!
//! - Control tokens are never text here: a value can have the characters of `</｜DSML｜parameter>`, and only the real token
//!   ends it.
//! - JSON may be compact, have one space where whitespace may stand, or be indented by up to 64 spaces or 16 tabs. So
//!   no model can spend its reply on whitespace.
//! - Tools that are not strict constrain the names of functions and parameters and the form, not the types. Each listed
//!   parameter comes at most once, in any order. A call that is forced has no text around it in which the model could say what
//!   it lacks, so there the schema is followed wherever a grammar can be made of it.
//! - Strict tools get their parameters in the order of the schema.
//! - With tools that may be called and a form for the answer, the reply is a block of calls or the answer.
//! - In strings of a schema that has open objects, `\u` escapes are not allowed: a listed property could be written so that it
//!   passes for another one.
//!
//! Left out: constraints on the reasoning, and uniqueness of properties that a schema does not list.

mod calls;
mod json;
mod lark;
mod reply;
mod text;
mod vocabulary;

use std::sync::Arc;

use serde_json::Value;

use crate::prompt::Prompt;
use crate::{Error, Result};
use calls::CallMarkup;
use lark::Lark;
pub use reply::{Allowed, Grammar, Progress};
use reply::{Plan, Watch};
pub(crate) use vocabulary::Vocabulary;

/// The most bytes of all schemas, patterns and grammars of one reply.
pub const MAX_SOURCE_BYTES: usize = 512 << 10;

/// What the text of a reply must be.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Answer {
    /// Anything.
    #[default]
    Free,
    /// A JSON object or array.
    Json,
    /// JSON that follows this schema.
    Schema(Value),
    /// Text that this regular expression matches as a whole.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// Text of this grammar, in llguidance's variant of Lark.
    Lark(String),
}

/// What a reply may do with tools.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Calls {
    /// Calls are not looked at: there are no tools.
    #[default]
    Unwatched,
    /// The token that opens calls is ruled out.
    Forbidden,
    /// The model may call these, instead of answering or after some text.
    Allowed(Vec<Tool>),
    /// The reply is one or more calls of these.
    Required(Vec<Tool>),
}

/// A function that the model may call.
#[derive(Clone, Debug, PartialEq)]
pub struct Tool {
    /// The function's name.
    pub name: String,
    /// JSON schema of the arguments; `None` is a function without parameters.
    pub parameters: Option<Value>,
    /// Whether arguments must follow the schema.
    pub strictness: Strictness,
}

/// How far the arguments of a call follow the schema of its function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strictness {
    /// In the names of parameters, if the schema lists any.
    Loose,
    /// Wholly, if a grammar can be made of the schema and it lists parameters; else as [`Loose`](Self::Loose).
    IfPossible,
    /// Wholly, or there is no grammar.
    Strict,
}

/// What a reply must be like.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReplySpec {
    /// Its text.
    pub answer: Answer,
    /// Its calls of tools.
    pub calls: Calls,
    /// The most tokens of reasoning before the tag that closes it is written for the model.
    pub reasoning_budget: Option<usize>,
    /// What the prompt already has of the answer.
    pub begun: String,
}

/// The part of a [`ReplySpec`] that cannot be made into a grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// [`ReplySpec::answer`].
    Answer,
    /// The tool with this index.
    Tool(usize),
    /// [`ReplySpec::begun`].
    Begun,
}

impl Prompt {
    /// Builds what all grammars share, so that the first request with one does not wait for it: seconds for a large vocabulary.
    ///
    /// # Errors
    /// For a vocabulary of which no grammar can be made.
    pub fn prepare_grammars(&self) -> Result<()> {
        self.vocabulary().map(drop)
    }

    /// Compiles what a chat reply must be like; `None` if nothing is restricted. `reasoning_open` and `thinking` are those of
    /// [`Rendered`](crate::Rendered). Slow: not for a thread that others wait for.
    ///
    /// # Errors
    /// [`Error::Grammar`] for a schema, an expression or a grammar that is malformed, too large, impossible or not supported;
    /// [`Error::MissingToken`] if the vocabulary lacks the markup of calls that are required.
    pub fn grammar(&self, spec: &ReplySpec, reasoning_open: bool, thinking: bool) -> Result<Option<Grammar>> {
        let markup = CallMarkup::of(self);
        let watch = match (&spec.calls, &markup) {
            (Calls::Unwatched, _) | (Calls::Forbidden | Calls::Allowed(_), Err(_)) => None,
            (Calls::Forbidden, Ok(markup)) => Some(Watch::forbid(markup.openers())),
            (Calls::Allowed(tools), Ok(markup)) if spec.answer == Answer::Free => {
                let matcher = self.compile_tools(markup, tools, &|lark, tools| {
                    let calls = markup.write_calls(lark, tools)?;
                    lark.rule("start", &calls);
                    Ok(())
                })?;
                Some(Watch::begin(markup, matcher))
            }
            (Calls::Allowed(_) | Calls::Required(_), Ok(_)) => None,
            (Calls::Required(_), &Err(token)) => {
                return Err(Error::MissingToken { token: token.to_owned(), needed_for: "calling tools" });
            }
        };
        let matcher = match (&spec.calls, &markup) {
            (Calls::Required(tools), Ok(markup)) => Some(self.compile_tools(markup, tools, &|lark, tools| {
                let calls = markup.write_calls(lark, tools)?;
                lark.rule("start", &format!("{} {calls}", markup.opening()));
                Ok(())
            })?),
            _ if spec.answer == Answer::Free => None,
            (Calls::Allowed(tools), Ok(markup)) => Some(self.compile_either(markup, tools, &spec.answer)?),
            _ => Some(self.compile_answer(&spec.answer)?),
        };
        let may_think = thinking || reasoning_open;
        if matcher.is_none() && watch.is_none() && !(may_think && spec.reasoning_budget.is_some()) {
            return Ok(None);
        }
        let plan = Plan {
            reasoning_open,
            may_open_reasoning: thinking
                && !reasoning_open
                && !self.release().opens_reasoning_in_prompt()
                && spec.begun.is_empty(),
            reasoning_budget: spec.reasoning_budget,
            reasoning_forbids: markup.as_ref().map(CallMarkup::openers).unwrap_or_default(),
        };
        let begun = if matches!(spec.calls, Calls::Required(_)) { "" } else { spec.begun.as_str() };
        Grammar::new(self, plan, matcher, watch, begun).map(Some)
    }

    /// Compiles what a plain completion must be; `None` if that is anything.
    ///
    /// # Errors
    /// As [`grammar`](Self::grammar).
    pub fn completion_grammar(&self, answer: &Answer) -> Result<Option<Grammar>> {
        if *answer == Answer::Free {
            return Ok(None);
        }
        Grammar::new(self, Plan::default(), Some(self.compile_answer(answer)?), None, "").map(Some)
    }

    fn compile_answer(&self, answer: &Answer) -> Result<llguidance::Matcher> {
        let fail = |reason: String| Error::Grammar { part: Part::Answer, reason };
        let vocabulary = self.vocabulary()?;
        if let Answer::Lark(source) = answer {
            check_size(source.len()).map_err(fail)?;
            return vocabulary.compile(source.clone(), None).map_err(fail);
        }
        let mut lark = Lark::default();
        let body = lark.answer(answer).map_err(fail)?;
        lark.rule("start", &body);
        let source = lark.finish();
        check_size(source.len()).map_err(fail)?;
        vocabulary.compile(source, None).map_err(fail)
    }

    /// A block of calls, or the answer.
    fn compile_either(&self, markup: &CallMarkup, tools: &[Tool], answer: &Answer) -> Result<llguidance::Matcher> {
        // What is wrong with the answer alone is told first.
        self.compile_answer(answer)?;
        let own = if let Answer::Lark(source) = answer { Some(source.as_str()) } else { None };
        self.compile_tools_with(markup, tools, own, &|lark, tools| {
            let calls = markup.write_calls(lark, tools)?;
            let body = match answer {
                Answer::Lark(_) => "@answer".to_owned(),
                answer => lark.answer(answer)?,
            };
            lark.rule("answer", &body);
            lark.rule("start", &format!("{} {calls} | answer", markup.opening()));
            Ok(())
        })
    }

    fn compile_tools(
        &self,
        markup: &CallMarkup,
        tools: &[Tool],
        write: &WriteGrammar<'_>,
    ) -> Result<llguidance::Matcher> {
        self.compile_tools_with(markup, tools, None, write)
    }

    fn compile_tools_with(
        &self,
        markup: &CallMarkup,
        tools: &[Tool],
        answer: Option<&str>,
        write: &WriteGrammar<'_>,
    ) -> Result<llguidance::Matcher> {
        let vocabulary = self.vocabulary()?;
        let compile = |tools: &[Tool], write: &WriteGrammar<'_>, answer: Option<&str>| {
            let mut lark = Lark::default();
            write(&mut lark, tools)?;
            let source = lark.finish();
            check_size(source.len() + answer.map_or(0, str::len))?;
            vocabulary.compile(source, answer)
        };
        let alone = |lark: &mut Lark, tools: &[Tool]| {
            let calls = markup.write_calls(lark, tools)?;
            lark.rule("start", &calls);
            Ok(())
        };
        let with = |tool: &Tool, strictness| match tool.strictness {
            Strictness::IfPossible => Tool { strictness, ..tool.clone() },
            Strictness::Loose | Strictness::Strict => tool.clone(),
        };
        let followed = |tool: &Tool| {
            let strict = with(tool, Strictness::Strict);
            let lists_parameters = tool.parameters.as_ref().is_some_and(|schema| {
                schema.get("properties").and_then(Value::as_object).is_some_and(|properties| !properties.is_empty())
            });
            let is_possible = lists_parameters && compile(std::slice::from_ref(&strict), &alone, None).is_ok();
            if is_possible { strict } else { with(tool, Strictness::Loose) }
        };
        if tools.iter().any(|tool| tool.strictness == Strictness::IfPossible) {
            let followed: Vec<Tool> = tools.iter().map(followed).collect();
            // Together they may be too much.
            if let Ok(matcher) = compile(&followed, write, answer) {
                return Ok(matcher);
            }
        }
        let tools: Vec<Tool> = tools.iter().map(|tool| with(tool, Strictness::Loose)).collect();
        compile(&tools, write, answer).map_err(|reason| {
            // Of several tools the one at fault is found by asking each alone.
            let at_fault = tools.iter().enumerate().find_map(|(index, tool)| {
                let reason = compile(std::slice::from_ref(tool), &alone, None).err()?;
                Some(Error::Grammar { part: Part::Tool(index), reason })
            });
            at_fault.unwrap_or(Error::Grammar { part: Part::Tool(0), reason })
        })
    }

    fn vocabulary(&self) -> Result<&Arc<Vocabulary>> {
        self.vocabulary_cell()
            .get_or_init(|| Vocabulary::new(self.tokenizer(), self.eos_token_ids()).map(Arc::new))
            .as_ref()
            .map_err(|reason| Error::Tokenizer(format!("cannot be used for grammars: {reason}")))
    }
}

/// Writes the rules for some tools.
type WriteGrammar<'a> = dyn Fn(&mut Lark, &[Tool]) -> std::result::Result<(), String> + 'a;

fn check_size(num_bytes: usize) -> std::result::Result<(), String> {
    if num_bytes <= MAX_SOURCE_BYTES {
        return Ok(());
    }
    Err(format!("it is {num_bytes} bytes as a grammar, more than the limit of {MAX_SOURCE_BYTES}; simplify it"))
}
