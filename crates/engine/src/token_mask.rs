//! A set of tokens, one bit each.

/// The tokens that may come next, of a vocabulary of fixed size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenMask {
    vocab_size: usize,
    /// Token `id` is bit `id % 32` of word `id / 32`. Bits past the vocabulary are 0.
    words: Vec<u32>,
}

impl TokenMask {
    /// The empty set.
    pub fn new(vocab_size: usize) -> Self {
        TokenMask { vocab_size, words: vec![0; vocab_size.div_ceil(32)] }
    }

    /// Tokens of the vocabulary.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Whether the set has no token.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|&word| word == 0)
    }

    /// Whether a token is in the set.
    pub fn contains(&self, id: u32) -> bool {
        self.words.get(id as usize / 32).is_some_and(|word| word >> (id % 32) & 1 == 1)
    }

    /// Removes every token.
    pub fn clear(&mut self) {
        self.words.fill(0);
    }

    /// Adds every token of the vocabulary.
    pub fn fill(&mut self) {
        self.words.fill(u32::MAX);
        self.clear_past_vocabulary();
    }

    /// Adds a token; one outside of the vocabulary never comes up, and is ignored.
    pub fn insert(&mut self, id: u32) {
        if (id as usize) < self.vocab_size {
            self.words[id as usize / 32] |= 1 << (id % 32);
        }
    }

    /// Removes a token.
    pub fn remove(&mut self, id: u32) {
        if let Some(word) = self.words.get_mut(id as usize / 32) {
            *word &= !(1 << (id % 32));
        }
    }

    /// Becomes the set that these words describe: token `id` is bit `id % 32` of word `id / 32`. Tokens past the last word are
    /// not in it; those past the vocabulary are left out.
    pub fn copy_from_words(&mut self, words: &[u32]) {
        let count = words.len().min(self.words.len());
        self.words[..count].copy_from_slice(&words[..count]);
        self.words[count..].fill(0);
        self.clear_past_vocabulary();
    }

    /// Rules out the tokens that are not in the set.
    pub(crate) fn apply(&self, logits: &mut [f32]) {
        for (&word, logits) in self.words.iter().zip(logits.chunks_mut(32)) {
            match word {
                u32::MAX => {}
                0 => logits.fill(f32::NEG_INFINITY),
                _ => {
                    for (bit, logit) in logits.iter_mut().enumerate() {
                        if word >> bit & 1 == 0 {
                            *logit = f32::NEG_INFINITY;
                        }
                    }
                }
            }
        }
    }

    fn clear_past_vocabulary(&mut self) {
        if let (Some(last), num_used @ 1..) = (self.words.last_mut(), self.vocab_size % 32) {
            *last &= (1 << num_used) - 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(mask: &TokenMask) -> Vec<u32> {
        (0..200).filter(|&id| mask.contains(id)).collect()
    }

    #[test]
    fn a_mask_is_a_set_within_its_vocabulary() {
        for vocab_size in [1, 31, 32, 33, 64, 70] {
            let all: Vec<u32> = (0..vocab_size as u32).collect();
            let mut mask = TokenMask::new(vocab_size);
            assert!(mask.is_empty() && members(&mask).is_empty());
            mask.fill();
            assert_eq!(members(&mask), all);
            mask.copy_from_words(&[u32::MAX; 9]);
            assert_eq!(members(&mask), all);
            mask.copy_from_words(&[1]);
            assert_eq!(members(&mask), [0]);
            mask.remove(0);
            mask.remove(500);
            mask.insert(vocab_size as u32);
            assert!(mask.is_empty(), "{vocab_size}");
            mask.insert(vocab_size as u32 - 1);
            assert_eq!(members(&mask), [vocab_size as u32 - 1]);

            let mut logits = vec![1.0; vocab_size];
            mask.apply(&mut logits);
            let left: Vec<usize> = (0..vocab_size).filter(|&id| logits[id] == 1.0).collect();
            assert_eq!(left, [vocab_size - 1]);
            mask.clear();
            mask.apply(&mut logits);
            assert!(logits.iter().all(|&logit| logit == f32::NEG_INFINITY));
        }
    }
}
