//! Tokens of PTX text.

use crate::parse::ParseError;

/// One token. Names keep their leading `%`, `$`, `.` or `_`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Token<'a> {
    /// A name with all that hangs on it by dots: `mma.sync.aligned`, `%tid.x`, `.reg`, `shared::cta`.
    Name(&'a str),
    /// An integer; its bits for a hexadecimal one.
    Integer(i128),
    /// `0f3F800000`.
    F32(u32),
    /// `0d3FF0000000000000`.
    F64(u64),
    /// `"text"`, as written.
    Text(&'a str),
    /// One character of punctuation.
    Mark(char),
}

/// A token and where it begins in the text.
#[derive(Clone, Debug)]
pub(crate) struct Spanned<'a> {
    pub(crate) token: Token<'a>,
    pub(crate) start: usize,
    pub(crate) end: usize,
    /// Line of the PTX text, from 1.
    pub(crate) line: u32,
}

/// Splits PTX into tokens; comments are skipped.
pub(crate) fn tokens(text: &str) -> Result<Vec<Spanned<'_>>, ParseError> {
    let bytes = text.as_bytes();
    let mut tokens = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < bytes.len() {
        let byte = bytes[at];
        let start = at;
        match byte {
            b'\n' => {
                line += 1;
                at += 1;
                continue;
            }
            b' ' | b'\t' | b'\r' => {
                at += 1;
                continue;
            }
            b'/' if text[at..].starts_with("//") => {
                at += text[at..].find('\n').unwrap_or(bytes.len() - at);
                continue;
            }
            b'/' if text[at..].starts_with("/*") => {
                let len = text[at..].find("*/").map_or(bytes.len() - at, |len| len + 2);
                line += text[at..at + len].matches('\n').count() as u32;
                at += len;
                continue;
            }
            b'"' => {
                let len = text[at + 1..]
                    .find('"')
                    .ok_or_else(|| ParseError { line, message: "a text without end".to_owned() })?;
                at += len + 2;
                let token = Token::Text(&text[start + 1..at - 1]);
                tokens.push(Spanned { token, start, end: at, line });
                continue;
            }
            _ => {}
        }
        let token = if byte.is_ascii_digit() {
            at += text[at..].find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(bytes.len() - at);
            number(&text[start..at])
                .ok_or_else(|| ParseError { line, message: format!("`{}` is no number", &text[start..at]) })?
        } else if is_name_start(byte, bytes.get(at + 1)) {
            at += 1;
            while at < bytes.len() {
                let next = bytes.get(at + 1).copied().unwrap_or(b' ');
                match bytes[at] {
                    b'_' | b'$' | b'%' => at += 1,
                    byte if byte.is_ascii_alphanumeric() => at += 1,
                    b'.' if next.is_ascii_alphanumeric() || next == b'_' => at += 1,
                    b':' if next == b':' => at += 2,
                    _ => break,
                }
            }
            Token::Name(&text[start..at])
        } else {
            at += 1;
            Token::Mark(char::from(byte))
        };
        tokens.push(Spanned { token, start, end: at, line });
    }
    Ok(tokens)
}

fn is_name_start(byte: u8, next: Option<&u8>) -> bool {
    match byte {
        b'_' | b'$' | b'%' => true,
        b'.' => next.is_some_and(|next| next.is_ascii_alphabetic() || *next == b'_'),
        byte => byte.is_ascii_alphabetic(),
    }
}

fn number(text: &str) -> Option<Token<'static>> {
    let digits = text.trim_end_matches('U');
    if let Some(hex) = digits.strip_prefix("0f").or(digits.strip_prefix("0F")) {
        return u32::from_str_radix(hex, 16).ok().map(Token::F32);
    }
    if let Some(hex) = digits.strip_prefix("0d").or(digits.strip_prefix("0D")) {
        return u64::from_str_radix(hex, 16).ok().map(Token::F64);
    }
    let value = if let Some(hex) = digits.strip_prefix("0x").or(digits.strip_prefix("0X")) {
        i128::from_str_radix(hex, 16)
    } else if let Some(binary) = digits.strip_prefix("0b") {
        i128::from_str_radix(binary, 2)
    } else if digits.len() > 1 && digits.starts_with('0') {
        i128::from_str_radix(&digits[1..], 8)
    } else {
        digits.parse()
    };
    value.ok().map(Token::Integer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<Token<'_>> {
        tokens(text).expect("tokens").into_iter().map(|spanned| spanned.token).collect()
    }

    #[test]
    fn names_keep_their_dots_and_colons() {
        assert_eq!(
            kinds("@!%p1 cp.async.bulk.shared::cluster.global [%r1+-4], 16; // end"),
            [
                Token::Mark('@'),
                Token::Mark('!'),
                Token::Name("%p1"),
                Token::Name("cp.async.bulk.shared::cluster.global"),
                Token::Mark('['),
                Token::Name("%r1"),
                Token::Mark('+'),
                Token::Mark('-'),
                Token::Integer(4),
                Token::Mark(']'),
                Token::Mark(','),
                Token::Integer(16),
                Token::Mark(';'),
            ]
        );
    }

    #[test]
    fn numbers_of_every_kind() {
        assert_eq!(
            kinds("0f3F800000 0d3FF0000000000000 0x10 017 12U 0"),
            [
                Token::F32(0x3f80_0000),
                Token::F64(0x3ff0_0000_0000_0000),
                Token::Integer(16),
                Token::Integer(15),
                Token::Integer(12),
                Token::Integer(0),
            ]
        );
        assert_eq!(tokens("\n\n12ab").expect_err("no number").line, 3);
        assert_eq!(tokens("\"abc").expect_err("no end").line, 1);
    }

    #[test]
    fn lines_are_counted_through_comments() {
        let tokens = tokens("/* a\nb */ x\n// c\ny").expect("tokens");
        assert_eq!(tokens.iter().map(|spanned| spanned.line).collect::<Vec<_>>(), [2, 4]);
    }
}
