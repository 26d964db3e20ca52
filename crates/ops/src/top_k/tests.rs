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

/// Chooses from rows a stretch at a time; what the rows do not see would win if it were read.
fn check_merge(device: &TestGpu, rows: &[Vec<f32>], k: usize, stretch: usize, rows_at_once: usize) {
    let kernel = TopKMergeKernel::new(&device.gpu).expect("the kernel");
    let num_padding = 1;
    let num_tokens = rows.len() + num_padding;
    let mut positions: Vec<i32> = rows.iter().map(|row| row.len() as i32 - 1).collect();
    positions.resize(num_tokens, i32::MAX);
    let positions = device.filled([num_tokens], &positions);
    let num_real = device.filled([1], &[rows.len() as i32]);
    let mut out = device.filled([num_tokens, k], &vec![-9; num_tokens * k]);
    let longest = rows.iter().map(Vec::len).max().expect("a row");
    for first_row in (0..num_tokens).step_by(rows_at_once) {
        let num_rows = rows_at_once.min(num_tokens - first_row);
        let row_len = (k + stretch).next_multiple_of(4);
        let mut scores = vec![f32::INFINITY; num_rows * row_len];
        for first_position in (0..longest).step_by(stretch) {
            let num_carried = k.min(first_position);
            for (row, scores) in scores.chunks_mut(row_len).enumerate() {
                scores[num_carried..].fill(f32::INFINITY);
                let unseen = rows.get(first_row + row).and_then(|row| row.get(first_position..)).unwrap_or(&[]);
                let new = &unseen[..stretch.min(unseen.len())];
                scores[num_carried..][..new.len()].copy_from_slice(new);
            }
            let mut on_device = device.filled([num_rows, row_len], &scores);
            let args = TopKMerge {
                scores: on_device.view_mut().columns(0..num_carried + stretch),
                first_row,
                first_position,
                positions: positions.view(),
                num_tokens: num_real.view(),
                out: out.view_mut(),
            };
            top_k_merge(&device.stream, &kernel, args).expect("valid arguments");
            scores = device.read(&on_device);
        }
    }
    let out = device.read::<i32>(&out);
    for (row, out) in rows.iter().zip(out.chunks(k)) {
        assert_eq!(out, reference::top_k(row, k), "{k} of {} by {stretch}", row.len());
    }
    assert!(out[rows.len() * k..].iter().all(|&position| position == -9), "a row of padding");
}

#[test]
fn stretches_of_a_row_give_the_choice_of_the_row() {
    let device = TestGpu::new();
    for (seed, kind) in kinds().into_iter().enumerate() {
        let mut random = Random::new(seed as u64);
        let mut row = |len: usize| (0..len).map(|_| kind(&mut random)).collect::<Vec<f32>>();
        let rows = [1, 63, 64, 65, 200, 256, 257, 600].map(&mut row);
        for (k, stretch, rows_at_once) in [(64, 128, 3), (64, 64, 9), (1, 100, 9), (200, 64, 4), (64, 600, 9)] {
            check_merge(&device, &rows, k, stretch, rows_at_once);
        }
    }
    // More than one tile of carried and new scores.
    let mut random = Random::new(20);
    let rows = [9000, 7001].map(|len| (0..len).map(|_| random.gaussian(1)[0].round()).collect::<Vec<f32>>());
    for (k, stretch) in [(2048, 3000), (5000, 1024)] {
        check_merge(&device, &rows, k, stretch, 2);
    }
}

#[test]
fn refusals_of_a_merge_name_the_argument() {
    let device = TestGpu::new();
    let kernel = TopKMergeKernel::new(&device.gpu).expect("the kernel");
    let positions = device.unwritten(DType::I32, [3]);
    for (first_row, num_scores, num_tokens, message) in [
        (2, 12, 1, "`first_row + num_rows[0]` is 4, must be below 4"),
        (0, 4, 1, "`num_scores` of 4 is not supported; supported: room for the carried scores"),
        (0, 12, 2, "`1` is 2 in `num_tokens`, 1 in `one number`"),
    ] {
        let mut scores = device.unwritten(DType::F32, [2, num_scores]);
        let num_tokens = device.unwritten(DType::I32, [num_tokens]);
        let mut out = device.unwritten(DType::I32, [3, 8]);
        let args = TopKMerge {
            scores: scores.view_mut(),
            first_row,
            first_position: 64,
            positions: positions.view(),
            num_tokens: num_tokens.view(),
            out: out.view_mut(),
        };
        let error = top_k_merge(&device.stream, &kernel, args).expect_err(message);
        assert_eq!(error.to_string(), format!("top_k_merge: {message}"));
    }
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
