//! One connection as its calls and its watchdog see it: how old it is, whether anybody uses it, and who
//! does not read.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, interval};
use tokio_util::sync::CancellationToken;

use super::{
    body::{Answer, Stalled},
    serve::Limits,
};

/// What every call of a connection knows of it.
pub struct Line {
    limits: Limits,
    began: Instant,
    calls: AtomicUsize,
    /// When the last call ended.
    used: Mutex<Instant>,
    /// Answers that are being read.
    answers: Mutex<Vec<Weak<Mutex<Answer>>>>,
    aged: CancellationToken,
}

/// One call on a connection, while it runs.
pub(super) struct Open(Arc<Line>);

impl Drop for Open {
    fn drop(&mut self) {
        *self.0.used() = Instant::now();
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line")
            .field("calls", &self.calls)
            .finish_non_exhaustive()
    }
}

impl Line {
    /// A connection that has just come about.
    pub(super) fn new(limits: Limits) -> Arc<Self> {
        let began = Instant::now();
        Arc::new(Self {
            limits,
            began,
            calls: AtomicUsize::new(0),
            used: Mutex::new(began),
            answers: Mutex::default(),
            aged: CancellationToken::new(),
        })
    }

    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    fn used(&self) -> MutexGuard<'_, Instant> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call begins.
    pub(super) fn open(self: &Arc<Self>) -> Open {
        self.calls.fetch_add(1, Ordering::Relaxed);
        Open(self.clone())
    }

    /// An answer goes out: whoever does not read it must not keep its place for ever.
    pub(super) fn answers(&self, held: &Arc<Mutex<Answer>>) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that have ended are swept out when the list would grow.
        if answers.len() == answers.capacity() {
            answers.retain(|held| held.strong_count() > 0);
        }
        answers.push(Arc::downgrade(held));
    }

    /// Ends when the connection has reached its age: calls that last end with it.
    pub(super) fn aged(&self) -> impl Future<Output = ()> + Send + 'static {
        self.aged.clone().cancelled_owned()
    }

    /// Ends when the connection must be closed, and says why.
    pub(super) async fn watch(self: Arc<Self>) -> &'static str {
        let mut every = interval(self.limits.tick());
        loop {
            every.tick().await;
            if let Some(why) = self.look() {
                return why;
            }
        }
    }

    fn look(&self) -> Option<&'static str> {
        let Limits {
            idle, age, grace, ..
        } = self.limits;
        let now = Instant::now();
        let old = now.saturating_duration_since(self.began);
        if old >= age {
            self.aged.cancel();
        }
        if old >= age + grace {
            return Some("it is too old");
        }
        if self.calls.load(Ordering::Relaxed) == 0
            && now.saturating_duration_since(*self.used()) >= idle
        {
            return Some("nothing is called on it");
        }
        self.sweep(now)
    }

    /// Frees the places of those who do not read, and gives up on a connection that goes on so.
    fn sweep(&self, now: Instant) -> Option<&'static str> {
        let answers: Vec<_> = {
            let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
            answers.retain(|held| held.strong_count() > 0);
            answers.iter().filter_map(Weak::upgrade).collect()
        };
        let stalled = answers.iter().filter_map(|held| {
            // One that is in use just now does make progress.
            let mut held = held.try_lock().ok()?;
            held.look(now, self.limits.stall)
        });
        let given_up = stalled
            .filter(|stalled| *stalled == Stalled::StillThen)
            .count();
        (given_up > 0).then_some("its answers are not read")
    }
}

impl Limits {
    /// How often a connection is looked at.
    fn tick(&self) -> Duration {
        let least = self.idle.min(self.age).min(self.grace).min(self.stall);
        (least / 4).clamp(Duration::from_millis(5), Duration::from_secs(1))
    }
}
