//! Tests of `cachalot-weights` through its public interface.

mod bad_input;
mod checkpoint;
mod committed;
mod config;
mod inspect;
mod layout;
mod published;
