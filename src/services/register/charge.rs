//! What a call costs its caller: rows, records looked at, stored bytes, and its turn in the queue.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::sync::oneshot;

use super::Call;
use crate::{
    ledger::{SubmitError, Submitted, rules::Proposal},
    registers::Filter,
    services::status::storage,
    types::{Limit, Reason, Refusal},
};

impl Call {
    /// A single row: refused at once past the rate, with the time after which to try again.
    pub(super) fn row(&self) -> Result<(), Refusal> {
        self.meter.take(Limit::Rows, 1)?;
        self.has_room()
    }

    /// Rows of a list: they wait for their rate, so that a long list is slowed and not failed.
    pub(super) async fn rows(&self, count: usize) -> Result<(), Refusal> {
        self.meter.pace(Limit::Rows, count as u64).await?;
        self.has_room()
    }

    /// Records that were looked at for the caller.
    pub(super) async fn looked_at(&self, count: usize) -> Result<(), Refusal> {
        self.meter.pace(Limit::Reads, count as u64).await
    }

    /// Whether the caller's agency has stored less than it may. What is on its way is not counted yet.
    fn has_room(&self) -> Result<(), Refusal> {
        let Some(agency) = self.caller.agency() else {
            return Ok(());
        };
        let stored = self.shared.ledger.stored(agency).map_err(storage)?;
        let allowed = self.meter.limit(Limit::StoredBytes);
        if stored >= allowed {
            return Err(self.meter.refuses(Limit::StoredBytes, allowed, None));
        }
        Ok(())
    }

    /// The page size that is asked for, as far as the caller's pages may go.
    pub(super) fn page_size(&self, asked: i32) -> i32 {
        let allowed = i32::try_from(self.meter.limit(Limit::PageRows)).unwrap_or(i32::MAX);
        match asked {
            0 => allowed.min(crate::registers::DEFAULT_ROWS),
            asked => asked.min(allowed),
        }
    }

    /// A filter, of as many comparisons as the caller may make.
    pub(super) fn filter(&self, text: &str) -> Result<Filter, Refusal> {
        let filter = self.register()?.filter(text)?;
        let allowed = self.meter.limit(Limit::FilterTerms);
        if filter.terms() as u64 > allowed {
            return Err(self.meter.refuses(Limit::FilterTerms, allowed, None));
        }
        Ok(filter)
    }

    /// Puts proposals into the committer's queue: all at once, or in slices while others submit too. They are
    /// decided in the order in which this returns.
    pub(super) async fn enqueue(&self, mut proposals: Vec<Proposal>) -> Result<Proposed, Refusal> {
        let mut parts = VecDeque::new();
        loop {
            let turn = self.meter.turn(proposals.len()).await;
            let later = proposals.split_off(turn.rows.min(proposals.len()));
            let submitting = self.shared.ledger.enqueue(proposals).await;
            let submitting = submitting.map_err(|_| Refusal::new(Reason::StorageFailed))?;
            let (tell, told) = oneshot::channel();
            // The turn ends with the answer, whether or not the caller is there to take it.
            tokio::spawn(async move {
                let submitted = submitting.await;
                drop(turn);
                let _ = tell.send(submitted);
            });
            parts.push_back(told);
            if later.is_empty() {
                return Ok(Proposed {
                    parts,
                    so_far: None,
                });
            }
            proposals = later;
        }
    }
}

/// Proposals on their way, in slices; their results together, in order.
pub(super) struct Proposed {
    parts: VecDeque<oneshot::Receiver<Result<Submitted, SubmitError>>>,
    so_far: Option<Submitted>,
}

impl Future for Proposed {
    type Output = Result<Submitted, SubmitError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        while let Some(part) = self.parts.front_mut() {
            let Poll::Ready(part) = Pin::new(part).poll(cx) else {
                return Poll::Pending;
            };
            self.parts.pop_front();
            let part = match part {
                Ok(Ok(part)) => part,
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_) => return Poll::Ready(Err(SubmitError::Stopped)),
            };
            let mut results = self.so_far.take().map(|so_far| so_far.results);
            results.get_or_insert_default().extend(part.results);
            self.so_far = Some(Submitted {
                results: results.unwrap_or_default(),
                ..part
            });
        }
        Poll::Ready(self.so_far.take().ok_or(SubmitError::Stopped))
    }
}
