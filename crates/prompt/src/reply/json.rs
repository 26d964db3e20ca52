//! JSON that is still being written: where it stands, and whether it can still become valid.

/// Follows one JSON value character by character.
///
/// It accepts exactly RFC 8259. Nothing is kept but the open containers, so a value may be as long as it likes; nesting is
/// bounded, because readers of JSON bound it too.
#[derive(Clone, Debug)]
pub(crate) struct JsonScanner {
    /// The open containers, outermost first.
    stack: Vec<Container>,
    state: State,
}

/// Values nested deeper than this are taken to be invalid; serde_json reads no deeper ones either.
const MAX_DEPTH: usize = 127;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Container {
    Object,
    Array,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// A value must come.
    Value,
    /// `[` came: a value or `]`.
    ArrayStart,
    /// `{` came: a key or `}`.
    ObjectStart,
    /// `,` came within an object.
    Key,
    /// A key came.
    Colon,
    /// Within a string.
    Text {
        is_key: bool,
        escape: Escape,
    },
    /// Within `true`, `false` or `null`; what is left of it.
    Literal(&'static str),
    Number(Number),
    /// A value came.
    AfterValue,
    Invalid,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Escape {
    None,
    Backslash,
    /// So many hexadecimal digits are missing.
    Unicode(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Number {
    Minus,
    Zero,
    Integer,
    Point,
    Fraction,
    E,
    Sign,
    Exponent,
}

impl Number {
    fn is_complete(self) -> bool {
        matches!(self, Self::Zero | Self::Integer | Self::Fraction | Self::Exponent)
    }

    fn next(self, character: char) -> Option<Self> {
        Some(match (self, character) {
            (Self::Minus, '0') => Self::Zero,
            (Self::Minus | Self::Integer, '0'..='9') => Self::Integer,
            (Self::Zero | Self::Integer, '.') => Self::Point,
            (Self::Point | Self::Fraction, '0'..='9') => Self::Fraction,
            (Self::Zero | Self::Integer | Self::Fraction, 'e' | 'E') => Self::E,
            (Self::E, '+' | '-') => Self::Sign,
            (Self::E | Self::Sign | Self::Exponent, '0'..='9') => Self::Exponent,
            _ => return None,
        })
    }
}

impl JsonScanner {
    /// Before the first character.
    pub(crate) fn new() -> Self {
        Self { stack: Vec::new(), state: State::Value }
    }

    /// Takes the next character.
    pub(crate) fn push(&mut self, character: char) {
        let is_space = matches!(character, ' ' | '\t' | '\n' | '\r');
        self.state = match self.state {
            State::Text { is_key, escape } => text(is_key, escape, character),
            State::Literal(rest) => match rest.strip_prefix(character) {
                Some("") => State::AfterValue,
                Some(rest) => State::Literal(rest),
                None => State::Invalid,
            },
            State::Number(number) => match number.next(character) {
                Some(number) => State::Number(number),
                None if number.is_complete() => {
                    self.state = State::AfterValue;
                    return self.push(character);
                }
                None => State::Invalid,
            },
            state if is_space => state,
            State::ArrayStart if character == ']' => self.close(Container::Array),
            State::ObjectStart if character == '}' => self.close(Container::Object),
            State::Value | State::ArrayStart => self.value(character),
            State::ObjectStart | State::Key if character == '"' => State::Text { is_key: true, escape: Escape::None },
            State::Colon if character == ':' => State::Value,
            State::AfterValue => match (self.stack.last(), character) {
                (Some(Container::Object), ',') => State::Key,
                (Some(Container::Array), ',') => State::Value,
                (_, '}') => self.close(Container::Object),
                (_, ']') => self.close(Container::Array),
                _ => State::Invalid,
            },
            State::ObjectStart | State::Key | State::Colon | State::Invalid => State::Invalid,
        };
    }

    fn value(&mut self, character: char) -> State {
        let (container, state) = match character {
            '{' => (Container::Object, State::ObjectStart),
            '[' => (Container::Array, State::ArrayStart),
            '"' => return State::Text { is_key: false, escape: Escape::None },
            't' => return State::Literal("rue"),
            'f' => return State::Literal("alse"),
            'n' => return State::Literal("ull"),
            '-' => return State::Number(Number::Minus),
            '0' => return State::Number(Number::Zero),
            '1'..='9' => return State::Number(Number::Integer),
            _ => return State::Invalid,
        };
        if self.stack.len() == MAX_DEPTH {
            return State::Invalid;
        }
        self.stack.push(container);
        state
    }

    fn close(&mut self, container: Container) -> State {
        if self.stack.pop() == Some(container) { State::AfterValue } else { State::Invalid }
    }

    /// Whether what came is a whole value; of a number, whether it may end here.
    pub(crate) fn is_complete(&self) -> bool {
        let has_value = match self.state {
            State::AfterValue => true,
            State::Number(number) => number.is_complete(),
            _ => false,
        };
        has_value && self.stack.is_empty()
    }

    /// Whether nothing can make a value of what came.
    pub(crate) fn is_invalid(&self) -> bool {
        self.state == State::Invalid
    }

    /// Whether a string is open.
    pub(crate) fn is_in_string(&self) -> bool {
        matches!(self.state, State::Text { .. })
    }

    /// Whether a container is open.
    pub(crate) fn is_nested(&self) -> bool {
        !self.stack.is_empty()
    }

    /// The least that makes a whole value of what came: the end of an open string, and the brackets. `None` where a key, a
    /// value or the rest of one is missing, which nobody can guess.
    pub(crate) fn closing(&self) -> Option<String> {
        let mut closing = match self.state {
            State::Text { is_key: false, escape: Escape::None } => "\"".to_owned(),
            State::AfterValue | State::ObjectStart | State::ArrayStart => String::new(),
            State::Number(number) if number.is_complete() => String::new(),
            _ => return None,
        };
        closing.extend(self.stack.iter().rev().map(|container| match container {
            Container::Object => '}',
            Container::Array => ']',
        }));
        Some(closing)
    }
}

fn text(is_key: bool, escape: Escape, character: char) -> State {
    let escape = match (escape, character) {
        (Escape::None, '"') => return if is_key { State::Colon } else { State::AfterValue },
        (Escape::None, '\\') => Escape::Backslash,
        (Escape::None, '\0'..='\u{1f}') => return State::Invalid,
        (Escape::None, _) => Escape::None,
        (Escape::Backslash, '"' | '\\' | '/' | 'b' | 'f' | 'n' | 'r' | 't') => Escape::None,
        (Escape::Backslash, 'u') => Escape::Unicode(4),
        (Escape::Unicode(1), digit) if digit.is_ascii_hexdigit() => Escape::None,
        (Escape::Unicode(missing), digit) if digit.is_ascii_hexdigit() => Escape::Unicode(missing - 1),
        (Escape::Backslash | Escape::Unicode(_), _) => return State::Invalid,
    };
    State::Text { is_key, escape }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::de::IgnoredAny;

    use super::*;

    fn scan(text: &str) -> JsonScanner {
        let mut scanner = JsonScanner::new();
        text.chars().for_each(|character| scanner.push(character));
        scanner
    }

    #[test]
    fn knows_where_it_stands() {
        // Text, whether it is complete, whether it is invalid, what closes it.
        let cases = [
            ("", false, false, None),
            ("  ", false, false, None),
            ("{", false, false, Some("}")),
            ("{}", true, false, Some("")),
            ("{} ", true, false, Some("")),
            ("{}x", false, true, None),
            ("{\"a", false, false, None),
            ("{\"a\"", false, false, None),
            ("{\"a\":", false, false, None),
            ("{\"a\": [1, {\"b\": \"c", false, false, Some("\"}]}")),
            ("{\"a\": \"\\", false, false, None),
            ("{\"a\": \"\\u00e", false, false, None),
            ("{\"a\": \"\\u00e9", false, false, Some("\"}")),
            ("{\"a\": \"\\x", false, true, None),
            ("{\"a\": \"\n", false, true, None),
            ("{\"a\": 1,", false, false, None),
            ("{\"a\": 1,}", false, true, None),
            ("{'a'", false, true, None),
            ("[1 2", false, true, None),
            ("[1]]", false, true, None),
            ("[1}", false, true, None),
            ("-", false, false, None),
            ("-0", true, false, Some("")),
            ("01", false, true, None),
            ("1.", false, false, None),
            ("1.5e", false, false, None),
            ("1.5e-3", true, false, Some("")),
            ("tru", false, false, None),
            ("true", true, false, Some("")),
            ("True", false, true, None),
            ("\"鲸\"", true, false, Some("")),
        ];
        for (text, complete, invalid, closing) in cases {
            let scanner = scan(text);
            let found = (scanner.is_complete(), scanner.is_invalid(), scanner.closing());
            assert_eq!(found, (complete, invalid, closing.map(str::to_owned)), "{text:?}");
        }
        let deep = |depth: usize| scan(&("[".repeat(depth) + &"]".repeat(depth)));
        assert!(deep(MAX_DEPTH).is_complete());
        assert!(deep(MAX_DEPTH + 1).is_invalid());
    }

    proptest! {
        /// What serde_json accepts is complete, what it refuses is not, and what closes a value makes it whole.
        #[test]
        fn agrees_with_serde_json(text in "[\\[\\]{}\",:\\\\ a0-9eE.+-]{0,12}|[\\[{]{0,2}(\"a\":|1,|true,|\"\\\\n\",)*[\\]}\"]{0,3}") {
            let scanner = scan(&text);
            prop_assert_eq!(scanner.is_complete(), serde_json::from_str::<IgnoredAny>(&text).is_ok());
            if let Some(closing) = scanner.closing() {
                prop_assert!(serde_json::from_str::<IgnoredAny>(&(text + &closing)).is_ok());
            }
        }
    }
}
