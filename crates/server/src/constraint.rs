//! From the fields that say what a reply must be like to a constraint for the engine.

use cachalot_engine::{Constraint, ConstraintError, TokenMask};
use cachalot_prompt::{Answer, Grammar, Part};
use serde_json::Value;

use crate::chat_prompt::prompt_error;
use crate::error::ApiError;
use crate::wire::chat::{ChatFields, ResponseFormat, ResponseFormatKind};
use crate::wire::completion::CompletionFields;
use crate::wire::guided::StructuredOutputs;

/// What the text of a reply must be, and the field that said so.
#[derive(Debug, Default)]
pub(crate) struct Wish {
    pub(crate) answer: Answer,
    field: &'static str,
}

impl Wish {
    /// The wish of a chat request; vLLM's fields are taken out of it.
    ///
    /// # Errors
    /// 400 for more than one wish, and for one that lacks its schema.
    pub(crate) fn of_chat(fields: &mut ChatFields) -> Result<Self, ApiError> {
        let format = fields.response_format.as_ref().map(Self::of_format).transpose()?.flatten();
        let guided = Guided {
            json: fields.guided_json.take(),
            regex: fields.guided_regex.take(),
            choice: fields.guided_choice.take(),
            grammar: fields.guided_grammar.take(),
            structured: fields.structured_outputs.take(),
        };
        Self::only(format.into_iter().chain(guided.wishes()?))
    }

    /// The wish of a completion, whose fields are taken out of it.
    ///
    /// # Errors
    /// 400 for more than one wish.
    pub(crate) fn of_completion(fields: &mut CompletionFields) -> Result<Self, ApiError> {
        let guided = Guided {
            json: fields.guided_json.take(),
            regex: fields.guided_regex.take(),
            choice: fields.guided_choice.take(),
            grammar: fields.guided_grammar.take(),
            structured: fields.structured_outputs.take(),
        };
        Self::only(guided.wishes()?)
    }

    /// Whether `field` is what the wish was read from.
    pub(crate) fn is_from(&self, field: &str) -> bool {
        self.field == field
    }

    fn of_format(format: &ResponseFormat) -> Result<Option<Self>, ApiError> {
        Ok(match format.kind {
            ResponseFormatKind::Text => None,
            ResponseFormatKind::JsonObject => Some(Wish { answer: Answer::Json, field: JSON_OBJECT }),
            ResponseFormatKind::JsonSchema => {
                // Strict or not, the reply follows the schema: a promise that can be kept need not be asked for.
                let schema = format.json_schema.as_ref().and_then(|format| format.schema.clone()).ok_or_else(|| {
                    ApiError::invalid(format!("Invalid response_format value, `json_schema` needs {JSON_SCHEMA}"))
                        .with_param("response_format")
                })?;
                Some(Wish { answer: Answer::Schema(schema), field: JSON_SCHEMA })
            }
        })
    }

    fn only(mut wishes: impl Iterator<Item = Self>) -> Result<Self, ApiError> {
        let Some(wish) = wishes.next() else { return Ok(Wish::default()) };
        match wishes.next() {
            None => Ok(wish),
            Some(other) => Err(ApiError::invalid(format!(
                "{} and {} both say what the reply must be; send one of them",
                wish.field, other.field
            ))
            .with_param(other.field)),
        }
    }

    /// What a grammar that cannot be made means over HTTP.
    pub(crate) fn refusal(&self, error: cachalot_prompt::Error) -> ApiError {
        let cachalot_prompt::Error::Grammar { part, reason } = &error else { return prompt_error(error) };
        let param = match part {
            Part::Answer => self.field.to_owned(),
            Part::Tool(index) => format!("tools[{index}].function.parameters"),
            Part::Begun => "messages".to_owned(),
        };
        ApiError::invalid(format!("Invalid {param} value, {reason}")).with_param(param)
    }
}

/// The fields that a wish can come from, as clients know them.
pub(crate) const JSON_OBJECT: &str = "response_format";
pub(crate) const JSON_SCHEMA: &str = "response_format.json_schema.schema";

/// vLLM's fields, the older ones and the one that replaced them.
struct Guided {
    json: Option<Value>,
    regex: Option<String>,
    choice: Option<Vec<String>>,
    grammar: Option<String>,
    structured: Option<StructuredOutputs>,
}

impl Guided {
    fn wishes(self) -> Result<impl Iterator<Item = Wish>, ApiError> {
        let Guided { json, regex, choice, grammar, structured } = self;
        let is_given = structured.is_some();
        let structured = structured.map(|outputs| {
            let StructuredOutputs { json, regex, choice, grammar, json_object } = outputs;
            let json_object = json_object.unwrap_or(false).then_some(Answer::Json);
            [
                (json.map(schema).map(Answer::Schema), "structured_outputs.json"),
                (regex.map(Answer::Regex), "structured_outputs.regex"),
                (choice.map(Answer::Choice), "structured_outputs.choice"),
                (grammar.map(Answer::Lark), "structured_outputs.grammar"),
                (json_object, "structured_outputs.json_object"),
            ]
        });
        if is_given && structured.iter().flatten().all(|(answer, _)| answer.is_none()) {
            return Err(ApiError::invalid(
                "Invalid structured_outputs value, one of json, regex, choice, grammar and json_object is needed",
            )
            .with_param("structured_outputs"));
        }
        let older = [
            (json.map(schema).map(Answer::Schema), "guided_json"),
            (regex.map(Answer::Regex), "guided_regex"),
            (choice.map(Answer::Choice), "guided_choice"),
            (grammar.map(Answer::Lark), "guided_grammar"),
        ];
        let all = older.into_iter().chain(structured.into_iter().flatten());
        Ok(all.filter_map(|(answer, field)| Some(Wish { answer: answer?, field })))
    }
}

/// A schema, which some clients send as its text.
fn schema(value: Value) -> Value {
    match &value {
        Value::String(text) => serde_json::from_str(text).unwrap_or(value),
        _ => value,
    }
}

/// A grammar for the engine.
pub(crate) fn boxed(grammar: Grammar) -> Box<dyn Constraint> {
    Box::new(GrammarConstraint(grammar))
}

struct GrammarConstraint(Grammar);

impl Constraint for GrammarConstraint {
    fn allowed(&mut self, mask: &mut TokenMask) -> Result<cachalot_engine::Allowed, ConstraintError> {
        use cachalot_engine::Allowed as ForEngine;
        use cachalot_prompt::Allowed;
        Ok(match self.0.allowed().map_err(ConstraintError::Failed)? {
            Allowed::Anything => ForEngine::Anything,
            Allowed::Tokens(words) => {
                mask.copy_from_words(words);
                ForEngine::Tokens
            }
            Allowed::TokensOrEnd(words) => {
                mask.copy_from_words(words);
                ForEngine::TokensOrEnd
            }
        })
    }

    fn accept(&mut self, id: u32) -> Result<cachalot_engine::Progress, ConstraintError> {
        Ok(match self.0.accept(id).map_err(ConstraintError::Failed)? {
            cachalot_prompt::Progress::Open => cachalot_engine::Progress::Open,
            cachalot_prompt::Progress::Complete => cachalot_engine::Progress::Complete,
        })
    }

    fn boxed_clone(&self) -> Box<dyn Constraint> {
        boxed(self.0.clone())
    }
}
