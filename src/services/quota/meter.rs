//! What one identity uses.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Semaphore, time::Instant};

use super::{
    exceeded,
    rate::Rate,
    share::{Share, Turn, Turns},
};
use crate::{
    services::access::{Access, Rules},
    types::{Identity, Limit, Limits, Refusal},
};

/// How long rows and bytes wait for their rate before they are refused.
const PATIENCE: Duration = Duration::from_secs(60);
/// Refusals that are answered at once, each second; further ones wait their turn, so that a flood of calls
/// is answered slowly and costs little.
const REFUSALS: u32 = 50;
/// How long a refusal waits at most.
const LONGEST: Duration = Duration::from_secs(5);
/// Lists that are looked up at once for one identity; further ones wait.
const SCANS: usize = 1;

/// The meter of one identity.
pub struct Meter {
    identity: Identity,
    access: Access,
    now: Mutex<Now>,
    counts: [AtomicU64; 3],
    share: Arc<Share>,
    scans: Arc<Semaphore>,
    tally: Mutex<Tally>,
}

/// What the policy says now.
struct Now {
    rules: Arc<Rules>,
    rates: Arc<Rates>,
}

struct Rates {
    limits: Limits,
    requests: Rate,
    rows: Rate,
    reads: Rate,
    bytes_in: Rate,
    bytes_out: Rate,
}

struct Tally {
    refused: u64,
    slowed: u64,
    first: Option<jiff::Timestamp>,
    last: Option<(Limit, jiff::Timestamp)>,
    used: Instant,
    /// When the next refusal is answered.
    answers: Instant,
}

/// How an identity stands.
#[derive(Debug, Clone)]
pub struct Usage {
    /// What it may use.
    pub limits: Limits,
    /// Of each limit that counts something: what is used now. Of a rate: what of its burst is.
    pub used: Vec<(Limit, u64, u64)>,
    /// Calls refused since the start.
    pub refused: u64,
    /// Times that rows or bytes had to wait since the start.
    pub slowed: u64,
    /// When it was first held back.
    pub first: Option<jiff::Timestamp>,
    /// By which limit it was held back last, and when.
    pub last: Option<(Limit, jiff::Timestamp)>,
}

/// One place among the calls, streams or connections of an identity; given back when dropped.
pub struct Held {
    meter: Arc<Meter>,
    limit: Limit,
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(count) = self.meter.count(self.limit) {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Rates {
    fn new(limits: Limits) -> Self {
        let seconds = limits.get(Limit::Burst);
        let message = limits.get(Limit::MessageBytes);
        let rate = |limit, least| Rate::new(limits.get(limit), seconds, least);
        Self {
            requests: rate(Limit::Requests, 1),
            rows: rate(Limit::Rows, 1),
            reads: rate(Limit::Reads, 1),
            bytes_in: rate(Limit::BytesIn, message),
            bytes_out: rate(Limit::BytesOut, message),
            limits,
        }
    }

    fn of(&self, limit: Limit) -> Option<&Rate> {
        match limit {
            Limit::Requests => Some(&self.requests),
            Limit::Rows => Some(&self.rows),
            Limit::Reads => Some(&self.reads),
            Limit::BytesIn => Some(&self.bytes_in),
            Limit::BytesOut => Some(&self.bytes_out),
            _ => None,
        }
    }
}

impl Meter {
    pub(super) fn new(identity: Identity, access: Access, turns: Arc<Turns>) -> Self {
        let rules = access.rules();
        let rates = Arc::new(Rates::new(access.limits(&identity)));
        let now = Instant::now();
        Self {
            identity,
            access,
            now: Mutex::new(Now { rules, rates }),
            counts: Default::default(),
            share: Arc::new(Share::new(turns)),
            scans: Arc::new(Semaphore::new(SCANS)),
            tally: Mutex::new(Tally {
                refused: 0,
                slowed: 0,
                first: None,
                last: None,
                used: now,
                answers: now.checked_sub(Duration::from_secs(1)).unwrap_or(now),
            }),
        }
    }

    /// Whose it is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The rates as the policy has them now; a change of the caller's limits begins with full bursts.
    fn rates(&self) -> Arc<Rates> {
        let rules = self.access.rules();
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&now.rules, &rules) {
            let limits = self.access.limits(&self.identity);
            if limits != now.rates.limits {
                now.rates = Arc::new(Rates::new(limits));
            }
            now.rules = rules;
        }
        now.rates.clone()
    }

    /// What the policy allows now.
    #[must_use]
    pub fn limit(&self, limit: Limit) -> u64 {
        self.rates().limits.get(limit)
    }

    /// The same, as a count of things in memory.
    #[must_use]
    pub fn most(&self, limit: Limit) -> usize {
        usize::try_from(self.limit(limit)).unwrap_or(usize::MAX)
    }

    fn count(&self, limit: Limit) -> Option<&AtomicU64> {
        let at = match limit {
            Limit::Calls => 0,
            Limit::Streams => 1,
            Limit::Connections => 2,
            _ => return None,
        };
        self.counts.get(at)
    }

    /// Takes a place among those that are bounded at once.
    ///
    /// # Errors
    /// [`crate::types::Reason::QuotaExceeded`].
    pub fn hold(self: &Arc<Self>, limit: Limit) -> Result<Held, Refusal> {
        let allowed = self.limit(limit);
        if let Some(count) = self.count(limit)
            && count.fetch_add(1, Ordering::Relaxed) >= allowed
        {
            count.fetch_sub(1, Ordering::Relaxed);
            return Err(self.refuses(limit, allowed, Some(Duration::from_secs(1))));
        }
        let meter = self.clone();
        Ok(Held { meter, limit })
    }

    /// Takes `count` of a rate.
    ///
    /// # Errors
    /// [`crate::types::Reason::QuotaExceeded`], with the time after which it can be taken.
    pub fn take(&self, limit: Limit, count: u64) -> Result<(), Refusal> {
        let rates = self.rates();
        let taken = rates.of(limit).map_or(Ok(()), |rate| rate.take(count));
        taken.map_err(|wait| self.refuses(limit, rates.limits.get(limit), Some(wait)))
    }

    /// Takes `count` of a rate, as soon as that is possible.
    ///
    /// # Errors
    /// [`crate::types::Reason::QuotaExceeded`] after a minute in vain.
    pub async fn pace(&self, limit: Limit, count: u64) -> Result<(), Refusal> {
        let started = Instant::now();
        let mut slowed = false;
        loop {
            let rates = self.rates();
            let taken = rates.of(limit).map_or(Ok(()), |rate| rate.take(count));
            let Err(wait) = taken else { return Ok(()) };
            if started.elapsed() + wait > PATIENCE {
                return Err(self.refuses(limit, rates.limits.get(limit), Some(wait)));
            }
            if !std::mem::replace(&mut slowed, true) {
                self.holds_back(limit, |tally| tally.slowed += 1);
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// After what time `count` of a rate can be taken; `None` once it is taken. Bytes that have come, or must
    /// go out, wait; they are never refused. `again` where they were told so before.
    #[must_use]
    pub fn wait(&self, limit: Limit, count: u64, again: bool) -> Option<Duration> {
        let wait = self.rates().of(limit)?.take(count).err()?;
        if !again {
            self.holds_back(limit, |tally| tally.slowed += 1);
        }
        Some(wait)
    }

    /// Refuses something for being over a limit that no waiting mends.
    #[must_use]
    pub fn refuses(&self, limit: Limit, allowed: u64, after: Option<Duration>) -> Refusal {
        self.holds_back(limit, |tally| tally.refused += 1);
        exceeded(&self.identity.role, limit, allowed, after)
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn holds_back(&self, limit: Limit, count: impl FnOnce(&mut Tally)) {
        let now = jiff::Timestamp::now();
        let mut tally = self.tally();
        count(&mut tally);
        tally.first.get_or_insert(now);
        tally.last = Some((limit, now));
    }

    /// When the next refusal is to be answered: at once, while they are few.
    #[must_use]
    pub fn answers(&self, now: Instant) -> Instant {
        let mut tally = self.tally();
        // A second's worth may be behind.
        let early = now.checked_sub(Duration::from_secs(1)).unwrap_or(now);
        tally.answers = tally.answers.max(early) + Duration::from_secs(1) / REFUSALS;
        tally.answers = tally.answers.min(now + LONGEST);
        tally.answers.max(now)
    }

    /// Waits for a turn of `rows` rows, or of some of them, in the committer's queue.
    pub async fn turn(&self, rows: usize) -> Turn {
        self.share.turn(rows, Instant::now()).await
    }

    /// Waits until no other list of this identity is looked up.
    pub async fn scan(&self) -> Option<tokio::sync::OwnedSemaphorePermit> {
        self.scans.clone().acquire_owned().await.ok()
    }

    /// Notes that the identity is there.
    pub(super) fn used(&self) -> Instant {
        self.tally().used
    }

    /// Notes that a connection came or went.
    pub fn touch(&self) {
        self.tally().used = Instant::now();
    }

    /// How it stands.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let rates = self.rates();
        let used = Limit::ALL.iter().filter_map(|limit| {
            if let Some(rate) = rates.of(*limit) {
                let (left, burst) = rate.left();
                return Some((*limit, burst - left, left));
            }
            let used = self.count(*limit)?.load(Ordering::Relaxed);
            let allowed = rates.limits.get(*limit);
            Some((*limit, used, allowed.saturating_sub(used)))
        });
        let used = used.collect();
        let tally = self.tally();
        Usage {
            limits: rates.limits.clone(),
            used,
            refused: tally.refused,
            slowed: tally.slowed,
            first: tally.first,
            last: tally.last,
        }
    }
}
