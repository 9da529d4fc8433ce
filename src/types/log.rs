//! Numbers of the ledger.

use std::fmt;

/// The number of a log on this node: 0 is the node's own, others in the order in which they were
/// first seen. Local to the node; peers speak of origins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogNo(pub u32);

impl LogNo {
    /// The node's own log.
    pub const OWN: Self = Self(0);
}

impl fmt::Display for LogNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The place of an entry in its log, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogIndex(pub u64);

impl LogIndex {
    /// The first entry of a log.
    pub const FIRST: Self = Self(0);

    /// The index behind this one; `None` at the end of the numbers.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        self.0.checked_add(1).map(Self)
    }
}

impl fmt::Display for LogIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_has_a_next_one_until_the_numbers_end() {
        assert_eq!(LogIndex::FIRST.next(), Some(LogIndex(1)));
        assert_eq!(LogIndex(u64::MAX).next(), None);
    }

    #[test]
    fn numbers_print_bare() {
        assert_eq!(format!("{}/{}", LogNo(3), LogIndex(17)), "3/17");
    }
}
