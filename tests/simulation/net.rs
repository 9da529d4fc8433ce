//! The network: delays, partitions, connections that break, and messages that come out of order.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture};
use hefu::{
    proto::replication::v1::{self as pb, replicate_response::Message as Response},
    replication::{Connector, Link, LinkError, Mirror},
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::{promise::Promises, random::Random};

/// Everything between the nodes. Cheap to clone.
#[derive(Clone)]
pub struct Net(Arc<Shared>);

struct Shared {
    inner: Mutex<Inner>,
    began: Instant,
}

struct Inner {
    random: Random,
    /// Which parent listens, by name.
    listening: BTreeMap<&'static str, (Mirror, Vec<JoinHandle<()>>)>,
    wires: BTreeMap<&'static str, Wired>,
    promises: Promises,
    /// The sum, whatever their order, of a digest of every message: when, where, which one, what.
    trace: u64,
    messages: u64,
    /// Whether messages of one stream may overtake each other.
    disorder: bool,
}

/// The wire between a child and its parent. It draws on its own: tasks that wake in the same moment do so
/// in any order, and must not draw from one source.
struct Wired {
    random: Random,
    connections: u64,
    up: watch::Sender<Weather>,
    /// Ends the connection that stands.
    cut: CancellationToken,
}

/// How a wire does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    /// It carries.
    Fair,
    /// Nothing gets through; what was sent waits.
    Partitioned,
    /// What the child sends is lost, and nobody is told.
    HalfOpen,
}

impl Net {
    /// A network that draws its delays from a seed.
    #[must_use]
    pub fn new(random: Random, disorder: bool) -> Self {
        Self(Arc::new(Shared {
            inner: Mutex::new(Inner {
                random,
                listening: BTreeMap::new(),
                wires: BTreeMap::new(),
                promises: Promises::default(),
                trace: 0,
                messages: 0,
                disorder,
            }),
            began: Instant::now(),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A parent listens.
    pub fn listen(&self, node: &'static str, mirror: Mirror) {
        self.lock().listening.insert(node, (mirror, Vec::new()));
    }

    /// A parent is gone, and all sessions with its children.
    pub fn leave(&self, node: &str) -> Vec<JoinHandle<()>> {
        let left = self.lock().listening.remove(node);
        let sessions = left.map(|(_, sessions)| sessions).unwrap_or_default();
        sessions.iter().for_each(JoinHandle::abort);
        sessions
    }

    /// Changes the weather on the wire of a child.
    pub fn weather(&self, child: &'static str, weather: Weather) {
        self.lock().wire(child).up.send_replace(weather);
    }

    /// Breaks the connection of a child that stands.
    pub fn cut(&self, child: &'static str) {
        let mut inner = self.lock();
        let wire = inner.wire(child);
        std::mem::take(&mut wire.cut).cancel();
    }

    /// From now on all is well.
    pub fn heal(&self) {
        let mut inner = self.lock();
        inner.disorder = false;
        for wire in inner.wires.values_mut() {
            wire.up.send_replace(Weather::Fair);
        }
    }

    /// What was promised.
    pub fn promises<T>(&self, with: impl FnOnce(&mut Promises) -> T) -> T {
        with(&mut self.lock().promises)
    }

    /// A session with a parent that a test speaks for itself, in its own words.
    #[must_use]
    pub fn dial(&self, parent: &str, child: &str) -> Option<Link> {
        let (up, from_child) = mpsc::channel(8);
        let (answers, from_parent) = mpsc::channel(8);
        self.serve(parent, child, from_child, answers)?;
        let down = ReceiverStream::new(from_parent);
        let down = down.map(|a: Result<_, hefu::types::Refusal>| {
            a.map_err(|refusal| LinkError::Refused(refusal.to_string()))
        });
        Some(Link {
            up,
            down: down.boxed(),
        })
    }

    fn serve(
        &self,
        parent: &str,
        child: &str,
        messages: mpsc::Receiver<pb::ReplicateRequest>,
        answers: hefu::replication::Answers,
    ) -> Option<()> {
        let mut inner = self.lock();
        let (mirror, sessions) = inner.listening.get_mut(parent)?;
        let (mirror, messages) = (mirror.clone(), ReceiverStream::new(messages).map(Ok));
        let child = format!("spiffe://nantong.gov.cn/node/{child}");
        let child = child.parse().unwrap();
        sessions.push(tokio::spawn(async move {
            if let Err(refusal) = mirror.serve(child, messages, answers.clone()).await {
                let _ = answers.send(Err(refusal)).await;
            }
        }));
        Some(())
    }

    /// How many messages there were, and a digest of all of them with their times.
    #[must_use]
    pub fn trace(&self) -> (u64, u64) {
        let inner = self.lock();
        (inner.messages, inner.trace)
    }

    fn passes(&self, wire: &mut Carrying, message: &impl prost::Message) {
        wire.messages += 1;
        let mut digest = DefaultHasher::new();
        let place = (wire.child, wire.connection, wire.up, wire.messages);
        let at = self.0.began.elapsed().as_micros();
        (place, at, message.encode_to_vec()).hash(&mut digest);
        let mut inner = self.lock();
        inner.messages += 1;
        inner.trace = inner.trace.wrapping_add(digest.finish());
    }

    /// Carries messages of one direction until the connection ends.
    async fn carry<T: prost::Message>(
        &self,
        mut from: mpsc::Receiver<T>,
        to: mpsc::Sender<T>,
        mut wire: Carrying,
    ) {
        let mut weather = wire.weather.clone();
        let mut held = None;
        loop {
            let next = tokio::select! {
                biased;
                () = wire.cut.cancelled(), if !wire.delivers => return,
                next = from.recv() => next,
            };
            let Some(next) = next else { break };
            let slow = wire.random.percent(5);
            sleep(wire.random.millis(if slow { 2_000 } else { 40 })).await;
            let overtaken = wire.random.percent(10) && self.lock().disorder;
            let fair = |weather: &Weather| *weather != Weather::Partitioned;
            if weather.wait_for(fair).await.is_err() {
                return;
            }
            if *weather.borrow() == Weather::HalfOpen && wire.up {
                continue;
            }
            if overtaken && held.is_none() {
                held = Some(next);
                continue;
            }
            for message in [Some(next), held.take()].into_iter().flatten() {
                self.passes(&mut wire, &message);
                if to.send(message).await.is_err() {
                    return;
                }
            }
        }
        if let Some(message) = held {
            let _ = to.send(message).await;
        }
    }
}

/// One direction of one connection.
struct Carrying {
    child: &'static str,
    connection: u64,
    up: bool,
    messages: u64,
    random: Random,
    weather: watch::Receiver<Weather>,
    cut: CancellationToken,
    /// Whether what is under way arrives although the connection is cut.
    delivers: bool,
}

impl Inner {
    fn wire(&mut self, child: &'static str) -> &mut Wired {
        self.wires.entry(child).or_insert_with(|| Wired {
            random: self.random.fork(),
            connections: 0,
            up: watch::Sender::new(Weather::Fair),
            cut: CancellationToken::new(),
        })
    }
}

/// How a node reaches its parent.
pub struct Wire {
    /// The network.
    pub net: Net,
    /// The child.
    pub child: &'static str,
    /// The parent.
    pub parent: &'static str,
}

impl Connector for Wire {
    fn connect(&self) -> BoxFuture<'_, Result<Link, LinkError>> {
        async move {
            let delay = self.net.lock().wire(self.child).random.millis(40);
            sleep(delay).await;
            let mut weather = self.net.lock().wire(self.child).up.subscribe();
            let fair = weather.wait_for(|weather| *weather == Weather::Fair);
            let unreachable = || LinkError::Unreachable("no answer".to_owned());
            let reached = timeout(Duration::from_secs(10), fair).await;
            drop(reached.map_err(|_| unreachable())?);
            self.join().ok_or_else(unreachable)
        }
        .boxed()
    }
}

impl Wire {
    fn join(&self) -> Option<Link> {
        let (up, from_child) = mpsc::channel(2);
        let (to_parent, at_parent) = mpsc::channel(2);
        let (answers, from_parent) = mpsc::channel(4);
        let (to_watch, watched) = mpsc::channel(2);
        let (to_child, at_child) = mpsc::channel(2);
        self.net
            .serve(self.parent, self.child, at_parent, answers)?;
        let (above, below) = self.directions();
        let cut = above.cut.clone();
        let net = self.net.clone();
        tokio::spawn(async move { net.carry(from_child, to_parent, above).await });
        let net = self.net.clone();
        tokio::spawn(async move { net.carry(watched, to_child, below).await });
        let net = self.net.clone();
        tokio::spawn(watch_answers(
            net,
            self.parent,
            from_parent,
            to_watch,
            cut.clone(),
        ));
        // For the child the connection ends at once, whatever is still under way.
        let down = ReceiverStream::new(at_child).map(Ok);
        Some(Link {
            up,
            down: down.take_until(cut.cancelled_owned()).boxed(),
        })
    }

    /// The two directions of a new connection.
    fn directions(&self) -> (Carrying, Carrying) {
        let mut inner = self.net.lock();
        let wire = inner.wire(self.child);
        wire.connections += 1;
        let cut = wire.cut.child_token();
        let delivers = wire.random.percent(50);
        let mut direction = |up| Carrying {
            child: self.child,
            connection: wire.connections,
            up,
            messages: 0,
            random: wire.random.fork(),
            weather: wire.up.subscribe(),
            cut: cut.clone(),
            delivers: up && delivers,
        };
        (direction(true), direction(false))
    }
}

/// Notes what a parent promises, as it says it.
async fn watch_answers(
    net: Net,
    parent: &'static str,
    mut answers: mpsc::Receiver<Result<pb::ReplicateResponse, hefu::types::Refusal>>,
    to: mpsc::Sender<pb::ReplicateResponse>,
    cut: CancellationToken,
) {
    while let Some(answer) = answers.recv().await {
        // A session that the parent ends is a connection that ends.
        let Ok(answer) = answer else { break };
        match &answer.message {
            Some(Response::Cosigned(cosigned)) => {
                net.promises(|promises| promises.note(&cosigned.node, &cosigned.note));
            }
            Some(Response::Welcome(welcome)) => net.promises(|promises| {
                for position in &welcome.logs {
                    promises.note(parent, &position.cosigned);
                }
            }),
            _ => {}
        }
        if to.send(answer).await.is_err() {
            break;
        }
    }
    cut.cancel();
}
