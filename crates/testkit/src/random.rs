//! Inputs that are the same on every machine and in every run.

use cachalot_tensor::{BlockScales, DType, F8E4M3, Matrix, Tensor};
use half::{bf16, f16};

/// A stream of pseudo-random numbers (SplitMix64). Good for inputs of tests, for nothing else.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The stream of a seed.
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    /// Any 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// An integer from 0 to `limit - 1`.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.bits() % limit as u64) as usize
    }

    /// A value from -1 to just below 1, a multiple of 2^-23.
    pub fn value(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// `len` values from -1 to 1.
    pub fn values(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.value()).collect()
    }

    /// `len` small integers from `-largest` to `largest`: sums of their products are exact in f32, in any order.
    pub fn integers(&mut self, len: usize, largest: usize) -> Vec<f32> {
        (0..len).map(|_| self.below(2 * largest + 1) as f32 - largest as f32).collect()
    }

    /// The numbers from 0 to `len - 1`, in any order.
    pub fn permutation(&mut self, len: usize) -> Vec<usize> {
        let mut items: Vec<usize> = (0..len).collect();
        for last in (1..len).rev() {
            items.swap(last, self.below(last + 1));
        }
        items
    }

    /// A weight of f32, f16, bf16, or FP8 in blocks of `block`, that maps values of size 1 to values of size 1. FP8 codes
    /// are any but NaN.
    ///
    /// # Panics
    /// With another dtype.
    pub fn matrix(&mut self, dtype: DType, [rows, cols]: [usize; 2], block: [usize; 2]) -> Matrix {
        let len = rows * cols;
        let size = 1.0 / (cols as f32).sqrt();
        let shape = [rows, cols];
        let tensor = match dtype {
            DType::F32 => Tensor::from_slice(&self.sized::<f32>(len, size, |value| value), shape),
            DType::F16 => Tensor::from_slice(&self.sized(len, size, f16::from_f32), shape),
            DType::BF16 => Tensor::from_slice(&self.sized(len, size, bf16::from_f32), shape),
            DType::F8E4M3 => {
                let codes: Vec<F8E4M3> =
                    (0..len).map(|_| F8E4M3(self.below(0x7f) as u8 | (self.below(2) as u8) << 7)).collect();
                Tensor::from_slice(&codes, shape)
            }
            other => panic!("{other} is no dtype of weights"),
        };
        let scales = (dtype == DType::F8E4M3).then(|| {
            let shape = [rows.div_ceil(block[0]), cols.div_ceil(block[1])];
            // Codes spread evenly over magnitudes: their root mean square is near 112.
            let scales: Vec<f32> =
                (0..shape[0] * shape[1]).map(|_| (1.0 + 0.5 * self.value()) * size / 112.0).collect();
            BlockScales { scales: Tensor::from_slice(&scales, shape).expect("one per block"), block }
        });
        Matrix::new(tensor.expect("one value per element"), scales).expect("scales of the right shape")
    }

    fn sized<T>(&mut self, len: usize, size: f32, convert: impl Fn(f32) -> T) -> Vec<T> {
        (0..len).map(|_| convert(self.value() * size)).collect()
    }
}
