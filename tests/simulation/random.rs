//! Where everything is drawn from.

use std::time::Duration;

/// SplitMix64.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// All that follows is decided by the seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// True so many times of a hundred.
    pub fn percent(&mut self, of: u64) -> bool {
        self.below(100) < of
    }

    /// Below so many milliseconds.
    pub fn millis(&mut self, below: u64) -> Duration {
        Duration::from_millis(self.below(below))
    }

    /// Another source, for something that draws on its own.
    pub fn fork(&mut self) -> Self {
        Self(self.next())
    }
}
