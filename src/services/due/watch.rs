//! Watching clocks: what becomes due, what becomes overdue, what is met.
//!
//! A watch looks again when entries came in, and when the next clock runs out; it tells what is different.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::ControlFlow,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use futures::{Stream, stream};
use jiff::Timestamp;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};
use tonic::Status;

use super::{FoundClock, Query, item, shows};
use crate::{
    ledger::{Published, entry::timestamp},
    proto::due::v1::{DueChange, WatchDueResponse},
    services::{asker::Asker, register::Shared, status::status},
    types::{LedgerTime, Reason, Refusal},
};

/// Items that one watch keeps.
const MAX_ITEMS: usize = 10_000;
/// Longest silence: then a sign of life goes out.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Between two looks, at least: a node that takes thousands of entries is not looked through for each.
const PAUSE: Duration = Duration::from_secs(1);

pub(super) struct Watch {
    shared: Arc<Shared>,
    asker: Arc<Asker>,
    query: Query,
    /// What the caller was told of, by key, and whether that it is overdue.
    told: BTreeMap<Vec<u8>, (FoundClock, bool)>,
    ready: VecDeque<WatchDueResponse>,
    follow: watch::Receiver<Arc<Published>>,
    /// What was due before is not asked for.
    after: Option<Timestamp>,
    first: bool,
    spoke: Instant,
    ended: bool,
}

type Answers = Pin<Box<dyn Stream<Item = Result<WatchDueResponse, Status>> + Send>>;

impl Watch {
    pub(super) fn stream(shared: Arc<Shared>, asker: Asker, query: Query) -> Answers {
        let follow = shared.ledger.follow();
        let after = query.skip_overdue.then(|| shared.clock.now());
        let watch = Self {
            shared,
            asker: Arc::new(asker),
            query,
            told: BTreeMap::new(),
            ready: VecDeque::new(),
            follow,
            after,
            first: true,
            spoke: Instant::now(),
            ended: false,
        };
        Box::pin(stream::unfold(watch, |mut watch| async move {
            if watch.ended {
                return None;
            }
            let answer = watch.next().await;
            watch.ended = answer.is_err();
            Some((answer, watch))
        }))
    }

    async fn next(&mut self) -> Result<WatchDueResponse, Status> {
        loop {
            if let Some(change) = self.ready.pop_front() {
                self.spoke = Instant::now();
                return Ok(change);
            }
            let first = std::mem::take(&mut self.first);
            if !first {
                self.wait().await?;
            }
            self.look().await.map_err(status)?;
            // It also says where the beginning ends.
            if first || (self.ready.is_empty() && self.spoke.elapsed() >= HEARTBEAT) {
                let sign = self.change(DueChange::Unspecified, None);
                self.ready.push_back(sign);
            }
        }
    }

    /// Waits for entries, or for the next clock to run out.
    async fn wait(&mut self) -> Result<(), Status> {
        let begun = Instant::now();
        if let Ok(changed) = timeout(self.next_moment(), self.follow.changed()).await {
            changed.map_err(|_| status(Reason::ShuttingDown.into()))?;
        }
        sleep_until(begun + PAUSE).await;
        Ok(())
    }

    /// How long until one of the known clocks runs out; new ones come into view by and by.
    fn next_moment(&self) -> Duration {
        let now = self.shared.clock.now();
        let running = self.told.values().filter(|(_, overdue)| !overdue);
        let next = running.map(|(found, _)| found.due.at).min();
        let until = |at: Timestamp| Duration::try_from(at.duration_since(now)).unwrap_or_default();
        let grain = HEARTBEAT / 2;
        next.map_or(grain, |at| until(at) + Duration::from_millis(10))
            .min(grain)
    }

    /// Looks again, and says what is different.
    async fn look(&mut self) -> Result<(), Refusal> {
        self.follow.borrow_and_update();
        let now = self.shared.clock.now();
        let (shared, asker) = (self.shared.clone(), self.asker.clone());
        let (query, after) = (self.query.clone(), self.after);
        let looked = tokio::task::spawn_blocking(move || {
            let mut found = BTreeMap::new();
            query.walk(&shared, &asker, (after, now), None, &mut |key, item| {
                found.extend(item.map(|item| (key.to_vec(), item)));
                match found.len() > MAX_ITEMS {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            })?;
            Ok::<_, Refusal>(found)
        });
        let found = looked.await.map_err(|_| Refusal::new(Reason::Internal))??;
        if found.len() > MAX_ITEMS {
            let (en, zh) = (
                format!("more than {MAX_ITEMS} items: narrow the question"),
                format!("超过 {MAX_ITEMS} 项，请缩小范围"),
            );
            return Err(Refusal::new(Reason::Overloaded).because(en, zh));
        }
        self.compare(found, now)
    }

    fn compare(
        &mut self,
        found: BTreeMap<Vec<u8>, FoundClock>,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let mut told = std::mem::take(&mut self.told);
        for (key, item) in found {
            let overdue = now > item.due.at;
            let before = told.remove(&key).map(|(_, overdue)| overdue);
            if before != Some(overdue) {
                shows(&self.asker, &item, true)?;
                let change = match overdue {
                    true => DueChange::Overdue,
                    false => DueChange::Due,
                };
                self.tell(change, &item, now);
            }
            self.told.insert(key, (item, overdue));
        }
        for (item, _) in told.into_values() {
            // What one may no longer read is not told to be met.
            if self.asker.sees(item.name.register(), item.name.agency()) {
                self.tell(DueChange::Met, &item, now);
            }
        }
        Ok(())
    }

    fn tell(&mut self, change: DueChange, found: &FoundClock, now: Timestamp) {
        let change = self.change(change, Some(item(found, now)));
        self.ready.push_back(change);
    }

    fn change(
        &self,
        change: DueChange,
        item: Option<crate::proto::due::v1::DueItem>,
    ) -> WatchDueResponse {
        WatchDueResponse {
            change: change.into(),
            item,
            now: Some(timestamp(LedgerTime::from(self.shared.clock.now()))),
        }
    }
}
