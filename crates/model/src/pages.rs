//! When memory becomes resident.

use std::fmt;

use cachalot_tensor::Buffer;
use rayon::iter::{IntoParallelRefMutIterator, ParallelIterator};

/// The smallest page of any system that this runs on.
const PAGE_BYTES: usize = 4096;

/// What one thread touches at a time.
const PIECE_BYTES: usize = 8 << 20;

/// Is told the bytes done and the bytes in total.
pub(crate) type OnProgress = Box<dyn FnMut(u64, u64) + Send>;

/// When the operating system hands out the pages of caches and activations.
#[derive(Default)]
pub enum Pages {
    /// When they are first used: a short run that fills little of the cache starts at once.
    #[default]
    WhenUsed,
    /// At start, so that a machine that does not have them says so before the first request, and nothing grows later. Is told
    /// the bytes done and the bytes in total.
    AtStart(Box<dyn FnMut(u64, u64) + Send>),
}

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Pages::WhenUsed => "WhenUsed",
            Pages::AtStart(_) => "AtStart",
        })
    }
}

/// Writes a zero to every page of buffers that hold zeros.
pub(crate) fn touch<'a>(
    pool: &rayon::ThreadPool,
    buffers: impl Iterator<Item = &'a mut Buffer>,
    progress: &mut OnProgress,
) {
    let mut pieces: Vec<&mut [u8]> = buffers.flat_map(|buffer| buffer.bytes_mut().chunks_mut(PIECE_BYTES)).collect();
    let total = pieces.iter().map(|piece| piece.len() as u64).sum();
    let mut done = 0;
    progress(done, total);
    for pieces in pieces.chunks_mut(2 * pool.current_num_threads()) {
        pool.install(|| {
            pieces.par_iter_mut().for_each(|piece| {
                // Read back through a black box, or the compiler may know that zeros are written over zeros.
                piece.iter_mut().step_by(PAGE_BYTES).for_each(|byte| *std::hint::black_box(byte) = 0);
                // A piece need not begin where a page does.
                piece.last_mut().into_iter().for_each(|byte| *std::hint::black_box(byte) = 0);
            });
        });
        done += pieces.iter().map(|piece| piece.len() as u64).sum::<u64>();
        progress(done, total);
    }
}
