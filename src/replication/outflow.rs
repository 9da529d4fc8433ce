//! Logs on their way out of a node over one connection, in turn: a child's up, a parent's down.

use std::{collections::BTreeMap, ops::Bound};

use tokio::task::JoinHandle;

use super::{
    batch::{self, Outgoing},
    lane::Lane,
};
use crate::{ledger::Ledger, proto::replication::v1 as pb, storage::StorageError, types::LogNo};

/// A batch that was cut; `None` where no checkpoint covers what there is.
pub(super) type Cut = Result<Option<Outgoing>, StorageError>;

/// The lanes of a connection, and the batch that is being cut for one of them.
pub(super) struct Outflow {
    pub lanes: BTreeMap<LogNo, Lane>,
    cutting: Option<(LogNo, JoinHandle<Cut>)>,
    /// The log that was served last: the others come first.
    served: LogNo,
}

/// What came of a cut.
pub(super) enum Dispatched {
    /// The lane has turned since.
    Nothing,
    /// This goes out.
    Batch(LogNo, pb::Batch),
    /// The log cannot be sent; the others go on.
    Stopped(LogNo, &'static str),
}

impl Outflow {
    pub fn new() -> Self {
        Self {
            lanes: BTreeMap::new(),
            cutting: None,
            served: LogNo::OWN,
        }
    }

    /// Starts to cut the next batch, of the log whose turn it is. To be called when nothing else waits to go
    /// out: batches wait in the journal, not in memory.
    pub fn cut_next(&mut self, ledger: &Ledger, max_bytes: usize) {
        if self.cutting.is_some() {
            return;
        }
        let published = ledger.published();
        let behind = (Bound::Excluded(self.served), Bound::Unbounded);
        let turns = self
            .lanes
            .range(behind)
            .chain(self.lanes.range(..=self.served));
        let next = turns.into_iter().find_map(|(log, lane)| {
            let view = published.logs.get(log)?;
            let known = lane.has_offered(view.keys.changes().len());
            let view = known.then_some(view)?;
            Some((view.clone(), lane.wants(view.tree.size())?))
        });
        if let Some((view, start)) = next {
            self.served = view.log;
            let (log, held) = (view.log, ledger.clone());
            let cutting = ledger.reading(move || batch::cut(&held, &view, start, max_bytes));
            self.cutting = Some((log, cutting));
        }
    }

    /// Whether a batch is being cut.
    pub fn is_cutting(&self) -> bool {
        self.cutting.is_some()
    }

    /// The end of the cut that is under way; never, where there is none.
    pub async fn cut(&mut self) -> Cut {
        match &mut self.cutting {
            Some((_, cutting)) => cutting.await.unwrap_or_else(|error| {
                Err(StorageError::Failed {
                    doing: "cutting a batch",
                    cause: error.to_string(),
                })
            }),
            None => std::future::pending().await,
        }
    }

    /// What goes out of a cut that has ended.
    ///
    /// # Errors
    /// Where storage failed; damaged bytes stop their log alone.
    pub fn dispatch(&mut self, done: Cut) -> Result<Dispatched, StorageError> {
        let Some((log, _)) = self.cutting.take() else {
            return Ok(Dispatched::Nothing);
        };
        Ok(match done {
            Ok(Some(batch)) => match self.lanes.get_mut(&log).is_some_and(|l| l.send(&batch)) {
                true => Dispatched::Batch(log, batch.message),
                false => Dispatched::Nothing,
            },
            Ok(None) => Dispatched::Stopped(log, "no checkpoint covers its entries"),
            Err(StorageError::Corrupt { what }) => {
                tracing::error!(%what, "damaged bytes are not sent");
                Dispatched::Stopped(log, "stored bytes are damaged: run hefu verify")
            }
            Err(error) => return Err(error),
        })
    }
}
