//! Named ranges in the timeline of NVIDIA's profilers.

use crate::Gpu;

/// A range that lasts until it is dropped.
#[must_use = "the range ends when it is dropped"]
#[derive(Debug)]
pub struct Range {
    #[cfg(feature = "cuda")]
    _range: Option<cudarc::nvtx::Range>,
}

impl Gpu {
    /// Names what this thread does from here on, until the result is dropped. Does nothing on the emulator, and where
    /// `libnvToolsExt` cannot be loaded: it came with CUDA up to 12, and profilers of CUDA 13 bring it along.
    pub fn range(&self, name: &str) -> Range {
        #[cfg(feature = "cuda")]
        {
            let shown = !self.is_emulated() && crate::driver::has_nvtx();
            Range { _range: shown.then(|| cudarc::nvtx::scoped_range(name.replace('\0', " "))) }
        }
        #[cfg(not(feature = "cuda"))]
        {
            _ = name;
            Range {}
        }
    }
}
