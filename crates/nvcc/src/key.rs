//! Content hashes: what a compiled kernel was made from.

/// Hashes parts of what a result depends on. Two hashes side by side: 128 bits do not collide by accident.
pub(crate) struct Key {
    state: [u64; 2],
}

impl Key {
    pub(crate) fn new() -> Key {
        // The offset basis of FNV-1a, and another odd number.
        Key { state: [0xcbf2_9ce4_8422_2325, 0x9e37_79b9_7f4a_7c15] }
    }

    /// Adds one part. Its length is a part too, so that bytes cannot move from one part to the next unnoticed.
    pub(crate) fn add(&mut self, part: &[u8]) {
        for byte in (part.len() as u64).to_le_bytes().iter().chain(part) {
            // FNV-1a with its prime, and with the multiplier of splitmix64.
            self.state[0] = (self.state[0] ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
            self.state[1] = (self.state[1] ^ u64::from(*byte)).wrapping_mul(0xbf58_476d_1ce4_e5b9).rotate_left(29);
        }
    }

    /// The hash, in hexadecimal.
    pub(crate) fn finish(&self) -> String {
        format!("{:016x}{:016x}", self.state[0], self.state[1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(parts: &[&str]) -> String {
        let mut key = Key::new();
        parts.iter().for_each(|part| key.add(part.as_bytes()));
        key.finish()
    }

    #[test]
    fn equal_parts_and_only_these_have_equal_keys() {
        assert_eq!(key(&["ab", "c"]), key(&["ab", "c"]));
        for other in [&["ab", "d"][..], &["a", "bc"], &["abc"], &["c", "ab"], &["ab", "c", ""]] {
            assert_ne!(key(&["ab", "c"]), key(other), "{other:?}");
        }
    }
}
