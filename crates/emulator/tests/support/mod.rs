//! What the tests of whole kernels share: kernels compiled by nvcc, and parameters laid out as it lays them out.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use cachalot_emulator::Module;
use cachalot_nvcc::{Nvcc, Options};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cu")
}

/// The text of `tests/cu/{name}`.
pub(crate) fn source(name: &str) -> String {
    let path = folder().join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The PTX of `tests/cu/{name}.cu`. It is kept from one run to the next, under a hash of all that goes into it.
pub(crate) fn ptx(name: &str) -> String {
    let nvcc = Nvcc::find().expect("nvcc compiles the kernels of this test");
    let file = format!("{name}.cu");
    let mut hasher = DefaultHasher::new();
    (nvcc.release(), source(&file), source("ptx.cuh")).hash(&mut hasher);
    let cached = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{:016x}.ptx", hasher.finish()));
    if let Ok(ptx) = fs::read_to_string(&cached) {
        return ptx;
    }
    let options = Options { directory: Some(folder()), ..Options::default() };
    let ptx = nvcc.ptx(Path::new(&file), "90a", &options).unwrap_or_else(|error| panic!("{error}"));
    // Another test may compile the same file: each writes its own and moves it into place.
    let own = cached.with_extension(format!("{}", std::process::id()));
    fs::write(&own, &ptx).and_then(|()| fs::rename(&own, &cached)).expect("the folder for temporary files is writable");
    ptx
}

/// `tests/cu/{name}.cu`, compiled and decoded.
pub(crate) fn module(name: &str) -> Module {
    Module::parse(&ptx(name)).unwrap_or_else(|error| panic!("{name}.cu: {error}"))
}

/// Kernel parameters, each at a multiple of its size.
#[derive(Clone, Debug, Default)]
pub(crate) struct Params(pub(crate) Vec<u8>);

impl Params {
    /// Adds a value of 4 or 8 bytes, or of more that are aligned to `align`.
    pub(crate) fn bytes(mut self, bytes: &[u8], align: usize) -> Params {
        self.0.resize(self.0.len().next_multiple_of(align), 0);
        self.0.extend(bytes);
        self
    }

    /// Adds a pointer.
    pub(crate) fn pointer(self, address: u64) -> Params {
        self.bytes(&address.to_le_bytes(), 8)
    }
}

/// Words as they lie in memory.
pub(crate) fn to_bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// And back.
pub(crate) fn to_words(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect()
}
