//! Golden files: log-probabilities that HF transformers computed in f32 for the checkpoint in the same folder.
//!
//! `scripts/golden` makes them; `tests/fixtures/golden/README.md` says what each case is there to catch.
//!
//! ```
//! use cachalot_testkit::golden::{CASES, Golden};
//!
//! let golden = Golden::read(CASES[0])?;
//! let prompt = &golden.prompts[0];
//! assert_eq!(prompt.top.rows.len(), prompt.ids.len());
//! # Ok::<(), cachalot_testkit::golden::GoldenError>(())
//! ```

use std::path::{Path, PathBuf};

use serde::Deserialize;

/// First field of every golden file.
const MAGIC: &str = "cachalot-golden";
/// The layout that this reader knows; `scripts/golden/make.py` has the same number.
const VERSION: u32 = 1;

/// The committed cases, each a folder of `tests/fixtures/golden`.
pub const CASES: [&str; 7] = ["v3-bf16", "v3-fp8", "v31-fp8", "v32-bf16", "v32-fp8", "v3-hf", "v32-hf"];

/// The folder of a committed case: config.json, the shards and golden.json.
pub fn folder(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/golden").join(case)
}

/// What transformers computed for one checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Golden {
    /// Name of the case.
    pub case: String,
    /// What the case is there to catch.
    pub stresses: String,
    /// Shortest first.
    pub prompts: Vec<GoldenPrompt>,
}

/// A prompt and what follows it.
#[derive(Clone, Debug, PartialEq)]
pub struct GoldenPrompt {
    /// Token ids.
    pub ids: Vec<u32>,
    /// `[ids.len()]` rows: the token after each position.
    pub top: TopLogProbs,
    /// The greedy continuation; an end-of-sequence token does not end it.
    pub greedy: Vec<GreedyStep>,
    /// `[ids.len() - 1]` rows, if the checkpoint has an MTP layer: row `i` is the draft for token `i + 2`, from the main model's
    /// hidden state at `i` (as it enters lm_head) and the true token `i + 1`.
    pub mtp: Option<TopLogProbs>,
}

/// The likeliest tokens of several positions.
#[derive(Clone, Debug, PartialEq)]
pub struct TopLogProbs {
    /// Per position: token ids and their natural log-probabilities, best first.
    pub rows: Vec<Vec<(u32, f32)>>,
}

/// One step of a greedy continuation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GreedyStep {
    /// The likeliest token.
    pub id: u32,
    /// Its natural log-probability.
    pub log_prob: f32,
    /// How far the second best is behind; below the tolerance another implementation may take that one.
    pub margin: f32,
}

impl Golden {
    /// Reads golden.json of a committed case.
    ///
    /// # Errors
    /// [`GoldenError`] says what is wrong with the file and how to make it anew.
    pub fn read(case: &str) -> Result<Golden, GoldenError> {
        let path = folder(case).join("golden.json");
        let bytes = std::fs::read(&path).map_err(|source| GoldenError::Read { path: path.clone(), source })?;
        parse(&bytes).map_err(|problem| GoldenError::Invalid { path, problem })
    }
}

impl TopLogProbs {
    /// The largest difference between `log_probs`, `[vocab_size]`, and the `count` best golden values of a position.
    ///
    /// NaN counts as infinitely far away.
    ///
    /// # Panics
    /// If the golden file has no such row, fewer than `count` values in it, or a token outside `log_probs`.
    pub fn deviation(&self, position: usize, log_probs: &[f32], count: usize) -> f32 {
        self.rows[position][..count]
            .iter()
            .map(|&(id, golden)| (log_probs[id as usize] - golden).abs())
            .map(|difference| if difference.is_nan() { f32::INFINITY } else { difference })
            .fold(0.0, f32::max)
    }
}

/// Why a golden file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GoldenError {
    /// The file is not there or not readable.
    #[error("{}: {source}; `scripts/golden/make.py` writes it", path.display())]
    Read {
        /// golden.json.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is stale, or not a golden file.
    #[error("{}: {problem}; `scripts/golden/make.py` writes it anew", path.display())]
    Invalid {
        /// golden.json.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

#[derive(Deserialize)]
struct Header {
    magic: String,
    version: u32,
}

#[derive(Deserialize)]
struct File {
    case: String,
    stresses: String,
    prompts: Vec<PromptFile>,
}

#[derive(Deserialize)]
struct PromptFile {
    ids: Vec<u32>,
    top: TopFile,
    greedy: GreedyFile,
    mtp: Option<TopFile>,
}

#[derive(Deserialize)]
struct TopFile {
    ids: Vec<Vec<u32>>,
    log_probs: Vec<Vec<f32>>,
}

#[derive(Deserialize)]
struct GreedyFile {
    ids: Vec<u32>,
    log_probs: Vec<f32>,
    margins: Vec<f32>,
}

fn parse(bytes: &[u8]) -> Result<Golden, String> {
    let header: Header = serde_json::from_slice(bytes).map_err(|error| format!("not a golden file: {error}"))?;
    if header.magic != MAGIC {
        return Err(format!("not a golden file: magic is {:?}, not {MAGIC:?}", header.magic));
    }
    if header.version != VERSION {
        return Err(format!("stale: version {}, this reader knows {VERSION}", header.version));
    }
    let file: File = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let prompts = file.prompts.into_iter().enumerate();
    let prompts = prompts.map(|(index, prompt)| prompt.check().map_err(|problem| format!("prompt {index}: {problem}")));
    Ok(Golden { case: file.case, stresses: file.stresses, prompts: prompts.collect::<Result<_, _>>()? })
}

impl PromptFile {
    fn check(self) -> Result<GoldenPrompt, String> {
        let num_tokens = self.ids.len();
        if num_tokens == 0 {
            return Err("no tokens".into());
        }
        let greedy = self.greedy;
        if greedy.log_probs.len() != greedy.ids.len() || greedy.margins.len() != greedy.ids.len() {
            return Err("greedy: ids, log_probs and margins differ in length".into());
        }
        let steps = greedy.ids.into_iter().zip(greedy.log_probs).zip(greedy.margins);
        Ok(GoldenPrompt {
            ids: self.ids,
            top: self.top.check("top", num_tokens)?,
            greedy: steps.map(|((id, log_prob), margin)| GreedyStep { id, log_prob, margin }).collect(),
            mtp: self.mtp.map(|mtp| mtp.check("mtp", num_tokens - 1)).transpose()?,
        })
    }
}

impl TopFile {
    fn check(self, name: &str, num_rows: usize) -> Result<TopLogProbs, String> {
        if self.ids.len() != num_rows || self.log_probs.len() != num_rows {
            return Err(format!(
                "{name}: {} rows of ids and {} of log_probs, not {num_rows}",
                self.ids.len(),
                self.log_probs.len()
            ));
        }
        let mut rows = Vec::with_capacity(num_rows);
        for (position, (ids, log_probs)) in self.ids.into_iter().zip(self.log_probs).enumerate() {
            if ids.len() != log_probs.len() || ids.is_empty() {
                return Err(format!("{name}: row {position} has {} ids and {} log_probs", ids.len(), log_probs.len()));
            }
            if !log_probs.is_sorted_by(|a, b| a >= b) || log_probs[0] > 0.0 {
                return Err(format!("{name}: the log_probs of row {position} do not fall, or exceed 0"));
            }
            rows.push(ids.into_iter().zip(log_probs).collect());
        }
        Ok(TopLogProbs { rows })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"magic":"cachalot-golden","version":1,"case":"c","stresses":"s","seed":1,"prompts":[{"ids":[7,8],
        "top":{"ids":[[1,2],[3,4]],"log_probs":[[-0.5,-1.5],[-0.25,-2]]},
        "greedy":{"ids":[3],"log_probs":[-0.25],"margins":[1.75]},
        "mtp":{"ids":[[5]],"log_probs":[[-0.125]]}}]}"#;

    #[test]
    fn a_file_is_read_as_it_says() {
        let prompt = &parse(GOOD.as_bytes()).expect("well-formed").prompts[0];
        assert_eq!(prompt.ids, [7, 8]);
        assert_eq!(prompt.top.rows, [[(1, -0.5), (2, -1.5)], [(3, -0.25), (4, -2.0)]]);
        assert_eq!(prompt.greedy, [GreedyStep { id: 3, log_prob: -0.25, margin: 1.75 }]);
        assert_eq!(prompt.mtp.as_ref().expect("has MTP").rows, [[(5, -0.125)]]);
    }

    #[test]
    fn a_bad_file_is_refused_with_the_reason() {
        for (from, to, reason) in [
            ("cachalot-golden", "llm.c", "magic is \"llm.c\""),
            ("\"version\":1", "\"version\":2", "stale: version 2, this reader knows 1"),
            ("\"case\":\"c\",", "", "missing field `case`"),
            ("\"ids\":[7,8]", "\"ids\":[7,8,9]", "prompt 0: top: 2 rows of ids and 2 of log_probs, not 3"),
            ("\"ids\":[7,8]", "\"ids\":[]", "prompt 0: no tokens"),
            ("[-0.25,-2]]", "[-0.25]]", "row 1 has 2 ids and 1 log_probs"),
            ("[[5]]", "[[5],[6]]", "mtp: 2 rows of ids and 1 of log_probs, not 1"),
            ("[-0.5,-1.5]", "[-1.5,-0.5]", "row 0 do not fall"),
            ("[-0.5,-1.5]", "[0.5,-1.5]", "row 0 do not fall, or exceed 0"),
            ("\"margins\":[1.75]", "\"margins\":[]", "greedy: ids, log_probs and margins differ in length"),
        ] {
            let bad = GOOD.replacen(from, to, 1);
            assert_ne!(bad, GOOD, "{from} is not in the file");
            let problem = parse(bad.as_bytes()).expect_err(reason);
            assert!(problem.contains(reason), "{problem:?} does not say {reason:?}");
        }
    }

    #[test]
    fn the_deviation_is_the_worst_of_the_best() {
        let top = TopLogProbs { rows: vec![vec![(2, -0.5), (0, -1.0), (1, -3.0)]] };
        for (log_probs, count, expected) in [
            ([-1.0, -3.0, -0.5], 3, 0.0),
            ([-1.25, -3.0, -0.5], 3, 0.25),
            ([-1.0, -9.0, -0.75], 2, 0.25),
            ([f32::NAN, -3.0, -0.25], 3, f32::INFINITY),
            ([-1.0, f32::NEG_INFINITY, -0.5], 3, f32::INFINITY),
        ] {
            assert_eq!(top.deviation(0, &log_probs, count), expected, "{log_probs:?}, best {count}");
        }
    }

    #[test]
    fn every_committed_case_is_listed_and_readable() {
        let mut folders: Vec<_> = std::fs::read_dir(folder(""))
            .expect("the fixtures are committed")
            .map(|entry| entry.expect("a folder entry").path())
            .filter(|path| path.is_dir())
            .map(|path| path.file_name().expect("an entry has a name").to_string_lossy().into_owned())
            .collect();
        folders.sort();
        let mut listed = CASES;
        listed.sort();
        assert_eq!(folders, listed);
        for case in CASES {
            let golden = Golden::read(case).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(golden.case, case);
            assert_eq!(golden.prompts.iter().map(|prompt| prompt.ids.len()).collect::<Vec<_>>(), [5, 70, 200]);
        }
    }

    #[test]
    fn a_missing_case_names_the_script() {
        let message = Golden::read("no-such-case").expect_err("there is none").to_string();
        assert!(message.contains("no-such-case") && message.contains("scripts/golden/make.py"), "{message}");
    }
}
