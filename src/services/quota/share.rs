//! Turns in the committer's queue: however much one identity submits, another waits for a small group at most.
//!
//! The queue is first come, first served, and a group takes all that waits. So what one identity may have in
//! it is bounded: by [`ALONE`] rows while nobody else submits, by [`SHARED`] rows, in slices, while somebody does.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

/// Rows of one identity in the queue while it is alone.
const ALONE: u32 = 4_096;
/// Rows of one identity in the queue while others submit too.
const SHARED: u32 = 64;
/// Rows that go into the queue together while others submit too.
const SLICE: usize = 32;
/// How long somebody counts as submitting after a submission.
const RECENT: Duration = Duration::from_secs(5);

/// Who submitted of late: as much of it as is needed to tell whether somebody is alone.
#[derive(Default)]
pub(super) struct Turns(Mutex<Option<Last>>);

struct Last {
    who: usize,
    /// When somebody other than `who` submitted last.
    other: Option<Instant>,
    at: Instant,
}

impl Turns {
    /// Notes that `who` submits; whether nobody else did of late.
    fn alone(&self, who: usize, now: Instant) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let other = match &*last {
            Some(last) if last.who == who => last.other,
            Some(last) => Some(last.at),
            None => None,
        };
        *last = Some(Last {
            who,
            other,
            at: now,
        });
        other.is_none_or(|other| now.saturating_duration_since(other) > RECENT)
    }
}

/// One identity's part of the queue.
pub(super) struct Share {
    rows: Arc<Semaphore>,
    turns: Arc<Turns>,
}

/// Rows that may be in the queue until this is dropped.
pub struct Turn {
    /// How many.
    pub rows: usize,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Share {
    pub fn new(turns: Arc<Turns>) -> Self {
        Self {
            rows: Arc::new(Semaphore::new(ALONE as usize)),
            turns,
        }
    }

    /// Waits until some of `rows` may go into the queue: all of them where that is few, or nobody else
    /// submits.
    pub async fn turn(self: &Arc<Self>, rows: usize, now: Instant) -> Turn {
        let who = Arc::as_ptr(self).addr();
        let (most, weight) = match self.turns.alone(who, now) {
            true => (ALONE as usize, 1),
            false => (SLICE, ALONE / SHARED),
        };
        let rows = rows.min(most);
        let permits = u32::try_from(rows).unwrap_or(ALONE).saturating_mul(weight);
        // Nobody closes it.
        let permit = self.rows.clone().acquire_many_owned(permits).await.ok();
        Turn {
            rows,
            _permit: permit,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn who_is_alone_takes_all_and_shares_when_another_comes() {
        let (turns, now) = (Arc::new(Turns::default()), Instant::now());
        let [one, two] = [(); 2].map(|()| Arc::new(Share::new(turns.clone())));
        assert_eq!(one.turn(1_000, now).await.rows, 1_000);
        assert_eq!(two.turn(1, now).await.rows, 1);
        let first = one.turn(1_000, now).await;
        assert_eq!(first.rows, SLICE);
        let second = one.turn(968, now).await;
        assert_eq!(second.rows, SLICE);
        let third = one.turn(936, now).now_or_never();
        assert!(third.is_none(), "its share is taken");
        let other = two.turn(1, now).await.rows;
        assert_eq!(other, 1, "which is not the other's business");
        drop(first);
        assert_eq!(one.turn(936, now).await.rows, SLICE);
        drop(second);
        let later = now + RECENT * 2;
        assert_eq!(one.turn(936, later).await.rows, 936, "the other is gone");
    }
}
