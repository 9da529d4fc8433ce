//! The child's side of a node: keeps a connection to the parent, for ever or while somebody asks.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Board, Connector, LinkError, LinkState, UplinkStatus, VERSIONS, Versions, session::Session,
};
use crate::types::NodeId;

/// How an uplink runs.
#[derive(Debug, Clone, Copy)]
pub struct UplinkOptions {
    /// Always connected; otherwise only during an [`Uplink::sync`].
    pub continuous: bool,
    /// The wait before a second attempt: it doubles with every one that fails.
    pub backoff: Duration,
    /// The longest wait.
    pub backoff_max: Duration,
    /// Whether a random part of a wait is waited: so that the children of a parent that was away do not
    /// all come at once. A simulation draws its own.
    pub jitter: bool,
    /// The protocol versions that it speaks.
    pub versions: Versions,
}

impl Default for UplinkOptions {
    fn default() -> Self {
        Self {
            continuous: true,
            backoff: Duration::from_millis(200),
            backoff_max: Duration::from_secs(30),
            jitter: true,
            versions: VERSIONS,
        }
    }
}

/// Brings the parent up to date.
pub struct Uplink {
    board: Arc<Board>,
    parent: NodeId,
    connector: Arc<dyn Connector>,
    options: UplinkOptions,
    asked: watch::Sender<Asked>,
}

/// Who asks for a connection.
#[derive(Debug, Clone, Copy, Default)]
struct Asked {
    /// How many are waiting.
    waiting: usize,
    /// How many there ever were.
    ever: u64,
}

/// Whether a session is wanted, as the session sees it.
pub(super) struct Wants {
    continuous: bool,
    asked: watch::Receiver<Asked>,
}

impl Wants {
    pub fn any(&self) -> bool {
        self.continuous || self.asked.borrow().waiting > 0
    }

    /// How often somebody has asked.
    pub fn ever(&self) -> u64 {
        self.asked.borrow().ever
    }

    pub async fn changed(&mut self) {
        if self.asked.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Keeps a session wanted.
struct Want<'a>(&'a watch::Sender<Asked>);

impl<'a> Want<'a> {
    fn new(asked: &'a watch::Sender<Asked>) -> Self {
        asked.send_modify(|asked| {
            asked.waiting += 1;
            asked.ever += 1;
        });
        Self(asked)
    }
}

impl Drop for Want<'_> {
    fn drop(&mut self) {
        self.0
            .send_modify(|asked| asked.waiting = asked.waiting.saturating_sub(1));
    }
}

impl Uplink {
    /// The uplink of a node to the parent that its board names; `None` where it names none.
    #[must_use]
    pub fn new(
        board: Arc<Board>,
        connector: Arc<dyn Connector>,
        options: UplinkOptions,
    ) -> Option<Arc<Self>> {
        let parent = board.parent()?.clone();
        Some(Arc::new(Self {
            board,
            parent,
            connector,
            options,
            asked: watch::Sender::default(),
        }))
    }

    /// The parent.
    #[must_use]
    pub fn parent(&self) -> &NodeId {
        &self.parent
    }

    /// How every log stands.
    #[must_use]
    pub fn board(&self) -> &Arc<Board> {
        &self.board
    }

    /// Runs until `shutdown`. At start it greets the parent in either mode, so that a node that was
    /// restored from an old copy learns of it.
    pub async fn run(&self, shutdown: CancellationToken) {
        let mut backoff = Backoff::new(self.options);
        let mut greeted = false;
        while !shutdown.is_cancelled() {
            let mut wants = self.wants();
            while greeted && !wants.any() {
                tokio::select! {
                    biased;
                    () = shutdown.cancelled() => return,
                    () = wants.changed() => {}
                }
            }
            greeted = true;
            let started = Instant::now();
            let (ended, progress) = self.attempt(wants, &shutdown).await;
            if progress || started.elapsed() >= self.options.backoff_max {
                backoff.reset();
            }
            self.rest(ended, &mut backoff, &shutdown).await;
        }
    }

    fn wants(&self) -> Wants {
        Wants {
            continuous: self.options.continuous,
            asked: self.asked.subscribe(),
        }
    }

    /// One connection, from the first packet to the last; and whether it moved anything. It lasts at least
    /// until the parent has answered.
    async fn attempt(
        &self,
        wants: Wants,
        shutdown: &CancellationToken,
    ) -> (Result<(), LinkError>, bool) {
        let link = tokio::select! {
            biased;
            () = shutdown.cancelled() => Err(LinkError::Stopping),
            link = self.connector.connect() => link,
        };
        match link {
            Ok(link) => {
                let mut session =
                    Session::new(self.board.clone(), link, wants, self.options.versions);
                (session.run(shutdown).await, session.progress)
            }
            Err(error) => (Err(error), false),
        }
    }

    async fn rest(
        &self,
        ended: Result<(), LinkError>,
        backoff: &mut Backoff,
        shutdown: &CancellationToken,
    ) {
        let Err(error) = ended else {
            self.board
                .disconnected("nobody asks for it: replication runs on demand");
            return;
        };
        self.board.disconnected(&error.to_string());
        if error == LinkError::Stopping {
            // The ledger has stopped, or the node is about to.
            shutdown.cancelled().await;
            return;
        }
        let wait = backoff.next();
        tracing::warn!(parent = %self.parent, %error, ?wait, "not connected to the parent");
        let mut asked = self.asked.subscribe();
        let ever = asked.borrow_and_update().ever;
        tokio::select! {
            biased;
            () = shutdown.cancelled() => {}
            _ = asked.wait_for(|asked| asked.ever > ever) => {}
            () = sleep(wait) => {}
        }
    }

    /// Waits until the parent has been met once since the start, or could not be: a node opens its
    /// intake then, so that one that was restored from an old copy does not fork its log.
    pub async fn met(&self) {
        self.board.met().await;
    }

    /// Waits until everything that is held now is cosigned, by the parent's word of now; at most for
    /// `limit`. `progress` is called with every change.
    pub async fn sync(&self, limit: Duration, mut progress: impl FnMut(&Synced)) -> Synced {
        let mut changes = self.board.changes();
        let mut synced = Synced::start(&self.board.uplinks(), self.board.now());
        let want = Want::new(&self.asked);
        let waiting = async {
            while !synced.look(&self.board) && changes.changed().await.is_ok() {
                progress(&synced);
            }
        };
        let late = timeout(limit, waiting).await.is_err();
        drop(want);
        synced.end(late);
        synced
    }
}

/// What a sync moved, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Synced {
    /// Every log that was held when it began.
    pub logs: Vec<SyncedLog>,
    /// Whether everything that was held when it began is cosigned.
    pub complete: bool,
    /// Why not, at the end of one that is not complete.
    pub reason: String,
    /// When it began.
    began: Timestamp,
}

/// What one log moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncedLog {
    /// Its origin.
    pub origin: String,
    /// Its size when the sync began.
    pub size: u64,
    /// Cosigned when the sync began.
    pub before: u64,
    /// Cosigned now.
    pub after: u64,
    /// How it stands now.
    pub state: LinkState,
    /// Why, where the state needs it; empty otherwise.
    pub reason: String,
}

impl SyncedLog {
    fn stopped(&self) -> bool {
        matches!(self.state, LinkState::Refused | LinkState::Quarantined)
    }

    fn behind(&self) -> bool {
        self.after < self.size
    }
}

impl Synced {
    fn start(uplinks: &[UplinkStatus], began: Timestamp) -> Self {
        let logs = uplinks.iter().map(|status| SyncedLog {
            origin: status.origin.clone(),
            size: status.size,
            before: status.cosigned,
            after: status.cosigned,
            state: status.state,
            reason: status.reason.clone(),
        });
        Self {
            logs: logs.collect(),
            complete: false,
            reason: String::new(),
            began,
        }
    }

    /// Looks at how every log stands now; `true` where nothing moves any more. What the last connection
    /// said does not count, the parent may have been restored since; nor a refusal of before, what was
    /// wrong may be mended.
    fn look(&mut self, board: &Board) -> bool {
        let mut settled = board.is_connected();
        let uplinks = board.uplinks();
        for log in &mut self.logs {
            if let Some(status) = uplinks.iter().find(|status| status.origin == log.origin) {
                (log.after, log.state) = (status.cosigned, status.state);
                log.reason.clone_from(&status.reason);
                settled &= status.state != LinkState::Refused || status.since >= self.began;
                settled &= status.state != LinkState::Recovering;
            }
        }
        settled && self.logs.iter().all(|log| log.stopped() || !log.behind())
    }

    fn end(&mut self, late: bool) {
        let behind = self.logs.iter().find(|log| log.behind() || log.stopped());
        self.complete = behind.is_none() && !late;
        self.reason = match (behind, late) {
            (None, false) => String::new(),
            (Some(log), false) => format!("{}: {}", log.origin, log.reason),
            (Some(log), true) => {
                let (after, size) = (log.after, log.size);
                let text = format!("{}: {after} of {size} cosigned in time", log.origin);
                if log.reason.is_empty() {
                    text
                } else {
                    format!("{text}; {}", log.reason)
                }
            }
            (None, true) => {
                let reason = self.logs.first().map_or("", |log| &log.reason);
                format!("the parent did not answer in time; {reason}")
            }
        };
    }
}

/// Exponential, with full jitter.
struct Backoff {
    options: UplinkOptions,
    failures: u32,
}

impl Backoff {
    fn new(options: UplinkOptions) -> Self {
        Self {
            options,
            failures: 0,
        }
    }

    fn reset(&mut self) {
        self.failures = 0;
    }

    fn next(&mut self) -> Duration {
        let factor = 1_u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        self.failures = (self.failures + 1).min(31);
        let longest = self
            .options
            .backoff
            .saturating_mul(factor)
            .min(self.options.backoff_max);
        if !self.options.jitter {
            return longest;
        }
        // Without randomness the wait is the longest one: still a wait.
        let random = getrandom::u32().map_or(1.0, |random| f64::from(random) / f64::from(u32::MAX));
        longest.mul_f64(random)
    }
}
