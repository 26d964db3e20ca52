//! Downloads from the hub into its usual cache, so that other tools of the hub find the same files.
//!
//! `hf-hub` speaks the protocol (listing, redirects, tags, layout of the cache). The transfer itself is here because a model
//! of hundreds of gigabytes needs what the library does not do: check what arrived before anything can see it, take up a
//! file that another revision has already brought, and survive an end at any moment. A file arrives in `blobs/TAG.part`, is
//! hashed while it arrives, and gets its name only when size and hash are right; the revision becomes visible to
//! [`ModelSource`](crate::source::ModelSource) only when its last file is there.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use hf_hub::api::sync::{Api, ApiBuilder, ApiError};
use hf_hub::{Cache, CacheRepo, Repo, RepoType};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use ureq::http::StatusCode;

use crate::byte_size::ByteSize;
use crate::env;
use crate::hint::ResultExt;
use crate::progress::Progress;
use crate::source::HubId;

/// How often a broken transfer is taken up again before it counts as failed. Progress resets the count.
const MAX_RETRIES: u32 = 5;
/// A connection that is silent for so long is given up.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// The hub: where it is and where its files go.
pub(crate) struct Hub {
    api: Api,
    agent: ureq::Agent,
    cache: Cache,
    token: Option<String>,
    retry_delay: Duration,
}

/// What a pull did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Pulled {
    /// Folder with the files.
    pub(crate) folder: PathBuf,
    /// Files of the model.
    pub(crate) num_files: usize,
    /// Files that were here already.
    pub(crate) num_present: usize,
    /// Bytes that came over the network.
    pub(crate) downloaded_bytes: u64,
}

impl Hub {
    /// A hub at `endpoint` (the public one if `None`) whose files go into the folder `cache`.
    ///
    /// # Errors
    /// If TLS cannot be set up.
    pub(crate) fn new(endpoint: Option<&str>, cache: PathBuf, token: Option<String>) -> anyhow::Result<Self> {
        let cache = Cache::new(cache);
        let token = token.or_else(|| cache.token());
        let mut builder = ApiBuilder::from_cache(cache.clone())
            .with_token(token.clone())
            .with_user_agent("cachalot", env!("CARGO_PKG_VERSION"));
        if let Some(endpoint) = endpoint {
            builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned());
        }
        let agent = ureq::Agent::config_builder()
            .redirect_auth_headers(ureq::config::RedirectAuthHeaders::SameHost)
            .http_status_as_error(false)
            .timeout_connect(Some(READ_TIMEOUT))
            .timeout_per_read(Some(READ_TIMEOUT))
            .user_agent(concat!("cachalot/", env!("CARGO_PKG_VERSION")))
            .build()
            .into();
        Ok(Hub { api: builder.build()?, agent, cache, token, retry_delay: Duration::from_secs(1) })
    }

    /// Brings all files of a model that serving needs. What is already here is not fetched again.
    ///
    /// # Errors
    /// If the hub cannot be reached or refuses, if a file arrives damaged, or if the disk fails. What has arrived stays, and
    /// the next pull takes up from there.
    pub(crate) fn pull(&self, id: &HubId) -> anyhow::Result<Pulled> {
        let info = self
            .api
            .repo(id.hub_repo())
            .info()
            .map_err(|error| self.explain(error, id))
            .with_context(|| format!("the hub does not tell what is in {id}"))?;
        // From here on the commit is named, so that all files belong together even if the branch moves meanwhile.
        let repo = Repo::with_revision(id.repo.clone(), RepoType::Model, info.sha.clone());
        let remote = self.api.repo(repo.clone());
        let local = self.cache.repo(repo);
        let names: Vec<&str> =
            info.siblings.iter().map(|file| &*file.rfilename).filter(|name| is_needed(name)).collect();
        if !names.contains(&"config.json") {
            bail!("{id} has no config.json, so it is not a model that can be served");
        }
        let folder = local.pointer_path(&info.sha);
        let mut pulled = Pulled { folder: folder.clone(), num_files: names.len(), num_present: 0, downloaded_bytes: 0 };
        for name in names {
            let url = remote.url(name);
            let metadata = self
                .api
                .metadata(&url)
                .map_err(|error| self.explain(error, id))
                .with_context(|| format!("no metadata of {name}"))?;
            let remote_file = RemoteFile { name, url: &url, tag: metadata.etag(), size: metadata.size() as u64 };
            let blob = blob_path(&local, remote_file.tag)?;
            if fs::metadata(&blob).is_ok_and(|found| found.len() == remote_file.size) {
                pulled.num_present += 1;
            } else {
                pulled.downloaded_bytes += self.fetch(&remote_file, &blob)?;
            }
            link(&blob, &folder.join(name)).with_context(|| format!("cannot link {name} into {}", folder.display()))?;
        }
        self.cache.repo(id.hub_repo()).create_ref(&info.sha).context("cannot write the revision into the cache")?;
        Ok(pulled)
    }

    /// Fetches one file to `blob`, resuming what an earlier attempt left. Returns the bytes that came over the network.
    fn fetch(&self, file: &RemoteFile<'_>, blob: &Path) -> anyhow::Result<u64> {
        let part_path = blob.with_extension("part");
        let part = fs::create_dir_all(blob.parent().expect("a blob is in a folder"))
            .and_then(|()| OpenOptions::new().read(true).append(true).create(true).open(&part_path))
            .with_context(|| format!("cannot write {}", part_path.display()))
            .hint(format!("make room, or set {} to a folder that may be written", env::HF_HOME))?;
        match part.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(anyhow!("another process is downloading {}", file.name))
                    .hint("wait for it to finish, then run this again");
            }
            Err(TryLockError::Error(error)) => return Err(error).context("cannot lock the file being downloaded"),
        }
        let fetched = self.fetch_into(file, part, &part_path)?;
        fs::rename(&part_path, blob).with_context(|| format!("cannot rename {}", part_path.display()))?;
        Ok(fetched)
    }

    fn fetch_into(&self, file: &RemoteFile<'_>, mut part: File, part_path: &Path) -> anyhow::Result<u64> {
        let mut digest = FileDigest::new(file.tag, file.size);
        let mut have =
            io::copy(&mut part, &mut digest).with_context(|| format!("cannot read {}", part_path.display()))?;
        if have > file.size {
            // Not a beginning of this file: no hash could come out right.
            part.set_len(0)?;
            (digest, have) = (FileDigest::new(file.tag, file.size), 0);
        }
        if have > 0 {
            tracing::info!("{}: resuming at {} of {}", file.name, ByteSize(have), ByteSize(file.size));
        } else {
            tracing::info!("{}: {}", file.name, ByteSize(file.size));
        }
        let began_at = have;
        let mut progress = Progress::start(file.name, have, file.size);
        let mut retries = 0;
        while have < file.size {
            let mut arrived = 0;
            let outcome = self.transfer(file, have, &mut part, &mut digest, |bytes| {
                arrived += bytes;
                progress.advance(bytes);
            });
            have += arrived;
            retries = if arrived > 0 { 0 } else { retries + 1 };
            match outcome {
                Ok(()) => {}
                Err(TransferError::Final(error)) => {
                    return Err(error).with_context(|| format!("cannot download {}", file.name));
                }
                Err(TransferError::Broken(error)) if retries > MAX_RETRIES => {
                    return Err(error)
                        .with_context(|| {
                            format!(
                                "{}: the connection keeps breaking, after {} of {}",
                                file.name,
                                ByteSize(have),
                                ByteSize(file.size)
                            )
                        })
                        .hint("run the same command again: it resumes where it stopped");
                }
                Err(TransferError::Broken(error)) => {
                    tracing::warn!("{}: {error:#}; resuming at {}", file.name, ByteSize(have));
                    std::thread::sleep(self.retry_delay * 2u32.pow(retries));
                }
            }
        }
        part.sync_all().with_context(|| format!("cannot write {}", part_path.display()))?;
        if let Err(mismatch) = digest.check() {
            // A damaged beginning would make every resumed download fail.
            fs::remove_file(part_path).with_context(|| format!("cannot remove the damaged {}", part_path.display()))?;
            return Err(mismatch).with_context(|| format!("{} arrived damaged and was removed", file.name)).hint(
                "run the same command again; if it happens again, the hub or a proxy on the way alters the file",
            );
        }
        Ok(have - began_at)
    }

    /// One request for the rest of a file.
    fn transfer(
        &self,
        file: &RemoteFile<'_>,
        have: u64,
        part: &mut File,
        digest: &mut FileDigest,
        mut on_bytes: impl FnMut(u64),
    ) -> Result<(), TransferError> {
        let mut request = self.agent.get(file.url).header("Range", format!("bytes={have}-"));
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let response = request.call().map_err(|error| TransferError::Broken(error.into()))?;
        let status = response.status();
        let resumed = status == StatusCode::PARTIAL_CONTENT;
        if !(resumed || status == StatusCode::OK && have == 0) {
            let error = match status {
                StatusCode::OK => anyhow!("the hub does not resume transfers"),
                status => anyhow!("the hub answers {status}"),
            };
            let transient = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
            return Err(if transient { TransferError::Broken(error) } else { TransferError::Final(error) });
        }
        // No more than what is missing: a longer body is damage, and the hash will tell.
        let mut body = response.into_body().into_reader().take(file.size - have);
        let mut buffer = vec![0; 1 << 18];
        loop {
            match body.read(&mut buffer) {
                Ok(0) if body.limit() == 0 => return Ok(()),
                Ok(0) => return Err(TransferError::Broken(anyhow!("the connection ended early"))),
                Ok(count) => {
                    part.write_all(&buffer[..count]).map_err(|error| TransferError::Final(error.into()))?;
                    digest.update(&buffer[..count]);
                    on_bytes(count as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(TransferError::Broken(error.into())),
            }
        }
    }

    /// The hub's error with what it usually means.
    fn explain(&self, error: ApiError, id: &HubId) -> anyhow::Error {
        let status = match &error {
            ApiError::RequestError(error) => match **error {
                ureq::Error::StatusCode(status) => Some(status),
                _ => None,
            },
            _ => None,
        };
        let hint = match status {
            Some(401 | 403) if self.token.is_none() => {
                "the model needs permission, or does not exist: set HF_TOKEN to a token of yours"
            }
            Some(401 | 403) => "your token may not read this model: ask for access on its page",
            Some(404) => &*format!("check the spelling: there is no {id}"),
            _ => "check the network, or set HF_ENDPOINT to a mirror; what has been downloaded stays",
        };
        Err::<(), _>(error).hint(hint).expect_err("made from an error")
    }
}

/// A file as the hub describes it.
struct RemoteFile<'a> {
    name: &'a str,
    url: &'a str,
    tag: &'a str,
    size: u64,
}

enum TransferError {
    /// Worth another try.
    Broken(anyhow::Error),
    /// Will not get better.
    Final(anyhow::Error),
}

/// Weights, configuration, tokenizer and license, all at the top; not other formats, pictures or code.
fn is_needed(name: &str) -> bool {
    let by_ending = [".json", ".safetensors", ".jinja"].iter().any(|ending| name.ends_with(ending));
    !name.contains('/') && !name.starts_with('.') && (by_ending || name.starts_with("LICENSE"))
}

/// Where a file with this tag goes.
///
/// # Errors
/// If the tag, which comes from the network, is not a plain file name.
fn blob_path(local: &CacheRepo, tag: &str) -> anyhow::Result<PathBuf> {
    if tag.is_empty() || !tag.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_')) {
        bail!("the hub gives `{tag}` as the tag of a file, which cannot be a file name");
    }
    Ok(local.blob_path(tag))
}

/// Makes `snapshots/COMMIT/NAME` point to `blobs/TAG`, as all tools of the hub do.
fn link(blob: &Path, pointer: &Path) -> io::Result<()> {
    fs::create_dir_all(pointer.parent().expect("a pointer is in a folder"))?;
    match fs::remove_file(pointer) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let tag = blob.file_name().expect("a blob has a name");
    std::os::unix::fs::symlink(Path::new("../../blobs").join(tag), pointer)
}

/// Hashes a file the way its tag was made: SHA-256 of large files, git's SHA-1 of small ones. Other tags, which mirrors may
/// give, promise nothing about the content; then only the size is checked.
enum FileDigest {
    Sha256(Sha256, String),
    GitSha1(Sha1, String),
    SizeOnly,
}

impl FileDigest {
    fn new(tag: &str, size: u64) -> Self {
        let is_hex = tag.bytes().all(|byte| byte.is_ascii_hexdigit());
        match tag.len() {
            64 if is_hex => FileDigest::Sha256(Sha256::new(), tag.to_ascii_lowercase()),
            40 if is_hex => {
                FileDigest::GitSha1(Sha1::new_with_prefix(format!("blob {size}\0")), tag.to_ascii_lowercase())
            }
            _ => FileDigest::SizeOnly,
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            FileDigest::Sha256(hasher, _) => hasher.update(bytes),
            FileDigest::GitSha1(hasher, _) => hasher.update(bytes),
            FileDigest::SizeOnly => {}
        }
    }

    fn check(self) -> anyhow::Result<()> {
        let (name, found, expected) = match self {
            FileDigest::Sha256(hasher, expected) => ("sha256", hex(&hasher.finalize()), expected),
            FileDigest::GitSha1(hasher, expected) => ("git sha1", hex(&hasher.finalize()), expected),
            FileDigest::SizeOnly => return Ok(()),
        };
        if found != expected {
            bail!("its {name} is {found}, but should be {expected}");
        }
        Ok(())
    }
}

impl Write for FileDigest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
