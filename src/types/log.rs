//! Numbers of the ledger.

/// The number of a log on this node: 0 is the node's own, others in the order in which they were
/// first seen. Local to the node; peers speak of origins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogNo(pub u32);

impl LogNo {
    /// The node's own log.
    pub const OWN: Self = Self(0);
}

/// The place of an entry in its log, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogIndex(pub u64);
