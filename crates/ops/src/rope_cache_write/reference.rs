//! `(a, b) -> (a cos - b sin, a sin + b cos)` in f64.

use crate::RopeLayout;

/// The rotated elements of one head; the angle is rounded to f32, as the definition of `rope` has it.
pub(crate) fn rotate(x: &[f32], position: u32, inv_freq: &[f32], layout: RopeLayout) -> Vec<f64> {
    let mut rotated = vec![0.0; x.len()];
    for (j, inv_freq) in inv_freq.iter().enumerate() {
        let (first, second) = match layout {
            RopeLayout::Interleaved => (2 * j, 2 * j + 1),
            RopeLayout::HalfSplit => (j, j + x.len() / 2),
        };
        let (sin, cos) = f64::from(position as f32 * inv_freq).sin_cos();
        let (a, b) = (f64::from(x[first]), f64::from(x[second]));
        rotated[first] = a * cos - b * sin;
        rotated[second] = a * sin + b * cos;
    }
    rotated
}
