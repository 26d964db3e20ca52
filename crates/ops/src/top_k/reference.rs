//! Sorted from the best to the worst, cut, and sorted by position.

use crate::indexer::NO_POSITION;
use crate::order::best_first;

/// The `k` best positions of one row, ascending, then [`NO_POSITION`].
pub(crate) fn top_k(scores: &[f32], k: usize) -> Vec<i32> {
    let mut positions: Vec<i32> = (0..scores.len() as i32).collect();
    // The sort is stable: equal scores stay in ascending order.
    positions.sort_by(|&a, &b| best_first(scores[a as usize], scores[b as usize]));
    positions.truncate(k);
    positions.sort_unstable();
    positions.resize(k, NO_POSITION);
    positions
}
