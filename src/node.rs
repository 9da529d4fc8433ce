//! The composition root: open what a configuration names, bind, serve, drain.

mod data;
mod keys;
mod metrics;
mod recover;
mod reference;
mod upkeep;

use std::{future::Future, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use self::{
    keys::KeysWatch,
    metrics::{Measuring, Sources},
    upkeep::Upkeep,
};
pub use data::{DataFolder, Stores};
use jiff::Timestamp;
pub use keys::KEYS_CHECK;
pub use recover::{Recovered, RecoveredLog, Recovery, recover};
pub use reference::{RULES_CHECK, Reference};
use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{
    audit::{AuditError, Trail},
    config::{Config, ConfigError, ParentConfig, ReplicationMode},
    gateway::{
        client::{DialError, Dialer},
        connections::Connections,
        keys::Keys,
        meter::Meters,
        serve,
        stack::Gate,
        tls::{Credentials, TlsError},
    },
    ledger::{Intake, Ledger, OpenError, Options},
    registers::Registers,
    replication::{Board, HeldLog, LinkError, Mirror, Uplink, UplinkOptions},
    services::{
        self,
        access::{Access, Rules},
        methods::Methods,
        node::Nodes,
        position::Positions,
        quota::Quotas,
        register::Shared,
        replication::Dial,
        token::Tokens,
    },
    storage::{Position, StorageError, durable},
    types::{Clock, SystemClock},
};

/// How often free space, and whether the derived state has failed, is looked at.
const SPACE_CHECK: Duration = Duration::from_secs(5);

/// How long a node that starts waits for its parent's greeting.
const GREETING: Duration = Duration::from_secs(3);

/// Why a node does not start, or stopped. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Reference data.
    #[error("{}: {cause}", path.display())]
    Reference {
        /// The file.
        path: PathBuf,
        /// What is wrong, with its line.
        cause: String,
    },
    /// Certificates or keys.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The parent's address.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The data folder.
    #[error("data folder {}: {cause}", path.display())]
    Data {
        /// The folder.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// The audit trail.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// Storage.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] OpenError),
    /// The address.
    #[error("cannot listen on {address}: {cause}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        cause: std::io::Error,
    },
    /// What the parent says of what it holds, or that it was not reached.
    #[error("the parent does not give anything back: {0}")]
    Parent(#[from] LinkError),
    /// There is nothing to recover, or not into this folder.
    #[error("cannot recover: {0}")]
    Recover(String),
    /// Storage failed while serving; nothing acknowledged is lost.
    #[error("storage failed and the node stopped: {0}; start it again, then run `hefu verify`")]
    Failed(String),
}

/// What is read again when its file changes.
struct Watching {
    registers: Arc<Registers>,
    rules: watch::Sender<Arc<Rules>>,
    /// Why the newest files are not in force.
    failed: watch::Sender<Option<String>>,
    /// Why the newest certificates are not in force.
    keys_failed: watch::Sender<Option<String>>,
}

impl Watching {
    fn new(registers: &Arc<Registers>, reference: &Reference) -> Self {
        Self {
            registers: registers.clone(),
            rules: watch::Sender::new(Arc::new(reference.access())),
            failed: watch::Sender::new(None),
            keys_failed: watch::Sender::new(None),
        }
    }

    fn upkeep(&self, connections: Arc<Connections>) -> Upkeep {
        Upkeep {
            connections,
            rules_failed: self.failed.subscribe(),
            keys_failed: self.keys_failed.subscribe(),
        }
    }
}

/// A node that is open and bound, and not yet serving.
pub struct Node {
    listener: TcpListener,
    connections: Arc<Connections>,
    upkeep: Upkeep,
    measuring: Measuring,
    gate: Gate,
    routes: Routes,
    health: HealthReporter,
    watching: Watching,
    ledger: Ledger,
    uplink: Option<Arc<Uplink>>,
    /// Tells everything that runs to stop.
    stop: CancellationToken,
    config: Config,
}

impl Node {
    /// Opens everything that a configuration names, brings the state up to date, and binds.
    ///
    /// # Errors
    /// [`NodeError`] says what to do.
    pub async fn open(config: Config) -> Result<Self, NodeError> {
        let (id, domain) = (config.node_id()?, config.trust_domain()?);
        let credentials = Credentials::of(&config.tls)?;
        credentials.of_node(&id, &domain)?;
        Self::assemble(config, Keys::new(credentials)?).await
    }

    /// Puts together what a node consists of, bottom up.
    async fn assemble(config: Config, keys: Keys) -> Result<Self, NodeError> {
        let (id, domain) = (config.node_id()?, config.trust_domain()?);
        let reference = Reference::load(&config)?;
        let data = DataFolder::create(&config.node.data)?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let registers = Arc::new(reference.registers());
        let seed = data.load_seed()?;
        let ledger = open_ledger(&config, &data, seed, registers.clone(), clock.clone()).await?;
        recover::heed_mark(&config, &data, &ledger)?;
        let stop = CancellationToken::new();
        let board = board(&config, &ledger, &clock)?;
        let uplink = uplink(&config, keys.clone(), board.clone(), true)?;
        let origin = ledger
            .log("")
            .map(|view| view.origin().to_owned())
            .unwrap_or_default();
        let tokens = Tokens::new(&seed);
        let methods = Methods::new(&registers);
        let watching = Watching::new(&registers, &reference);
        let access = Access::new(watching.rules.subscribe(), id.clone());
        let quotas = Quotas::new(access.clone());
        let trail = Trail::open(&data.audit(), config.audit.keep_days, clock.clone())?;
        let shared = Arc::new(Shared {
            trail: trail.clone(),
            ledger: ledger.clone(),
            registers,
            access: access.clone(),
            quotas: quotas.clone(),
            positions: Positions::new(tokens.clone(), origin),
            tokens,
            clock: clock.clone(),
            trust_domain: domain.clone(),
        });
        let connections = Connections::new(keys);
        let upkeep = watching.upkeep(connections.clone());
        let nodes = Nodes {
            shared: shared.clone(),
            node: id.clone(),
            started: Timestamp::now(),
            upkeep: Box::new(upkeep.clone()),
            uplink: uplink.clone(),
            board: board.clone(),
            data: config.node.data.clone(),
            watermark: config.storage.watermark_mib * 1024 * 1024,
        };
        let measuring = Measuring::open(&config).await?;
        let sources = Sources::of(&nodes, upkeep.clone());
        metrics::register(&measuring.metrics, &config, sources);
        let mirror = Mirror::new(board, Arc::new(access.clone()), stop.clone());
        let (routes, health) = services::routes(shared, nodes, mirror, methods.clone())
            .map_err(|e| TlsError::Setup(format!("reflection: {e}")))?;
        Ok(Self {
            listener: bind(config.node.listen).await?,
            connections,
            upkeep,
            gate: Gate {
                access,
                quotas,
                methods,
                trail,
                meters: Meters::new(&measuring.metrics),
            },
            measuring,
            routes,
            health,
            watching,
            ledger,
            uplink,
            stop,
            config,
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// [`NodeError::Bind`].
    pub fn address(&self) -> Result<SocketAddr, NodeError> {
        let address = self.config.node.listen;
        self.listener
            .local_addr()
            .map_err(|cause| NodeError::Bind { address, cause })
    }

    /// Where its metrics can be read, if anywhere.
    #[must_use]
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.measuring.address()
    }

    /// The ledger.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The link to the parent.
    #[must_use]
    pub fn uplink(&self) -> Option<Arc<Uplink>> {
        self.uplink.clone()
    }

    /// What runs beside serving, until dropped.
    fn beside(&mut self) -> Result<JoinSet<()>, NodeError> {
        let (watching, trail) = (&self.watching, &self.gate.trail);
        let reloads = &self.measuring.reloads;
        let mut beside = JoinSet::new();
        beside.spawn(watch_space(
            self.ledger.clone(),
            self.config.node.data.clone(),
            self.config.storage.watermark_mib * 1024 * 1024,
        ));
        beside.spawn(reference::watch_rules(
            self.config.reference.clone(),
            watching.registers.clone(),
            watching.rules.clone(),
            watching.failed.clone(),
            trail.clone(),
            reloads.clone(),
        ));
        let keys = KeysWatch::new(
            &self.config,
            self.connections.keys().clone(),
            watching.keys_failed.clone(),
            trail.clone(),
            reloads.clone(),
        )?;
        beside.spawn(keys.run());
        if let Some(serving) = self.measuring.serve() {
            beside.spawn(serving);
        }
        beside.spawn(self.upkeep.clone().remind());
        Ok(beside)
    }

    /// Serves until `shutdown` ends, drains, and makes everything durable.
    ///
    /// # Errors
    /// [`NodeError::Failed`] where storage failed; nothing that was acknowledged is lost.
    pub async fn serve(
        mut self,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), NodeError> {
        let address = self.address()?;
        let stop = self.stop.clone();
        let mut intake = self.ledger.intake();
        let trail = self.gate.trail.clone();
        trail.event(format!("started, {}", env!("CARGO_PKG_VERSION")))?;
        tokio::spawn(stop_on(
            shutdown,
            self.ledger.intake(),
            trail.failing(),
            stop.clone(),
        ));
        let keeping = tokio::spawn(keep(trail.clone()));
        let uplink = self.uplink.clone().map(|uplink| {
            let stop = stop.clone();
            tokio::spawn(async move { uplink.run(stop).await })
        });
        if let Some(uplink) = &self.uplink {
            // Nothing is taken in before the parent had a chance to say that this node was restored from
            // an old copy; one that does not answer is not waited for.
            let _ = tokio::time::timeout(GREETING, uplink.met()).await;
        }
        let beside = self.beside()?;
        self.health
            .set_service_status("", ServingStatus::Serving)
            .await;
        let (health, told) = (self.health.clone(), stop.clone());
        tokio::spawn(async move {
            told.cancelled().await;
            health
                .set_service_status("", ServingStatus::NotServing)
                .await;
        });
        let domain = self.config.trust_domain()?;
        let served = serve::serve(
            self.listener,
            self.connections,
            domain,
            self.gate,
            self.routes,
            stop.clone().cancelled_owned(),
            serve::Limits::default(),
        )
        .await;
        stop.cancel();
        drop(beside);
        if let Some(uplink) = uplink {
            let _ = uplink.await;
        }
        self.ledger.stop().await;
        keeping.abort();
        // A trail that failed has said so, and is the reason that the node stops.
        trail.event("stopped")?;
        trail.sync()?;
        if let Intake::Failed(why) = &*intake.borrow_and_update() {
            return Err(NodeError::Failed(why.clone()));
        }
        served.map_err(|cause| NodeError::Bind { address, cause })
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener, NodeError> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|cause| NodeError::Bind { address, cause })
}

/// Opens the ledger of a data folder without serving it, as `hefu sync` and `hefu rebuild` do.
///
/// # Errors
/// [`NodeError`].
pub async fn open_offline(config: &Config) -> Result<(Ledger, Option<Arc<Uplink>>), NodeError> {
    let credentials = Credentials::of(&config.tls)?;
    let data = DataFolder::new(&config.node.data);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let registers = Arc::new(Reference::load(config)?.registers());
    let ledger = open_ledger(config, &data, data.load_seed()?, registers, clock.clone()).await?;
    let board = board(config, &ledger, &clock)?;
    let uplink = uplink(config, Keys::new(credentials)?, board, false)?;
    Ok((ledger, uplink))
}

/// Opens the ledger; a derived state that does not belong to the journal is set aside, and derived again.
async fn open_ledger(
    config: &Config,
    data: &DataFolder,
    seed: [u8; 32],
    rules: Arc<Registers>,
    clock: Arc<dyn Clock>,
) -> Result<Ledger, NodeError> {
    let (again, again_clock) = (rules.clone(), clock.clone());
    match try_open_ledger(config, data, seed, rules, clock, None).await {
        Err(NodeError::Ledger(OpenError::StateAhead)) => {
            let path = data.state();
            tracing::warn!("the derived state does not belong to the journal; deriving it again");
            let failed = |cause| NodeError::Data {
                path: path.clone(),
                cause,
            };
            durable::rename(&path, &data.set_aside()).map_err(failed)?;
            try_open_ledger(config, data, seed, again, again_clock, None).await
        }
        opened => opened,
    }
}

async fn try_open_ledger(
    config: &Config,
    data: &DataFolder,
    seed: [u8; 32],
    rules: Arc<Registers>,
    clock: Arc<dyn Clock>,
    lost: Option<&HeldLog>,
) -> Result<Ledger, NodeError> {
    let (config_copy, node, trust_domain) =
        (config.clone(), config.node_id()?, config.trust_domain()?);
    let stores = tokio::task::spawn_blocking(move || Stores::open(&config_copy)).await;
    let stores = stores.map_err(|e| NodeError::Failed(e.to_string()))??;
    let mut incarnation = [0; 4];
    let random = |e: getrandom::Error| NodeError::Failed(e.to_string());
    getrandom::fill(&mut incarnation).map_err(random)?;
    let options = Options {
        journal: stores.journal,
        state: stores.state,
        rules,
        clock,
        trust_domain,
        node,
        seed,
        incarnation: match lost {
            Some(log) => log.origin.incarnation().0,
            None => u32::from_be_bytes(incarnation),
        },
        head_file: Some(data.head()),
        progress: Some(Box::new(|at: Position, of: Position| {
            tracing::info!(
                at = at.0,
                of = of.0,
                "bringing the derived state up to date"
            );
        })),
    };
    let behind = lost.and_then(|log| log.note.clone());
    Ok(Ledger::open_behind(options, behind).await?)
}

fn board(
    config: &Config,
    ledger: &Ledger,
    clock: &Arc<dyn Clock>,
) -> Result<Arc<Board>, NodeError> {
    let parent = config.parent.as_ref().map(|parent| parent.node_id());
    Ok(Board::new(
        ledger.clone(),
        clock.clone(),
        parent.transpose()?,
    )?)
}

fn uplink(
    config: &Config,
    keys: Keys,
    board: Arc<Board>,
    serving: bool,
) -> Result<Option<Arc<Uplink>>, NodeError> {
    let Some(parent) = &config.parent else {
        return Ok(None);
    };
    let options = UplinkOptions {
        continuous: serving && parent.mode == ReplicationMode::Continuous,
        ..UplinkOptions::default()
    };
    let dial = dial(config, keys, parent)?;
    Ok(Uplink::new(board, Arc::new(dial), options))
}

/// How the parent is dialled, which must be the node that the configuration names.
fn dial(config: &Config, keys: Keys, parent: &ParentConfig) -> Result<Dial, NodeError> {
    let expected = Some((config.trust_domain()?, parent.node_id()?));
    let (dialer, endpoint) = (Dialer::new(keys), parent.endpoint.clone());
    let connect = Box::new(move || {
        let (dialer, endpoint, expected) = (dialer.clone(), endpoint.clone(), expected.clone());
        let connecting: futures::future::BoxFuture<'static, _> = Box::pin(async move {
            dialer
                .connect(&endpoint, expected)
                .await
                .map_err(|error| error.to_string())
        });
        connecting
    });
    Ok(Dial(connect))
}

/// Tells everything to stop when it is asked to, or when what must last cannot be written.
async fn stop_on(
    shutdown: impl Future<Output = ()>,
    mut intake: watch::Receiver<Intake>,
    mut unrecorded: watch::Receiver<bool>,
    stop: CancellationToken,
) {
    let failed = intake.wait_for(|intake| matches!(intake, Intake::Failed(_)));
    tokio::select! {
        () = shutdown => {}
        _ = failed => {}
        _ = unrecorded.wait_for(|failed| *failed) => {}
    }
    stop.cancel();
}

/// Makes the audit trail durable every second.
async fn keep(trail: Trail) {
    let mut every = tokio::time::interval(Duration::from_secs(1));
    loop {
        every.tick().await;
        let trail = trail.clone();
        // Its failure is told by the trail itself, and stops the node.
        let _ = tokio::task::spawn_blocking(move || trail.sync()).await;
    }
}

/// Closes intake while the disk is below its watermark, and for good where the state has failed.
async fn watch_space(ledger: Ledger, data: PathBuf, watermark: u64) {
    let mut every = tokio::time::interval(SPACE_CHECK);
    loop {
        every.tick().await;
        ledger.check_state();
        let Ok(space) = durable::space(&data) else {
            continue;
        };
        let now = ledger.intake().borrow().clone();
        match (now, space.free_bytes < watermark) {
            (Intake::Open, true) => {
                let free = space.free_bytes;
                tracing::warn!(
                    free,
                    watermark,
                    "the disk is nearly full: nothing is taken in"
                );
                ledger.set_intake(Intake::Full);
            }
            (Intake::Full, false) => {
                tracing::info!("there is space again: intake is open");
                ledger.set_intake(Intake::Open);
            }
            _ => {}
        }
    }
}
