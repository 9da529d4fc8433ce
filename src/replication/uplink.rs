//! The child's side of a node: keeps a connection to the parent, for ever or while somebody asks.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{Board, Connector, LinkError, LinkState, session::Session};
use crate::types::{LogNo, NodeId};

/// How an uplink runs.
#[derive(Debug, Clone, Copy)]
pub struct UplinkOptions {
    /// Always connected; otherwise only while somebody asks for a [`Sync`].
    pub continuous: bool,
    /// The wait before a second attempt: it doubles with every one that fails, and a random part of it
    /// is waited.
    pub backoff: Duration,
    /// The longest wait.
    pub backoff_max: Duration,
}

impl Default for UplinkOptions {
    fn default() -> Self {
        Self {
            continuous: true,
            backoff: Duration::from_millis(200),
            backoff_max: Duration::from_secs(30),
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

    pub async fn changed(&mut self) {
        if self.asked.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Keeps a session wanted.
struct Want(Arc<Uplink>);

impl Want {
    fn new(uplink: &Arc<Uplink>) -> Self {
        uplink.asked.send_modify(|asked| {
            asked.waiting += 1;
            asked.ever += 1;
        });
        Self(uplink.clone())
    }
}

impl Drop for Want {
    fn drop(&mut self) {
        self.0
            .asked
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

    /// Runs until `shutdown`. At start it greets the parent in either mode, so that a node that was
    /// restored from an old copy learns of it.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let mut backoff = Backoff::new(self.options);
        let mut greeted = false;
        while !shutdown.is_cancelled() {
            let mut wants = self.wants();
            while greeted && !wants.any() {
                tokio::select! {
                    () = wants.changed() => {}
                    () = shutdown.cancelled() => return,
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
            link = self.connector.connect() => link,
            () = shutdown.cancelled() => Err(LinkError::Stopping),
        };
        match link {
            Ok(link) => {
                let mut session = Session::new(self.board.clone(), link, wants);
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
            () = sleep(wait) => {}
            _ = asked.wait_for(|asked| asked.ever > ever) => {}
            () = shutdown.cancelled() => {}
        }
    }

    /// Waits until the parent has been met once since the start, or could not be: a node opens its
    /// intake then, so that one that was restored from an old copy does not fork its log.
    pub async fn met(&self) {
        self.board.met().await;
    }

    /// Asks for everything that is held now to be cosigned by the parent.
    #[must_use]
    pub fn sync(self: &Arc<Self>) -> Sync {
        let changes = self.board.changes();
        let targets = self.board.uplinks().into_iter().map(|status| SyncedLog {
            log: status.log,
            origin: status.origin,
            size: status.size,
            before: status.cosigned,
            after: status.cosigned,
        });
        Sync {
            targets: targets.collect(),
            changes,
            want: Want::new(self),
        }
    }

    /// Brings the parent up to date within a time, and says what moved.
    pub async fn sync_once(self: &Arc<Self>, limit: Duration) -> (Vec<SyncedLog>, SyncEnd) {
        let mut sync = self.sync();
        let ended = tokio::time::timeout(limit, sync.finish()).await;
        let ended = ended.unwrap_or_else(|_| SyncEnd::TimedOut(sync.why_not()));
        (sync.progress(), ended)
    }
}

/// What one log moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncedLog {
    /// The log's number here.
    pub log: LogNo,
    /// Its origin.
    pub origin: String,
    /// Its size when the sync began.
    pub size: u64,
    /// Cosigned when the sync began.
    pub before: u64,
    /// Cosigned now.
    pub after: u64,
}

/// How a sync ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SyncEnd {
    /// Everything that was held when it began is cosigned, by the parent's word of now.
    Complete,
    /// What is missing was refused.
    Refused(String),
    /// Time was up; why it was not done.
    TimedOut(String),
}

/// A request to bring the parent up to date. Dropping it withdraws the request.
pub struct Sync {
    targets: Vec<SyncedLog>,
    changes: watch::Receiver<u64>,
    want: Want,
}

impl Sync {
    /// How far every log is.
    #[must_use]
    pub fn progress(&self) -> Vec<SyncedLog> {
        let uplinks = self.want.0.board.uplinks();
        let now = |log| uplinks.iter().find(|status| status.log == log);
        let target = |target: &SyncedLog| SyncedLog {
            after: now(target.log).map_or(target.after, |status| status.cosigned),
            ..target.clone()
        };
        self.targets.iter().map(target).collect()
    }

    /// Waits until it is done, or cannot be; without end while the parent cannot be reached.
    pub async fn finish(&mut self) -> SyncEnd {
        loop {
            if let Some(end) = self.end() {
                return end;
            }
            if self.changes.changed().await.is_err() {
                return SyncEnd::Refused(LinkError::Stopping.to_string());
            }
        }
    }

    fn end(&self) -> Option<SyncEnd> {
        let board = &self.want.0.board;
        if !board.is_connected() {
            return None;
        }
        let uplinks = board.uplinks();
        let mut refused = Vec::new();
        for target in &self.targets {
            let status = uplinks.iter().find(|status| status.log == target.log)?;
            match status.state {
                _ if status.cosigned >= target.size => {}
                LinkState::Refused | LinkState::Quarantined => {
                    refused.push(format!("{}: {}", status.origin, status.reason));
                }
                _ => return None,
            }
        }
        Some(if refused.is_empty() {
            SyncEnd::Complete
        } else {
            SyncEnd::Refused(refused.join("; "))
        })
    }

    /// Why it is not done, for the moment.
    #[must_use]
    pub fn why_not(&self) -> String {
        let uplinks = self.want.0.board.uplinks();
        let reason = uplinks.iter().find(|status| !status.reason.is_empty());
        reason.map_or_else(
            || "entries are on their way".to_owned(),
            |s| s.reason.clone(),
        )
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
        // Without randomness the wait is the longest one: still a wait.
        let random = getrandom::u32().map_or(1.0, |random| f64::from(random) / f64::from(u32::MAX));
        longest.mul_f64(random)
    }
}
