//! The fields that chat and text completions share.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use super::number;

/// Sampling and streaming fields; every one may be absent or null.
#[derive(Debug, Default, serde::Deserialize)]
pub(crate) struct CommonFields {
    pub(crate) model: Option<String>,
    pub(crate) temperature: Option<f64>,
    pub(crate) top_p: Option<f64>,
    /// 0 and −1 switch it off, as in vLLM.
    pub(crate) top_k: Option<i64>,
    pub(crate) min_p: Option<f64>,
    pub(crate) presence_penalty: Option<f64>,
    pub(crate) frequency_penalty: Option<f64>,
    pub(crate) repetition_penalty: Option<f64>,
    /// Token id, as a decimal string, to bias.
    pub(crate) logit_bias: Option<BTreeMap<String, f64>>,
    pub(crate) seed: Option<i64>,
    pub(crate) stop: Option<Stop>,
    pub(crate) stop_token_ids: Option<Vec<u32>>,
    pub(crate) min_tokens: Option<u32>,
    pub(crate) ignore_eos: Option<bool>,
    pub(crate) n: Option<u32>,
    pub(crate) stream: Option<bool>,
    pub(crate) stream_options: Option<StreamOptions>,
    /// vLLM's: who goes first; the lower the earlier, and 0 is everyone else.
    pub(crate) priority: Option<i64>,
    /// OpenAI's name for the same.
    pub(crate) service_tier: Option<ServiceTier>,
    /// Seconds that the request may take.
    pub(crate) timeout: Option<f64>,
    /// vLLM's: requests share what is cached only with those of the same salt.
    pub(crate) cache_salt: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ServiceTier {
    /// What the server thinks best, which is `default`.
    Auto,
    Default,
    /// Later than the others.
    Flex,
    /// Before the others.
    Priority,
}

#[derive(Debug, Default, serde::Deserialize)]
pub(crate) struct StreamOptions {
    pub(crate) include_usage: Option<bool>,
}

/// `stop`: one string or several.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Stop(pub(crate) Vec<String>);

impl<'de> Deserialize<'de> for Stop {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const EXPECTED: &str = "a string or an array of strings";
        struct StopVisitor;
        impl<'de> Visitor<'de> for StopVisitor {
            type Value = Stop;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(EXPECTED)
            }

            fn visit_str<E>(self, text: &str) -> Result<Stop, E> {
                Ok(Stop(vec![text.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Stop, A::Error> {
                let mut stop = Vec::new();
                while let Some(text) = seq.next_element()? {
                    stop.push(text);
                }
                Ok(Stop(stop))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Stop, A::Error> {
                Err(number::refuse_map(map, EXPECTED))
            }
        }
        deserializer.deserialize_any(StopVisitor)
    }
}
