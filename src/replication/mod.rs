//! Carrying logs to a parent: verified, resumable, one stream for all logs of a child.
//!
//! The child dials ([`uplink`]); the parent says where to resume, verifies, commits, cosigns
//! ([`mirror`]). Neither knows a register: entries are bytes.

pub mod batch;
pub mod mirror;
pub mod status;
pub mod uplink;

/// The protocol versions that this program speaks, lowest and highest.
pub const VERSIONS: (u32, u32) = (1, 1);

/// Bytes of one message: a batch of [`batch::MAX_BYTES`], and the one entry that may go over it.
pub const MAX_MESSAGE_BYTES: usize = 8 * 1024 * 1024;
