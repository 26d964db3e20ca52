//! Tests of `cachalot-weights` through its public interface.

mod bad_input;
mod checkpoint;
mod config;
mod embedded;
mod layout;
mod published;
