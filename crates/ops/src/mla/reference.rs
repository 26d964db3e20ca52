//! The definition. Every key is expanded, and every query attends, on its own: no result can depend on what else is in the
//! step.

use candle_core::{Device, Tensor};
use candle_nn::ops::softmax_last_dim;

use super::{Mla, MlaDims, visible};
use crate::Result;
use crate::reference_util::{dequantise, tensor};

const OP: &str = "mla";

pub(super) fn expanded(args: Mla<'_>, dims: MlaDims) -> Result<()> {
    let MlaDims { num_heads, nope, rope, v, rank, .. } = dims;
    let scale = f64::from(args.softmax_scale);
    let w = dequantise(OP, args.kv_b_proj)?.reshape((num_heads, nope + v, rank))?;
    let w_uk = w.narrow(1, 0, nope)?.contiguous()?;
    let w_uv = w.narrow(1, nope, v)?.contiguous()?;
    for_each_query(args, |cache| {
        // [L, rank + rope] -> keys [heads, L, nope + rope] and values [heads, L, v]
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for position in 0..cache.dim(0)? {
            let row = cache.narrow(0, position, 1)?;
            let c = row.narrow(1, 0, rank)?.reshape((rank, 1))?.broadcast_left(num_heads)?.contiguous()?;
            let k_pe = row.narrow(1, rank, rope)?.broadcast_left(num_heads)?;
            let k_nope = w_uk.matmul(&c)?.t()?;
            keys.push(Tensor::cat(&[&k_nope, &k_pe], 2)?);
            values.push(w_uv.matmul(&c)?.t()?);
        }
        let (keys, values) = (Tensor::cat(&keys, 1)?.contiguous()?, Tensor::cat(&values, 1)?.contiguous()?);
        Ok(move |q: &Tensor, positions: &Tensor| {
            let (keys, values) = (keys.index_select(positions, 1)?, values.index_select(positions, 1)?);
            let logits = (q.unsqueeze(1)?.matmul(&keys.t()?)? * scale)?;
            softmax_last_dim(&logits)?.matmul(&values)
        })
    })
}

pub(super) fn absorbed(args: Mla<'_>, dims: MlaDims) -> Result<()> {
    let MlaDims { num_heads, nope, rope, v, rank, .. } = dims;
    let scale = f64::from(args.softmax_scale);
    let w = dequantise(OP, args.kv_b_proj)?.reshape((num_heads, nope + v, rank))?;
    let w_uk = w.narrow(1, 0, nope)?.contiguous()?;
    let w_uv = w.narrow(1, nope, v)?.contiguous()?;
    for_each_query(args, |cache| {
        let (w_uk, w_uv) = (w_uk.clone(), w_uv.clone());
        Ok(move |q: &Tensor, positions: &Tensor| {
            let keys = cache.index_select(positions, 0)?;
            let c = keys.narrow(1, 0, rank)?.contiguous()?;
            let q_nope = q.narrow(1, 0, nope)?.unsqueeze(1)?.contiguous()?;
            let q_lat = q_nope.matmul(&w_uk)?.squeeze(1)?;
            let q = Tensor::cat(&[&q_lat, &q.narrow(1, nope, rope)?], 1)?;
            let logits = (q.matmul(&keys.t()?)? * scale)?;
            let o_lat = softmax_last_dim(&logits)?.matmul(&c)?;
            o_lat.unsqueeze(1)?.matmul(&w_uv.t()?)
        })
    })
}

/// Calls `sequence` with the cache rows `[seq_len, rank + rope]` of each sequence, and what that returns with the query
/// `[num_heads, nope + rope]` and the visible positions of each of its rows; writes the result to `out`.
fn for_each_query<A>(args: Mla<'_>, sequence: impl Fn(Tensor) -> candle_core::Result<A>) -> Result<()>
where
    A: Fn(&Tensor, &Tensor) -> candle_core::Result<Tensor>,
{
    let Mla { q, kv_cache, seqs, topk_indices, mut out, .. } = args;
    for seq in 0..seqs.num_seqs() {
        let cache = seqs.gather(OP, seq, kv_cache)?;
        let attend = sequence(cache)?;
        for row in seqs.rows(seq) {
            let position = seqs.position(seq, row);
            let positions: Vec<u32> = match &topk_indices {
                None => (0..=position as u32).collect(),
                Some(chosen) => visible(chosen.row(row).expect("the dtype is checked"), position)
                    .iter()
                    .map(|&chosen| chosen as u32)
                    .collect(),
            };
            let out = out.row_mut::<f32>(row).expect("the dtype is checked");
            if positions.is_empty() {
                out.fill(0.0);
                continue;
            }
            let q = tensor(OP, &q.rows(row..row + 1))?.squeeze(0)?;
            let positions = Tensor::new(positions, &Device::Cpu)?;
            out.copy_from_slice(&attend(&q, &positions)?.flatten_all()?.to_vec1::<f32>()?);
        }
    }
    Ok(())
}
