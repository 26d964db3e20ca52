//! The definition. Every token goes through each of its experts on its own.

use std::collections::BTreeMap;

use candle_core::Tensor;
use candle_nn::ops::silu;

use super::{Experts, OP};
use crate::Result;
use crate::reference_util::{dequantise, tensor};

pub(super) fn run(args: Experts<'_>) -> Result<()> {
    let Experts { x, experts, expert_ids, expert_weights, mut out } = args;
    let num_tokens = x.shape().num_rows();
    let slots = |token| {
        let ids: &[i32] = expert_ids.row(token).expect("the dtype is checked");
        let weights: &[f32] = expert_weights.row(token).expect("the dtype is checked");
        ids.iter().zip(weights).enumerate()
    };

    // Decoding an expert takes longer than applying it: it is decoded once for all tokens that chose it.
    let mut outputs: BTreeMap<(usize, usize), Tensor> = BTreeMap::new();
    for (id, expert) in (0..).zip(experts) {
        let mut decoded = None;
        for token in 0..num_tokens {
            for (slot, (_, &weight)) in slots(token).filter(|&(_, (&chosen, _))| chosen == id) {
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
                outputs.insert((token, slot), (activated.matmul(down)? * f64::from(weight))?);
            }
        }
    }
    for token in 0..num_tokens {
        let mut sum = Tensor::zeros_like(&tensor(OP, &x.rows(token..token + 1))?)?;
        for (slot, _) in slots(token) {
            sum = (sum + &outputs[&(token, slot)])?;
        }
        let out = out.row_mut::<f32>(token).expect("the dtype is checked");
        for (out, sum) in out.iter_mut().zip(sum.flatten_all()?.to_vec1::<f32>()?) {
            *out += sum;
        }
    }
    Ok(())
}
