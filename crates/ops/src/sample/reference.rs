//! The distribution in f64, and the walk through it.

/// What a row's logits and temperature say about its token.
#[derive(Debug)]
pub(crate) struct Distribution {
    /// The largest logit, the first of equals; `None` if it is no finite number.
    pub(crate) peak: Option<usize>,
    /// The largest logit, NaN if one is NaN.
    pub(crate) max: f32,
    /// The running sum of the weights up to and with each token; the largest weight is 1.
    pub(crate) sums: Vec<f64>,
    /// Log-probability of each token under the logits as they are.
    pub(crate) logprobs: Vec<f64>,
}

impl Distribution {
    pub(crate) fn new(logits: &[f32], temperature: f32) -> Self {
        let max = logits.iter().fold(f32::NEG_INFINITY, |max, &x| if x > max || x.is_nan() { x } else { max });
        let below_max = |&x: &f32| f64::from(x) - f64::from(max);
        let raw_sum: f64 = logits.iter().map(|x| below_max(x).exp()).sum();
        let scale = (1.0 / temperature).min(f32::MAX);
        let mut sum = 0.0;
        let running = logits.iter().map(|x| {
            sum += (below_max(x) * f64::from(scale)).exp();
            sum
        });
        Distribution {
            peak: logits.iter().position(|&x| x == max).filter(|_| max.is_finite()),
            max,
            sums: running.collect(),
            logprobs: logits.iter().map(|x| below_max(x) - raw_sum.ln()).collect(),
        }
    }

    /// The first token at which the running sum passes `uniform` times the sum of all.
    pub(crate) fn draw(&self, uniform: f64) -> usize {
        let target = uniform * self.sums.last().expect("a vocabulary");
        self.sums.iter().position(|&sum| sum > target).expect("the last sum is above the target")
    }
}
