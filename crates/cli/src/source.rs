//! What MODEL stands for: a folder, a model of the hub, or nothing, which is the embedded model.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, anyhow, bail};
use cachalot_weights::{Checkpoint, Config, Source, StoredTensor};

use crate::hint::ResultExt;
use crate::{embedded, env};

/// Where a model's files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ModelSource {
    /// In a folder: the user's own, or a snapshot in the hub's cache.
    Folder {
        /// The folder.
        path: PathBuf,
        /// What to call the model.
        name: String,
    },
    /// In the binary.
    Embedded,
}

impl ModelSource {
    /// Finds the model that was asked for. A folder wins over a hub id of the same spelling.
    ///
    /// # Errors
    /// If there is neither such a folder nor such a model in the hub's cache, each with what to do.
    pub(crate) fn find(model: Option<&str>) -> anyhow::Result<Self> {
        Self::find_in(model, env::hub_cache().as_deref())
    }

    fn find_in(model: Option<&str>, hub_cache: Option<&Path>) -> anyhow::Result<Self> {
        let Some(model) = model else {
            return Ok(ModelSource::Embedded);
        };
        let path = Path::new(model);
        if path.exists() {
            let resolved = std::path::absolute(path)?;
            let name =
                resolved.file_name().map_or_else(|| model.to_owned(), |name| name.to_string_lossy().into_owned());
            return Ok(ModelSource::Folder { path: path.to_owned(), name });
        }
        let looks_like_path = model.starts_with(['.', '/', '~']) || model.matches('/').count() != 1;
        let id = match model.parse::<HubId>() {
            Ok(id) if !looks_like_path => id,
            _ => {
                return Err(anyhow!("there is no folder `{model}`"))
                    .hint("give a folder with config.json and .safetensors files, a hub id such as deepseek-ai/DeepSeek-V3.2, or nothing for the embedded model");
            }
        };
        match hub_cache.and_then(|cache| id.snapshot(cache)) {
            Some(path) => Ok(ModelSource::Folder { path, name: id.repo }),
            None => Err(anyhow!("`{model}` is neither a folder nor a model in the hub's cache"))
                .hint(format!("download it first: cachalot pull {model}")),
        }
    }

    /// What to call the model in answers and reports.
    pub(crate) fn name(&self) -> &str {
        match self {
            ModelSource::Folder { name, .. } => name,
            ModelSource::Embedded => embedded::NAME,
        }
    }
}

impl fmt::Display for ModelSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ModelSource::Folder { path, .. } => path.display().fmt(f),
            ModelSource::Embedded => f.write_str("the embedded model"),
        }
    }
}

/// What is known of a model without loading it.
pub(crate) enum Files {
    /// There is a config.json and no weights beside it: what the published files of that configuration hold.
    Config(Config),
    /// Every tensor was checked for presence, shape and dtype.
    Checkpoint(Checkpoint),
}

impl Files {
    /// Opens the weights if there are any, else config.json alone.
    ///
    /// # Errors
    /// If the files are not those of a known model.
    pub(crate) fn open(files: &Source) -> anyhow::Result<Self> {
        if let Source::Folder(folder) = files
            && let Some(config) = files.read("config.json")?
            && !holds_weights(folder).with_context(|| format!("cannot list {}", folder.display()))?
        {
            return Ok(Files::Config(Config::from_json(&config)?));
        }
        Ok(Files::Checkpoint(Checkpoint::open(files)?))
    }

    /// What config.json says.
    pub(crate) fn config(&self) -> &Config {
        match self {
            Files::Config(config) => config,
            Files::Checkpoint(checkpoint) => checkpoint.config(),
        }
    }

    /// The tensors, as they are or would be stored.
    pub(crate) fn tensors(&self) -> Vec<StoredTensor> {
        match self {
            Files::Config(config) => config.published_tensors(),
            Files::Checkpoint(checkpoint) => checkpoint.stored_tensors(),
        }
    }
}

fn holds_weights(folder: &Path) -> io::Result<bool> {
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A model of the hub: `OWNER/NAME`, or `OWNER/NAME@REVISION` for another revision than `main`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HubId {
    /// `OWNER/NAME`.
    pub(crate) repo: String,
    /// Branch, tag or commit.
    pub(crate) revision: String,
}

impl HubId {
    /// The folder of the revision in the hub's cache, once all its files are there.
    fn snapshot(&self, cache: &Path) -> Option<PathBuf> {
        let config = hf_hub::Cache::new(cache.to_owned()).repo(self.hub_repo()).get("config.json")?;
        config.parent().map(Path::to_owned)
    }

    /// The same in the hub library's terms.
    pub(crate) fn hub_repo(&self) -> hf_hub::Repo {
        hf_hub::Repo::with_revision(self.repo.clone(), hf_hub::RepoType::Model, self.revision.clone())
    }
}

impl FromStr for HubId {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (repo, revision) = text.split_once('@').unwrap_or((text, "main"));
        let plain = |part: &str| {
            let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            !part.is_empty() && !part.starts_with('.') && part.chars().all(known)
        };
        let is_repo = repo.split_once('/').is_some_and(|(owner, name)| plain(owner) && plain(name));
        if !is_repo || !revision.split('/').all(plain) {
            bail!("`{text}` is not a hub id: write OWNER/NAME or OWNER/NAME@REVISION");
        }
        Ok(HubId { repo: repo.to_owned(), revision: revision.to_owned() })
    }
}

impl fmt::Display for HubId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.revision.as_str() {
            "main" => f.write_str(&self.repo),
            revision => write!(f, "{}@{revision}", self.repo),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn hub_ids_have_an_owner_and_a_name() {
        let check = |text: &str, expected: Option<(&str, &str)>| {
            let id = text.parse::<HubId>().ok();
            assert_eq!(id.as_ref().map(|id| (&*id.repo, &*id.revision)), expected, "{text}");
        };
        check("deepseek-ai/DeepSeek-V3.2", Some(("deepseek-ai/DeepSeek-V3.2", "main")));
        check("a/b@refs/pr/1", Some(("a/b", "refs/pr/1")));
        check("a/b@0123abc", Some(("a/b", "0123abc")));
        check("a", None);
        check("a/b/c", None);
        check("../b", None);
        check("a/..", None);
        check("a/b@", None);
        check("a/b@../../x", None);
        check("a b/c", None);
    }

    #[test]
    fn a_model_is_found_or_the_hint_says_what_to_do() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let cache = root.path().join("hub");
        let snapshot = cache.join("models--owner--cached").join("snapshots").join("c0ffee");
        fs::create_dir_all(&snapshot).expect("in a temporary folder");
        fs::write(snapshot.join("config.json"), "{}").expect("in a temporary folder");
        fs::create_dir_all(cache.join("models--owner--cached").join("refs")).expect("in a temporary folder");
        fs::write(cache.join("models--owner--cached").join("refs").join("main"), "c0ffee")
            .expect("in a temporary folder");
        let folder = root.path().join("my-model");
        fs::create_dir(&folder).expect("in a temporary folder");

        let check = |model: Option<&str>, expected: Result<(&str, &Path), &str>| {
            let found = ModelSource::find_in(model, Some(&cache));
            match (found, expected) {
                (Ok(ModelSource::Folder { path, name }), Ok(expected)) => assert_eq!((&*name, &*path), expected),
                (Ok(ModelSource::Embedded), Ok((name, _))) => assert_eq!(name, embedded::NAME),
                (Err(error), Err(expected)) => {
                    let mut printed = Vec::new();
                    crate::hint::print(&error, &mut printed).expect("a vector takes everything");
                    let printed = String::from_utf8(printed).expect("messages are text");
                    assert!(printed.contains(expected), "{printed}");
                }
                (found, expected) => panic!("{model:?}: {found:?} instead of {expected:?}"),
            }
        };
        check(None, Ok((embedded::NAME, Path::new(""))));
        check(folder.to_str(), Ok(("my-model", &folder)));
        check(Some("owner/cached"), Ok(("owner/cached", &snapshot)));
        check(Some("owner/other"), Err("hint: download it first: cachalot pull owner/other"));
        check(Some("owner/cached@v2"), Err("hint: download it first: cachalot pull owner/cached@v2"));
        check(Some("./nothing/here"), Err("there is no folder `./nothing/here`"));
        check(Some("/nothing/here"), Err("hint: give a folder with config.json"));
        check(Some("nothing"), Err("there is no folder `nothing`"));
    }
}
