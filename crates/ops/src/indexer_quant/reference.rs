//! Each step by its definition, in f64, rounded to bf16.

use half::bf16;

use super::INDEX_HEAD_DIM;
use crate::RopeLayout;
use crate::rope_cache_write::reference::rotate;

fn to_bf16(x: f64) -> f32 {
    bf16::from_f64(x).to_f32()
}

/// `weight · (x - mean) / sqrt(variance + eps) + bias`
pub(crate) fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32) -> Vec<f32> {
    let mean_of = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let x: Vec<f64> = x.iter().copied().map(f64::from).collect();
    let mean = mean_of(&x);
    let variance = mean_of(&x.iter().map(|x| (x - mean).powi(2)).collect::<Vec<_>>());
    let factor = (variance + f64::from(eps)).sqrt().recip();
    let element = |(i, x): (usize, &f64)| to_bf16((x - mean) * factor * f64::from(weight[i]) + f64::from(bias[i]));
    x.iter().enumerate().map(element).collect()
}

/// Rotates the first half and multiplies by the Hadamard matrix.
pub(crate) fn rotate_and_mix(x: &[f32], position: u32, inv_freq: &[f32]) -> Vec<f32> {
    let (rotary, rest) = x.split_at(2 * inv_freq.len());
    let rotated = rotate(rotary, position, inv_freq, RopeLayout::HalfSplit).into_iter().map(to_bf16);
    let z: Vec<f64> = rotated.chain(rest.iter().copied()).map(f64::from).collect();
    let mixed = |i: usize| -> f64 {
        let sign = |j: usize| if (i & j).count_ones().is_multiple_of(2) { 1.0 } else { -1.0 };
        z.iter().enumerate().map(|(j, z)| sign(j) * z).sum()
    };
    // The product in f32, as the kernel has it: it is the same if the sum is exact in f32.
    let scale = (INDEX_HEAD_DIM as f64).sqrt().recip() as f32;
    (0..INDEX_HEAD_DIM).map(|i| bf16::from_f32(mixed(i) as f32 * scale).to_f32()).collect()
}
