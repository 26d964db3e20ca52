//! Queries and cache against the definition.

use cachalot_tensor::{Buffer, F8E4M3};
use cachalot_testkit::{Random, Tolerance, assert_close, assert_same_bits};
use half::bf16;

use super::reference::rotate;
use super::*;
use crate::act_quant::SCALE_GROUP;
use crate::act_quant::reference::quantise_group;
use crate::rope::yarn_inv_freq;
use crate::test_gpu::{TestGpu, bf16s, f32s};

const GAP: usize = 8;
/// What unused slots hold.
const MARK: u8 = 0xab;

/// One rounding to bf16, and f32's errors before it, which may be large against a difference of two products.
const TOLERANCE: Tolerance = Tolerance { abs: 1e-5, rel: 1.0 / 256.0 + 1e-5, cosine: 5e-6 };

/// The form of a cache and of the heads that go with it.
#[derive(Clone, Copy, Debug)]
struct Form {
    layout: RopeLayout,
    key_place: KeyPlace,
    latent_dim: usize,
    rotary_dim: usize,
    is_fp8: bool,
}

const MLA: Form = Form {
    layout: RopeLayout::Interleaved,
    key_place: KeyPlace::AfterLatent,
    latent_dim: 512,
    rotary_dim: 64,
    is_fp8: false,
};
const MLA_FP8: Form = Form { is_fp8: true, ..MLA };
const INDEXER: Form = Form {
    layout: RopeLayout::HalfSplit,
    key_place: KeyPlace::BeforeLatent,
    latent_dim: 64,
    rotary_dim: 64,
    is_fp8: false,
};

impl Form {
    fn row_bytes(self) -> usize {
        if self.is_fp8 { FP8_RECORD_BYTES } else { 2 * (self.latent_dim + self.rotary_dim) }
    }
}

/// The heads of a query: how many, how long, and where the rotated elements start.
#[derive(Clone, Copy, Debug)]
struct Heads {
    num_heads: usize,
    head_dim: usize,
    rotary_start: usize,
}

/// Runs tokens with these positions and slots through the kernel and compares everything.
fn check(device: &TestGpu, form: Form, heads: Option<Heads>, tokens: &[(i32, i32)], scale_format: ScaleFormat) {
    let Form { layout, key_place, latent_dim, rotary_dim, .. } = form;
    let num_tokens = tokens.len();
    let mut random = Random::new(rotary_dim as u64);
    let latent = bf16s(&random.gaussian(num_tokens * latent_dim));
    let key = bf16s(&random.gaussian(num_tokens * rotary_dim));
    let inv_freq = yarn_inv_freq(rotary_dim, 10_000.0, None);
    let positions: Vec<i32> = tokens.iter().map(|token| token.0).collect();
    let slots: Vec<i32> = tokens.iter().map(|token| token.1).collect();
    let q_dim = heads.map_or(0, |heads| heads.num_heads * heads.head_dim);
    let q = bf16s(&random.gaussian(num_tokens * q_dim));

    let device_latent = device.strided([num_tokens, latent_dim], GAP, &latent, bf16::NAN);
    let device_key = device.strided([num_tokens, rotary_dim], GAP, &key, bf16::NAN);
    let device_inv_freq = device.filled([inv_freq.len()], &inv_freq);
    let (device_positions, device_slots) =
        (device.filled([num_tokens], &positions), device.filled([num_tokens], &slots));
    let mut device_q = device.strided([num_tokens, q_dim], GAP, &q, bf16::NAN);
    let mut cache = marked_cache(device, form);
    let args = RopeCacheWrite {
        q: heads.map(|heads| device_q.view_mut().reshape_rows([num_tokens, heads.num_heads, heads.head_dim])),
        rotary_start: heads.map_or(0, |heads| heads.rotary_start),
        latent: device_latent.view(),
        key: device_key.view(),
        key_place,
        positions: device_positions.view(),
        slot_mapping: device_slots.view(),
        inv_freq: device_inv_freq.view(),
        attention_factor: 1.0,
        layout,
        cache: cache.view_mut(),
        scale_format,
    };
    let kernels = RopeCacheWriteKernels::new(&device.gpu).expect("the kernels");
    rope_cache_write(&device.stream, &kernels, args).expect("valid arguments");

    let rotated = |x: &[bf16], token: usize| {
        let rotated = rotate(&f32s(x), positions[token] as u32, &inv_freq, layout);
        rotated.into_iter().map(|value| value as f32).collect::<Vec<f32>>()
    };
    let after = device.read_strided(&device_q);
    if let Some(Heads { num_heads, head_dim, rotary_start }) = heads {
        for (index, (before, after)) in q.chunks(head_dim).zip(after.chunks(head_dim)).enumerate() {
            let rotary = rotary_start..rotary_start + rotary_dim;
            let expected = rotated(&before[rotary.clone()], index / num_heads);
            assert_close(&f32s(&after[rotary.clone()]), &expected, [rotary_dim], TOLERANCE);
            assert_eq!(before[..rotary.start], after[..rotary.start], "before the rotated elements");
            assert_eq!(before[rotary.end..], after[rotary.end..], "behind the rotated elements");
        }
    }

    let mut cache_bytes = vec![0; cache.num_bytes()];
    device.stream.download_bytes(&cache, &mut cache_bytes).expect("a written cache");
    let row_bytes = form.row_bytes();
    for (slot, row) in cache_bytes.chunks(row_bytes).enumerate() {
        let Some(token) = slots.iter().position(|&other| other == slot as i32) else {
            assert!(row.iter().all(|&byte| byte == MARK), "slot {slot} belongs to no token");
            continue;
        };
        let latent = &latent[token * latent_dim..][..latent_dim];
        let key = rotated(&key[token * rotary_dim..][..rotary_dim], token);
        let cached_key = if form.is_fp8 {
            check_fp8_latent(row, latent, scale_format);
            &row[latent_dim + 4 * latent_dim / SCALE_GROUP..]
        } else {
            let (latent_at, key_at) = match key_place {
                KeyPlace::AfterLatent => (0, 2 * latent_dim),
                KeyPlace::BeforeLatent => (2 * rotary_dim, 0),
            };
            assert_eq!(bf16_row(&row[latent_at..][..2 * latent_dim]), latent, "latent of slot {slot}");
            &row[key_at..][..2 * rotary_dim]
        };
        assert_close(&f32s(&bf16_row(cached_key)), &key, [rotary_dim], TOLERANCE);
    }
}

/// Two blocks of three slots.
fn marked_cache(device: &TestGpu, form: Form) -> Buffer {
    let (dtype, row) = match form.is_fp8 {
        true => (DType::U8, form.row_bytes()),
        false => (DType::BF16, form.row_bytes() / 2),
    };
    let mut cache = device.unwritten(dtype, [2, 3, row]);
    device.stream.fill(&mut cache, MARK).expect("no gaps");
    cache
}

/// `[0, 512)` codes, `[512, 528)` the four scales.
fn check_fp8_latent(record: &[u8], latent: &[bf16], scale_format: ScaleFormat) {
    for (index, group) in f32s(latent).chunks(SCALE_GROUP).enumerate() {
        let (codes, scale) = quantise_group(group, scale_format);
        let cached: Vec<F8E4M3> =
            record[index * SCALE_GROUP..][..SCALE_GROUP].iter().map(|&code| F8E4M3(code)).collect();
        assert_eq!(cached, codes, "group {index}");
        let cached: [u8; 4] = record[512 + 4 * index..][..4].try_into().expect("four bytes");
        assert_same_bits(&[f32::from_le_bytes(cached)], &[scale], [1]);
    }
}

fn bf16_row(bytes: &[u8]) -> Vec<bf16> {
    bytes.as_chunks::<2>().0.iter().map(|&bytes| bf16::from_le_bytes(bytes)).collect()
}

/// Positions and slots: the first and the last token of the longest context, one that is large for the range reduction of sin
/// and cos, and a padding token.
const TOKENS: [(i32, i32); 5] = [(0, 4), (1, 0), (77, -1), (105_700, 5), (163_839, 2)];

#[test]
fn latent_attention() {
    let device = TestGpu::new();
    let formats = [ScaleFormat::F32, ScaleFormat::Ue8m0];
    for num_heads in [1, 3, 128] {
        let heads = Some(Heads { num_heads, head_dim: 192, rotary_start: 128 });
        check(&device, MLA, heads, &TOKENS, ScaleFormat::Ue8m0);
        for format in formats {
            check(&device, MLA_FP8, heads, &TOKENS, format);
        }
    }
    for format in formats {
        check(&device, MLA_FP8, None, &TOKENS[..1], format);
    }
    check(&device, MLA, None, &[], ScaleFormat::F32);
}

#[test]
fn indexer_keys() {
    let device = TestGpu::new();
    for num_heads in [1, 64] {
        let heads = Some(Heads { num_heads, head_dim: 128, rotary_start: 0 });
        check(&device, INDEXER, heads, &TOKENS, ScaleFormat::F32);
    }
    check(&device, INDEXER, None, &TOKENS, ScaleFormat::F32);
}

#[test]
fn other_dimensions() {
    let device = TestGpu::new();
    for (latent_dim, rotary_dim) in [(0, 128), (8, 16), (1032, 48)] {
        for (layout, key_place) in
            [(RopeLayout::Interleaved, KeyPlace::BeforeLatent), (RopeLayout::HalfSplit, KeyPlace::AfterLatent)]
        {
            let heads = Some(Heads { num_heads: 5, head_dim: rotary_dim + 16, rotary_start: 8 });
            let form = Form { layout, key_place, latent_dim, rotary_dim, is_fp8: false };
            check(&device, form, heads, &TOKENS, ScaleFormat::F32);
        }
    }
}

#[test]
fn refusals_name_the_argument() {
    let device = TestGpu::new();
    let kernels = RopeCacheWriteKernels::new(&device.gpu).expect("the kernels");
    let run = |layout, rotary_start, [latent_dim, rotary_dim]: [usize; 2], [row, frequencies]: [usize; 2], dtype| {
        let (latent, key) =
            (device.unwritten(DType::BF16, [2, latent_dim]), device.unwritten(DType::BF16, [2, rotary_dim]));
        let (positions, slots) = (device.unwritten(DType::I32, [2]), device.unwritten(DType::I32, [2]));
        let inv_freq = device.unwritten(DType::F32, [frequencies]);
        let mut q = device.unwritten(DType::BF16, [2, 3, 192]);
        let mut cache = device.unwritten(dtype, [2, 3, row]);
        let args = RopeCacheWrite {
            q: Some(q.view_mut()),
            rotary_start,
            latent: latent.view(),
            key: key.view(),
            key_place: KeyPlace::AfterLatent,
            positions: positions.view(),
            slot_mapping: slots.view(),
            inv_freq: inv_freq.view(),
            attention_factor: 1.0,
            layout,
            cache: cache.view_mut(),
            scale_format: ScaleFormat::Ue8m0,
        };
        rope_cache_write(&device.stream, &kernels, args).expect_err("wrong arguments").to_string()
    };
    let interleaved = RopeLayout::Interleaved;
    for (error, message) in [
        (run(interleaved, 128, [512, 64], [640, 32], DType::BF16), "`row` is 640 in `cache`, 576 in `latent and key`"),
        (run(interleaved, 128, [512, 64], [576, 32], DType::U8), "`row` is 576 in `cache`, 656 in `latent and key`"),
        (run(interleaved, 128, [512, 64], [576, 64], DType::BF16), "`rotary_dim / 2` is 64 in `inv_freq`, 32 in `key`"),
        (run(interleaved, 136, [512, 64], [576, 32], DType::BF16), "at most 56 from `rotary_start` 136 on"),
        (run(interleaved, 0, [512, 40], [552, 20], DType::BF16), "`rotary_dim` of 40 is not supported"),
        (
            run(RopeLayout::HalfSplit, 128, [512, 64], [656, 32], DType::U8),
            "512 and 64 elements, HalfSplit, AfterLatent",
        ),
        (run(interleaved, 128, [256, 64], [656, 32], DType::U8), "FP8 records of 256 and 64 elements"),
    ] {
        assert!(error.contains(message), "{error}");
    }
}
