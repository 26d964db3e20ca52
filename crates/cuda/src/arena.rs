//! Where buffers lie in the one allocation that is made at start.

use crate::{Error, Result};

/// Buffers begin at multiples of this: more than any vector load or tensor map asks for.
const ALIGNMENT: u64 = 256;
/// At least so many bytes of nobody lie between two buffers, so that the emulator sees a kernel that leaves its buffer.
const GAP: u64 = 256;

/// Hands out one range after the other, until it is sealed. Nothing is given back: what a step needs is planned at start, and
/// memory that is used twice is planned as one buffer with two views.
#[derive(Debug)]
pub(crate) struct Arena {
    address: u64,
    total: u64,
    used: u64,
    sealed: bool,
}

impl Arena {
    pub(crate) fn new(address: u64, total: u64) -> Arena {
        Arena { address, total, used: 0, sealed: false }
    }

    /// The address of the next `bytes` bytes.
    pub(crate) fn take(&mut self, bytes: u64) -> Result<u64> {
        if self.sealed {
            return Err(Error::Sealed { wanted: bytes });
        }
        let start = self.used.next_multiple_of(ALIGNMENT);
        match start.checked_add(bytes) {
            Some(end) if end <= self.total => {
                self.used = (end + GAP).min(self.total);
                Ok(self.address + start)
            }
            _ => Err(Error::ArenaFull { wanted: bytes, free: self.total.saturating_sub(start), total: self.total }),
        }
    }

    pub(crate) fn seal(&mut self) {
        self.sealed = true;
    }

    pub(crate) fn used(&self) -> u64 {
        self.used
    }

    pub(crate) fn total(&self) -> u64 {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_aligned_with_gaps_between_them() {
        let mut arena = Arena::new(4096, 2048);
        assert_eq!(arena.take(1).unwrap(), 4096);
        assert_eq!(arena.take(256).unwrap(), 4096 + 512);
        assert_eq!(arena.take(0).unwrap(), 4096 + 1024);
        assert_eq!(arena.take(700).unwrap(), 4096 + 1280);
        assert_eq!(arena.used(), 2048);
        assert!(matches!(arena.take(1), Err(Error::ArenaFull { free: 0, .. })));
    }

    #[test]
    fn a_full_arena_says_what_is_left_and_a_sealed_one_that_it_is() {
        let mut arena = Arena::new(4096, 1024);
        arena.take(200).unwrap();
        let message = arena.take(513).unwrap_err().to_string();
        assert!(message.contains("1024 bytes has 512 left") && message.contains("513 bytes"), "{message}");
        assert!(matches!(arena.take(u64::MAX), Err(Error::ArenaFull { .. })));
        assert_eq!(arena.take(512).unwrap(), 4096 + 512);
        arena.seal();
        assert!(matches!(arena.take(0), Err(Error::Sealed { wanted: 0 })));
    }
}
