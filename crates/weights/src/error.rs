//! Why a checkpoint cannot be used, and what to do about it.

use std::fmt;
use std::path::PathBuf;

use cachalot_tensor::DType;

/// Problems of one kind that a message lists in full before it only counts them.
const LISTED: usize = 8;

/// Why a checkpoint cannot be used. Messages say what is wrong and where; [`Error::hint`] says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The model's path is a file.
    #[error("{} is not a folder", .0.display())]
    NotAFolder(PathBuf),
    /// A file that every checkpoint has is not there.
    #[error("{location} has no {name}{found}", found = Found(found))]
    NoFile {
        /// The folder, or "the embedded model".
        location: String,
        /// The missing file, or the alternatives.
        name: &'static str,
        /// What is there instead.
        found: Vec<String>,
    },
    /// config.json is not a JSON object.
    #[error("config.json is malformed: {reason}")]
    ConfigSyntax {
        /// What the parser said.
        reason: String,
    },
    /// config.json is of a family of models that this engine does not know.
    #[error(
        "config.json names {}; known are {known}",
        .found.as_ref().map_or("no architecture".to_owned(), |found| format!("the architecture {found}"))
    )]
    Architecture {
        /// `architectures[0]`, or `model_type`.
        found: Option<String>,
        /// The architectures that this engine knows.
        known: String,
    },
    /// Keys of config.json are missing or have values that cannot be computed with.
    #[error("config.json{}", ConfigProblems { architecture, missing, problems })]
    Config {
        /// Architecture whose keys these are.
        architecture: &'static str,
        /// Keys that are needed and absent.
        missing: Vec<String>,
        /// Values that cannot be used, each with the reason.
        problems: Vec<String>,
    },
    /// model.safetensors.index.json cannot be used.
    #[error("model.safetensors.index.json is malformed: {reason}")]
    Index {
        /// What is wrong with it.
        reason: String,
    },
    /// Shards that the index names are not there.
    #[error("model.safetensors.index.json names shards that {location} has not: {}", List(shards))]
    MissingShards {
        /// The folder, or "the embedded model".
        location: String,
        /// The files.
        shards: Vec<String>,
    },
    /// The index names tensors that its shards do not hold.
    #[error(
        "model.safetensors.index.json and the shards disagree on {}: {}", Count(tensors.len(), "tensor"), List(tensors)
    )]
    Misplaced {
        /// Each tensor with the shard that lacks it.
        tensors: Vec<String>,
    },
    /// A safetensors file is damaged.
    #[error("{file} is not a valid safetensors file: {reason}")]
    Safetensors {
        /// The file.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Tensors that config.json implies are missing or have another form.
    #[error("the files do not hold the model of config.json; {} at fault: {}", Count(problems.len(), "tensor"), List(problems))]
    Tensors {
        /// What is wrong, tensor by tensor.
        problems: Vec<String>,
    },
    /// A tensor was asked for that the model does not have.
    #[error("the model has no tensor `{0}`")]
    UnknownTensor(String),
    /// A part of a tensor was asked for that it does not have, or that cuts a block of scales.
    #[error("{part} of `{name}`: {reason}")]
    Part {
        /// The tensor.
        name: String,
        /// The part asked for.
        part: String,
        /// Why it cannot be had.
        reason: String,
    },
    /// A value that no computation can use.
    #[error("`{name}` in {file} holds {value} at {position:?}; {expected}")]
    Value {
        /// The tensor.
        name: String,
        /// Its file.
        file: String,
        /// Index of the first such value.
        position: Vec<usize>,
        /// The value.
        value: f32,
        /// What it should be.
        expected: &'static str,
    },
    /// The tensor crate refused what this crate had checked.
    #[error("`{name}` ({dtype}): {source}")]
    Tensor {
        /// The tensor.
        name: String,
        /// Its dtype.
        dtype: DType,
        /// The reason.
        source: Box<cachalot_tensor::Error>,
    },
}

impl Error {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                "give the path of a folder with config.json and the model's .safetensors files"
            }
            Error::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                "let this user read the folder and its files, or copy the model to where it may be read"
            }
            Error::Io { .. } => "check the disk or network share that holds the model, then try again",
            Error::NotAFolder(_) => "give the folder that holds config.json, not a file in it",
            Error::NoFile { .. } => {
                "download the whole repository of the model; `cachalot pull` resumes where it stopped"
            }
            Error::ConfigSyntax { .. } => "download config.json again",
            Error::Architecture { .. } => "use a DeepSeek V3, R1, V3.1 or V3.2 checkpoint, or R1-0528-Qwen3-8B",
            Error::Config { .. } => "use the config.json that belongs to the weights, unedited",
            Error::Index { .. } => "download model.safetensors.index.json again",
            Error::Misplaced { .. } => "index and shards must be of the same model: download all of them again",
            Error::MissingShards { .. } => "download the missing shards; `cachalot pull` fetches only what is missing",
            Error::Safetensors { .. } => "the file was cut off or altered: download it again",
            Error::Tensors { .. } => "config.json and the weights must be of the same model: download both again",
            Error::Value { .. } => "the file is damaged or was quantised wrongly: download it again or use another one",
            Error::UnknownTensor(_) | Error::Part { .. } | Error::Tensor { .. } => {
                "this is a mistake in cachalot: please report it with this message"
            }
        }
    }
}

/// The result of this crate's fallible calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The first items, and how many more there are.
struct List<'a>(&'a [String]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, item) in self.0.iter().take(LISTED).enumerate() {
            write!(f, "{}{item}", if index == 0 { "" } else { "; " })?;
        }
        match self.0.len().checked_sub(LISTED) {
            None | Some(0) => Ok(()),
            Some(more) => write!(f, "; and {more} more"),
        }
    }
}

/// `1 tensor`, `2 tensors`.
struct Count(usize, &'static str);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}{}", self.0, self.1, if self.0 == 1 { "" } else { "s" })
    }
}

struct Found<'a>(&'a [String]);

impl fmt::Display for Found<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { f.write_str("; it is empty") } else { write!(f, "; it holds {}", List(self.0)) }
    }
}

struct ConfigProblems<'a> {
    architecture: &'a str,
    missing: &'a [String],
    problems: &'a [String],
}

impl fmt::Display for ConfigProblems<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = " ";
        if !self.missing.is_empty() {
            let keys: Vec<String> = self.missing.iter().map(|key| format!("`{key}`")).collect();
            write!(f, " lacks {}, which {} needs", keys.join(", "), self.architecture)?;
            separator = "; ";
        }
        for problem in self.problems {
            write!(f, "{separator}{problem}")?;
            separator = "; ";
        }
        Ok(())
    }
}
