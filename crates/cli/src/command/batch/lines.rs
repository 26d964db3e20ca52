//! The lines of a file of any size, one in memory at a time.

use std::io::{self, BufRead, Read};

/// Reads lines.
pub(super) struct Lines<R> {
    reader: R,
    longest: u64,
    number: u64,
}

/// One line that is not blank.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Counted from 1, blank ones included.
    pub(super) number: u64,
    /// Without its newline; `None` if it is too long to be read.
    pub(super) text: Option<Vec<u8>>,
    /// The last line of a file may have no newline, because whoever wrote it was interrupted.
    pub(super) has_newline: bool,
    /// With its newline, and the blank lines before it.
    pub(super) num_bytes: u64,
}

impl<R: BufRead> Lines<R> {
    /// Lines of more than `longest` bytes are skipped over.
    pub(super) fn new(reader: R, longest: u64) -> Self {
        Lines { reader, longest, number: 0 }
    }

    /// The next line, or `None` at the end.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(super) fn next(&mut self) -> io::Result<Option<Line>> {
        let mut num_bytes = 0;
        loop {
            let mut text = Vec::new();
            let at_most = self.longest.saturating_add(1);
            let num_read = self.reader.by_ref().take(at_most).read_until(b'\n', &mut text)? as u64;
            if num_read == 0 {
                return Ok(None);
            }
            self.number += 1;
            num_bytes += num_read;
            let has_newline = text.pop_if(|byte| *byte == b'\n').is_some();
            if !has_newline && num_read == at_most {
                num_bytes += self.reader.skip_until(b'\n')? as u64;
                return Ok(Some(Line { number: self.number, text: None, has_newline: true, num_bytes }));
            }
            if !text.trim_ascii().is_empty() {
                return Ok(Some(Line { number: self.number, text: Some(text), has_newline, num_bytes }));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_numbered_and_bounded() {
        let mut lines = Lines::new(&b"one\n\n \r\n12345\n123456\nfour\r\nlast"[..], 5);
        let mut next = || lines.next().expect("memory can be read");
        let line = |number, text: Option<&str>, has_newline, num_bytes| {
            Some(Line { number, text: text.map(|text| text.as_bytes().to_vec()), has_newline, num_bytes })
        };
        assert_eq!(next(), line(1, Some("one"), true, 4));
        assert_eq!(next(), line(4, Some("12345"), true, 10));
        assert_eq!(next(), line(5, None, true, 7));
        assert_eq!(next(), line(6, Some("four\r"), true, 6));
        assert_eq!(next(), line(7, Some("last"), false, 4));
        assert_eq!(next(), None);
    }
}
