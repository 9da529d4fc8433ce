//! A rate with a burst, over `governor`.

use std::{
    num::NonZeroU32,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use governor::{
    NotUntil, Quota, RateLimiter,
    clock::{Clock as _, MonotonicClock},
    middleware::StateInformationMiddleware,
    state::{InMemoryState, NotKeyed},
};
use tokio::time::Instant;

type Limiter = RateLimiter<NotKeyed, InMemoryState, MonotonicClock, StateInformationMiddleware>;

/// So many a second, and what was not used for some seconds at once.
pub(super) struct Rate {
    limiter: Limiter,
    /// What `governor` counts one for: it counts in 32 bits.
    unit: u64,
    per_second: u64,
    burst: u64,
    /// What was left, and when. `governor` tells it only while something is taken.
    left: Mutex<(u64, Instant)>,
}

impl Rate {
    /// `per_second` and `seconds` are at least 1; the burst is never smaller than `least`.
    pub fn new(per_second: u64, seconds: u64, least: u64) -> Self {
        let burst = per_second.saturating_mul(seconds).max(least).max(1);
        let unit = burst.max(per_second).div_ceil(u64::from(u32::MAX));
        let cells = |count: u64| {
            let cells = u32::try_from((count / unit).max(1)).unwrap_or(u32::MAX);
            NonZeroU32::new(cells).unwrap_or(NonZeroU32::MIN)
        };
        let quota = Quota::per_second(cells(per_second)).allow_burst(cells(burst));
        let limiter = RateLimiter::direct_with_clock(quota, MonotonicClock);
        Self {
            limiter: limiter.with_middleware(),
            unit,
            per_second,
            burst,
            left: Mutex::new((burst, Instant::now())),
        }
    }

    /// Takes `count`, or says after what time it can be taken. More than a burst counts as one.
    pub fn take(&self, count: u64) -> Result<(), Duration> {
        let most = self.burst / self.unit;
        let cells = u32::try_from(count.div_ceil(self.unit).min(most)).unwrap_or(u32::MAX);
        let Some(cells) = NonZeroU32::new(cells) else {
            return Ok(());
        };
        match self.limiter.check_n(cells) {
            Ok(Ok(taken)) => {
                let left = u64::from(taken.remaining_burst_capacity()) * self.unit;
                *self.left.lock().unwrap_or_else(PoisonError::into_inner) = (left, Instant::now());
                Ok(())
            }
            Ok(Err(not)) => Err(wait(&not)),
            // Not reached: no more than a burst is asked for.
            Err(_) => Err(Duration::from_secs(1)),
        }
    }

    /// What may be used at once now, and at most.
    pub fn left(&self) -> (u64, u64) {
        let (left, then) = *self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let since = then.elapsed().as_secs_f64();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a figure to show; it saturates"
        )]
        let refilled = (since * self.per_second as f64) as u64;
        (left.saturating_add(refilled).min(self.burst), self.burst)
    }
}

fn wait(not: &NotUntil<std::time::Instant>) -> Duration {
    // At least a millisecond: a retry at once would be refused again.
    not.wait_time_from(MonotonicClock.now())
        .max(Duration::from_millis(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_rate_with_the_true_wait() {
        let rate = Rate::new(10, 2, 1);
        assert_eq!(rate.left(), (20, 20));
        assert_eq!(rate.take(15), Ok(()));
        assert!(rate.left().0 <= 6);
        assert_eq!(rate.take(5), Ok(()));
        let wait = rate.take(10).unwrap_err();
        assert!(wait <= Duration::from_secs(1), "{wait:?}");
        assert!(wait > Duration::from_millis(900), "{wait:?}");
        // More than a burst waits for a burst, and not for ever.
        let wait = rate.take(1_000).unwrap_err();
        assert!(wait <= Duration::from_secs(2), "{wait:?}");
    }

    #[test]
    fn large_figures_are_counted_in_larger_units() {
        let rate = Rate::new(4_000_000_000, 3_600, 1);
        assert_eq!(rate.left().1, 4_000_000_000 * 3_600);
        assert_eq!(rate.take(0), Ok(()));
        assert_eq!(rate.take(1 << 40), Ok(()));
        let rate = Rate::new(1, 1, 16);
        assert_eq!(rate.take(16), Ok(()));
        assert!(rate.take(1).is_err());
    }
}
