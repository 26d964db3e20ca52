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
    let mut num_asked_blocks = 0;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let share = server.metric("cachalot_kv_blocks_in_use").await? / num_blocks;
        if share >= FULL || Instant::now() > deadline {
            return Ok(share);
        }
        // Some end before others begin, so a few more are asked for all the time.
        let wanted = if connections.is_empty() { num_blocks as usize } else { num_asked_blocks + 1 };
        while num_asked_blocks < wanted {
            let (request, num_tokens) = material.longest(random);
            let mut connection = Connection::open(server.address, Pace::Fast).await?;
            connection.send(&request).await?;
            connections.push(connection);
            num_asked_blocks += num_tokens.div_ceil(BLOCK_TOKENS);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
