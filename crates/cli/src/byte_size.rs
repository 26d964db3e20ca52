//! Sizes of memory as people write them.

use std::fmt;
use std::str::FromStr;

/// Bytes, written as `1500000`, `512MiB`, `4GiB` or `4GB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ByteSize(pub(crate) u64);

/// Binary units are powers of 1024, decimal ones of 1000.
const UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KIB", 1 << 10),
    ("MIB", 1 << 20),
    ("GIB", 1 << 30),
    ("TIB", 1 << 40),
];

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let malformed =
            || format!("`{text}` is not a size: write bytes, or a number with KB, MB, GB, TB, KiB, MiB, GiB or TiB");
        let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = (&text[..split], text[split..].trim().to_ascii_uppercase());
        let factor = match unit.as_str() {
            "" => 1,
            unit => UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(malformed)?.1,
        };
        if let Ok(number) = number.parse::<u64>() {
            return number.checked_mul(factor).map(ByteSize).ok_or_else(|| format!("`{text}` is more than 2^64 bytes"));
        }
        let number: f64 = number.parse().map_err(|_| malformed())?;
        Ok(ByteSize((number * factor as f64) as u64))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit =
            ["GiB", "MiB", "KiB"].into_iter().zip([1u64 << 30, 1 << 20, 1 << 10]).find(|(_, bytes)| self.0 >= *bytes);
        match unit {
            Some((name, bytes)) => write!(f, "{:.1} {name}", self.0 as f64 / bytes as f64),
            None => write!(f, "{} bytes", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        let check = |text: &str, expected: Option<u64>| {
            assert_eq!(text.parse::<ByteSize>().ok(), expected.map(ByteSize), "{text}");
        };
        check("0", Some(0));
        check("1500000", Some(1_500_000));
        check("512MiB", Some(512 << 20));
        check("4GiB", Some(4 << 30));
        check("4 gib", Some(4 << 30));
        check("1.5KiB", Some(1536));
        check("4GB", Some(4_000_000_000));
        check("2TB", Some(2_000_000_000_000));
        check("7B", Some(7));
        check("", None);
        check("GiB", None);
        check("4GiBs", None);
        check("-1", None);
        check("1.2.3MB", None);
        check("99999999TiB", None);
    }

    #[test]
    fn sizes_are_written_in_the_largest_unit_that_fits() {
        let check = |bytes: u64, expected: &str| assert_eq!(ByteSize(bytes).to_string(), expected);
        check(1023, "1023 bytes");
        check(1536, "1.5 KiB");
        check(5 << 20, "5.0 MiB");
        check(3 << 40, "3072.0 GiB");
    }
}
