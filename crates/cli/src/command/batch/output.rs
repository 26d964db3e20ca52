//! The file with the answers: one line each, appended as they come.
//!
//! It is all that a batch leaves behind, so whatever ends the process, the file says where to go on: every whole line in it
//! is an answer, and at most one line at its end is not whole.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufReader, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::index::Index;
use super::item::{Key, Refusal};
use super::lines::Lines;
use crate::hint::ResultExt;
use crate::progress::Progress;

/// What every line begins with.
const LINE_START: &[u8] = br#"{"id":"batch_req_"#;

/// A line of the file. The names are OpenAI's.
#[derive(Debug, Serialize)]
pub(super) struct Answer<'a> {
    id: String,
    custom_id: Option<&'a str>,
    /// What the server said, if it was asked.
    response: Option<Response<'a>>,
    /// Why it was not asked, or did not come to an answer.
    error: Option<&'a Refusal>,
}

/// What the server said.
#[derive(Debug, Serialize)]
pub(super) struct Response<'a> {
    pub(super) status_code: u16,
    pub(super) request_id: &'a str,
    pub(super) body: &'a RawValue,
}

impl<'a> Answer<'a> {
    pub(super) fn new(custom_id: Option<&'a str>, outcome: Result<Response<'a>, &'a Refusal>) -> Self {
        let id = format!("batch_req_{}", uuid::Uuid::new_v4().simple());
        let (response, error) = match outcome {
            Ok(response) => (Some(response), None),
            Err(refusal) => (None, Some(refusal)),
        };
        Answer { id, custom_id, response, error }
    }
}

/// The file, held by this process alone.
pub(super) struct Output {
    file: File,
    path: PathBuf,
    /// Of its whole lines.
    num_bytes: u64,
}

impl Output {
    /// Opens the file, or makes an empty one, and locks it.
    ///
    /// # Errors
    /// If it cannot be written or another process writes it.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        let file = OpenOptions::new().read(true).append(true).create(true).open(path);
        let file = file
            .with_context(|| format!("cannot write to {shown}"))
            .hint("give a file in a folder that exists and may be written; it need not exist itself")?;
        if !file.metadata().with_context(|| format!("cannot look at {shown}"))?.is_file() {
            return Err(anyhow!("{shown} is not a file"))
                .hint("the answers tell what has been done when a batch is resumed, so they must be in a file");
        }
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(anyhow!("another process writes to {shown}"))
                    .hint("wait for the other batch to end, or give this one an output of its own");
            }
            Err(TryLockError::Error(error)) => {
                tracing::warn!("cannot lock {shown}, so nothing keeps another process from writing to it: {error}");
            }
        }
        Ok(Output { file, path: path.to_owned(), num_bytes: 0 })
    }

    /// Notes in `index` what has been answered, and cuts off a last line that is not whole.
    ///
    /// # Errors
    /// If the file is not the output of this input; then it is left as it is.
    pub(super) fn resume(&mut self, index: &mut Index) -> anyhow::Result<()> {
        let path = self.path.clone();
        let shown = path.display();
        let context = || format!("cannot read {shown}");
        let other_output = "give the output of this input, or one that does not exist yet";
        let num_bytes = self.file.metadata().with_context(context)?.len();
        let mut progress = Progress::start(&format!("reading {shown}"), 0, num_bytes);
        let mut lines = Lines::new(BufReader::new(&self.file), u64::MAX);
        while let Some(line) = lines.next().with_context(context)? {
            progress.advance(line.num_bytes);
            let text = line.text.unwrap_or_default();
            let number = line.number;
            if !line.has_newline {
                if !LINE_START.starts_with(&text) && !text.starts_with(LINE_START) {
                    return Err(anyhow!("line {number} of {shown} is not the answer to a request")).hint(other_output);
                }
                tracing::warn!("cut off the last {} bytes of {shown}: its last line was not whole", line.num_bytes);
                break;
            }
            let key = answered(&text)
                .with_context(|| format!("line {number} of {shown} is not the answer to a request"))
                .hint(other_output)?;
            match key {
                Answered::CustomId(custom_id) => {
                    if !index.mark_answered(Key::new(Some(&custom_id), 0)) {
                        return Err(anyhow!(
                            "line {number} of {shown} answers `{custom_id}`, which {} does not ask",
                            index.path().display()
                        ))
                        .hint(other_output);
                    }
                }
                // The line may have been corrected since, and then has a name under which it gets its answer.
                Answered::Line(line) => {
                    index.mark_answered(Key::new(None, line));
                }
            }
            self.num_bytes += line.num_bytes;
        }
        drop(progress);
        self.file.set_len(self.num_bytes).with_context(|| format!("cannot write to {shown}"))
    }

    /// Appends a line. If that fails, nothing of the line stays.
    ///
    /// # Errors
    /// If the disk is full or fails.
    pub(super) fn append(&mut self, answer: &Answer) -> io::Result<()> {
        let mut line = serde_json::to_vec(answer)?;
        line.push(b'\n');
        if let Err(error) = self.file.write_all(&line) {
            // Where this fails too, the next run does it.
            if let Err(error) = self.file.set_len(self.num_bytes) {
                tracing::debug!("cannot shorten {}: {error}", self.path.display());
            }
            return Err(error);
        }
        self.num_bytes += line.len() as u64;
        Ok(())
    }

    /// Waits until the disk has everything.
    ///
    /// # Errors
    /// If it turns out not to take it.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Where the file is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// What a line of the file answers.
enum Answered {
    CustomId(String),
    /// A line of the input that has no name.
    Line(u64),
}

fn answered(text: &[u8]) -> serde_json::Result<Answered> {
    #[derive(Deserialize)]
    struct Line {
        custom_id: Option<String>,
        #[serde(rename = "response")]
        _response: serde::de::IgnoredAny,
        error: Option<Error>,
    }
    #[derive(Deserialize)]
    struct Error {
        line: Option<u64>,
    }
    let Line { custom_id, error, .. } = serde_json::from_slice(text)?;
    match (custom_id, error.and_then(|error| error.line)) {
        (Some(custom_id), _) => Ok(Answered::CustomId(custom_id)),
        (None, Some(line)) => Ok(Answered::Line(line)),
        (None, None) => Err(serde::de::Error::custom("there is neither a custom_id nor the number of a line")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal() -> Refusal {
        Refusal { code: "invalid_line", message: String::new(), line: 1 }
    }

    /// Every write to the device fails as on a full disk.
    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_disk_is_told() {
        let path = PathBuf::from("/dev/full");
        let file = OpenOptions::new().append(true).open(&path).expect("Linux has it");
        let mut output = Output { file, path, num_bytes: 0 };
        let error = output.append(&Answer::new(None, Err(&refusal()))).expect_err("the disk is full");
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(output.num_bytes, 0);
    }

    #[test]
    fn lines_begin_as_they_are_looked_for() {
        let line = serde_json::to_vec(&Answer::new(Some("x"), Err(&refusal()))).expect("it is JSON");
        assert!(line.starts_with(LINE_START));
    }
}
