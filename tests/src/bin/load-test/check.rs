//! What a run has to show, each with its evidence.

use std::fmt;

use serde::Serialize;

/// Whether something is as it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    Passed,
    Failed,
    /// It cannot be told in this run.
    Skipped,
}

/// Something that must be so.
#[derive(Debug, Serialize)]
pub(crate) struct Check {
    pub(crate) name: &'static str,
    pub(crate) verdict: Verdict,
    /// Figures, and what went wrong.
    pub(crate) evidence: String,
}

/// All of them, in order.
#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
pub(crate) struct Checks(Vec<Check>);

impl Checks {
    pub(crate) fn add(&mut self, name: &'static str, is_so: bool, evidence: impl Into<String>) {
        let verdict = if is_so { Verdict::Passed } else { Verdict::Failed };
        self.0.push(Check { name, verdict, evidence: evidence.into() });
    }

    pub(crate) fn skip(&mut self, name: &'static str, evidence: impl Into<String>) {
        self.0.push(Check { name, verdict: Verdict::Skipped, evidence: evidence.into() });
    }

    pub(crate) fn count(&self, verdict: Verdict) -> usize {
        self.0.iter().filter(|check| check.verdict == verdict).count()
    }

    /// `N passed, N failed, N skipped`
    pub(crate) fn summary(&self) -> String {
        let [passed, failed, skipped] =
            [Verdict::Passed, Verdict::Failed, Verdict::Skipped].map(|verdict| self.count(verdict));
        format!("{passed} passed, {failed} failed, {skipped} skipped")
    }
}

impl fmt::Display for Checks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Check { name, verdict, evidence } in &self.0 {
            let verdict = match verdict {
                Verdict::Passed => "passed",
                Verdict::Failed => "FAILED",
                Verdict::Skipped => "skipped",
            };
            writeln!(f, "{verdict:<8}{name:<46}{evidence}")?;
        }
        Ok(())
    }
}
