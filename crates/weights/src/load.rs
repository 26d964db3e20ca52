//! Reading the weights into memory ahead of the first request.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::source::{Source, WeightFile};

/// Bytes that one reader takes at a time: long reads for the disk, short steps for the progress bar.
const CHUNK_BYTES: usize = 16 << 20;
/// Readers that wait for the disk at the same time; one does not keep an NVMe disk or a network share busy.
const NUM_READERS: usize = 8;

/// What [`Checkpoint::load`](crate::Checkpoint::load) read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LoadReport {
    /// Bytes of the tensors that the model uses.
    pub bytes: u64,
    /// Time taken.
    pub elapsed: Duration,
}

impl LoadReport {
    /// Bytes per second, in units of 10^9.
    pub fn gigabytes_per_s(&self) -> f64 {
        self.bytes as f64 / 1e9 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gigabytes = self.bytes as f64 / 1e9;
        let seconds = self.elapsed.as_secs_f64();
        write!(f, "{gigabytes:.2} GB in {seconds:.2} s ({:.2} GB/s)", self.gigabytes_per_s())
    }
}

/// Reads the ranges (file, bytes) of mapped files into memory; `progress` gets the bytes done and the bytes in total.
pub(crate) fn load(
    source: &Source,
    files: &[WeightFile],
    mut ranges: Vec<(usize, Range<usize>)>,
    mut progress: impl FnMut(u64, u64),
) -> Result<LoadReport> {
    let start = Instant::now();
    let total: u64 = ranges.iter().map(|(_, range)| range.len() as u64).sum();
    ranges.sort_by_key(|(file, range)| (*file, range.start));
    let chunks = chunks(ranges);
    let (next, mut done) = (AtomicUsize::new(0), 0);
    progress(0, total);
    std::thread::scope(|scope| {
        let (sender, receiver) = mpsc::channel();
        for _ in 0..NUM_READERS.min(chunks.len()) {
            let (sender, next, chunks) = (sender.clone(), &next, &chunks);
            scope.spawn(move || {
                while let Some((file, range, bytes)) = chunks.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = match &files[*file].mapping {
                        Some(mapping) => mapping.populate(range.clone()).map_err(|error| (*file, error)),
                        None => Ok(()),
                    };
                    // The receiver hangs up after the first failure; then the other readers stop too.
                    if sender.send(result.map(|()| *bytes)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        for result in receiver {
            match result {
                Ok(bytes) => {
                    done += bytes;
                    progress(done, total);
                }
                Err((file, error)) => {
                    let name = &files[file].name;
                    let path = match source {
                        Source::Folder(folder) => folder.join(name),
                        Source::Files(_) => name.into(),
                    };
                    return Err(Error::Io { action: "read", path, source: error });
                }
            }
        }
        Ok(LoadReport { bytes: total, elapsed: start.elapsed() })
    })
}

/// Joins ranges (sorted) that follow each other into chunks of about [`CHUNK_BYTES`], and splits larger ones. The last
/// field counts the bytes asked for, without the padding between tensors.
fn chunks(ranges: Vec<(usize, Range<usize>)>) -> Vec<(usize, Range<usize>, u64)> {
    let mut chunks: Vec<(usize, Range<usize>, u64)> = Vec::new();
    for (file, range) in ranges {
        let mut start = range.start;
        while start < range.end {
            let end = range.end.min(start + CHUNK_BYTES);
            match chunks.last_mut() {
                Some((last_file, last, bytes))
                    if *last_file == file && last.end == start && last.len() + (end - start) <= CHUNK_BYTES =>
                {
                    last.end = end;
                    *bytes += (end - start) as u64;
                }
                _ => chunks.push((file, start..end, (end - start) as u64)),
            }
            start = end;
        }
    }
    chunks
}
