//! Text to token ids and back: tokenizer, chat encoding per release, incremental detokenizer, reasoning split.

#![forbid(unsafe_code)]
