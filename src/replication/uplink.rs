//! The child's side of a node: keeps a connection to the parent, for ever or while somebody asks.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{Board, Connector, LinkError, Rate, Synced, session::Session};
use crate::types::{DailyWindow, NodeId, UtcOffset};

/// A sync that goes on says so this often.
const PROGRESS: Duration = Duration::from_secs(1);
/// How often a window's clock is looked at.
const WINDOW_CHECK: Duration = Duration::from_secs(1);

/// When a node is connected to its parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Always.
    Continuous,
    /// In a part of every day, in hours of a zone; and during a sync.
    Window(DailyWindow, UtcOffset),
    /// During a sync.
    Manual,
}

/// How an uplink runs.
#[derive(Debug, Clone, Copy)]
pub struct UplinkOptions {
    /// When it is connected.
    pub mode: Mode,
    /// A cap on what goes up.
    pub rate: Rate,
    /// The wait before a second attempt: it doubles with every one that fails.
    pub backoff: Duration,
    /// The longest wait.
    pub backoff_max: Duration,
    /// Whether a random part of a wait is waited: so that the children of a parent that was away do not
    /// all come at once. A simulation draws its own.
    pub jitter: bool,
}

impl Default for UplinkOptions {
    fn default() -> Self {
        Self {
            mode: Mode::Continuous,
            rate: None,
            backoff: Duration::from_millis(200),
            backoff_max: Duration::from_secs(30),
            jitter: true,
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
    /// Whether a sync is under way.
    syncing: Mutex<bool>,
}

/// Who asks for a connection.
#[derive(Debug, Clone, Copy, Default)]
struct Asked {
    /// How many are waiting.
    waiting: usize,
    /// How many there ever were.
    ever: u64,
    /// The cap that the one that is under way asked for.
    rate: Rate,
}

/// Whether a session is wanted, as the session sees it.
pub(super) struct Wants {
    board: Arc<Board>,
    mode: Mode,
    rate: Rate,
    asked: watch::Receiver<Asked>,
}

impl Wants {
    pub fn any(&self) -> bool {
        let scheduled = match self.mode {
            Mode::Continuous => true,
            Mode::Window(window, zone) => window.contains(self.board.now(), zone),
            Mode::Manual => false,
        };
        scheduled || self.asked.borrow().waiting > 0
    }

    /// The cap of this moment.
    pub fn rate(&self) -> Rate {
        self.asked.borrow().rate.or(self.rate)
    }

    /// How often somebody has asked.
    pub fn ever(&self) -> u64 {
        self.asked.borrow().ever
    }

    pub async fn changed(&mut self) {
        let clock = async {
            match self.mode {
                Mode::Window(..) => sleep(WINDOW_CHECK).await,
                Mode::Continuous | Mode::Manual => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            changed = self.asked.changed() => if changed.is_err() {
                std::future::pending::<()>().await;
            },
            () = clock => {}
        }
    }
}

/// Keeps a session wanted.
struct Want<'a>(&'a watch::Sender<Asked>);

impl<'a> Want<'a> {
    fn new(asked: &'a watch::Sender<Asked>, rate: Rate) -> Self {
        asked.send_modify(|asked| {
            asked.waiting += 1;
            asked.ever += 1;
            asked.rate = rate;
        });
        Self(asked)
    }
}

impl Drop for Want<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|asked| {
            asked.waiting = asked.waiting.saturating_sub(1);
            asked.rate = None;
        });
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
            syncing: Mutex::default(),
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
            board: self.board.clone(),
            mode: self.options.mode,
            rate: self.options.rate,
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
            let why = match self.options.mode {
                Mode::Window(window, zone) => format!("outside the window {window} ({zone})"),
                Mode::Continuous | Mode::Manual => {
                    "nobody asks for it: replication runs on demand".to_owned()
                }
            };
            self.board.disconnected(&why, false);
            return;
        };
        let turned_away = matches!(error, LinkError::Refused(_) | LinkError::Protocol(_));
        self.board.disconnected(&error.to_string(), turned_away);
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

    /// Whether there should be a connection now, whoever asks.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.wants().any()
    }

    /// Waits until everything that is held now is cosigned, by the parent's word of now; at most for
    /// `limit`. `progress` is called with every change, and once a second. While one is under way, another
    /// one leaves at once ([`super::SyncOutcome::Busy`]).
    pub async fn sync(&self, limit: Duration, progress: impl FnMut(&Synced)) -> Synced {
        self.sync_capped(limit, None, progress).await
    }

    /// As [`Uplink::sync`], with a cap in the place of the one that is configured.
    pub async fn sync_capped(
        &self,
        limit: Duration,
        rate: Rate,
        mut progress: impl FnMut(&Synced),
    ) -> Synced {
        let Some(_alone) = Alone::try_new(&self.syncing) else {
            return Synced::busy(self.board.now());
        };
        let mut changes = self.board.changes();
        let mut synced = Synced::start(&self.board.uplinks(), self.board.now());
        let want = Want::new(&self.asked, rate);
        let waiting = async {
            while !synced.look(&self.board) {
                progress(&synced);
                if let Ok(Err(_)) = timeout(PROGRESS, changes.changed()).await {
                    return;
                }
            }
        };
        let late = timeout(limit, waiting).await.is_err();
        drop(want);
        synced.end(late, &self.board);
        synced
    }
}

/// The one sync that is under way.
struct Alone<'a>(&'a Mutex<bool>);

impl<'a> Alone<'a> {
    fn try_new(taken: &'a Mutex<bool>) -> Option<Self> {
        let mut held = taken.lock().unwrap_or_else(PoisonError::into_inner);
        (!std::mem::replace(&mut *held, true)).then(|| Self(taken))
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = false;
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
