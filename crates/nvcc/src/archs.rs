//! Names of GPU architectures, and the head line by which a kernel says on which it can run.

use std::path::Path;

use crate::Error;

/// Checks that `arch` is spelled as nvcc spells it behind `sm_`: a number, and perhaps `a` (this GPU alone) or `f` (its family).
///
/// # Errors
/// [`Error::Arch`] names it and `place`, the place where it was written.
pub fn check_arch(arch: &str, place: &str) -> Result<(), Error> {
    match number(arch) {
        Some(_) => Ok(()),
        None => Err(Error::Arch { arch: arch.to_owned(), place: place.to_owned() }),
    }
}

/// The number of `90`, `90a` or `90f`.
fn number(arch: &str) -> Option<u32> {
    let digits = arch.strip_suffix(['a', 'f']).unwrap_or(arch);
    let all_digits = (2..=3).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    if all_digits { digits.parse().ok() } else { None }
}

/// The architectures that a kernel can be compiled for.
///
/// A kernel says so in one of the comment lines at its head: `// archs: 90a` lists architectures, `// archs: 80+` means every
/// one from 80 on, and both can be mixed: `// archs: 90a 100+`. Without such a line it is every architecture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedArchs {
    /// Words of the head line; `None` without one.
    words: Option<Vec<String>>,
}

impl AllowedArchs {
    /// Reads the head line of `source`; `file` is named in the error.
    ///
    /// # Errors
    /// [`Error::Arch`] for a word that is neither an architecture nor an architecture and a plus sign.
    pub fn read(source: &str, file: &Path) -> Result<AllowedArchs, Error> {
        let head = source.lines().take_while(|line| line.trim().is_empty() || line.starts_with("//"));
        let Some(list) = head.filter_map(|line| line.trim_start_matches('/').trim().strip_prefix("archs:")).next()
        else {
            return Ok(AllowedArchs { words: None });
        };
        let words: Vec<String> = list.split([' ', ',']).filter(|word| !word.is_empty()).map(str::to_owned).collect();
        let place = file.display().to_string();
        if words.is_empty() {
            return Err(Error::Arch { arch: String::new(), place });
        }
        for word in &words {
            check_arch(word.strip_suffix('+').unwrap_or(word), &place)?;
        }
        Ok(AllowedArchs { words: Some(words) })
    }

    /// Whether the kernel can be compiled for `arch`.
    pub fn allows(&self, arch: &str) -> bool {
        let Some(words) = &self.words else {
            return true;
        };
        words.iter().any(|word| match word.strip_suffix('+') {
            Some(least) => number(arch) >= number(least),
            None => word == arch,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_line_decides() {
        for (source, allowed, refused) in [
            ("// archs: 90a\n#include <x>\n", &["90a"][..], &["80", "90", "100a"][..]),
            ("// A kernel.\n//\n// archs: 80+\n", &["80", "89", "90a", "120a"], &["75"]),
            ("// archs: 90a, 100+\n", &["90a", "100a", "120"], &["90", "89"]),
            ("#include <x>\n// archs: 90a\n", &["80", "75"], &[]),
            ("", &["80"], &[]),
        ] {
            let archs = AllowedArchs::read(source, Path::new("x.cu")).unwrap();
            for arch in allowed {
                assert!(archs.allows(arch), "{source:?} {arch}");
            }
            for arch in refused {
                assert!(!archs.allows(arch), "{source:?} {arch}");
            }
        }
    }

    #[test]
    fn a_misspelled_line_is_an_error_that_names_file_and_word() {
        for source in ["// archs: sm_90a\n", "// archs: 90b\n", "// archs: 9\n", "// archs: hopper\n", "// archs:\n"] {
            let message = AllowedArchs::read(source, Path::new("kernels/x/x.cu")).unwrap_err().to_string();
            let word = source["// archs:".len()..].trim();
            assert!(message.contains("kernels/x/x.cu") && message.contains(&format!("`{word}`")), "{message}");
        }
    }
}
