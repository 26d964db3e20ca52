//! Errors that say what to do about them.
//!
//! An error is printed as its chain of causes and then one `hint:` line. The hint is the outermost one that was attached
//! with [`ResultExt::hint`]; without one, the errors of the libraries are asked, because they know their own cases.

use std::error::Error;
use std::fmt;
use std::io::{self, Write};

/// An error with advice attached. It displays as the error itself.
#[derive(Debug)]
struct Hinted {
    error: anyhow::Error,
    hint: String,
}

impl fmt::Display for Hinted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl Error for Hinted {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error.chain().nth(1)
    }
}

/// Attaches a hint to a failure.
pub(crate) trait ResultExt<T> {
    /// Adds what the user can do about it.
    fn hint(self, hint: impl Into<String>) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> ResultExt<T> for Result<T, E> {
    fn hint(self, hint: impl Into<String>) -> anyhow::Result<T> {
        self.map_err(|error| anyhow::Error::new(Hinted { error: error.into(), hint: hint.into() }))
    }
}

/// Writes the chain of causes, each on its line, and the hint.
pub(crate) fn print(error: &anyhow::Error, to: &mut impl Write) -> io::Result<()> {
    let mut previous = String::new();
    for (depth, cause) in error.chain().enumerate() {
        let text = cause.to_string();
        // Libraries that show their source in their own message and return it as source would say everything twice.
        if depth == 0 {
            writeln!(to, "error: {text}")?;
        } else if !previous.contains(&text) {
            writeln!(to, "  caused by: {text}")?;
        }
        previous = text;
    }
    writeln!(to, "hint: {}", hint_of(error))
}

fn hint_of(error: &anyhow::Error) -> String {
    let attached = error.chain().find_map(|cause| cause.downcast_ref::<Hinted>()).map(|hinted| hinted.hint.clone());
    let known = || {
        error
            .chain()
            .find_map(|cause| cause.downcast_ref::<cachalot_weights::Error>())
            .map(|error| error.hint().to_owned())
    };
    attached.or_else(known).unwrap_or_else(|| "run it again with `--log debug` to see what led to this".to_owned())
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, anyhow};

    use super::*;

    #[test]
    fn an_error_is_its_chain_and_one_hint() {
        let check = |error: anyhow::Error, expected: &str| {
            let mut printed = Vec::new();
            print(&error, &mut printed).expect("a vector takes everything");
            assert_eq!(String::from_utf8(printed).expect("messages are text"), expected);
        };
        let io = || io::Error::from(io::ErrorKind::NotFound);

        check(
            Err::<(), _>(io()).context("no model").hint("give a folder").context("cannot serve").unwrap_err(),
            "error: cannot serve\n  caused by: no model\n  caused by: entity not found\nhint: give a folder\n",
        );
        check(
            Err::<(), _>(Err::<(), _>(io()).hint("inner").unwrap_err()).hint("outer").unwrap_err(),
            "error: entity not found\nhint: outer\n",
        );
        check(
            anyhow!("the disk failed").context("cannot read: the disk failed"),
            "error: cannot read: the disk failed\nhint: run it again with `--log debug` to see what led to this\n",
        );
    }
}
