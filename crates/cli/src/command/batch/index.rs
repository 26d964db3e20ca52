//! Which requests the input has, and which of them have been answered.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};

use super::item::{Item, Key, MAX_LINE_BYTES, custom_id};
use super::lines::{Line, Lines};
use crate::hint::ResultExt;
use crate::progress::Progress;

/// Some 20 to 40 bytes for each request, however long it is.
pub(super) struct Index {
    path: PathBuf,
    num_bytes: u64,
    is_answered: HashMap<Key, bool>,
    num_answered: u64,
}

impl Index {
    /// Reads the input once, to its end.
    ///
    /// # Errors
    /// If it cannot be read twice, or two requests have the same name.
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let context = || format!("cannot read {}", path.display());
        let metadata =
            fs::metadata(path).with_context(context).hint("give the file with the requests, one JSON object a line")?;
        if !metadata.is_file() {
            return Err(anyhow!("{} is not a file", path.display()))
                .hint("the requests are read twice, so they cannot come through a pipe: write them to a file first");
        }
        let mut index =
            Index { path: path.to_owned(), num_bytes: metadata.len(), is_answered: HashMap::new(), num_answered: 0 };
        let mut progress = Progress::start(&format!("checking {}", path.display()), 0, index.num_bytes);
        let mut lines = index.lines()?;
        while let Some(line) = lines.next().with_context(context)? {
            progress.advance(line.num_bytes);
            let custom_id = custom_id(&line);
            if index.is_answered.insert(Key::new(custom_id.as_deref(), line.number), false).is_some() {
                return Err(index.duplicate(&line)?)
                    .hint("give each line a custom_id of its own; nothing has been computed");
            }
        }
        Ok(index)
    }

    /// The error for a line whose name came before. Where it came is looked up only now, so that no line numbers are kept.
    fn duplicate(&self, second: &Line) -> anyhow::Result<anyhow::Error> {
        let custom_id = custom_id(second);
        let mut lines = self.lines()?;
        while let Some(first) = lines.next()? {
            if first.number < second.number && self::custom_id(&first) == custom_id {
                let custom_id = custom_id.unwrap_or_default();
                let (path, first, second) = (self.path.display(), first.number, second.number);
                return Ok(anyhow!("lines {first} and {second} of {path} have the same custom_id `{custom_id}`"));
            }
        }
        Ok(anyhow!("{} is changed while it is read", self.path.display()))
    }

    /// The input from its beginning, up to where it ended when it was first looked at.
    fn lines(&self) -> anyhow::Result<Lines<impl BufRead + use<>>> {
        let file = File::open(&self.path).with_context(|| format!("cannot read {}", self.path.display()))?;
        let reader = BufReader::with_capacity(1 << 16, file.take(self.num_bytes));
        Ok(Lines::new(reader, MAX_LINE_BYTES))
    }

    /// Notes that a request has its answer. False if the input has no such request.
    pub(super) fn mark_answered(&mut self, key: Key) -> bool {
        let Some(is_answered) = self.is_answered.get_mut(&key) else { return false };
        self.num_answered += u64::from(!std::mem::replace(is_answered, true));
        true
    }

    /// How many requests there are.
    pub(super) fn num_requests(&self) -> u64 {
        self.is_answered.len() as u64
    }

    /// How many of them have been answered.
    pub(super) fn num_answered(&self) -> u64 {
        self.num_answered
    }

    /// Where the requests are.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Hands the requests without an answer to `take`, until that wants no more. Blocks.
    ///
    /// # Errors
    /// If the input cannot be read any more.
    pub(super) fn for_each_open(&self, mut take: impl FnMut(Item) -> bool) -> anyhow::Result<()> {
        let mut lines = self.lines()?;
        while let Some(line) = lines.next().with_context(|| format!("cannot read {}", self.path.display()))? {
            // Most lines may have been answered: only of the others more than the name is read.
            let key = Key::new(custom_id(&line).as_deref(), line.number);
            match self.is_answered.get(&key) {
                Some(true) => {}
                Some(false) if take(Item::read(line)) => {}
                Some(false) => break,
                None => {
                    return Err(anyhow!("{} was changed while its requests were computed", self.path.display()))
                        .hint("run the same command again: what has been answered stays");
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_under_way_is_noticed_and_what_is_appended_is_for_the_next_run() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("in.jsonl");
        fs::write(&path, "{\"custom_id\": \"a\"}\n{\"custom_id\": \"b\"}\n").unwrap();
        let mut index = Index::read(&path).unwrap();
        assert!(index.mark_answered(Key::new(Some("a"), 0)) && index.mark_answered(Key::new(Some("a"), 0)));
        assert!(!index.mark_answered(Key::new(Some("c"), 0)));
        assert_eq!((index.num_answered(), index.num_requests()), (1, 2));

        let open = || {
            let mut open = Vec::new();
            index.for_each_open(|item| {
                open.push((item.line, item.custom_id.unwrap()));
                true
            })?;
            anyhow::Ok(open)
        };
        assert_eq!(open().unwrap(), [(2, "b".to_owned())]);
        fs::write(&path, "{\"custom_id\": \"a\"}\n{\"custom_id\": \"b\"}\n{\"custom_id\": \"c\"}\n").unwrap();
        assert_eq!(open().unwrap(), [(2, "b".to_owned())]);
        fs::write(&path, "{\"custom_id\": \"a\"}\n{\"custom_id\": \"x\"}\n").unwrap();
        assert!(open().unwrap_err().to_string().contains("was changed while its requests were computed"));
    }
}
