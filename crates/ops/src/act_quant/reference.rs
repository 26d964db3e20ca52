//! `s = max(max|x|, 1e-4) / 448, code = e4m3(x / s)`

use cachalot_tensor::F8E4M3;

use super::ScaleFormat;
use crate::numerics::{E4M3_MAX, f32_to_e4m3};

/// Codes and scale of one group.
pub(crate) fn quantise_group(group: &[f32], format: ScaleFormat) -> (Vec<F8E4M3>, f32) {
    // `f32::max` passes NaN over.
    let amax = group.iter().fold(1e-4, |amax: f32, x| amax.max(x.abs()));
    let scale = match format {
        ScaleFormat::F32 => amax / E4M3_MAX,
        // In f64, whose logarithm is exact for powers of two and close enough to keep their neighbours apart.
        ScaleFormat::Ue8m0 => f64::from(amax / E4M3_MAX).log2().ceil().exp2() as f32,
    };
    let code = |x: &f32| match x / scale {
        // The instruction knows one NaN.
        x if x.is_nan() => F8E4M3(0x7f),
        x => f32_to_e4m3(x),
    };
    (group.iter().map(code).collect(), scale)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numerics::e4m3_to_f32;

    #[test]
    fn scales_are_those_of_the_published_quantiser() {
        let tiny = 1e-4 / 448.0;
        for (amax, plain, ue8m0) in [
            (0.0, tiny, 2f32.powi(-22)),
            (5e-5, tiny, 2f32.powi(-22)),
            (448.0, 1.0, 1.0),
            (-448.0, 1.0, 1.0),
            (3584.0, 8.0, 8.0),
            (3.5, 1.0 / 128.0, 1.0 / 128.0),
            (448f32.next_up(), 1f32.next_up(), 2.0),
            (448f32.next_down(), 448f32.next_down() / 448.0, 1.0),
            (449.0, 449.0 / 448.0, 2.0),
            (f32::INFINITY, f32::INFINITY, f32::INFINITY),
        ] {
            let group = [amax, 0.0, -0.0];
            for (format, expected) in [(ScaleFormat::F32, plain), (ScaleFormat::Ue8m0, ue8m0)] {
                assert_eq!(quantise_group(&group, format).1, expected, "{amax} {format:?}");
            }
        }
    }

    #[test]
    fn codes_times_scale_are_the_values() {
        for format in [ScaleFormat::F32, ScaleFormat::Ue8m0] {
            let group = [448.0, -224.0, 1.0, -0.0, 0.001953125, f32::NAN];
            let (codes, scale) = quantise_group(&group, format);
            let values: Vec<f32> = codes.iter().map(|&code| e4m3_to_f32(code) * scale).collect();
            assert_eq!(values[..5], group[..5]);
            assert!(values[5].is_nan() && values[3].is_sign_negative());
        }
    }
}
