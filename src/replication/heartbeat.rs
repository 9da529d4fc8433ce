//! Heartbeats: an origin's word that it is alive, and how far it has signed its log, at a time.

use std::time::Duration;

use jiff::Timestamp;

use super::{MAX_LOGS, signed_checkpoint};
use crate::{
    ledger::{
        Ledger, LogView,
        note::{Checkpoint, Note},
    },
    types::{CLOCK_SKEW, LedgerTime, Reason, Refusal},
};

/// Heartbeats of one message.
pub(super) const MAX_BEATS: usize = 1_000;
const _: () = assert!(MAX_BEATS <= MAX_LOGS);

/// How often a node wants to hear of each log, and when one that it does not hear of is silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pulse {
    /// The time between two heartbeats, in whole seconds: 1 to 3,600.
    pub every: Duration,
    /// A log of which nothing was heard for this long is silent.
    pub silent_after: Duration,
}

impl Default for Pulse {
    /// Every 10 seconds; six of them may be missing, for on a slow line they wait behind batches.
    fn default() -> Self {
        Self {
            every: Duration::from_secs(10),
            silent_after: Duration::from_secs(60),
        }
    }
}

/// The newest heartbeat of a log, as it came and was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Beat {
    /// The note.
    pub note: String,
    /// The time that its origin signed, by the origin's clock.
    pub time: LedgerTime,
    /// The size that it signed.
    pub size: u64,
    /// Until when it proves that the origin was alive, by this node's clock: when it came, and no more than
    /// the clocks may differ behind the time that was signed. One that was held back on its way proves no more.
    pub heard: Timestamp,
}

impl Beat {
    /// Whether it says more than another one: nothing that was seen before is news.
    pub fn is_newer(&self, other: &Self) -> bool {
        (self.time, self.size) > (other.time, other.size)
    }
}

/// The own log's heartbeat of this moment.
pub(super) fn sign(ledger: &Ledger, view: &LogView, now: Timestamp) -> String {
    let checkpoint = Checkpoint {
        origin: view.origin().to_owned(),
        size: view.tree.size(),
        root: view.tree.root(),
    };
    let cosigned = ledger.key().cosign(&checkpoint, LedgerTime::from(now));
    ledger.key().sign(&checkpoint) + &cosigned
}

/// Reads a heartbeat of a log: both signatures must be the origin's, and its time not in the future.
///
/// # Errors
/// [`Reason::CheckpointInvalid`] with what does not fit.
pub(super) fn read(
    view: &LogView,
    text: &str,
    received: Timestamp,
) -> Result<(Note, Beat), Refusal> {
    let invalid =
        |en: String| Refusal::new(Reason::CheckpointInvalid).because(en, "心跳的签名或时间无效");
    let note = signed_checkpoint(text, &view.keys)?;
    let signer = view
        .keys
        .signer(&note)
        .map_err(|e| invalid(format!("{e}")))?;
    let time = note.verify_cosignature(&signer.key.as_cosigner());
    let time = time.map_err(|e| invalid(format!("its heartbeat: {e}")))?;
    let latest = time
        .timestamp()
        .saturating_add(CLOCK_SKEW)
        .unwrap_or(Timestamp::MAX);
    let ahead = time.timestamp().duration_since(received);
    if ahead > CLOCK_SKEW {
        let seconds = ahead.as_secs();
        return Err(invalid(format!(
            "its clock is {seconds} s ahead of this node's; one of them is wrong"
        )));
    }
    let beat = Beat {
        note: text.to_owned(),
        time,
        size: note.checkpoint().size,
        heard: received.min(latest),
    };
    Ok((note, beat))
}
