//! What is measured of the node as a whole, and the listener that tells it.

use std::{net::SocketAddr, sync::Arc};

use axum::{Router, http::header, routing::get};
use jiff::Timestamp;
use tokio::net::TcpListener;

use super::{NodeError, bind, upkeep::Upkeep};
use crate::{
    audit::Trail,
    config::Config,
    gateway::inventory::{Kind, inventory},
    ledger::{Intake, Ledger},
    metrics::{Counters, Gauges, Labels, Metrics, set},
    replication::{Board, LinkState},
    services::{
        access::Access,
        node::{Nodes, link_state},
    },
    storage::durable,
    types::{Clock as _, SystemClock},
};

/// What is looked up when the metrics are read.
pub(super) struct Sources {
    ledger: Ledger,
    board: Arc<Board>,
    access: Access,
    trail: Trail,
    upkeep: Upkeep,
}

impl Sources {
    /// Those of a node.
    pub(super) fn of(nodes: &Nodes, upkeep: Upkeep) -> Self {
        Self {
            ledger: nodes.shared.ledger.clone(),
            board: nodes.board.clone(),
            access: nodes.shared.access.clone(),
            trail: nodes.shared.trail.clone(),
            upkeep,
        }
    }
}

/// Changed files, as a label: agencies and policy.
pub(super) const POLICY: &str = "policy";
/// Certificates, key, roots and revocation lists.
pub(super) const CERTIFICATES: &str = "certificates";

/// What became of files that changed.
#[derive(Clone)]
pub(super) struct Reloads {
    done: Counters,
    failed: Counters,
}

impl Reloads {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let reloads = Self {
            done: metrics.counters("reloads", "Changed files that were put in force"),
            failed: metrics.counters("reload_failures", "Changed files that were wrong"),
        };
        // There from the start, so that their growth is seen.
        for what in [POLICY, CERTIFICATES] {
            let _ = reloads.done.get_or_create(&of(what));
            let _ = reloads.failed.get_or_create(&of(what));
        }
        reloads
    }

    pub(super) fn done(&self, what: &str) {
        self.done.get_or_create(&of(what)).inc();
    }

    pub(super) fn failed(&self, what: &str) {
        self.failed.get_or_create(&of(what)).inc();
    }
}

fn of(what: &str) -> Labels {
    vec![("what", what.to_owned())]
}

/// What a node measures, and where it tells it.
pub(super) struct Measuring {
    pub metrics: Metrics,
    pub reloads: Reloads,
    listener: Option<TcpListener>,
}

impl Measuring {
    /// Binds the listener, where the configuration names one.
    pub(super) async fn open(config: &Config) -> Result<Self, NodeError> {
        let metrics = Metrics::default();
        let listener = match config.metrics.listen {
            Some(address) => Some(bind(address).await?),
            None => None,
        };
        Ok(Self {
            reloads: Reloads::new(&metrics),
            metrics,
            listener,
        })
    }

    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.listener.as_ref()?.local_addr().ok()
    }

    /// Serves until dropped, where there is a listener; the first time.
    pub(super) fn serve(&mut self) -> Option<impl Future<Output = ()> + Send + use<>> {
        let metrics = self.metrics.clone();
        Some(serve(self.listener.take()?, metrics))
    }
}

/// Registers what is looked up of a node when its metrics are read.
pub(super) fn register(metrics: &Metrics, config: &Config, sources: Sources) {
    let node = config.node.id.clone();
    let build = metrics.gauges("build_info", "1, by node and version of the program");
    let version = env!("CARGO_PKG_VERSION").to_owned();
    set(&build, [(vec![("node", node), ("version", version)], 1)]);
    let start = metrics.gauges("start_time_seconds", "When the process started, since 1970");
    set(&start, [(Labels::new(), SystemClock.now().as_second())]);
    let sources = Arc::new(sources);
    storage(metrics, config, sources.clone());
    replication(metrics, sources.clone());
    access(metrics, sources.clone());
    certificates(metrics, sources);
}

fn storage(metrics: &Metrics, config: &Config, of: Arc<Sources>) {
    let entries = metrics.gauges("ledger_entries", "Entries of the node's own log");
    let logs = metrics.gauges("logs", "Logs that are held, the own one among them");
    let intake = metrics.gauges("intake", "1 for how intake stands, by state");
    let journal = metrics.gauges("journal_bytes", "Bytes of the journal on disk");
    let state = metrics.gauges("state_bytes", "Bytes of the derived state on disk");
    let free = metrics.gauges(
        "disk_free_bytes",
        "Bytes free on the disk of the data folder",
    );
    let watermark = metrics.gauges(
        "disk_watermark_bytes",
        "Intake stops below so many free bytes",
    );
    let data = config.node.data.clone();
    let limit = int(config.storage.watermark_mib.saturating_mul(1024 * 1024));
    metrics.before_reading(move || {
        let published = of.ledger.published();
        let own = published.logs.values().next();
        one(&entries, own.map_or(0, |own| int(own.tree.size())));
        one(&logs, int(published.logs.len() as u64));
        let stands = intake_state(&of.ledger.intake().borrow());
        let states = ["open", "full", "behind_parent", "failed"];
        set(
            &intake,
            states.map(|state| by("state", state, i64::from(state == stands))),
        );
        one(&journal, int(of.ledger.journal().bytes_on_disk()));
        one(&state, int(of.ledger.state().bytes_on_disk()));
        // A disk that cannot be asked is not told of as full.
        set(
            &free,
            durable::space(&data)
                .ok()
                .map(|space| (Labels::new(), int(space.free_bytes))),
        );
        one(&watermark, limit);
    });
}

fn intake_state(intake: &Intake) -> &'static str {
    match intake {
        Intake::Open => "open",
        Intake::Full => "full",
        Intake::BehindParent(_) => "behind_parent",
        Intake::Failed(_) => "failed",
    }
}

fn replication(metrics: &Metrics, of: Arc<Sources>) {
    let up = metrics.gauges(
        "uplink_lag_entries",
        "Entries that the parent has not cosigned, by log",
    );
    let up_state = metrics.gauges("uplink_state", "1 for how each log stands with the parent");
    let below = metrics.gauges(
        "child_lag_entries",
        "Entries that the origin has signed and that are not held, by log from below",
    );
    let below_state = metrics.gauges("child_state", "1 for how each log from below stands");
    let heard = metrics.gauges(
        "child_heard_seconds",
        "How long ago the origin of a log from below last gave a sign of life, by log",
    );
    let missing = metrics.gauges(
        "child_missing",
        "1 for a child that is expected and has not come, 0 for one that has, by node",
    );
    metrics.before_reading(move || {
        let (uplinks, mut children) = (of.board.uplinks(), of.board.children());
        let expected = children.iter().filter(|child| child.expected);
        let absent = expected.map(|child| {
            let missing = i64::from(child.missing_since.is_some());
            by("node", &child.node, missing)
        });
        set(&missing, absent);
        // One that has never come has no log.
        children.retain(|child| child.log.is_some());
        let of_log = |origin: &str| vec![("origin", origin.to_owned())];
        let in_state = |origin: &str, state| {
            let (mut labels, state) = (of_log(origin), ("state", word(state)));
            labels.push(state);
            (labels, 1)
        };
        set(
            &up,
            uplinks
                .iter()
                .map(|log| (of_log(&log.origin), int(log.lag()))),
        );
        set(
            &up_state,
            uplinks.iter().map(|log| in_state(&log.origin, log.state)),
        );
        set(
            &below,
            children
                .iter()
                .map(|log| (of_log(&log.origin), int(log.lag()))),
        );
        set(
            &below_state,
            children.iter().map(|log| in_state(&log.origin, log.state)),
        );
        let now = SystemClock.now();
        let ago = children.iter().filter_map(|log| {
            let ago = now.duration_since(log.alive?).as_secs();
            Some((of_log(&log.origin), ago.max(0)))
        });
        set(&heard, ago);
    });
}

/// As in `node.proto`, in small letters.
fn word(state: LinkState) -> String {
    let name = link_state(state).as_str_name();
    name.trim_start_matches("LINK_STATE_").to_lowercase()
}

fn access(metrics: &Metrics, of: Arc<Sources>) {
    let policy = metrics.gauges("policy_info", "1, by the SHA-256 of the policy in force");
    let audit = metrics.gauges(
        "audit_records",
        "Records of the audit trail, those no longer kept among them",
    );
    let connections = metrics.gauges("connections", "Connections of clients and children");
    metrics.before_reading(move || {
        let digest = of.access.rules().policy.digest().to_owned();
        set(&policy, [(vec![("digest", digest)], 1)]);
        one(&audit, int(of.trail.head().size));
        one(&connections, int(of.upkeep.connections.count() as u64));
    });
}

fn certificates(metrics: &Metrics, of: Arc<Sources>) {
    let left = metrics.gauges(
        "certificate_left_days",
        "Whole days until what is in force ends, the first of each kind; below 0 it has",
    );
    let clients = metrics.gauges(
        "client_certificate_left_days",
        "The same of the newest certificate that an agency of the agency table has shown",
    );
    let failing = metrics.gauges(
        "reload_failing",
        "1 where changed files are wrong and the former stay in force, by what they hold",
    );
    metrics.before_reading(move || {
        let now = SystemClock.now();
        let in_force = of.upkeep.connections.keys().current();
        let parts = inventory(in_force.credentials());
        let first = |kind: Kind| {
            let ends = parts.iter().filter(|part| part.kind == kind);
            let end = ends.filter_map(|part| part.end).min()?;
            Some(by("kind", kind_word(kind), days(end, now)))
        };
        let kinds = [
            Kind::Certificate,
            Kind::Intermediate,
            Kind::Root,
            Kind::RevocationList,
        ];
        set(&left, kinds.into_iter().filter_map(first));
        let (seen, rules) = (of.upkeep.connections.seen(), of.access.rules());
        let agencies = rules.agencies.iter().filter_map(|agency| {
            let end = seen.get(&format!("agency/{}", agency.id))?;
            Some(by("agency", agency.id.as_str(), days(*end, now)))
        });
        set(&clients, agencies);
        let (rules, keys) = (&of.upkeep.rules_failed, &of.upkeep.keys_failed);
        let state = [(POLICY, rules), (CERTIFICATES, keys)];
        set(
            &failing,
            state.map(|(what, failed)| by("what", what, i64::from(failed.borrow().is_some()))),
        );
    });
}

fn kind_word(kind: Kind) -> &'static str {
    match kind {
        Kind::Certificate => "certificate",
        Kind::Intermediate => "intermediate",
        Kind::Root => "root",
        Kind::RevocationList => "revocation_list",
    }
}

fn days(end: Timestamp, now: Timestamp) -> i64 {
    end.duration_since(now).as_secs().div_euclid(86_400)
}

fn one(family: &Gauges, value: i64) {
    family.get_or_create(&Labels::new()).set(value);
}

fn by(name: &'static str, value: &str, number: i64) -> (Labels, i64) {
    (vec![(name, value.to_owned())], number)
}

fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Serves `/metrics` over plain HTTP until dropped.
async fn serve(listener: TcpListener, metrics: Metrics) {
    let text = move || {
        let metrics = metrics.clone();
        async move {
            // It reads folders and takes locks: not on a thread that serves.
            let text = tokio::task::spawn_blocking(move || metrics.text()).await;
            ([(header::CONTENT_TYPE, FORMAT)], text.unwrap_or_default())
        }
    };
    let router = Router::new().route("/metrics", get(text));
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "metrics are not served any more");
    }
}

/// Prometheus' text format.
const FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";
