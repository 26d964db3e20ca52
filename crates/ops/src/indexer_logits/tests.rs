//! Scores against f64 from the same codes.

use cachalot_tensor::F8E4M3;
use cachalot_testkit::{Random, Tolerance, assert_close, assert_same_bits};

use super::reference::IndexerCase;
use super::*;
use crate::test_gpu::TestGpu;

/// What is in logits that must not be written.
const MARK: f32 = -77.0;
const GAP: usize = 4;
/// Of model-spec: DeepGEMM's cosine difference; f32 sums of 64 products of size 1.
const TOLERANCE: Tolerance = Tolerance { abs: 1e-5, rel: 1e-5, cosine: 5e-6 };

/// A part of a step's logits.
#[derive(Clone, Copy, Debug)]
struct Part {
    first_row: usize,
    num_rows: usize,
    first_position: usize,
    num_positions: usize,
    min_visible: usize,
}

fn all_of(case: &IndexerCase) -> Part {
    let num_positions = case.max_seq_len();
    Part { first_row: 0, num_rows: case.num_tokens, first_position: 0, num_positions, min_visible: 0 }
}

/// The logits of a part, after a check of what was not to be written.
fn run(device: &TestGpu, case: &IndexerCase, part: Part) -> Vec<Vec<f32>> {
    let kernel = IndexerLogitsKernel::new(&device.gpu).expect("the kernel");
    let on = case.on(device);
    let Part { first_row, num_rows, first_position, num_positions, min_visible } = part;
    let mut logits = device.strided([num_rows, num_positions], GAP, &vec![MARK; num_rows * num_positions], MARK);
    let args = IndexerLogits {
        q_codes: on.q_codes.view(),
        q_weights: on.q_weights.view(),
        cache: on.cache.view(),
        query_start_loc: on.query_start_loc.view(),
        seq_lens: on.seq_lens.view(),
        block_table: on.block_table.view(),
        first_row,
        first_position,
        min_visible,
        logits: logits.view_mut(),
    };
    indexer_logits(&device.stream, &kernel, args).expect("valid arguments");
    let logits = device.read_strided(&logits);
    let mut visible = vec![0; case.num_tokens];
    for (_, row, position) in case.queries() {
        if position + 1 >= min_visible {
            visible[row] = (position + 1).saturating_sub(first_position).min(num_positions);
        }
    }
    let rows = logits.chunks(num_positions.max(1)).enumerate().map(|(row, logits)| {
        let (written, rest) = logits.split_at(visible[first_row + row]);
        assert!(rest.iter().all(|&logit| logit == MARK), "row {row} of {part:?}: written past what it sees");
        written.to_vec()
    });
    rows.collect()
}

fn check(device: &TestGpu, case: &IndexerCase, part: Part) {
    let logits = run(device, case, part);
    for (seq, row, position) in case.queries() {
        let Some(logits) = row.checked_sub(part.first_row).and_then(|row| logits.get(row)) else { continue };
        if position + 1 >= part.min_visible && position >= part.first_position {
            let expected = case.logits(seq, row);
            let expected = &expected[part.first_position..][..logits.len()];
            assert_close(logits, expected, [expected.len()], TOLERANCE);
        }
    }
}

/// Decoding, one and several rows per sequence, and prefill; sequences without queries, and none at all.
const DECODE: &[(usize, usize)] = &[(1, 1), (63, 3), (64, 1), (65, 2), (7, 0), (0, 0), (1000, 4), (5000, 1)];
const PREFILL: &[(usize, usize)] = &[(70, 70), (1, 1), (300, 40), (129, 5)];

#[test]
fn every_row_of_ragged_batches() {
    let device = TestGpu::new();
    for (seed, num_heads) in [64, 4, 1, 23].into_iter().enumerate() {
        for seqs in [DECODE, PREFILL, &[]] {
            let case = IndexerCase::new(&mut Random::new(seed as u64), num_heads, seqs);
            check(&device, &case, all_of(&case));
        }
    }
}

#[test]
fn parts_of_rows_and_positions() {
    let device = TestGpu::new();
    let case = IndexerCase::new(&mut Random::new(9), 20, PREFILL);
    for first_row in [0, 1, 69, 71, 100] {
        for (first_position, num_positions, min_visible) in [(0, 128, 0), (128, 77, 60), (256, 400, 0), (0, 300, 65)] {
            let num_rows = (case.num_tokens - first_row).min(33);
            check(&device, &case, Part { first_row, num_rows, first_position, num_positions, min_visible });
        }
    }
}

#[test]
fn more_sequences_than_threads() {
    let device = TestGpu::new();
    let seqs: Vec<(usize, usize)> = (0..300).map(|seq| (1 + seq % 3, 1)).collect();
    let case = IndexerCase::new(&mut Random::new(10), 4, &seqs);
    check(&device, &case, all_of(&case));
    check(&device, &case, Part { first_row: 250, num_rows: 40, ..all_of(&case) });
}

#[test]
fn a_row_alone_has_the_same_logits() {
    let device = TestGpu::new();
    let case = IndexerCase::new(&mut Random::new(11), 64, &[(200, 60), (130, 3), (65, 1)]);
    let together = run(&device, &case, all_of(&case));
    for (seq, rows) in [(0, 0..1), (0, 31..34), (0, 59..60), (1, 61..63), (2, 63..64)] {
        let only = case.only(&mut Random::new(12), seq, rows.clone());
        let alone = run(&device, &only, all_of(&only));
        for (logits, row) in alone.iter().zip(rows) {
            assert_same_bits(logits, &together[row], [logits.len()]);
        }
    }
}

#[test]
fn nan_and_infinity_stay_where_they_are() {
    let device = TestGpu::new();
    let mut case = IndexerCase::new(&mut Random::new(13), 4, &[(70, 2)]);
    let mut keys = case.keys[0].clone();
    keys[3].codes[100] = F8E4M3(0x7f);
    keys[68].scale = f32::INFINITY;
    case = IndexerCase::with(&mut Random::new(14), 4, case.q_codes, case.q_weights, vec![keys], &[2]);
    for row in &run(&device, &case, all_of(&case))[..2] {
        let not_finite: Vec<usize> = (0..row.len()).filter(|&position| !row[position].is_finite()).collect();
        assert_eq!(not_finite, [3, 68]);
        assert!(row[3].is_nan());
    }
}

#[test]
fn refusals_name_the_argument() {
    let device = TestGpu::new();
    let kernel = IndexerLogitsKernel::new(&device.gpu).expect("the kernel");
    let run = |num_heads: usize, first_row: usize, first_position: usize, num_starts: usize| {
        let q_codes = device.unwritten(DType::F8E4M3, [3, num_heads, INDEX_HEAD_DIM]);
        let q_weights = device.unwritten(DType::F32, [3, num_heads]);
        let cache = device.unwritten(DType::U8, [2, 64, 132]);
        let (starts, lens) = (device.unwritten(DType::I32, [num_starts]), device.unwritten(DType::I32, [1]));
        let block_table = device.unwritten(DType::I32, [1, 2]);
        let mut logits = device.unwritten(DType::F32, [2, 128]);
        let args = IndexerLogits {
            q_codes: q_codes.view(),
            q_weights: q_weights.view(),
            cache: cache.view(),
            query_start_loc: starts.view(),
            seq_lens: lens.view(),
            block_table: block_table.view(),
            first_row,
            first_position,
            min_visible: 0,
            logits: logits.view_mut(),
        };
        indexer_logits(&device.stream, &kernel, args).expect_err("wrong arguments").to_string()
    };
    for (error, message) in [
        (run(65, 0, 0, 2), "`index_n_heads` of 65 is not supported; supported: at most 64"),
        (run(64, 2, 0, 2), "`first_row + num_rows[0]` is 4, must be below 4"),
        (run(64, 0, 64, 2), "`first_position` of 64 is not supported; supported: multiples of 128"),
        (run(64, 0, 0, 3), "`num_seqs + 1` is 3 in `query_start_loc`, 2 in `seq_lens`"),
    ] {
        assert_eq!(error, format!("indexer_logits: {message}"));
    }
}
