//! A cap on what goes up: bytes in a second, over a whole connection.

use std::{num::NonZeroU64, time::Duration};

use tokio::time::Instant;

use super::MAX_BATCH_BYTES;

/// Bytes in a second, at most; `None` for no cap.
pub type Rate = Option<NonZeroU64>;

/// Batches are cut so small that one takes about this long under the cap, in seconds: a window that ends, or a
/// heartbeat, waits no longer.
const BATCH_SECONDS: u64 = 2;
/// Batches are not cut smaller than this, in bytes.
const SMALLEST_BATCH: u64 = 16 * 1024;

/// Keeps the cap: what was sent is paid for with time before the next message goes.
pub(super) struct Throttle {
    free: Instant,
}

impl Throttle {
    pub fn new(now: Instant) -> Self {
        Self { free: now }
    }

    /// When the next message may go.
    pub fn free_at(&self) -> Instant {
        self.free
    }

    /// Something was sent.
    pub fn spend(&mut self, bytes: usize, rate: Rate, now: Instant) {
        let Some(rate) = rate else { return };
        let nanos = (bytes as u128 * 1_000_000_000).div_ceil(u128::from(rate.get()));
        let time = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.free = self.free.max(now) + time;
    }
}

/// Bytes of a batch's entries under a cap, at most.
pub(super) fn batch_bytes(rate: Rate) -> usize {
    let capped = rate.map(|rate| rate.get().saturating_mul(BATCH_SECONDS).max(SMALLEST_BATCH));
    let capped = capped.and_then(|bytes| usize::try_from(bytes).ok());
    capped.map_or(MAX_BATCH_BYTES, |bytes| bytes.min(MAX_BATCH_BYTES))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_stretch_of_time_carries_more_than_the_cap_and_one_message(
            rate in 1_u64..1_000_000,
            sent in prop::collection::vec((0_usize..3_000_000, 0_u64..5_000), 1..50),
        ) {
            let start = Instant::now();
            let mut throttle = Throttle::new(start);
            let (mut now, mut bytes) = (start, 0_u128);
            for (message, pause) in sent {
                // What was sent before this message fits into the time that has passed.
                now = (now + Duration::from_millis(pause)).max(throttle.free_at());
                let fits = (now - start).as_nanos() * u128::from(rate);
                prop_assert!(bytes * 1_000_000_000 <= fits, "{bytes} in {:?}", now - start);
                bytes += message as u128;
                throttle.spend(message, NonZeroU64::new(rate), now);
            }
        }
    }

    #[test]
    fn without_a_cap_nothing_waits() {
        let now = Instant::now();
        let mut throttle = Throttle::new(now);
        throttle.spend(usize::MAX, None, now);
        assert_eq!(throttle.free_at(), now);
        assert_eq!(batch_bytes(None), MAX_BATCH_BYTES);
        assert_eq!(batch_bytes(NonZeroU64::new(1)), 16 * 1024);
        assert_eq!(batch_bytes(NonZeroU64::new(64 * 1024)), 128 * 1024);
    }
}
