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

    /// `len` values of mean 0 and variance 1.
    pub fn gaussian(&mut self, len: usize) -> Vec<f32> {
        let mut unit = || (self.bits() >> 11) as f64 / (1u64 << 53) as f64;
        // Box-Muller; `1 - unit` is never 0, so that the logarithm is finite.
        let mut one = || (-2.0 * (1.0 - unit()).ln()).sqrt() * (std::f64::consts::TAU * unit()).cos();
        (0..len).map(|_| one() as f32).collect()
    }

    /// `len` integers below `limit`: token ids, slots, positions.
    ///
    /// # Panics
    /// If `limit` does not fit 32 bits.
    pub fn ids(&mut self, len: usize, limit: usize) -> Vec<u32> {
        (0..len).map(|_| u32::try_from(self.below(limit)).expect("a limit of 32 bits")).collect()
    }

    /// A vector of f32, f16 or bf16 from -1 to 1: the weight or the bias of a norm.
    ///
    /// # Panics
    /// With another dtype.
    pub fn vector(&mut self, dtype: DType, len: usize) -> Tensor {
        let tensor = match dtype {
            DType::F32 => Tensor::from_slice(&self.values(len), [len]),
            DType::F16 => Tensor::from_slice(&self.sized(len, 1.0, f16::from_f32), [len]),
            DType::BF16 => Tensor::from_slice(&self.sized(len, 1.0, bf16::from_f32), [len]),
            other => panic!("{other} is no dtype of norms"),
        };
        tensor.expect("one value per element")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_of_a_seed_never_changes() {
        // SplitMix64's published outputs for this seed.
        let mut random = Random::new(1_234_567);
        assert_eq!(random.bits(), 6_457_827_717_110_365_317);
        assert_eq!(random.bits(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn values_are_spread_as_promised() {
        let mut random = Random::new(2);
        let moments = |values: &[f32]| {
            let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / values.len() as f64;
            (mean, values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / values.len() as f64)
        };
        let (mean, variance) = moments(&random.gaussian(100_000));
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.02, "gaussian: {mean} {variance}");
        let values = random.values(100_000);
        let (mean, variance) = moments(&values);
        assert!(mean.abs() < 0.02 && (variance - 1.0 / 3.0).abs() < 0.02, "values: {mean} {variance}");
        assert!(values.iter().all(|v| (-1.0..1.0).contains(v)));
        assert!(random.integers(1000, 3).iter().all(|v| v.abs() <= 3.0 && v.fract() == 0.0));
        assert!(random.ids(1000, 7).iter().all(|&id| id < 7));
        let mut permutation = random.permutation(100);
        assert_ne!(permutation, (0..100).collect::<Vec<_>>());
        permutation.sort_unstable();
        assert_eq!(permutation, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn matrices_of_every_dtype_have_their_shape() {
        for dtype in [DType::F32, DType::F16, DType::BF16, DType::F8E4M3] {
            let matrix = Random::new(3).matrix(dtype, [300, 70], [128, 64]);
            assert_eq!((matrix.num_rows(), matrix.num_cols(), matrix.values().dtype()), (300, 70, dtype));
            let scales = matrix.scales().map(|scales| scales.scales.shape().dims().to_vec());
            assert_eq!(scales, (dtype == DType::F8E4M3).then(|| vec![3, 2]));
            if dtype == DType::F8E4M3 {
                let mut seen = [false; 256];
                matrix.values().bytes().iter().for_each(|&code| seen[code as usize] = true);
                let missing: Vec<usize> = (0..256).filter(|&code| !seen[code]).collect();
                assert_eq!(missing, [0x7f, 0xff], "every code but NaN");
            }
        }
    }
}
