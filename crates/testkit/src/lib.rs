//! What the tests and benches of several crates share: seeded inputs.

#![forbid(unsafe_code)]

mod random;

pub use random::Random;
