//! docs/api.md names a test for each field; the tests must be there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The functions behind a test attribute in a file, or in those below a folder, as `name of the file::function`.
fn tests_in(path: &Path, found: &mut BTreeSet<String>) {
    if path.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            tests_in(&entry.unwrap().path(), found);
        }
    } else if path.extension().is_some_and(|extension| extension == "rs") {
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(path).unwrap();
        let mut is_test = false;
        for line in text.lines().map(str::trim) {
            let name = line.split_once("fn ").and_then(|(_, rest)| rest.split_once('('));
            match name {
                Some((name, _)) if is_test => {
                    found.insert(format!("{stem}::{name}"));
                    is_test = false;
                }
                _ => is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test"),
            }
        }
    }
}

#[test]
fn every_test_that_the_table_of_fields_names_exists() {
    let mut tests = BTreeSet::new();
    for folder in ["crates/server/tests", "crates/server/src", "crates/prompt/src", "tests/tests"] {
        tests_in(&root().join(folder), &mut tests);
    }
    let document = std::fs::read_to_string(root().join("docs/api.md")).unwrap();
    let mut num_rows = 0;
    for (number, line) in document.lines().enumerate().filter(|(_, line)| line.starts_with("| ")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        if cells[0] == "field" || cells[0].starts_with("---") {
            continue;
        }
        let [_, _, named] = cells[..] else { panic!("docs/api.md:{}: not three columns: {line}", number + 1) };
        let mut num_named = 0;
        for name in named.split('`').skip(1).step_by(2) {
            assert!(tests.contains(name), "docs/api.md:{}: there is no test `{name}`", number + 1);
            num_named += 1;
        }
        assert!(num_named > 0, "docs/api.md:{}: no test shows it: {line}", number + 1);
        num_rows += 1;
    }
    assert!(num_rows > 80, "{num_rows} rows");
}
