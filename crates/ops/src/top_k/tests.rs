//! Every position against a plain sort.

use cachalot_testkit::Random;

use super::*;
use crate::test_gpu::TestGpu;

/// Chooses from rows of different lengths; what stands behind a row would win if it were read.
fn check(device: &TestGpu, rows: &[Vec<f32>], k: usize) {
    let kernel = TopKKernel::new(&device.gpu).expect("the kernel");
    let max_length = rows.iter().map(Vec::len).max().unwrap_or(0).next_multiple_of(4);
    let padded = |row: &Vec<f32>| [&row[..], &vec![f32::INFINITY; max_length - row.len()]].concat();
    let scores: Vec<f32> = rows.iter().flat_map(padded).collect();
    let scores = device.strided([rows.len(), max_length], 4, &scores, f32::INFINITY);
    let lengths: Vec<i32> = rows.iter().map(|row| row.len() as i32).collect();
    let lengths = device.filled([rows.len()], &lengths);
    let mut out = device.unwritten(DType::I32, [rows.len(), k]);
    let args = TopK { scores: scores.view(), lengths: lengths.view(), out: out.view_mut() };
    top_k(&device.stream, &kernel, args).expect("valid arguments");
    for (row, out) in rows.iter().zip(device.read::<i32>(&out).chunks(k.max(1))) {
        let expected = reference::top_k(row, k);
        let wrong = out.iter().zip(&expected).position(|(out, expected)| out != expected);
        assert_eq!(wrong, None, "place in the choice of {k} of {}: {out:?}", row.len());
    }
}

/// What rows can be made of.
fn kinds() -> Vec<fn(&mut Random) -> f32> {
    vec![
        |random| random.gaussian(1)[0],
        // Many ties, some of them across the k-th place.
        |random| random.gaussian(1)[0].round(),
        |_| 1.0,
        // Zeros of both signs are equal, NaN of both signs is last.
        |random| [0.0, -0.0, f32::NAN, -f32::NAN, -1.0][random.below(5)],
        |_| f32::NAN,
        |_| f32::NEG_INFINITY,
        // Every digit of the key matters; infinities and NaN among them.
        |random| f32::from_bits(random.bits() as u32),
        // The last digit decides.
        |random| f32::from_bits(0x3f80_0000 | random.below(512) as u32),
    ]
}

#[test]
fn lengths_around_k_and_kinds_of_scores() {
    let device = TestGpu::new();
    for (seed, kind) in kinds().into_iter().enumerate() {
        let mut random = Random::new(seed as u64);
        let mut row = |len: usize| (0..len).map(|_| kind(&mut random)).collect::<Vec<f32>>();
        for k in [1, 7, 64] {
            let rows = [0, 1, k - 1, k, k + 1, k + 2, 100, 1023].map(&mut row);
            check(&device, &rows, k);
        }
        // More than one tile, and its edges.
        check(&device, &[2048, 2049, 4096, 4097, 8195].map(&mut row), 2048);
    }
}

#[test]
fn the_longest_row() {
    let device = TestGpu::new();
    check(&device, &[Random::new(1).gaussian(163_840)], 2048);
}

#[test]
fn nothing_to_do() {
    let device = TestGpu::new();
    check(&device, &[], 4);
    check(&device, &[vec![1.0, 2.0]], 0);
    check(&device, &[vec![]], 3);
}

#[test]
fn refusals_name_the_argument() {
    let device = TestGpu::new();
    let kernel = TopKKernel::new(&device.gpu).expect("the kernel");
    for (scores, lengths, out, message) in [
        (DType::F32, 3, [2, 4], "top_k: `num_rows` is 3 in `lengths`, 2 in `scores`"),
        (DType::F32, 2, [3, 4], "top_k: `num_rows` is 3 in `out`, 2 in `scores`"),
        (DType::BF16, 2, [2, 4], "top_k: `scores` of BF16 is not supported; supported: F32"),
    ] {
        let (scores, lengths) = (device.unwritten(scores, [2, 8]), device.unwritten(DType::I32, [lengths]));
        let mut out = device.unwritten(DType::I32, out);
        let args = TopK { scores: scores.view(), lengths: lengths.view(), out: out.view_mut() };
        assert_eq!(top_k(&device.stream, &kernel, args).expect_err(message).to_string(), message);
    }
}
