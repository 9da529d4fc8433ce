//! Quotas: how much each identity may use, asked of the policy as it stands now.
//!
//! What is counted lies in memory, one [`Meter`] for each identity that is connected or was of late; a node
//! that starts begins with full bursts. Calls past a rate are refused with the true wait; rows and bytes of
//! a stream wait instead, so that a nightly job is slowed and not failed.

mod meter;
mod rate;
mod serve;
mod share;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

pub use meter::{Held, Meter, Usage};
pub use serve::Quoted;
pub(super) use serve::last;
pub use share::Turn;

use super::{access::Access, status::SUBJECT};
use crate::types::{Identity, Limit, Reason, Refusal, Role};

/// Meters kept at most, beside those in use.
const MAX_IDLE: usize = 1_000;
/// A meter that nobody used for so long is dropped when room is needed, and so is its memory of a flood.
const IDLE: Duration = Duration::from_secs(600);

/// The meters of a node.
#[derive(Clone)]
pub struct Quotas(Arc<Inner>);

struct Inner {
    access: Access,
    meters: Mutex<HashMap<Identity, Arc<Meter>>>,
    turns: Arc<share::Turns>,
}

impl Quotas {
    /// Quotas by the policy that `access` asks.
    #[must_use]
    pub fn new(access: Access) -> Self {
        Self(Arc::new(Inner {
            access,
            meters: Mutex::default(),
            turns: Arc::default(),
        }))
    }

    fn meters(&self) -> MutexGuard<'_, HashMap<Identity, Arc<Meter>>> {
        self.0.meters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The meter of an identity of the trust domain.
    #[must_use]
    pub fn meter(&self, identity: &Identity) -> Arc<Meter> {
        let mut meters = self.meters();
        if let Some(meter) = meters.get(identity) {
            return meter.clone();
        }
        drop_idle(&mut meters);
        let (access, turns) = (self.0.access.clone(), self.0.turns.clone());
        let meter = Arc::new(Meter::new(identity.clone(), access, turns));
        meters.insert(identity.clone(), meter.clone());
        meter
    }

    /// Those who were held back since the start, the most refused first.
    #[must_use]
    pub fn limited(&self) -> Vec<(Identity, Usage)> {
        let meters: Vec<_> = self.meters().values().cloned().collect();
        let usage = meters
            .iter()
            .map(|meter| (meter.identity().clone(), meter.usage()));
        let mut limited: Vec<_> = usage.filter(|(_, usage)| usage.last.is_some()).collect();
        limited.sort_by_key(|(identity, usage)| {
            (
                std::cmp::Reverse(usage.refused + usage.slowed),
                identity.clone(),
            )
        });
        limited
    }
}

/// Makes room: what is connected stays, and of the rest the newest.
fn drop_idle(meters: &mut HashMap<Identity, Arc<Meter>>) {
    if meters.len() < MAX_IDLE {
        return;
    }
    let now = Instant::now();
    let idle = |meter: &Arc<Meter>| match Arc::strong_count(meter) {
        1 => Some(now.saturating_duration_since(meter.used())),
        _ => None,
    };
    meters.retain(|_, meter| idle(meter).is_none_or(|idle| idle < IDLE));
    let mut ages: Vec<_> = meters.values().filter_map(idle).collect();
    if ages.len() >= MAX_IDLE {
        ages.sort_unstable();
        let oldest = ages.get(MAX_IDLE / 2).copied().unwrap_or_default();
        meters.retain(|_, meter| idle(meter).is_none_or(|idle| idle < oldest));
    }
}

/// Why a caller is over a limit; it names nobody but the caller itself.
#[must_use]
pub fn exceeded(whose: &Role, limit: Limit, allowed: u64, after: Option<Duration>) -> Refusal {
    let (en, zh) = limit.texts();
    let (en, zh) = (format!("{allowed} {en}"), format!("{zh}上限为 {allowed}"));
    let refusal = Refusal::new(Reason::QuotaExceeded)
        .because(en, zh)
        .with(SUBJECT, whose)
        .with("limit", limit)
        .with("allowed", allowed);
    match after {
        Some(after) => refusal.retry_after(after),
        None => refusal,
    }
}
