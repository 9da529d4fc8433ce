//! The stage: an authority, nodes as `hefu serve` runs them, and the bare server beside them.

use std::{
    fs,
    io::{self, BufRead as _, BufReader},
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Server};

use super::{Failed, bare::Bare, records::Source};
use crate::{
    config::{Config, TlsConfig},
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

/// The node that is measured.
pub(super) const NODE: &str = "qidong";
/// Its parent.
pub(super) const CITY: &str = "nantong";
/// Agencies that submit at once.
pub(super) const AGENCIES: usize = 16;
const DOMAIN: &str = "nantong.gov.cn";
/// The node's own capacity is measured, not what an agency may use of it.
const LIMITS: &str = r#"
[[limit]]
who = ["agency/*", "node/*", "admin/*", "auditor/*"]
requests_per_second = 1_000_000
rows_per_second = 1_000_000
reads_per_second = 100_000_000
calls = 1_000_000
streams = 1_000_000
"#;

/// A folder with keys and data; removed at the end.
pub(super) struct Site {
    folder: PathBuf,
    authority: Authority,
}

/// A node that serves in this process.
pub(super) struct Running {
    pub(super) address: SocketAddr,
    pub(super) ledger: Ledger,
    pub(super) uplink: Option<Arc<Uplink>>,
    pub(super) data: PathBuf,
    stop: watch::Sender<bool>,
    served: JoinHandle<Result<(), NodeError>>,
}

/// The name of the `n`th agency.
pub(super) fn agency(n: usize) -> Source {
    match n {
        0 => Source::default(),
        n => Source {
            agency: format!("bench-{n:02}"),
            ..Source::default()
        },
    }
}

impl Site {
    /// A new folder in `parent`.
    pub(super) fn open(parent: &Path) -> Result<Self, Failed> {
        let folder = parent.join(format!("hefu-bench-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let authority = Authority::create(&folder.join("pki"), "hefu bench authority")?;
        let mut agencies = "id,name,divisions,kind,node\n".to_owned();
        for n in 0..=AGENCIES {
            let Source {
                agency, division, ..
            } = agency(n);
            agencies.push_str(&format!(
                "{agency},启东市应急管理局,{division},county,{NODE}\n"
            ));
        }
        fs::write(folder.join("agencies.csv"), agencies)?;
        let policy = include_str!("../../../seeds/policy.toml");
        fs::write(folder.join("policy.toml"), format!("{policy}{LIMITS}"))?;
        Ok(Self { folder, authority })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// A connection as that agency's system makes it.
    pub(super) async fn connect(
        &self,
        source: &Source,
        address: SocketAddr,
    ) -> Result<Channel, Failed> {
        let identity: Identity = format!("spiffe://{DOMAIN}/agency/{}", source.agency).parse()?;
        let issued = self.authority.issue(&identity, &[], 30)?;
        let dialer = Dialer::from_files(&ClientFiles {
            certificate: issued.certificate,
            key: issued.key,
            roots: vec![issued.root],
        })?;
        Ok(dialer.connect(&format!("https://{address}"), None).await?)
    }

    fn issue(&self, node: &str) -> Result<Issued, Failed> {
        let identity: Identity = format!("spiffe://{DOMAIN}/node/{node}").parse()?;
        let hosts = ["localhost", "127.0.0.1"].map(str::to_owned);
        Ok(self.authority.issue(&identity, &hosts, 30)?)
    }

    /// The configuration of a node; one with a parent replicates only when it is told to.
    fn config(&self, id: &str, data: &str, parent: Option<SocketAddr>) -> Result<String, Failed> {
        let issued = self.issue(id)?;
        let path = |path: &Path| format!("{:?}", path.display().to_string());
        let parent = parent.map_or_else(String::new, |address| {
            format!(
                "[parent]\nendpoint = \"https://{address}\"\nnode = \"{CITY}\"\nmode = \"manual\"\n"
            )
        });
        Ok(format!(
            "[node]\nid = \"{id}\"\ntrust_domain = \"{DOMAIN}\"\ndata = {}\nlisten = \"127.0.0.1:0\"\n\
             [tls]\ncertificate = {}\nkey = {}\nroots = [{}]\n{parent}\
             [reference]\nagencies = {}\npolicy = {}\n[log]\nlevel = \"warn\"\n",
            path(&self.folder.join(data)),
            path(&issued.certificate),
            path(&issued.key),
            path(&issued.root),
            path(&self.folder.join("agencies.csv")),
            path(&self.folder.join("policy.toml")),
        ))
    }

    /// Starts a node in this process.
    pub(super) async fn node(
        &self,
        id: &str,
        data: &str,
        parent: Option<SocketAddr>,
    ) -> Result<Running, Failed> {
        let config: Config = toml::from_str(&self.config(id, data, parent)?)?;
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

    /// A node to start as a process of its own.
    pub(super) fn apart(&self, data: &str) -> Result<Apart, Failed> {
        let file = self.folder.join(format!("{data}.toml"));
        fs::write(&file, self.config(NODE, data, None)?)?;
        Ok(Apart {
            file,
            data: self.folder.join(data),
        })
    }

    /// Starts a server with the same TLS, the same transport settings and the same messages, which answers
    /// at once and keeps nothing.
    pub(super) async fn bare(&self) -> Result<SocketAddr, Failed> {
        let issued = self.issue("bare")?;
        let tls = TlsConfig {
            certificate: issued.certificate,
            key: issued.key,
            roots: vec![issued.root],
            crls: Vec::new(),
        };
        let keys = Keys::new(Credentials::of(&tls)?)?;
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
    pub(super) async fn stop(self) -> Result<(), Failed> {
        let Self { stop, served, .. } = self;
        stop.send_replace(true);
        Ok(served.await??)
    }
}

/// A node in a process of its own, so that its memory is its own and it can be killed.
pub(super) struct Apart {
    file: PathBuf,
    pub(super) data: PathBuf,
}

/// Such a process. It is killed when this is dropped.
pub(super) struct Process {
    child: Child,
    pub(super) address: SocketAddr,
    /// From its start until it listens, which it does when its state is up to date.
    pub(super) started: Duration,
}

impl Apart {
    fn command(&self, command: &str) -> Result<Command, Failed> {
        let mut program = Command::new(std::env::current_exe()?);
        program.arg(command).arg("--config").arg(&self.file);
        program.stdin(Stdio::null()).stdout(Stdio::piped());
        Ok(program)
    }

    pub(super) fn start(&self) -> Result<Process, Failed> {
        let begun = Instant::now();
        let mut child = self.command("serve")?.spawn()?;
        let mut said = String::new();
        if let Some(output) = child.stdout.take() {
            BufReader::new(output).read_line(&mut said)?;
        }
        let address = said.split_whitespace().last().and_then(|a| a.parse().ok());
        let Some(address) = address else {
            let _ = child.kill();
            return Err(format!("the node did not start: {said}").into());
        };
        Ok(Process {
            child,
            address,
            started: begun.elapsed(),
        })
    }

    /// Derives the state again; returns how long that takes.
    pub(super) fn rebuild(&self) -> Result<Duration, Failed> {
        let begun = Instant::now();
        let output = self.command("rebuild")?.output()?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
        }
        Ok(begun.elapsed())
    }
}

impl Process {
    pub(super) fn id(&self) -> String {
        self.child.id().to_string()
    }

    /// As a kill -9.
    pub(super) fn kill(mut self) -> Result<(), Failed> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// As an operator stops it.
    pub(super) fn stop(mut self) -> Result<(), Failed> {
        let pid = i32::try_from(self.child.id())?;
        let pid = rustix::process::Pid::from_raw(pid).ok_or("no process")?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Bytes that a folder takes on disk.
pub(super) fn disk(folder: &Path) -> io::Result<u64> {
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
