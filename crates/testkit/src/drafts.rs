//! Drafts files: the tokens that HF transformers' MTP layer drafts while transformers generates, and what of them it accepts.
//!
//! `scripts/golden/drafts.py` makes them; they lie beside the golden files of the cases that have an MTP layer, and in
//! `tests/fixtures/drafts` for checkpoints that are constructed to be drafted right.
//!
//! ```
//! use cachalot_testkit::drafts::{CASES, Drafts};
//!
//! let drafts = Drafts::read(CASES[0])?;
//! let prompt = &drafts.prompts[0];
//! assert_eq!(prompt.drafts.len() + 1, prompt.generated.len());
//! # Ok::<(), cachalot_testkit::golden::GoldenError>(())
//! ```

use std::path::PathBuf;

use serde::Deserialize;

use crate::golden::{GoldenError, folder};

/// First field of every drafts file.
const MAGIC: &str = "cachalot-drafts";
/// The layout that this reader knows; `scripts/golden/drafts.py` has the same number.
const VERSION: u32 = 1;

/// The golden cases with an MTP layer.
pub const CASES: [&str; 4] = ["v3-bf16", "v3-fp8", "v32-bf16", "v32-fp8"];

/// What the MTP layer of one checkpoint drafts.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Drafts {
    magic: String,
    version: u32,
    /// Name of the case.
    pub case: String,
    /// Shortest first.
    pub prompts: Vec<DraftsPrompt>,
}

/// A prompt, what follows it, and what was drafted on the way.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct DraftsPrompt {
    /// Token ids.
    pub ids: Vec<u32>,
    /// The greedy continuation; an end-of-sequence token does not end it.
    pub generated: Vec<u32>,
    /// `[generated.len() - 1]`: entry `i` is drafted to come after `generated[i]`, all of the same length.
    pub drafts: Vec<Vec<u32>>,
    /// The steps after the prompt's of a generation with drafts of one token.
    pub steps: Vec<DraftsStep>,
}

/// One step of a generation with drafts of one token.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(from = "[u32; 3]")]
pub struct DraftsStep {
    /// Generated tokens before the step.
    pub num_generated: usize,
    /// What was drafted to come next.
    pub draft_id: u32,
    /// Whether that came next. False as well where it did, but was the last token of all.
    pub accepted: bool,
}

impl From<[u32; 3]> for DraftsStep {
    fn from([num_generated, draft_id, accepted]: [u32; 3]) -> Self {
        DraftsStep { num_generated: num_generated as usize, draft_id, accepted: accepted == 1 }
    }
}

impl Drafts {
    /// Reads drafts.json of a committed case.
    ///
    /// # Errors
    /// [`GoldenError`] says what is wrong with the file and how to make it anew.
    pub fn read(case: &str) -> Result<Drafts, GoldenError> {
        read(folder(case).join("drafts.json"))
    }

    /// Reads the file of a checkpoint that is constructed in `tests/tests/speculation`.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_constructed(name: &str) -> Result<Drafts, GoldenError> {
        read(folder("../drafts").join(format!("{name}.json")))
    }
}

fn read(path: PathBuf) -> Result<Drafts, GoldenError> {
    let bytes = std::fs::read(&path).map_err(|source| GoldenError::Read { path: path.clone(), source })?;
    parse(&bytes).map_err(|problem| GoldenError::Invalid { path, problem })
}

fn parse(bytes: &[u8]) -> Result<Drafts, String> {
    let drafts: Drafts = serde_json::from_slice(bytes).map_err(|error| format!("not a drafts file: {error}"))?;
    if drafts.magic != MAGIC || drafts.version != VERSION {
        let Drafts { magic, version, .. } = drafts;
        return Err(format!("{magic:?} of version {version}, this reader knows {MAGIC:?} of version {VERSION}"));
    }
    for (index, prompt) in drafts.prompts.iter().enumerate() {
        let is_even = prompt.drafts.windows(2).all(|pair| pair[0].len() == pair[1].len());
        if prompt.ids.is_empty() || prompt.drafts.len() + 1 != prompt.generated.len() || !is_even {
            return Err(format!(
                "prompt {index}: no tokens, or drafts that are not one for each generated token but the last"
            ));
        }
        if prompt.steps.iter().any(|step| step.num_generated == 0 || step.num_generated >= prompt.generated.len()) {
            return Err(format!("prompt {index}: a step that is not between the first and the last generated token"));
        }
    }
    Ok(drafts)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"magic":"cachalot-drafts","version":1,"case":"c","prompts":[{"ids":[7],"generated":[1,2,3],
        "drafts":[[2,4],[5,6]],"steps":[[1,2,1]]}]}"#;

    #[test]
    fn a_file_is_read_as_it_says() {
        let prompt = &parse(GOOD.as_bytes()).expect("well-formed").prompts[0];
        assert_eq!(prompt.drafts, [[2, 4], [5, 6]]);
        assert_eq!(prompt.steps, [DraftsStep { num_generated: 1, draft_id: 2, accepted: true }]);
    }

    #[test]
    fn a_bad_file_is_refused_with_the_reason() {
        for (from, to, reason) in [
            ("cachalot-drafts", "cachalot-golden", "\"cachalot-golden\" of version 1"),
            ("\"version\":1", "\"version\":2", "of version 2, this reader knows"),
            ("\"ids\":[7],", "", "missing field `ids`"),
            ("[5,6]", "[5]", "prompt 0: no tokens, or drafts"),
            ("[1,2,3]", "[1,2]", "prompt 0: no tokens, or drafts"),
            ("[[1,2,1]]", "[[3,2,1]]", "prompt 0: a step that is not between"),
        ] {
            let bad = GOOD.replacen(from, to, 1);
            assert_ne!(bad, GOOD, "{from} is not in the file");
            let problem = parse(bad.as_bytes()).expect_err(reason);
            assert!(problem.contains(reason), "{problem:?} does not say {reason:?}");
        }
    }

    #[test]
    fn every_committed_file_is_readable() {
        for case in CASES {
            let drafts = Drafts::read(case).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(drafts.case, case);
            assert_eq!(drafts.prompts.iter().map(|prompt| prompt.ids.len()).collect::<Vec<_>>(), [3, 50, 150]);
            assert!(drafts.prompts.iter().all(|prompt| prompt.drafts[0].len() == 3), "{case}");
        }
    }
}
