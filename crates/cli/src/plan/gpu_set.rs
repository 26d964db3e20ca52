//! `--gpu NAME×N`: which GPUs, and how many.

use std::fmt;
use std::str::FromStr;

use crate::byte_size::ByteSize;

/// GPUs by name, with the gigabytes (10^9 bytes) that their vendor states. Drivers report a little more, such as 85.5 for an
/// H100-80GB, so what fits by the vendor's figure does fit.
const KNOWN: [(&str, u64); 16] = [
    ("A100-40GB", 40),
    ("A100-80GB", 80),
    ("A800-80GB", 80),
    ("H20-96GB", 96),
    ("H100-80GB", 80),
    ("H100-NVL-94GB", 94),
    ("H800-80GB", 80),
    ("H200-141GB", 141),
    ("GH200-96GB", 96),
    ("GH200-144GB", 144),
    ("B200-180GB", 180),
    ("GB200-186GB", 186),
    ("L40S-48GB", 48),
    ("RTX-4090-24GB", 24),
    ("RTX-5090-32GB", 32),
    ("RTX-PRO-6000-96GB", 96),
];

/// Some GPUs of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GpuSet {
    /// What they are called: a name, or the size.
    pub(crate) name: String,
    /// Memory of each.
    pub(crate) memory_bytes: u64,
    /// How many.
    pub(crate) count: usize,
}

/// One for each routed expert of the released models.
pub(super) const MAX_COUNT: usize = 256;

impl FromStr for GpuSet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, count) = split_count(text.trim());
        let count = match count {
            None => 1,
            Some(count) => count
                .parse()
                .ok()
                .filter(|count| (1..=MAX_COUNT).contains(count))
                .ok_or_else(|| format!("`{count}` is not a number of GPUs from 1 to {MAX_COUNT}"))?,
        };
        if kind.starts_with(|c: char| c.is_ascii_digit()) {
            let ByteSize(memory_bytes) = kind.parse()?;
            if memory_bytes < 1_000_000_000 {
                return Err(format!("`{kind}` is too small for a GPU: write its memory, such as 141GB"));
            }
            return Ok(GpuSet { name: kind.to_owned(), memory_bytes, count });
        }
        let plain = |name: &str| name.to_ascii_lowercase().replace(['-', '_', ' '], "");
        let wanted = plain(kind);
        // The size may be left out where the name has one size only, and `GB` may be `G`.
        let stem = |name: &str| plain(name.rsplit_once('-').map_or(name, |(stem, _)| stem));
        let exact = |(name, _): &&(&str, u64)| {
            let full = plain(name);
            wanted == full || wanted == full.trim_end_matches('b')
        };
        let mut named = KNOWN.iter().filter(|(name, _)| stem(name) == wanted);
        let found = KNOWN.iter().find(exact).or_else(|| named.next().filter(|_| named.next().is_none()));
        let Some((name, gigabytes)) = found else {
            let known: Vec<&str> = KNOWN.iter().map(|(name, _)| *name).collect();
            return Err(format!(
                "`{kind}` is not a known GPU; known are {}; or write the memory of one, such as 141GB×8",
                known.join(", ")
            ));
        };
        Ok(GpuSet { name: (*name).to_owned(), memory_bytes: gigabytes * 1_000_000_000, count })
    }
}

/// Splits `h200x8` at its last `x`, `×` or `*` that a number follows.
fn split_count(text: &str) -> (&str, Option<&str>) {
    match text.rfind(['x', 'X', '×', '*']) {
        Some(at) => {
            let sign_len = text[at..].chars().next().map_or(0, char::len_utf8);
            let (kind, count) = (text[..at].trim_end(), text[at + sign_len..].trim_start());
            // The `x` of `rtx-5090` counts nothing.
            let counts = !count.is_empty() && count.chars().all(|c| c.is_ascii_digit() || c == '-');
            let is_name = text[..at].to_ascii_lowercase().ends_with("rt");
            if counts && !is_name { (kind, Some(count)) } else { (text, None) }
        }
        None => (text, None),
    }
}

impl fmt::Display for GpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} × {}", self.count, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_are_named_as_people_name_them() {
        let check = |text: &str, expected: (&str, u64, usize)| {
            let set: GpuSet = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!((set.name.as_str(), set.memory_bytes, set.count), expected, "{text}");
        };
        const GB: u64 = 1_000_000_000;
        check("h200x8", ("H200-141GB", 141 * GB, 8));
        check("H200×8", ("H200-141GB", 141 * GB, 8));
        check("H200 * 8", ("H200-141GB", 141 * GB, 8));
        check("H100-80GB×16", ("H100-80GB", 80 * GB, 16));
        check("h100", ("H100-80GB", 80 * GB, 1));
        check("h100-nvl", ("H100-NVL-94GB", 94 * GB, 1));
        check("a100_80gX4", ("A100-80GB", 80 * GB, 4));
        check("H20-96Gx8", ("H20-96GB", 96 * GB, 8));
        check("rtx-5090", ("RTX-5090-32GB", 32 * GB, 1));
        check("RTX 4090x4", ("RTX-4090-24GB", 24 * GB, 4));
        check("rtx-pro-6000", ("RTX-PRO-6000-96GB", 96 * GB, 1));
        check("141GB×8", ("141GB", 141 * GB, 8));
        check("80GiB", ("80GiB", 80 << 30, 1));
        check("1.5TB*2", ("1.5TB", 1500 * GB, 2));
    }

    #[test]
    fn what_is_no_gpu_is_explained() {
        let check = |text: &str, expected: &str| {
            let error = text.parse::<GpuSet>().expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
        };
        check("h300x8", "`h300` is not a known GPU; known are A100-40GB, ");
        check("h300x8", "141GB×8");
        // Two sizes: which one?
        check("a100", "known are A100-40GB, A100-80GB");
        check("h200x0", "`0` is not a number of GPUs from 1 to 256");
        check("h200x257", "`257` is not a number of GPUs");
        check("h200x-1", "`-1` is not a number of GPUs");
        check("80x8", "too small for a GPU");
        check("141XB×8", "`141XB` is not a size");
        check("", "`` is not a known GPU");
        check("x8", "`` is not a known GPU");
    }
}
