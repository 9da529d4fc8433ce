//! Parsed values: one that exists is valid.

mod log;

pub use log::{LogIndex, LogNo};
