//! Numbers where other types may stand too.
//!
//! serde_json keeps numbers of arbitrary precision (tool schemas are rendered as they were sent), and hands such a number to a
//! visitor that accepts several types as a map with one secret key. These helpers turn it back.

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Unexpected};
use serde_json::Number;

/// The number behind a map, or an error that says what was there instead.
pub(crate) fn from_map<'de, A: MapAccess<'de>>(map: A, expected: &'static str) -> Result<Number, A::Error> {
    Number::deserialize(MapAccessDeserializer::new(map)).map_err(|_| A::Error::invalid_type(Unexpected::Map, &expected))
}

/// The error for a map or a number where neither belongs.
pub(crate) fn refuse_map<'de, A: MapAccess<'de>>(map: A, expected: &'static str) -> A::Error {
    match from_map(map, expected) {
        Ok(number) => A::Error::invalid_type(Unexpected::Other(&format!("number `{number}`")), &expected),
        Err(error) => error,
    }
}

/// A token id out of a number.
pub(crate) fn token_id<E: Error>(number: &Number) -> Result<u32, E> {
    number.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| {
        E::invalid_value(
            Unexpected::Other(&format!("number `{number}`")),
            &"a token id (an integer from 0 to 4294967295)",
        )
    })
}
