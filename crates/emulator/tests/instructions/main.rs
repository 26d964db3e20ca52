//! Each instruction that the emulator executes, one at a time, against a definition of its own.
//!
//! A test is a line of PTX and a Rust function written from the text of the PTX ISA 9.0. The harness runs the line over
//! hostile and random operands, unguarded, under a guard predicate, and with half of the lanes elsewhere.

mod convert;
mod cuda;
mod exact;
mod float;
mod harness;
mod integer;
mod memory;
mod refused;
mod special;
mod warp;
