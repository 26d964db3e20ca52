//! The checkpoint that is part of the binary.

use std::borrow::Cow;

use bytes::Bytes;
use rust_embed::RustEmbed;

#[derive(RustEmbed)]
#[folder = "../../models/embedded"]
struct Embedded;

/// Name of the embedded model where a name is needed.
pub(crate) const NAME: &str = "cachalot-embedded";

/// A file of the embedded checkpoint. The bytes are those of the binary; nothing is copied.
pub(crate) fn file(name: &str) -> Option<Bytes> {
    match Embedded::get(name)?.data {
        Cow::Borrowed(data) => Some(Bytes::from_static(data)),
        Cow::Owned(data) => Some(Bytes::from(data)),
    }
}

/// Names of all files of the embedded checkpoint.
pub(crate) fn names() -> impl Iterator<Item = String> {
    Embedded::iter().map(Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checkpoint_is_complete_and_in_the_binary() {
        let mut names: Vec<String> = names().collect();
        names.sort();
        let expected = [
            "README.md",
            "config.json",
            "generation_config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
        ];
        assert_eq!(names, expected);
        for name in names {
            let on_disk = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/embedded/");
            let on_disk = std::fs::read(format!("{on_disk}{name}")).expect("the file is in the repository");
            assert!(file(&name).is_some_and(|bytes| bytes == on_disk), "{name}");
        }
    }
}
