//! Tokens against a walk in f64.

use cachalot_testkit::Random;

use super::reference::Distribution;
use super::*;
use crate::test_gpu::TestGpu;

/// What the kernel says about each row.
struct Drawn {
    token: i32,
    logprob: f32,
    max: f32,
}

/// Draws a token of each row. `rows` are logits, temperature and random number.
fn draw(device: &TestGpu, rows: &[(Vec<f32>, f32, u64)]) -> Vec<Drawn> {
    let kernel = SampleKernel::new(&device.gpu).expect("the kernel");
    let num_seqs = rows.len();
    let vocab_size = rows.first().map_or(5, |row| row.0.len());
    let gap = vocab_size.next_multiple_of(4) - vocab_size + 4;
    let logits: Vec<f32> = rows.iter().flat_map(|row| row.0.clone()).collect();
    let logits = device.strided([num_seqs, vocab_size], gap, &logits, f32::NAN);
    let temperatures: Vec<f32> = rows.iter().map(|row| row.1).collect();
    let temperatures = device.filled([num_seqs], &temperatures);
    let words: Vec<i32> = rows.iter().flat_map(|row| [row.2 as i32, (row.2 >> 32) as i32]).collect();
    let uniforms = device.filled([num_seqs, 2], &words);
    let mut tokens = device.unwritten(DType::I32, [num_seqs]);
    let mut logprobs = device.unwritten(DType::F32, [num_seqs]);
    let mut maxima = device.unwritten(DType::F32, [num_seqs]);
    let args = Sample {
        logits: logits.view(),
        temperatures: temperatures.view(),
        uniforms: uniforms.view(),
        tokens: tokens.view_mut(),
        logprobs: logprobs.view_mut(),
        maxima: maxima.view_mut(),
    };
    sample(&device.stream, &kernel, args).expect("valid arguments");
    let (tokens, logprobs) = (device.read::<i32>(&tokens), device.read::<f32>(&logprobs));
    let rest = logprobs.into_iter().zip(device.read::<f32>(&maxima));
    tokens.into_iter().zip(rest).map(|(token, (logprob, max))| Drawn { token, logprob, max }).collect()
}

/// Draws a token of each row and compares it with the definition.
fn check(device: &TestGpu, rows: &[(Vec<f32>, f32, u64)]) {
    for ((logits, temperature, uniform), drawn) in rows.iter().zip(draw(device, rows)) {
        let distribution = Distribution::new(logits, *temperature);
        let token = drawn.token as usize;
        let case = format!("{} logits, temperature {temperature}, uniform {uniform:#x}", logits.len());
        assert_eq!(drawn.max, distribution.max, "{case}");
        if *temperature == 0.0 {
            assert_eq!(Some(token), distribution.peak, "{case}");
        } else {
            // The weights are f32 here and f64 there: at the edge between two tokens either may be meant.
            let uniform = *uniform as f64 / 2f64.powi(64);
            let low = distribution.draw((uniform - 1e-6).max(0.0));
            let high = if uniform + 1e-6 < 1.0 { distribution.draw(uniform + 1e-6) } else { logits.len() - 1 };
            assert!((low..=high).contains(&token), "{case}: token {token}, expected {low} to {high}");
            assert!(logits[token] > f32::NEG_INFINITY, "{case}: token {token} has no weight");
        }
        let expected = distribution.logprobs[token];
        let error = (f64::from(drawn.logprob) - expected).abs();
        assert!(error < 1e-6 * (1.0 + expected.abs()), "{case}: log-probability {}, not {expected}", drawn.logprob);
    }
}

/// Logits whose peak is a few likely tokens, with some that are ruled out.
fn logits(random: &mut Random, vocab_size: usize) -> Vec<f32> {
    let mut logits: Vec<f32> = random.gaussian(vocab_size).iter().map(|value| 4.0 * value).collect();
    for _ in 0..vocab_size / 8 {
        logits[random.below(vocab_size)] = f32::NEG_INFINITY;
    }
    logits[vocab_size / 2] = 3.0;
    logits
}

#[test]
fn vocabularies_and_temperatures() {
    let device = TestGpu::new();
    let mut random = Random::new(3);
    for vocab_size in [1, 2, 5, 127, 128, 129, 4095, 4097, 8200] {
        let mut rows = Vec::new();
        for temperature in [0.0, 1.0, 0.3, 2.0, 1e-40] {
            for uniform in [0, random.bits(), random.bits(), u64::MAX] {
                rows.push((logits(&mut random, vocab_size), temperature, uniform));
            }
        }
        check(&device, &rows);
    }
}

#[test]
fn the_vocabulary_of_deepseek() {
    let device = TestGpu::new();
    let mut random = Random::new(4);
    let rows = [(0.7, random.bits()), (1.0, u64::MAX), (0.0, 0)];
    let rows = rows.map(|(temperature, uniform)| (logits(&mut random, 129_280), temperature, uniform));
    check(&device, &rows);
}

#[test]
fn every_token_gets_its_share() {
    let device = TestGpu::new();
    let logits: Vec<f32> = [0.5, 0.125, 0.0, 0.25, 0.125f32].iter().map(|p| p.ln()).collect();
    let num_draws = 64u64;
    let rows: Vec<_> = (0..num_draws).map(|i| (logits.clone(), 1.0, i * (u64::MAX / num_draws) + (1 << 50))).collect();
    let mut counts = [0; 5];
    draw(&device, &rows).iter().for_each(|drawn| counts[drawn.token as usize] += 1);
    assert_eq!(counts, [32, 8, 0, 16, 8]);
}

#[test]
fn ties_and_zeros_go_to_the_lowest_id() {
    let device = TestGpu::new();
    let mut row = vec![-3.0f32; 5000];
    (row[4321], row[4999], row[130]) = (0.0, 0.0, -0.0);
    let drawn = draw(&device, &[(row, 0.0, u64::MAX)]);
    assert_eq!((drawn[0].token, drawn[0].max), (130, 0.0));
}

#[test]
fn rows_without_a_token_say_why() {
    let device = TestGpu::new();
    let good = vec![1.0f32; 300];
    for place in [0, 150, 299] {
        let with = |value: f32| {
            let mut row = good.clone();
            row[place] = value;
            row
        };
        let rows = [
            (with(f32::NAN), 1.0, 0),
            (with(-f32::NAN), 0.0, 0),
            (with(f32::INFINITY), 1.0, 0),
            (vec![f32::NEG_INFINITY; 300], 1.0, 0),
            (with(f32::NEG_INFINITY), 1.0, 0),
        ];
        let drawn = draw(&device, &rows);
        assert!(drawn[..4].iter().all(|row| row.token == NO_TOKEN && row.logprob.is_nan()));
        assert!(drawn[0].max.is_nan() && drawn[1].max.is_nan());
        assert_eq!([drawn[2].max, drawn[3].max, drawn[4].max], [f32::INFINITY, f32::NEG_INFINITY, 1.0]);
        assert_eq!(drawn[4].token, i32::from(place == 0), "its neighbours do not matter");
    }
}

#[test]
fn refusals_name_the_argument() {
    let device = TestGpu::new();
    let kernel = SampleKernel::new(&device.gpu).expect("the kernel");
    assert!(draw(&device, &[]).is_empty());
    for (vocab_size, temperatures, words, message) in [
        (8, 3, 2, "sample: `num_seqs` is 3 in `temperatures`, 2 in `logits`"),
        (8, 2, 1, "sample: `words` of 1 is not supported; supported: 2 words"),
        ((1 << 19) + 4, 2, 2, "sample: `vocab_size` of 524292 is not supported; supported: 1 to 2^19"),
        (0, 2, 2, "sample: `vocab_size` of 0 is not supported; supported: 1 to 2^19"),
    ] {
        let logits = device.unwritten(DType::F32, [2, vocab_size]);
        let (temperatures, uniforms) =
            (device.unwritten(DType::F32, [temperatures]), device.unwritten(DType::I32, [2, words]));
        let (mut tokens, mut logprobs) = (device.unwritten(DType::I32, [2]), device.unwritten(DType::F32, [2]));
        let mut maxima = device.unwritten(DType::F32, [2]);
        let args = Sample {
            logits: logits.view(),
            temperatures: temperatures.view(),
            uniforms: uniforms.view(),
            tokens: tokens.view_mut(),
            logprobs: logprobs.view_mut(),
            maxima: maxima.view_mut(),
        };
        assert_eq!(sample(&device.stream, &kernel, args).expect_err(message).to_string(), message);
    }
}
