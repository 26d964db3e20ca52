//! Operations of the Cpu device at shapes of the 671B models, cut down where one run would take long.
//!
//! `cargo bench -p cachalot-benches --bench ops -- linear` runs those whose name contains `linear`. Throughput is in
//! weight bytes for one token (the bound is the memory), in multiply-adds for many (the bound is the processor), and in
//! elements elsewhere.

use cachalot_ops::{
    CacheWrite, Context, Device, Embedding, LayerNorm, Linear, LogSoftmax, RmsNorm, Rope, RopeLayout, SwiGlu,
    cache_write, embedding, layer_norm, linear, log_softmax, rms_norm, rope, swiglu,
};
use cachalot_tensor::{Buffer, DType, Tensor, View};
use cachalot_testkit::Random;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const HIDDEN_SIZE: usize = 7168;

/// One context for all benches: the threads are part of what a process keeps.
fn context() -> Context {
    Context::new(Device::Cpu, None).expect("threads")
}

/// Random activations `[num_tokens, dim]`.
fn activations(num_tokens: usize, dim: usize) -> Tensor {
    Tensor::from_slice(&Random::new(7).values(num_tokens * dim), [num_tokens, dim]).expect("one value per element")
}

fn linear_benches(criterion: &mut Criterion) {
    let ctx = context();
    let mut group = criterion.benchmark_group("linear");
    group.sample_size(20);
    for dtype in [DType::F8E4M3, DType::BF16] {
        // Four of q_a_proj, so that the weight does not stay in the second-level cache.
        let (out_features, in_features) = (4 * 1536, HIDDEN_SIZE);
        let weight = Random::new(1).matrix(dtype, [out_features, in_features], [128, 128]);
        for num_tokens in [1, 4, 64, 256] {
            let (x, mut out) =
                (activations(num_tokens, in_features), Buffer::zeros(DType::F32, [num_tokens, out_features]));
            group.throughput(match num_tokens {
                1 => Throughput::Bytes((out_features * in_features * dtype.size_bytes()) as u64),
                _ => Throughput::Elements((num_tokens * out_features * in_features) as u64),
            });
            let id = BenchmarkId::new(format!("{dtype} {out_features}x{in_features}"), num_tokens);
            group.bench_function(id, |bencher| {
                bencher.iter(|| {
                    linear(&ctx, Linear { x: x.view(), weight: &weight, out: out.view_mut() })
                        .expect("valid arguments");
                });
            });
        }
    }
}

fn norm_benches(criterion: &mut Criterion) {
    let ctx = context();
    let mut group = criterion.benchmark_group("norm");
    for num_tokens in [1, 256] {
        let x = activations(num_tokens, HIDDEN_SIZE);
        let weight = Random::new(2).vector(DType::BF16, HIDDEN_SIZE);
        let mut residual = Buffer::zeros(DType::F32, [num_tokens, HIDDEN_SIZE]);
        let mut out = Buffer::zeros(DType::F32, [num_tokens, HIDDEN_SIZE]);
        group.throughput(Throughput::Elements((num_tokens * HIDDEN_SIZE) as u64));
        group.bench_function(BenchmarkId::new("rms_norm", num_tokens), |bencher| {
            bencher.iter(|| {
                let residual = Some(residual.view_mut());
                let args = RmsNorm { x: x.view(), weight: weight.view(), eps: 1e-6, residual, out: out.view_mut() };
                rms_norm(&ctx, args).expect("valid arguments");
            });
        });

        let index_head_dim = 128;
        let x = activations(num_tokens, index_head_dim);
        let weight = Random::new(3).vector(DType::F32, index_head_dim);
        let mut out = Buffer::zeros(DType::F32, [num_tokens, index_head_dim]);
        group.throughput(Throughput::Elements((num_tokens * index_head_dim) as u64));
        group.bench_function(BenchmarkId::new("layer_norm", num_tokens), |bencher| {
            bencher.iter(|| {
                let (weight, bias) = (weight.view(), weight.view());
                layer_norm(&ctx, LayerNorm { x: x.view(), weight, bias, eps: 1e-6, out: out.view_mut() })
                    .expect("valid arguments");
            });
        });
    }
}

fn rope_benches(criterion: &mut Criterion) {
    let ctx = context();
    let mut group = criterion.benchmark_group("rope");
    let inv_freq = vec![0.01; 32];
    for (name, shape, rotary_start, layout) in
        [("q", [128, 192], 128, RopeLayout::Interleaved), ("indexer q", [64, 128], 0, RopeLayout::HalfSplit)]
    {
        for num_tokens in [1, 256] {
            let [num_heads, head_dim] = shape;
            let shape = [num_tokens, num_heads, head_dim];
            let (x, mut out) = (activations(num_tokens, num_heads * head_dim), Buffer::zeros(DType::F32, shape));
            let positions: Vec<u32> = (0..num_tokens as u32).collect();
            group.throughput(Throughput::Elements((num_tokens * num_heads * head_dim) as u64));
            group.bench_function(BenchmarkId::new(name, num_tokens), |bencher| {
                bencher.iter(|| {
                    let args = Rope {
                        x: x.view().reshape_rows(shape),
                        positions: &positions,
                        inv_freq: &inv_freq,
                        attention_factor: 1.0,
                        layout,
                        rotary_start,
                        out: out.view_mut(),
                    };
                    rope(&ctx, args).expect("valid arguments");
                });
            });
        }
    }
}

fn elementwise_benches(criterion: &mut Criterion) {
    let ctx = context();
    let mut group = criterion.benchmark_group("elementwise");
    for num_tokens in [1, 256] {
        let moe_intermediate_size = 2048;
        let (gate, mut out) = (
            activations(num_tokens, moe_intermediate_size),
            Buffer::zeros(DType::F32, [num_tokens, moe_intermediate_size]),
        );
        group.throughput(Throughput::Elements((num_tokens * moe_intermediate_size) as u64));
        group.bench_function(BenchmarkId::new("swiglu", num_tokens), |bencher| {
            bencher.iter(|| {
                swiglu(&ctx, SwiGlu { gate: gate.view(), up: gate.view(), out: out.view_mut() })
                    .expect("valid arguments");
            });
        });

        let vocab_size = 129_280;
        let table = Random::new(4).matrix(DType::BF16, [1024, HIDDEN_SIZE], [1, 1]);
        let ids = Random::new(5).ids(num_tokens, 1024);
        let mut out = Buffer::zeros(DType::F32, [num_tokens, HIDDEN_SIZE]);
        group.throughput(Throughput::Elements((num_tokens * HIDDEN_SIZE) as u64));
        group.bench_function(BenchmarkId::new("embedding", num_tokens), |bencher| {
            bencher.iter(|| {
                embedding(&ctx, Embedding { ids: &ids, table: table.values().view(), out: out.view_mut() })
                    .expect("valid arguments");
            });
        });

        let num_rows = num_tokens.min(16);
        let (x, mut out) = (activations(num_rows, vocab_size), Buffer::zeros(DType::F32, [num_rows, vocab_size]));
        group.throughput(Throughput::Elements((num_rows * vocab_size) as u64));
        group.bench_function(BenchmarkId::new("log_softmax", num_rows), |bencher| {
            bencher.iter(|| {
                log_softmax(&ctx, LogSoftmax { x: x.view(), out: out.view_mut() }).expect("valid arguments");
            });
        });

        let latent = 576;
        let rows = Random::new(6).values(num_tokens * latent);
        let rows = View::from_slice(&rows, [num_tokens, latent]).expect("one value per element");
        let slots: Vec<u32> = (0..num_tokens as u32).collect();
        let mut cache = Buffer::zeros(DType::BF16, [8, 64, latent]);
        group.throughput(Throughput::Elements((num_tokens * latent) as u64));
        group.bench_function(BenchmarkId::new("cache_write", num_tokens), |bencher| {
            bencher.iter(|| {
                cache_write(&ctx, CacheWrite { rows, slot_mapping: &slots, cache: cache.view_mut() })
                    .expect("valid arguments");
            });
        });
    }
}

criterion_group!(benches, linear_benches, norm_benches, rope_benches, elementwise_benches);
criterion_main!(benches);
