//! The standing connections: each is judged again when what it was judged by changes.
//!
//! A connection that is no longer entitled, because its certificate has ended, is revoked or leads to a root
//! that is trusted no more, ends in steps: at once it takes no call and its watches and replication streams
//! end; after [`FINISH`] all other calls end; after [`CLOSE`] it is closed. No other connection notices.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use tokio_util::sync::CancellationToken;

use super::keys::{InForce, Keys};
use crate::types::Role;

/// How long calls that do not last may go on once their connection is no longer entitled.
pub const FINISH: Duration = Duration::from_secs(1);
/// How long until such a connection is closed.
pub const CLOSE: Duration = Duration::from_secs(2);
/// Holders of certificates that are remembered, at most.
const MAX_SEEN: usize = 10_000;

/// Whether a connection is still entitled, as its calls see it.
#[derive(Debug, Clone)]
pub struct Standing(CancellationToken);

impl Standing {
    /// Whether it is no longer.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Ends when it is no longer.
    pub(super) async fn over(self) {
        self.0.cancelled().await;
    }

    pub(super) fn end(&self) {
        self.0.cancel();
    }
}

/// The connections of a node, and what they are judged by.
pub struct Connections {
    keys: Keys,
    numbers: AtomicU64,
    standing: Mutex<HashMap<u64, Chain>>,
    /// When the newest certificate of every holder ends that was seen since the start.
    seen: Mutex<BTreeMap<String, Timestamp>>,
}

struct Chain {
    certificates: Vec<CertificateDer<'static>>,
    standing: Standing,
    who: String,
}

/// A connection among the others; it leaves when dropped.
pub(super) struct Entered {
    connections: Arc<Connections>,
    number: u64,
    pub standing: Standing,
}

impl Drop for Entered {
    fn drop(&mut self) {
        lock(&self.connections.standing).remove(&self.number);
    }
}

impl Connections {
    /// No connections yet.
    #[must_use]
    pub fn new(keys: Keys) -> Arc<Self> {
        Arc::new(Self {
            keys,
            numbers: AtomicU64::new(0),
            standing: Mutex::default(),
            seen: Mutex::default(),
        })
    }

    /// What they are judged by.
    #[must_use]
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        lock(&self.standing).len()
    }

    /// Whose certificates were seen since the start, such as `agency/qidong-emergency`, and when the newest of
    /// each ends.
    #[must_use]
    pub fn seen(&self) -> BTreeMap<String, Timestamp> {
        lock(&self.seen).clone()
    }

    /// A connection whose handshake was judged by `judged_by`. If other credentials are in force by now, they
    /// judge it too: none slips through between a change and its entry.
    ///
    /// # Errors
    /// Why it is not entitled.
    pub(super) fn enter(
        self: &Arc<Self>,
        certificates: Vec<CertificateDer<'static>>,
        who: String,
        judged_by: &Arc<InForce>,
    ) -> Result<Entered, rustls::Error> {
        let standing = Standing(CancellationToken::new());
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let chain = Chain {
            certificates: certificates.clone(),
            standing: standing.clone(),
            who,
        };
        lock(&self.standing).insert(number, chain);
        let entered = Entered {
            connections: self.clone(),
            number,
            standing,
        };
        let now = self.keys.current();
        if !Arc::ptr_eq(&now, judged_by) {
            now.judge_client(&certificates)?;
        }
        Ok(entered)
    }

    /// Remembers when a holder's certificate ends.
    pub(super) fn saw(&self, role: &Role, end: Timestamp) {
        let mut seen = lock(&self.seen);
        let (full, role) = (seen.len() >= MAX_SEEN, role.to_string());
        match seen.get_mut(&role) {
            Some(known) => *known = end.max(*known),
            None if full => {}
            None => drop(seen.insert(role, end)),
        }
    }

    /// Judges every connection whenever the credentials change, until dropped.
    pub(super) async fn watch(self: Arc<Self>) {
        let mut changes = self.keys.changes();
        // Whatever changed before this began.
        changes.mark_changed();
        while changes.changed().await.is_ok() {
            let (connections, now) = (self.clone(), changes.borrow_and_update().clone());
            // Thousands of signatures: not on a thread that serves.
            let judging = tokio::task::spawn_blocking(move || connections.judge(&now));
            let _ = judging.await;
        }
    }

    fn judge(&self, now: &InForce) {
        let mut by_chain: HashMap<Vec<CertificateDer<'static>>, Vec<(Standing, String)>> =
            HashMap::new();
        for chain in lock(&self.standing).values() {
            let alike = by_chain.entry(chain.certificates.clone()).or_default();
            alike.push((chain.standing.clone(), chain.who.clone()));
        }
        for (certificates, alike) in by_chain {
            let Err(why) = now.judge_client(&certificates) else {
                continue;
            };
            for (standing, who) in alike {
                tracing::warn!(who, %why, "a connection is no longer entitled and ends");
                standing.end();
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
