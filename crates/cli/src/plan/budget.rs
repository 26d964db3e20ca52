//! What takes the memory of a machine or of a GPU.

use std::fmt;

use serde::Serialize;

use super::size;

/// How a table says that something takes nothing.
pub(crate) const NOTHING: &str = "-";

/// Bytes by what takes them. All of it is taken at start; nothing grows later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Budget {
    /// Weights, as they are stored.
    pub(crate) weights: u64,
    /// The paged caches of all layers.
    pub(crate) kv_cache: u64,
    /// Activations of the largest step.
    pub(crate) activations: u64,
    /// Logits of the indexer, where it has memory of its own.
    pub(crate) indexer_workspace: u64,
    /// What kernels work in.
    pub(crate) workspaces: u64,
    /// Rows of logits of the largest step.
    pub(crate) logits: u64,
    /// Left for everything else.
    pub(crate) reserve: u64,
    /// What there is, if known.
    pub(crate) available: Option<u64>,
}

impl Budget {
    /// All of it.
    pub(crate) fn total(&self) -> u64 {
        self.without_cache().saturating_add(self.kv_cache)
    }

    /// All but the cache, which takes what is left.
    pub(crate) fn without_cache(&self) -> u64 {
        [self.weights, self.activations, self.indexer_workspace, self.workspaces, self.logits, self.reserve]
            .into_iter()
            .fold(0, u64::saturating_add)
    }

    /// Whether there is as much; true if it is not known what there is.
    pub(crate) fn fits(&self) -> bool {
        self.available.is_none_or(|available| self.total() <= available)
    }

    /// What the cache can take, if it is known what there is.
    pub(crate) fn room(&self) -> Option<u64> {
        self.available.map(|available| available.saturating_sub(self.without_cache()))
    }

    /// The lines of a table: what, and how much.
    pub(crate) fn rows(&self) -> [(&'static str, String); 9] {
        let or_none = |bytes: u64| if bytes == 0 { NOTHING.to_owned() } else { size(bytes) };
        [
            ("weights", size(self.weights)),
            ("KV cache", or_none(self.kv_cache)),
            ("activations", size(self.activations)),
            ("indexer workspace", or_none(self.indexer_workspace)),
            ("workspaces", size(self.workspaces)),
            ("logits", size(self.logits)),
            ("reserve", size(self.reserve)),
            ("total", size(self.total())),
            ("of", self.available.map_or_else(|| "unknown".to_owned(), size)),
        ]
    }
}

/// One line, for a banner or an error.
impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} weights + {} KV cache + {} activations + {} workspaces + {} logits + {} reserve = {}",
            size(self.weights),
            size(self.kv_cache),
            size(self.activations),
            size(self.indexer_workspace + self.workspaces),
            size(self.logits),
            size(self.reserve),
            size(self.total())
        )?;
        match self.available {
            Some(available) => write!(f, " of {} available", size(available)),
            None => Ok(()),
        }
    }
}
