//! Filling the cache, before memory is watched.
//!
//! The system gives memory to a process when it is first written to. A cache that has never been full would look like a leak.

use std::time::{Duration, Instant};

use cachalot_testkit::Random;

use crate::connection::{Connection, Pace};
use crate::question::Material;
use crate::server::Server;

/// Blocks that are in use then are as good as all of them.
const FULL: f64 = 0.95;
const PATIENCE: Duration = Duration::from_secs(300);
/// Tokens of a block.
const BLOCK_TOKENS: usize = 64;

/// Asks for long answers to long prompts until they hold every block, and goes away. Returns the share of blocks in use then.
///
/// # Errors
/// If the server does not answer.
pub(crate) async fn fill_cache(server: &Server, material: &Material, random: &mut Random) -> anyhow::Result<f64> {
    let num_blocks = server.metric("cachalot_kv_blocks_total").await?;
    let mut connections = Vec::new();
    let mut num_missing_blocks = num_blocks as usize;
    let deadline = Instant::now() + PATIENCE;
    loop {
        while num_missing_blocks > 0 {
            let (request, num_tokens) = material.longest(random);
            let mut connection = Connection::open(server.address, Pace::Fast).await?;
            connection.send(&request).await?;
            connections.push(connection);
            num_missing_blocks = num_missing_blocks.saturating_sub(num_tokens.div_ceil(BLOCK_TOKENS));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        let share = server.metric("cachalot_kv_blocks_in_use").await? / num_blocks;
        if share >= FULL || Instant::now() > deadline {
            return Ok(share);
        }
        // When all of them run and there is still a gap, one more is asked for.
        num_missing_blocks = usize::from(server.metric("cachalot_requests_waiting").await? == 0.0);
    }
}
