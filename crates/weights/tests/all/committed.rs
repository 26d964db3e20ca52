//! The checkpoints of this repository load: the one that ships with the program, from its folder and from memory, and
//! those that other programs made for the tests of the model.

use std::collections::BTreeMap;
use std::path::Path;

use cachalot_weights::{Checkpoint, Config, Shard, Source};

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/embedded")
}

fn check(source: &Source) {
    let checkpoint = Checkpoint::open(source).unwrap_or_else(|error| panic!("{error}"));
    assert!(checkpoint.has_mtp());
    assert_eq!(checkpoint.notices(), [""; 0]);
    let Config::DeepseekV3(config) = checkpoint.config() else { panic!("not a DeepSeek configuration") };
    assert_eq!(config.indexer.as_ref().map(|indexer| indexer.index_head_dim), Some(128));
    for spec in checkpoint.config().layout() {
        match spec.shape.rank() {
            1 => drop(checkpoint.tensor(&spec.name, Shard::Whole).unwrap()),
            _ => drop(checkpoint.matrix(&spec.name, Shard::Whole).unwrap()),
        }
    }
    let mut steps = Vec::new();
    let report = checkpoint.load(|done, total| steps.push((done, total))).unwrap();
    assert_eq!(steps.first(), Some(&(0, report.bytes)));
    assert_eq!(steps.last(), Some(&(report.bytes, report.bytes)));
}

#[test]
fn from_a_folder() {
    check(&Source::Folder(folder()));
}

#[test]
fn from_memory() {
    let names = ["config.json", "model.safetensors"];
    let files = names.map(|name| (name.to_owned(), std::fs::read(folder().join(name)).unwrap().into()));
    check(&Source::Files(BTreeMap::from(files)));
}

#[test]
fn golden_checkpoints_open() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/golden");
    let mut opened = Vec::new();
    for entry in std::fs::read_dir(fixtures).unwrap() {
        let folder = entry.unwrap().path();
        if folder.is_dir() {
            let checkpoint =
                Checkpoint::open(&Source::Folder(folder.clone())).unwrap_or_else(|error| panic!("{error}"));
            opened.push((folder.file_name().unwrap().to_str().unwrap().to_owned(), checkpoint.has_mtp()));
        }
    }
    for name in ["v3-bf16", "v3-fp8", "v32-bf16", "v32-fp8"] {
        assert!(opened.contains(&(name.to_owned(), true)), "{name} is not in {opened:?}");
    }
    // transformers saves no MTP layer, whatever its configuration says.
    for name in ["v3-hf", "v32-hf"] {
        assert!(opened.contains(&(name.to_owned(), false)), "{name} is not in {opened:?}");
    }
}
