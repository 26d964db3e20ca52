//! Reads the keys of a JSON object and collects everything that is wrong with them.

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// A JSON object under inspection. Every reader returns a usable stand-in after a problem, so that one pass finds all of
/// them; [`Keys::finish`] turns them into one error.
///
/// A key whose value is `null` counts as absent: that is how config.json spells "none".
pub(crate) struct Keys<'a> {
    object: &'a Map<String, Value>,
    /// Put before each key in messages: `rope_scaling.` for an inner object.
    prefix: String,
    missing: Vec<String>,
    problems: Vec<String>,
}

impl<'a> Keys<'a> {
    pub(crate) fn new(object: &'a Map<String, Value>) -> Self {
        Keys { object, prefix: String::new(), missing: Vec::new(), problems: Vec::new() }
    }

    /// An object that is the value of `name`.
    pub(crate) fn within(name: &str, object: &'a Map<String, Value>) -> Self {
        Keys { prefix: format!("{name}."), ..Keys::new(object) }
    }

    /// Takes over what an inner object's reader found.
    pub(crate) fn absorb(&mut self, inner: Keys<'_>) {
        self.missing.extend(inner.missing);
        self.problems.extend(inner.problems);
    }

    pub(crate) fn has_problems(&self) -> bool {
        !(self.missing.is_empty() && self.problems.is_empty())
    }

    /// The error that names everything found, or nothing.
    pub(crate) fn finish(self, architecture: &'static str) -> Result<()> {
        if !self.has_problems() {
            return Ok(());
        }
        Err(Error::Config { architecture, missing: self.missing, problems: self.problems })
    }

    pub(crate) fn problem(&mut self, problem: String) {
        self.problems.push(problem);
    }

    pub(crate) fn require(&mut self, holds: bool, problem: impl FnOnce() -> String) {
        if !holds {
            self.problems.push(problem());
        }
    }

    /// The value, unless absent or null.
    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    fn required<T>(&mut self, key: &str, value: Option<T>, stand_in: T) -> T {
        if self.get(key).is_none() {
            self.missing.push(format!("{}{key}", self.prefix));
        }
        value.unwrap_or(stand_in)
    }

    /// The value if `read` accepts it; a value that it does not accept is a problem.
    fn optional<T>(&mut self, key: &str, expected: &str, read: impl FnOnce(&'a Value) -> Option<T>) -> Option<T> {
        let value = self.get(key)?;
        let read = read(value);
        if read.is_none() {
            self.problems.push(format!("`{}{key}` is {value}, expected {expected}", self.prefix));
        }
        read
    }

    /// A whole number from 0 to `max`.
    pub(crate) fn count(&mut self, key: &str, max: usize) -> Option<usize> {
        self.optional(key, &format!("a whole number from 0 to {max}"), |value| as_size(value, 0, max))
    }

    /// A whole number from 0 to `max` that has to be there.
    pub(crate) fn required_count(&mut self, key: &str, max: usize) -> usize {
        let value = self.count(key, max);
        self.required(key, value, 0)
    }

    /// A whole number from 1 to `max` that has to be there.
    pub(crate) fn size(&mut self, key: &str, max: usize) -> usize {
        let value = self.optional(key, &format!("a whole number from 1 to {max}"), |value| as_size(value, 1, max));
        self.required(key, value, 1)
    }

    /// Two whole numbers from 1 to `max` that have to be there.
    pub(crate) fn size_pair(&mut self, key: &str, max: usize) -> [usize; 2] {
        let value = self.optional(key, &format!("two whole numbers from 1 to {max}"), |value| {
            match value.as_array()?.as_slice() {
                [a, b] => Some([as_size(a, 1, max)?, as_size(b, 1, max)?]),
                _ => None,
            }
        });
        self.required(key, value, [1, 1])
    }

    /// A finite number.
    pub(crate) fn float(&mut self, key: &str) -> Option<f64> {
        self.optional(key, "a number", as_finite)
    }

    /// A finite number above 0.
    pub(crate) fn optional_positive(&mut self, key: &str) -> Option<f64> {
        self.optional(key, "a number above 0", |value| as_finite(value).filter(|&x| x > 0.0))
    }

    /// A finite number above 0 that has to be there.
    pub(crate) fn positive(&mut self, key: &str) -> f64 {
        let value = self.optional_positive(key);
        self.required(key, value, 1.0)
    }

    pub(crate) fn bool(&mut self, key: &str) -> Option<bool> {
        self.optional(key, "true or false", Value::as_bool)
    }

    pub(crate) fn str(&mut self, key: &str) -> Option<&'a str> {
        self.optional(key, "a string", Value::as_str)
    }

    pub(crate) fn object(&mut self, key: &str) -> Option<&'a Map<String, Value>> {
        self.optional(key, "an object", Value::as_object)
    }

    /// One token id or a list of them; none if the key is absent.
    pub(crate) fn token_ids(&mut self, key: &str) -> Vec<u32> {
        let ids = self.optional(key, "a token id or a list of token ids", |value| match value {
            Value::Array(ids) => ids.iter().map(as_token_id).collect::<Option<Vec<_>>>(),
            id => as_token_id(id).map(|id| vec![id]),
        });
        ids.unwrap_or_default()
    }

    /// Refuses any value but one; absent will do.
    pub(crate) fn only_str(&mut self, key: &str, only: &str) {
        self.optional(key, &format!("\"{only}\", the only one supported"), |value| {
            value.as_str().filter(|&value| value == only)
        });
    }

    /// Refuses any value but one; absent will do.
    pub(crate) fn only_int(&mut self, key: &str, only: u64) {
        self.optional(key, &format!("{only}, the only one supported"), |value| {
            value.as_u64().filter(|&value| value == only)
        });
    }

    /// Refuses any value but one; absent will do.
    pub(crate) fn only_bool(&mut self, key: &str, only: bool) {
        self.optional(key, &format!("{only}, the only one supported"), |value| {
            value.as_bool().filter(|&value| value == only)
        });
    }
}

fn as_size(value: &Value, min: usize, max: usize) -> Option<usize> {
    let number = usize::try_from(value.as_u64()?).ok()?;
    (min..=max).contains(&number).then_some(number)
}

fn as_token_id(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|number| u32::try_from(number).ok())
}

fn as_finite(value: &Value) -> Option<f64> {
    value.as_f64().filter(|number| number.is_finite())
}
