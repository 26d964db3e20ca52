//! The definition. Every token goes through each of its experts on its own.

use candle_nn::ops::silu;

use super::{Experts, OP};
use crate::Result;
use crate::reference_util::{dequantise, tensor};

pub(super) fn run(args: Experts<'_>) -> Result<()> {
    let Experts { x, experts, expert_ids, expert_weights, mut out } = args;
    for (id, expert) in (0..).zip(experts) {
        // Decoding an expert takes longer than applying it: it is decoded once for all tokens that chose it.
        let mut decoded = None;
        for token in 0..x.shape().num_rows() {
            let ids: &[i32] = expert_ids.row(token).expect("the dtype was checked");
            let weights: &[f32] = expert_weights.row(token).expect("the dtype was checked");
            for (_, &weight) in ids.iter().zip(weights).filter(|&(&chosen, _)| chosen == id) {
                let (gate, up, down) = match &decoded {
                    Some(decoded) => decoded,
                    None => decoded.insert((
                        dequantise(OP, &expert.gate_proj)?.t()?,
                        dequantise(OP, &expert.up_proj)?.t()?,
                        dequantise(OP, &expert.down_proj)?.t()?,
                    )),
                };
                let x = tensor(OP, &x.rows(token..token + 1))?;
                let activated = (silu(&x.matmul(gate)?)? * x.matmul(up)?)?;
                let y = (activated.matmul(down)? * f64::from(weight))?.flatten_all()?.to_vec1::<f32>()?;
                let out = out.row_mut::<f32>(token).expect("the dtype was checked");
                out.iter_mut().zip(y).for_each(|(out, y)| *out += y);
            }
        }
    }
    Ok(())
}
