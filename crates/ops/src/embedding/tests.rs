//! Every id finds its row, in every dtype, and none outside the table.

use cachalot_tensor::{Buffer, DType, View};
use cachalot_testkit::{Random, assert_same_bits};

use super::*;
use crate::reference_util::tensor;
use crate::test_util::{Strided, contexts};

fn check(dtype: DType, ids: &[u32], [vocab_size, hidden_size]: [usize; 2]) {
    let table = Random::new(1).matrix(dtype, [vocab_size, hidden_size], [1, 1]);
    let table = table.values().view();
    let values = tensor("test", &table).expect("floats").to_vec2::<f32>().expect("f32");
    let expected: Vec<f32> = ids.iter().flat_map(|&id| values[id as usize].clone()).collect();
    for ctx in contexts() {
        let mut out = Strided::nan([ids.len(), hidden_size]);
        embedding(&ctx, Embedding { ids, table, out: out.view_mut() }).expect("valid arguments");
        assert_same_bits(&out.into_values(), &expected, [ids.len(), hidden_size]);
    }
}

#[test]
fn rows_are_copied_unscaled() {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        check(dtype, &[], [5, 4]);
        check(dtype, &[0], [1, 1]);
        check(dtype, &[4, 0, 4, 2], [5, 33]);
        check(dtype, &Random::new(2).ids(129, 65), [65, 130]);
    }
}

#[test]
fn refusals_name_the_argument() {
    let table = [0.0f32; 6];
    for (ids, out, dtype, message) in [
        (vec![0, 3], [2, 2], DType::F32, "embedding: `ids[1]` is 3, must be below 3"),
        (vec![u32::MAX], [1, 2], DType::F32, "embedding: `ids[0]` is 4294967295, must be below 3"),
        (vec![0], [2, 2], DType::F32, "embedding: `num_tokens` is 2 in `out`, 1 in `ids`"),
        (vec![0], [1, 3], DType::F32, "embedding: `hidden_size` is 3 in `out`, 2 in `table`"),
        (vec![0], [1, 2], DType::BF16, "embedding: `out` of BF16 is not supported; supported: F32"),
    ] {
        for ctx in contexts() {
            let mut out = Buffer::zeros(dtype, out);
            let table = View::from_slice(&table, [3, 2]).expect("six values");
            let error = embedding(&ctx, Embedding { ids: &ids, table, out: out.view_mut() }).expect_err(message);
            assert_eq!(error.to_string(), message);
        }
    }
}

#[test]
fn a_table_of_integers_is_refused() {
    let (table, mut out) = (Buffer::zeros(DType::I32, [3, 2]), Buffer::zeros(DType::F32, [1, 2]));
    for ctx in contexts() {
        let args = Embedding { ids: &[0], table: table.view(), out: out.view_mut() };
        let error = embedding(&ctx, args).expect_err("I32");
        assert_eq!(error.to_string(), "embedding: `table` of I32 is not supported; supported: F32, F16, BF16");
    }
}
