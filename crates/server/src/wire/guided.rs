//! What vLLM calls structured outputs.

use serde_json::Value;

/// `structured_outputs`: exactly one of these says what the text must be.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct StructuredOutputs {
    /// A JSON schema, as an object or as its text.
    pub(crate) json: Option<Value>,
    pub(crate) regex: Option<String>,
    pub(crate) choice: Option<Vec<String>>,
    pub(crate) grammar: Option<String>,
    pub(crate) json_object: Option<bool>,
}
