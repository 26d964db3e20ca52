//! Where a checkpoint's files come from.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::mmap::Mapping;

/// Where a checkpoint's files come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A folder on disk; weights are memory-mapped.
    Folder(PathBuf),
    /// Files by name, in memory: a checkpoint that is part of the program.
    Files(BTreeMap<String, Bytes>),
}

/// A weight file's bytes.
#[derive(Debug)]
pub(crate) struct WeightFile {
    pub(crate) name: String,
    pub(crate) bytes: Bytes,
    /// The mapping beneath `bytes`; none if they are in memory already.
    pub(crate) mapping: Option<Mapping>,
}

impl Source {
    /// The contents of a small file such as tokenizer.json; `None` if there is no such file.
    ///
    /// # Errors
    /// [`Error::NotAFolder`], and [`Error::Io`] if the folder or the file cannot be read.
    pub fn read(&self, name: &str) -> Result<Option<Bytes>> {
        match self {
            Source::Files(files) => Ok(files.get(name).cloned()),
            Source::Folder(folder) => {
                self.check_folder()?;
                let path = folder.join(name);
                match std::fs::read(&path) {
                    Ok(contents) => Ok(Some(contents.into())),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                    Err(source) => Err(Error::Io { action: "read", path, source }),
                }
            }
        }
    }

    /// The source in words: the folder's path, or "the embedded model".
    pub fn location(&self) -> String {
        match self {
            Source::Folder(folder) => folder.display().to_string(),
            Source::Files(_) => "the embedded model".to_owned(),
        }
    }

    /// Names of all files, sorted.
    pub(crate) fn list(&self) -> Result<Vec<String>> {
        match self {
            Source::Files(files) => Ok(files.keys().cloned().collect()),
            Source::Folder(folder) => {
                let fail = |source| Error::Io { action: "list", path: folder.clone(), source };
                let mut names = Vec::new();
                for entry in std::fs::read_dir(folder).map_err(fail)? {
                    names.push(entry.map_err(fail)?.file_name().to_string_lossy().into_owned());
                }
                names.sort();
                Ok(names)
            }
        }
    }

    /// Whether a file is there.
    pub(crate) fn has(&self, name: &str) -> bool {
        match self {
            Source::Files(files) => files.contains_key(name),
            Source::Folder(folder) => folder.join(name).exists(),
        }
    }

    /// Maps a weight file that is there.
    pub(crate) fn map(&self, name: &str) -> Result<WeightFile> {
        let (bytes, mapping) = match self {
            Source::Files(files) => (files[name].clone(), None),
            Source::Folder(folder) => {
                let path = folder.join(name);
                match Mapping::open(&path) {
                    Ok(mapping) => (mapping.bytes(), Some(mapping)),
                    Err(source) => return Err(Error::Io { action: "map", path, source }),
                }
            }
        };
        Ok(WeightFile { name: name.to_owned(), bytes, mapping })
    }

    /// Tells a folder that is missing or is a file apart from one that lacks a file.
    fn check_folder(&self) -> Result<()> {
        let Source::Folder(folder) = self else { return Ok(()) };
        match std::fs::metadata(folder) {
            Ok(metadata) if metadata.is_dir() => Ok(()),
            Ok(_) => Err(Error::NotAFolder(folder.clone())),
            Err(source) => Err(Error::Io { action: "open", path: folder.clone(), source }),
        }
    }
}
