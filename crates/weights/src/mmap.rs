//! Files mapped into memory: the one place of this crate with unsafe code.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
#[cfg(target_os = "linux")]
use memmap2::Advice;
use memmap2::Mmap;

/// The stride at which pages are touched: the smallest page size of any supported machine.
const PAGE_SIZE: usize = 4096;

/// A read-only mapping of a whole file. Clones share it; it is unmapped when the last clone and the last tensor over its
/// bytes are gone.
#[derive(Clone, Debug)]
pub(crate) struct Mapping(Arc<Mmap>);

impl AsRef<[u8]> for Mapping {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Mapping {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        // SAFETY: the bytes must not change while they are mapped. They are mapped read-only, so this process cannot
        // change them; whoever runs it must not write to a model's files while it is being served, as with every program
        // that maps its model. The bytes are only ever read as plain numbers, for which every bit pattern is valid.
        let map = unsafe { Mmap::map(&file)? };
        Ok(Mapping(Arc::new(map)))
    }

    /// The whole file as shared bytes.
    pub(crate) fn bytes(&self) -> Bytes {
        Bytes::from_owner(self.clone())
    }

    /// Reads `range` from disk into memory and into the page tables, so that later accesses do not wait.
    pub(crate) fn populate(&self, range: Range<usize>) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        match self.0.advise_range(Advice::PopulateRead, range.start, range.len()) {
            // Linux before 5.14 does not know the advice.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
            result => return result,
        }
        for byte in self.0[range].iter().step_by(PAGE_SIZE) {
            std::hint::black_box(*byte);
        }
        Ok(())
    }
}
