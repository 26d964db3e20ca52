//! Integers of 768 bits, enough to hold every sum and product of f32 values exactly.

use std::cmp::Ordering;

const WORDS: usize = 12;

/// A sign and a magnitude, the lowest word first.
#[derive(Clone, Copy)]
pub(super) struct Integer {
    negative: bool,
    words: [u64; WORDS],
}

impl Integer {
    pub(super) fn new(negative: bool, magnitude: u64) -> Integer {
        let mut words = [0; WORDS];
        words[0] = magnitude;
        Integer { negative, words }
    }

    pub(super) fn negate(self) -> Integer {
        Integer { negative: !self.negative, ..self }
    }

    pub(super) fn is_negative(self) -> bool {
        self.negative && self.words != [0; WORDS]
    }

    /// The integer times 2^`bits`.
    pub(super) fn shift(self, bits: u32) -> Integer {
        let (whole, part) = (bits as usize / 64, bits % 64);
        assert!(self.words[WORDS - whole - 1..].iter().all(|&word| word == 0), "too large");
        let mut words = [0; WORDS];
        let mut carry = 0;
        for (word, from) in words[whole..].iter_mut().zip(self.words) {
            let shifted = u128::from(from) << part;
            (*word, carry) = (shifted as u64 | carry, (shifted >> 64) as u64);
        }
        Integer { words, ..self }
    }

    pub(super) fn plus(self, other: Integer) -> Integer {
        if self.negative != other.negative {
            // Of different signs: the larger magnitude less the smaller.
            let (large, small) =
                if magnitudes(&self, &other) == Ordering::Less { (other, self) } else { (self, other) };
            let mut words = [0; WORDS];
            let mut borrow = false;
            for (i, word) in words.iter_mut().enumerate() {
                let (first, a) = large.words[i].overflowing_sub(small.words[i]);
                let (second, b) = first.overflowing_sub(borrow.into());
                (*word, borrow) = (second, a | b);
            }
            return Integer { negative: large.negative, words };
        }
        let mut words = [0; WORDS];
        let mut carry = false;
        for (i, word) in words.iter_mut().enumerate() {
            let (first, a) = self.words[i].overflowing_add(other.words[i]);
            let (second, b) = first.overflowing_add(carry.into());
            (*word, carry) = (second, a | b);
        }
        assert!(!carry, "too large");
        Integer { negative: self.negative, words }
    }

    pub(super) fn times(self, other: Integer) -> Integer {
        let mut words = [0; WORDS];
        for (i, &a) in self.words.iter().enumerate().filter(|&(_, &a)| a != 0) {
            let mut carry = 0_u128;
            for (j, &b) in other.words.iter().enumerate() {
                let Some(word) = words.get_mut(i + j) else {
                    assert!(b == 0 && carry == 0, "too large");
                    continue;
                };
                let full = u128::from(a) * u128::from(b) + u128::from(*word) + carry;
                (*word, carry) = (full as u64, full >> 64);
            }
        }
        Integer { negative: self.negative != other.negative, words }
    }

    /// The order of two values; zeros of both signs are equal.
    pub(super) fn order(self, other: Integer) -> Ordering {
        match (self.is_negative(), other.is_negative()) {
            (false, false) => magnitudes(&self, &other),
            (true, true) => magnitudes(&other, &self),
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
        }
    }
}

fn magnitudes(a: &Integer, b: &Integer) -> Ordering {
    a.words.iter().rev().cmp(b.words.iter().rev())
}
