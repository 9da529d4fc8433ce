//! What a call tells of itself while it runs, and the line that comes of it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use super::{AuditError, Trail};
use crate::proto::audit::v1::{AuditRecord, AuditRows};

/// What became of the rows of a submission.
pub type Rows = AuditRows;

/// gRPC's code for a call that its caller has cut.
const CANCELLED: i32 = 1;

/// What the gateway knows of a call before it runs.
#[derive(Debug, Clone)]
pub struct Incoming {
    /// The SPIFFE ID; empty for a peer without one.
    pub caller: String,
    /// Address and port.
    pub address: String,
    /// The method's path; empty for one that does not exist, for it is the caller's own text.
    pub method: String,
    /// The id under which the log has the call.
    pub id: String,
    /// Whether it is recorded whatever comes of it: it changes something, or looks at the trail.
    pub always: bool,
}

/// The account of one call. The gateway opens it and puts it into the request, services say what the call is
/// about, and the gateway closes it: a line in the trail, where the call is one that needs it.
#[derive(Clone)]
pub struct Account(Arc<Inner>);

struct Inner {
    trail: Trail,
    incoming: Incoming,
    started: Instant,
    told: Mutex<Told>,
}

#[derive(Default)]
struct Told {
    resource: String,
    crossed: bool,
    rows: Rows,
    entries: Option<(u64, u64)>,
    closed: bool,
}

impl Account {
    /// Opens the account of a call.
    #[must_use]
    pub fn open(trail: Trail, incoming: Incoming) -> Self {
        Self(Arc::new(Inner {
            trail,
            incoming,
            started: Instant::now(),
            told: Mutex::default(),
        }))
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.0.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Names what the call is about. Only for what was parsed: it holds nothing of a caller's own.
    pub fn names(&self, resource: &impl ToString) {
        self.told().resource = resource.to_string();
    }

    /// Records of another agency are shown. Of a call that lasts this must be on record before it
    /// ends: `lasts` writes a line at once, the first time.
    ///
    /// # Errors
    /// [`AuditError`].
    pub fn crosses(&self, lasts: bool) -> Result<(), AuditError> {
        let first = !std::mem::replace(&mut self.told().crossed, true);
        if first && lasts {
            return self.begins();
        }
        Ok(())
    }

    /// Counts rows.
    pub fn counts(&self, count: impl FnOnce(&mut Rows)) {
        count(&mut self.told().rows);
    }

    /// An entry was made in the node's own log.
    pub fn made(&self, index: u64) {
        let mut told = self.told();
        let first = told.entries.map_or(index, |(first, _)| first.min(index));
        let last = told.entries.map_or(index, |(_, last)| last.max(index));
        told.entries = Some((first, last));
    }

    /// Writes that a call which lasts has begun.
    ///
    /// # Errors
    /// [`AuditError`].
    pub fn begins(&self) -> Result<(), AuditError> {
        let record = AuditRecord {
            event: "begins".to_owned(),
            ..self.record(&self.told())
        };
        self.0.trail.write(record)
    }

    /// Closes the account with the call's code and the reason that it was given; the first time counts.
    ///
    /// # Errors
    /// [`AuditError`]: then the call must not be answered as if nothing were.
    pub fn close(&self, code: i32, reason: &str) -> Result<(), AuditError> {
        let mut told = self.told();
        if std::mem::replace(&mut told.closed, true) {
            return Ok(());
        }
        let refused = code != 0 && code != CANCELLED;
        if !(self.0.incoming.always || refused || told.crossed) {
            return Ok(());
        }
        let record = AuditRecord {
            code,
            reason: reason.to_owned(),
            duration: self.0.started.elapsed().try_into().ok(),
            ..self.record(&told)
        };
        self.0.trail.write(record)
    }

    fn record(&self, told: &Told) -> AuditRecord {
        let Incoming {
            caller,
            address,
            method,
            id,
            ..
        } = self.0.incoming.clone();
        let index = |index: u64| i64::try_from(index).unwrap_or(i64::MAX);
        AuditRecord {
            caller,
            address,
            method,
            call_id: id,
            resource: told.resource.clone(),
            cross_agency: told.crossed,
            rows: Some(told.rows).filter(|rows| *rows != Rows::default()),
            first_index: told.entries.map(|(first, _)| index(first)),
            last_index: told.entries.map(|(_, last)| index(last)),
            ..AuditRecord::default()
        }
    }
}
