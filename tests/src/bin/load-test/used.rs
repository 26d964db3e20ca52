//! What a server has done, and the computing time that went into it.

use crate::server::{self, Server};

/// Counts and times, up to now or over a stretch of time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Used {
    pub(crate) num_generated: f64,
    pub(crate) num_prompt: f64,
    pub(crate) num_preemptions: f64,
    /// Of the server, if its process is ours.
    pub(crate) server_cpu_s: Option<f64>,
    /// Of this program.
    pub(crate) own_cpu_s: f64,
}

impl Used {
    /// Since the server was started.
    ///
    /// # Errors
    /// If it does not say.
    pub(crate) async fn until_now(server: &Server) -> anyhow::Result<Self> {
        Ok(Used {
            num_generated: server.metric("cachalot_generated_tokens_total").await?,
            num_prompt: server.metric("cachalot_prompt_tokens_total").await?,
            num_preemptions: server.metric("cachalot_preemptions_total").await?,
            server_cpu_s: server.cpu_seconds(),
            own_cpu_s: server::cpu_seconds("/proc/self/stat").unwrap_or_default(),
        })
    }

    /// Since an earlier time.
    pub(crate) fn since(&self, earlier: &Used) -> Used {
        Used {
            num_generated: self.num_generated - earlier.num_generated,
            num_prompt: self.num_prompt - earlier.num_prompt,
            num_preemptions: self.num_preemptions - earlier.num_preemptions,
            server_cpu_s: self.server_cpu_s.zip(earlier.server_cpu_s).map(|(now, earlier)| now - earlier),
            own_cpu_s: self.own_cpu_s - earlier.own_cpu_s,
        }
    }
}
