//! The 16×8 product that `mma` does once and `wgmma` does for every eight columns.

use super::element::{Accumulator, Element};

/// The most elements of K in one instruction.
const MAX_K: usize = 32;

/// Sixteen rows of A.
pub(crate) struct ABlock {
    /// `[row][k]`
    values: [[f64; MAX_K]; 16],
}

impl ABlock {
    /// Of zeros.
    pub(crate) fn new() -> ABlock {
        ABlock { values: [[0.0; MAX_K]; 16] }
    }

    /// From a warp's registers.
    pub(crate) fn from_registers(element: Element, registers: &[[u32; 32]]) -> ABlock {
        let mut block = ABlock::new();
        for (register, words) in registers.iter().enumerate() {
            for (lane, &word) in words.iter().enumerate() {
                block.set_word(element, lane / 4 + 8 * (register % 2), lane % 4 + 4 * (register / 2), word);
            }
        }
        block
    }

    /// Sets the elements in the 32-bit word of `row` that is number `index` along K.
    pub(crate) fn set_word(&mut self, element: Element, row: usize, index: usize, word: u32) {
        let count = element.per_word();
        for (place, value) in self.values[row][index * count..][..count].iter_mut().zip(element.decode(word)) {
            *place = value;
        }
    }

    /// Sets one element.
    pub(crate) fn set(&mut self, row: usize, k: usize, value: f64) {
        self.values[row][k] = value;
    }

    /// Multiplies every element by −1.
    pub(crate) fn negate(&mut self) {
        for value in self.values.as_flattened_mut() {
            *value = -*value;
        }
    }
}

/// Eight columns of B.
pub(crate) struct BBlock {
    /// `[k][column]`
    values: [[f64; 8]; MAX_K],
}

impl BBlock {
    /// Of zeros.
    pub(crate) fn new() -> BBlock {
        BBlock { values: [[0.0; 8]; MAX_K] }
    }

    /// From a warp's registers.
    pub(crate) fn from_registers(element: Element, registers: &[[u32; 32]]) -> BBlock {
        let mut block = BBlock::new();
        for (register, words) in registers.iter().enumerate() {
            for (lane, &word) in words.iter().enumerate() {
                block.set_word(element, lane / 4, lane % 4 + 4 * register, word);
            }
        }
        block
    }

    /// Sets the elements in the 32-bit word of `column` that is number `index` along K.
    pub(crate) fn set_word(&mut self, element: Element, column: usize, index: usize, word: u32) {
        let count = element.per_word();
        for (row, value) in self.values[index * count..][..count].iter_mut().zip(element.decode(word)) {
            row[column] = value;
        }
    }

    /// Sets one element.
    pub(crate) fn set(&mut self, k: usize, column: usize, value: f64) {
        self.values[k][column] = value;
    }
}

/// Sixteen rows and eight columns of C or D.
pub(crate) struct Block {
    /// `[row][column]`; lane after lane holds two neighbours of the first eight rows, and of the last eight.
    values: [[f64; 8]; 16],
}

impl Block {
    /// Of zeros.
    pub(crate) fn new() -> Block {
        Block { values: [[0.0; 8]; 16] }
    }

    /// From a warp's registers.
    pub(crate) fn load(accumulator: Accumulator, registers: &[[u32; 32]]) -> Block {
        let mut block = Block::new();
        let per_row = accumulator.registers() / 2;
        for (half, registers) in registers.chunks_exact(per_row).enumerate() {
            let pairs = block.values[8 * half..8 * half + 8].as_flattened_mut().as_chunks_mut().0;
            for (lane, pair) in pairs.iter_mut().enumerate() {
                *pair = accumulator.decode([registers[0][lane], registers[per_row - 1][lane]]);
            }
        }
        block
    }

    /// Into a warp's registers.
    pub(crate) fn store(&self, accumulator: Accumulator, registers: &mut [[u32; 32]]) {
        let per_row = accumulator.registers() / 2;
        for (half, registers) in registers.chunks_exact_mut(per_row).enumerate() {
            let pairs = self.values[8 * half..8 * half + 8].as_flattened().as_chunks().0;
            for (lane, pair) in pairs.iter().enumerate() {
                for (register, bits) in registers.iter_mut().zip(accumulator.encode(*pair)) {
                    register[lane] = bits;
                }
            }
        }
    }

    /// Adds `A·B`, of which the first `k` columns and rows count.
    pub(crate) fn add_product(&mut self, a: &ABlock, b: &BBlock, k: usize) {
        let b = &b.values[..k];
        for (row, a) in self.values.iter_mut().zip(&a.values) {
            // In a local, so that the sums stay in registers.
            let mut sums = *row;
            for (&a, b) in a.iter().zip(b) {
                for (sum, &b) in sums.iter_mut().zip(b) {
                    *sum += a * b;
                }
            }
            *row = sums;
        }
    }
}
