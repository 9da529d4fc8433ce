//! What a call tells of itself while it runs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::proto::audit::v1::AuditRows;

/// What became of the rows of a submission.
pub type Rows = AuditRows;

/// What a call tells of itself: the gateway puts it into the request, services fill it in, and the
/// gateway writes it when the call ends.
#[derive(Debug, Clone, Default)]
pub struct Account(Arc<Mutex<Told>>);

/// What was told.
#[derive(Debug, Clone, Default)]
pub struct Told {
    /// On what.
    pub resource: String,
    /// Whether records of another agency were shown.
    pub crossed: bool,
    /// What became of the rows.
    pub rows: Rows,
    /// First and last entry that the call made in the own log.
    pub entries: Option<(u64, u64)>,
}

impl Account {
    fn lock(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Names what the call is about. Only for texts that were parsed: they hold nothing of a caller's own.
    pub fn names(&self, resource: impl ToString) {
        self.lock().resource = resource.to_string();
    }

    /// Records of another agency were shown.
    pub fn crosses(&self) {
        self.lock().crossed = true;
    }

    /// Counts rows.
    pub fn counts(&self, count: impl FnOnce(&mut Rows)) {
        count(&mut self.lock().rows);
    }

    /// An entry was made.
    pub fn made(&self, index: u64) {
        let mut told = self.lock();
        let first = told.entries.map_or(index, |(first, _)| first.min(index));
        let last = told.entries.map_or(index, |(_, last)| last.max(index));
        told.entries = Some((first, last));
    }

    /// What was told so far.
    #[must_use]
    pub fn told(&self) -> Told {
        self.lock().clone()
    }
}
