//! The gRPC services, and the one place where errors become a status.

pub mod access;
pub mod convert;
pub mod ledger;
pub mod position;
pub mod register;
pub mod replication;
pub mod status;
pub mod token;
pub mod wire;

/// Bytes of one message, decompressed, at most: 4 MiB.
pub const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;
