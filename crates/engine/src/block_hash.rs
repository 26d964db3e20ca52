//! What a block of the cache is known by.
//!
//! The keys of a token depend on all tokens before it, so a block is known by its own tokens and by the block before it:
//! `hash(b) = H(hash(b − 1), tokens of b)`, and `hash(−1) = H(salt)`. The salt keeps those apart who shall not find out, by
//! how fast they are answered, what others have asked.
//!
//! `H` is SipHash-1-3 with 128 bits and a key drawn at random when the engine starts: who does not know the key cannot
//! make two prompts with the same hash, and by accident that does not happen either (2⁻⁶⁴ after 2³² blocks).
//!
//! With an MTP module a block also holds the keys of that module, and the one of position `p` is made from token `p + 1`. So
//! the hash covers one token more than the block has, and whoever goes on with another token has another block.

use std::hash::{BuildHasher, Hasher, RandomState};

use cachalot_model::BLOCK_SIZE;
use siphasher::sip128::{Hasher128, SipHasher13};

/// The name of a full block and all before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct BlockHash(u128);

impl BlockHash {
    #[cfg(test)]
    pub(crate) fn new(hash: u128) -> Self {
        BlockHash(hash)
    }
}

/// Hashes the blocks of sequences.
#[derive(Clone, Debug)]
pub(crate) struct BlockHasher {
    hasher: SipHasher13,
    /// Tokens after a block that its keys depend on: 1 with an MTP module, else 0.
    lookahead: usize,
}

impl BlockHasher {
    pub(crate) fn new(has_mtp: bool) -> Self {
        let random = || RandomState::new().hash_one(0);
        BlockHasher { hasher: SipHasher13::new_with_keys(random(), random()), lookahead: usize::from(has_mtp) }
    }

    /// Adds to `hashes`, those of the first blocks of a sequence, the hashes of further blocks whose tokens are known.
    pub(crate) fn extend(&self, hashes: &mut Vec<BlockHash>, salt: &str, token_ids: &[u32]) {
        let num_known = token_ids.len().saturating_sub(self.lookahead) / BLOCK_SIZE;
        let mut parent = match hashes.last() {
            Some(&hash) => hash,
            None => self.hash(|hasher| hasher.write(salt.as_bytes())),
        };
        for block in hashes.len()..num_known {
            let start = block * BLOCK_SIZE;
            let token_ids = &token_ids[start..start + BLOCK_SIZE + self.lookahead];
            parent = self.hash(|hasher| {
                hasher.write_u128(parent.0);
                hasher.write(bytemuck::cast_slice(token_ids));
            });
            hashes.push(parent);
        }
    }

    fn hash(&self, write: impl FnOnce(&mut SipHasher13)) -> BlockHash {
        let mut hasher = self.hasher;
        write(&mut hasher);
        BlockHash(hasher.finish128().as_u128())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashes(hasher: &BlockHasher, salt: &str, token_ids: &[u32]) -> Vec<BlockHash> {
        let mut hashes = Vec::new();
        hasher.extend(&mut hashes, salt, token_ids);
        hashes
    }

    #[test]
    fn a_hash_names_the_salt_and_every_token_up_to_the_end_of_the_block() {
        let hasher = BlockHasher::new(false);
        let token_ids: Vec<u32> = (0..200).collect();
        let base = hashes(&hasher, "", &token_ids);
        assert_eq!(base.len(), 3);
        assert_eq!(hashes(&hasher, "", &token_ids[..128]), base[..2]);
        assert_eq!(hashes(&hasher, "", &token_ids[..127]), base[..1]);
        let first_difference = |other: &[BlockHash]| base.iter().zip(other).position(|(a, b)| a != b);
        for changed in 0..200 {
            let mut token_ids = token_ids.clone();
            token_ids[changed] = 999;
            let expected = (changed < 192).then_some(changed / 64);
            assert_eq!(first_difference(&hashes(&hasher, "", &token_ids)), expected, "token {changed}");
        }
        assert_eq!(first_difference(&hashes(&hasher, "tenant", &token_ids)), Some(0));
        assert_eq!(first_difference(&hashes(&BlockHasher::new(false), "", &token_ids)), Some(0), "the key is random");
    }

    #[test]
    fn with_an_mtp_module_a_hash_names_the_token_after_the_block_too() {
        let hasher = BlockHasher::new(true);
        let token_ids: Vec<u32> = (0..129).collect();
        let base = hashes(&hasher, "", &token_ids);
        assert_eq!(base.len(), 2);
        assert_eq!(hashes(&hasher, "", &token_ids[..128]), base[..1]);
        let mut other = token_ids;
        other[64] = 999;
        assert_ne!(hashes(&hasher, "", &other)[0], base[0]);
        other[64] = 64;
        other[128] = 999;
        let other = hashes(&hasher, "", &other);
        assert_eq!((other[0], other[1] == base[1]), (base[0], false));
    }

    #[test]
    fn hashes_are_extended_as_tokens_come() {
        let hasher = BlockHasher::new(true);
        let token_ids: Vec<u32> = (0..300).map(|i| i * i).collect();
        let mut grown = Vec::new();
        for len in 0..=token_ids.len() {
            hasher.extend(&mut grown, "salt", &token_ids[..len]);
            assert_eq!(grown.len(), len.saturating_sub(1) / 64);
        }
        assert_eq!(grown, hashes(&hasher, "salt", &token_ids));
    }
}
