//! Tests of `cachalot-weights` through its public interface.

mod config;
mod embedded;
mod layout;
mod published;
