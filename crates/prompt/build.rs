//! Looks for the published encodings and tokenizers that some tests compare with. They are not part of the repository;
//! where they are absent those tests are compiled all the same and reported as ignored, with the reason.

use std::env;
use std::path::PathBuf;

fn main() {
    println!("cargo::rustc-check-cfg=cfg(official_data)");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=CACHALOT_SHARED");
    let beside_the_repository = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let folder = env::var_os("CACHALOT_SHARED").map_or_else(beside_the_repository, PathBuf::from).join("data");
    if folder.join("encoding").is_dir() && folder.join("tokenizers").is_dir() {
        println!("cargo::rustc-cfg=official_data");
    }
    println!("cargo::rustc-env=CACHALOT_OFFICIAL_DATA={}", folder.display());
}
