//! The stage: an authority, nodes as `hefu serve` runs them, and the bare server beside them.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use hefu::{
    config::{
        AuditConfig, Config, LogConfig, MetricsConfig, NodeConfig, ParentConfig, ReferenceConfig,
        ReplicationMode, StorageConfig, TlsConfig,
    },
    gateway::{
        accept::accept,
        client::{ClientFiles, Dialer},
        connections::Connections,
        keys::Keys,
        meter::Meters,
        pki::{Authority, Issued},
        serve::Limits,
        tls::Credentials,
    },
    ledger::Ledger,
    metrics::Metrics,
    node::{Node, NodeError},
    proto::{
        replication::v1::replication_service_server::ReplicationServiceServer,
        risk::v1::risk_service_server::RiskServiceServer,
    },
    replication::Uplink,
    types::Identity,
};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Server};

use super::{Failed, bare::Bare, records};

/// The parent's node.
pub const CITY: &str = "nantong";
const DOMAIN: &str = "nantong.gov.cn";
/// The node's own capacity is measured, not what an agency may use of it.
const LIMITS: &str = r#"
[[limit]]
who = ["agency/*"]
requests_per_second = 1_000_000
rows_per_second = 1_000_000
reads_per_second = 100_000_000
bytes_in_per_second = 4_000_000_000
bytes_out_per_second = 4_000_000_000
calls = 1_000_000
"#;
const AGENCIES: &str = include_str!("../../seeds/agencies.csv");

/// A folder under `target/` with keys and data; removed at the end.
pub struct Site {
    folder: PathBuf,
    authority: Authority,
    dialer: Dialer,
}

/// A node that serves.
pub struct Running {
    pub address: SocketAddr,
    pub ledger: Ledger,
    pub uplink: Option<Arc<Uplink>>,
    pub data: PathBuf,
    stop: watch::Sender<bool>,
    served: JoinHandle<Result<(), NodeError>>,
}

impl Site {
    pub fn open() -> Result<Self, Failed> {
        let name = format!("exchange-{}", std::process::id());
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&folder)?;
        let authority = Authority::create(&folder.join("pki"), "hefu bench authority")?;
        fs::write(folder.join("agencies.csv"), AGENCIES)?;
        let policy = include_str!("../../seeds/policy.toml");
        fs::write(folder.join("policy.toml"), format!("{policy}{LIMITS}"))?;
        let identity: Identity = format!("spiffe://{DOMAIN}/agency/{}", records::AGENCY).parse()?;
        let issued = authority.issue(&identity, &[], 30)?;
        let dialer = Dialer::from_files(&ClientFiles {
            certificate: issued.certificate,
            key: issued.key,
            roots: vec![issued.root],
        })?;
        Ok(Self {
            folder,
            authority,
            dialer,
        })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A connection as an agency's system makes it.
    pub async fn connect(&self, address: SocketAddr) -> Result<Channel, Failed> {
        Ok(self
            .dialer
            .connect(&format!("https://{address}"), None)
            .await?)
    }

    fn issue(&self, node: &str) -> Result<Issued, Failed> {
        let identity: Identity = format!("spiffe://{DOMAIN}/node/{node}").parse()?;
        let hosts = ["localhost", "127.0.0.1"].map(str::to_owned);
        Ok(self.authority.issue(&identity, &hosts, 30)?)
    }

    /// Starts a node; one with a parent replicates only when it is told to.
    pub async fn node(
        &self,
        id: &str,
        data: &str,
        parent: Option<SocketAddr>,
    ) -> Result<Running, Failed> {
        let issued = self.issue(id)?;
        let config = Config {
            node: NodeConfig {
                id: id.to_owned(),
                trust_domain: DOMAIN.to_owned(),
                data: self.folder.join(data),
                listen: (Ipv4Addr::LOCALHOST, 0).into(),
            },
            tls: tls_config(issued),
            parent: parent.map(|address| ParentConfig {
                endpoint: format!("https://{address}"),
                node: CITY.to_owned(),
                mode: ReplicationMode::Manual,
            }),
            reference: ReferenceConfig {
                agencies: Some(self.folder.join("agencies.csv")),
                policy: Some(self.folder.join("policy.toml")),
                ..ReferenceConfig::default()
            },
            storage: StorageConfig::default(),
            audit: AuditConfig::default(),
            metrics: MetricsConfig::default(),
            log: LogConfig::default(),
        };
        let data = config.node.data.clone();
        let node = Node::open(config).await?;
        let (address, ledger, uplink) = (node.address()?, node.ledger().clone(), node.uplink());
        let (stop, mut stopping) = watch::channel(false);
        let stopped = async move {
            let _ = stopping.wait_for(|stop| *stop).await;
        };
        let served = tokio::spawn(node.serve(stopped));
        Ok(Running {
            address,
            ledger,
            uplink,
            data,
            stop,
            served,
        })
    }

    /// Starts a server with the same TLS, the same transport settings and the same messages, which answers
    /// at once and keeps nothing.
    pub async fn bare(&self) -> Result<SocketAddr, Failed> {
        let keys = Keys::new(Credentials::of(&tls_config(self.issue("bare")?))?)?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let connections = accept(
            listener,
            Connections::new(keys),
            DOMAIN.parse()?,
            Limits::default(),
            CancellationToken::new(),
            None,
            Meters::new(&Metrics::default()),
        );
        let serving = Server::builder()
            .max_concurrent_streams(256)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(1 << 22)
            .add_service(RiskServiceServer::new(Bare))
            .add_service(
                ReplicationServiceServer::new(Bare).max_decoding_message_size(16 * 1024 * 1024),
            )
            .serve_with_incoming(ReceiverStream::new(connections));
        tokio::spawn(serving);
        Ok(address)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Running {
    /// Drains, makes everything durable, closes the stores.
    pub async fn stop(self) -> Result<(), Failed> {
        let Self { stop, served, .. } = self;
        stop.send_replace(true);
        Ok(served.await??)
    }
}

fn tls_config(issued: Issued) -> TlsConfig {
    TlsConfig {
        certificate: issued.certificate,
        key: issued.key,
        roots: vec![issued.root],
        crls: Vec::new(),
    }
}

/// Bytes that a folder takes on disk.
pub fn disk(folder: &Path) -> io::Result<u64> {
    let mut total = 0;
    for item in fs::read_dir(folder)? {
        let item = item?;
        let metadata = item.metadata()?;
        total += if metadata.is_dir() {
            disk(&item.path())?
        } else {
            metadata.blocks() * 512
        };
    }
    Ok(total)
}
