//! The definition. Every query is scored on its own.

use candle_core::IndexOp;

use super::{Indexer, NO_POSITION, OP, choose_all};
use crate::Result;
use crate::order::best_first;
use crate::reference_util::tensor;

pub(super) fn run(args: Indexer<'_>) -> Result<()> {
    let Indexer { q, weights, key_cache, seqs, scale, mut out } = args;
    let index_topk = out.shape().dims()[1];
    for seq in 0..seqs.num_seqs() {
        let keys = seqs.gather(OP, seq, key_cache)?;
        for row in seqs.rows(seq) {
            let num_visible = seqs.position(seq, row) + 1;
            let out = out.row_mut::<i32>(row).expect("the dtype is checked");
            if num_visible <= index_topk {
                choose_all(num_visible, out);
                continue;
            }
            let q = tensor(OP, &q.rows(row..row + 1))?.i(0)?;
            let weights = tensor(OP, &weights.rows(row..row + 1))?.t()?;
            let dots = q.matmul(&keys.narrow(0, 0, num_visible)?.t()?)?;
            // Not candle's relu, which turns NaN into 0.
            let relu = dots.lt(0.0)?.where_cond(&dots.zeros_like()?, &dots)?;
            let scores = (relu.broadcast_mul(&weights)?.sum(0)? * f64::from(scale))?.to_vec1::<f32>()?;

            let mut positions: Vec<usize> = (0..num_visible).collect();
            // The sort is stable: equal scores stay in ascending order.
            positions.sort_by(|&a, &b| best_first(scores[a], scores[b]));
            positions.truncate(index_topk);
            positions.sort();
            out.fill(NO_POSITION);
            for (slot, position) in out.iter_mut().zip(positions) {
                *slot = position as i32;
            }
        }
    }
    Ok(())
}
