//! The generated messages and services, and nothing else.

#![allow(missing_docs, clippy::all, clippy::pedantic)]

mod generated {
    include!(concat!(env!("OUT_DIR"), "/hefu.rs"));
}

pub use generated::hefu::*;

/// The encoded descriptors of every proto, for reflection and for reading fields by name.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
