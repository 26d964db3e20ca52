//! Copies on the calling thread: a step writes two short rows per token and layer.

use cachalot_tensor::{DType, Element};
use half::bf16;

use crate::CacheWrite;
use crate::rows::f32_row;

pub(super) fn run(args: CacheWrite<'_>) {
    match args.cache.dtype() {
        DType::BF16 => write(args, bf16::from_f32),
        _ => write(args, |value: f32| value),
    }
}

fn write<T: Element>(args: CacheWrite<'_>, encode: impl Fn(f32) -> T) {
    let CacheWrite { rows, slot_mapping, cache } = args;
    let dim = rows.shape().dims()[1];
    let cache = cache.into_slice::<T>().expect("the dtype was checked");
    for (token, &slot) in slot_mapping.iter().enumerate() {
        let slot = slot as usize * dim;
        for (cached, &value) in cache[slot..slot + dim].iter_mut().zip(f32_row(&rows, token)) {
            *cached = encode(value);
        }
    }
}
