//! One decoded row per token.

use crate::numerics::Row;
use crate::rows::for_each_row;
use crate::{Context, Embedding};

pub(super) fn run(ctx: &Context, args: Embedding<'_>) {
    let Embedding { ids, table, out } = args;
    for_each_row(ctx, out, |token, out| Row::of_view(&table, ids[token] as usize).decode(out));
}
