//! Numbers where other types may stand.
//!
//! serde_json keeps numbers of arbitrary precision (tool schemas are rendered as they were sent). To a visitor that accepts
//! several types it hands a number that is not a 64-bit integer as a map with one secret key, which no message should show.

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Unexpected};
use serde_json::Number;

/// The error for a map, or for a number that came as one, where neither belongs.
pub(crate) fn refuse_map<'de, A: MapAccess<'de>>(map: A, expected: &'static str) -> A::Error {
    match Number::deserialize(MapAccessDeserializer::new(map)) {
        Ok(number) => A::Error::invalid_type(Unexpected::Other(&format!("number `{number}`")), &expected),
        Err(_) => A::Error::invalid_type(Unexpected::Map, &expected),
    }
}
