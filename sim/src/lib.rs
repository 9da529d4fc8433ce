//! County, city and province in one thread and in simulated time. Clocks, crashes, torn writes, lost
//! derived state, partitions, delays, messages out of order and attacks are drawn from one seed, so
//! that what a seed finds is found again by the same seed.
//!
//! The nodes are the real ones: ledger, committer, board, uplink and mirror of `hefu`, with the network
//! and the disk put in their place. [`play`] draws and plays one run and checks, all the way:
//!
//! - what was acknowledged or cosigned is durable, crash after crash ([`promise`]);
//! - no entry is lost, doubled or out of order; a parent holds a prefix of what its child holds;
//! - lag is never below the truth;
//! - no honest log is ever quarantined, and nothing that is dishonest is ever accepted ([`attack`]);
//! - once it is quiet, all states are equal.

#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "this is a test"
)]
#![allow(
    clippy::needless_update,
    reason = "messages get fields that nobody here needs to know"
)]

pub mod attack;
pub mod disk;
pub mod net;
pub mod node;
pub mod promise;
pub mod random;
pub mod world;

pub use world::{Played, Wrong, play};
