/// out[t,:] = x[t,:] - logsumexp(x[t,:])
pub struct LogSoftmax<'a> {
    /// `[num_rows, vocab_size]`, f32
    pub x: View<'a>,
    /// same, overwritten
    pub out: ViewMut<'a>,
}
